"""Kinds of arguments that several verbs take: argparse types, and lists of names."""

from __future__ import annotations

import argparse

from tmac.common.cpu import machine
from tmac.common.format import TmacType, parse_type
from tmac.kernels.catalog import isas_for
from tmac.kernels.isa import Isa

# What a number given with --megabytes counts.
MEGABYTE = 1_000_000


def count(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not count(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def byte_size(text: str) -> int:
    """Bytes as N, NK, NM or NG, in powers of 1000 as llama.cpp's own --split-max-size has them."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper(), 1)
    return positive(text if factor == 1 else text[:-1]) * factor


def positives(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between them, each once, in order."""
    return tuple(sorted(set(map(positive, text.split(",")))))


def sizes(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between them, each once, in order; none for 0."""
    return () if text == "0" else positives(text)


def isas(text: str) -> tuple[Isa, ...]:
    """Instruction sets of this architecture with commas between them."""
    known = {isa.name: isa for isa in isas_for(machine())}
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"no instruction set is called {name!r} on {machine()}; known: {', '.join(known)}"
            )
    return tuple(dict.fromkeys(known[name] for name in text.split(",")))


def weight_types(text: str) -> tuple[TmacType, ...]:
    """Weight types with commas between them."""
    try:
        return tuple(dict.fromkeys(map(parse_type, text.split(","))))
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def shape(text: str) -> tuple[int, int]:
    """Rows and columns of MxK."""
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; expected MxK, for example 4096x4096")
    return int(rows), int(cols)
