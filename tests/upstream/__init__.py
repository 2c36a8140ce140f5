"""What our code repeats of the pinned llama.cpp tree, compared with that tree: patches/README.md lists the facts."""
