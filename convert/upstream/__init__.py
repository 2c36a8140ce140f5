"""Families that T-MAC does not have itself, by llama.cpp's own converter, which is asked and gets no quantized weight.

child/           a program of its own, for the interpreter that has torch: runs that converter and describes what it
                 does to each tensor; what goes in and out is in child/main.py
models.py        the architectures that it knows
answer.py        runs the child, and reads its answer
rearranged.py    the checkpoint and its layers as that answer arranges them
architecture.py  the answer as an architecture of the planner
"""
