"""The command line, and all that runs other programs: llama.cpp's source, patch, build and binaries."""
