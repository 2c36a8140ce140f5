"""The command line, and all that runs other programs: llama.cpp's source, patch, build and binaries; benchmarks.

    __main__.py   `python3 -m tools` on a bare checkout: makes .venv, installs, hands over (standard library only)
    cli.py        the command `tmac`: runs a verb, turns what goes wrong into one message and an exit code
    verbs.py      the verbs and their arguments; kernels_command.py and bench/command.py have those of their verbs
    pipeline.py   what several verbs do: build llama.cpp, make a GGUF of any model's name, the demo
    doctor.py     what this machine has and lacks
    llama/        llama.cpp: source -> patch -> build -> run
    bench/        how fast and how exact kernels and whole models are; the tuner

Imports common, convert and kernels; nothing imports tools.
"""
