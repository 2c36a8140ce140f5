"""llama.cpp with T-MAC's kernels: source -> patch -> build -> run. tools/pipeline.py does these steps in order.

    source.py   the pinned tree out of a source distribution, or a copy of any other tree
    patch.py    puts the call sites (patches/), the plugin's files (overlay) and the generated kernels into a tree
    build.py    cmake: configure and compile
    run.py      one answer, a chat or a server
    converter.py  the interpreter that llama.cpp's own converter needs
    verify.py   whether the binaries compute a checkpoint as its reference says

Facts about llama.cpp's code that patches rely on are in patches/README.md.
"""
