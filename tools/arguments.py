"""Arguments that several verbs take: argparse types, and functions that add options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

from tmac.common.cpu import machine
from tmac.common.format import TmacType, parse_type
from tmac.kernels.catalog import isas_for
from tmac.kernels.isa import Isa

# The unit of --megabytes, in bytes.
MEGABYTE = 1_000_000
LAST_PORT = 65535


def minutes(text: str) -> float:
    """A time above zero. NaN is neither above nor below it."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected minutes above zero")
    return value


def count(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def cache_size(text: str) -> int:
    """MiB from 0; -1, as llama.cpp takes it, for no bound."""
    return -1 if text == "-1" else count(text)


def port(text: str) -> int:
    """A port of TCP; 0 stands for one that is free."""
    if count(text) > LAST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is no port: the last one is {LAST_PORT}")
    return int(text)


def listed_port(text: str) -> int:
    """A port that others are told, so that it cannot be one that happens to be free."""
    if port(text) == 0:
        raise argparse.ArgumentTypeError("0 is no port that another machine could be told; expected 1 to 65535")
    return int(text)


def servers(text: str) -> str:
    """HOST:PORT with commas between them, as llama.cpp's --rpc takes them; it knows no IPv6 addresses."""
    for server in text.split(","):
        host, _, number = server.partition(":")
        if not host or not number.isdecimal() or not 0 < int(number) <= LAST_PORT:
            raise argparse.ArgumentTypeError(f"{server!r} is no server; expected HOST:PORT, for example 10.0.0.2:50052")
    return text


def add_rpc(parser: argparse.ArgumentParser) -> None:
    """Adds --rpc."""
    usage = "machines that run `tmac rpc-server` and hold the layers (docs/many-machines.md)"
    parser.add_argument("--rpc", type=servers, metavar="HOST:PORT,..", help=usage)


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


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers from 0 with commas between them, each once, in order."""
    return tuple(sorted(set(map(count, text.split(",")))))


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


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_types(parser: argparse.ArgumentParser, default: Sequence[TmacType], default_text: str = "") -> None:
    """Adds --types for T-MAC's types; `default_text` is the default in words."""
    text = default_text or ",".join(t.name for t in default)
    parser.add_argument(
        "--types", type=weight_types, default=tuple(default), metavar="T,..", help=f"weight types (default: {text})"
    )


def add_shape(parser: argparse.ArgumentParser, default: tuple[int, int]) -> None:
    """Adds --shape for one matrix."""
    text = f"outputs x inputs (default: {default[0]}x{default[1]})"
    parser.add_argument("--shape", type=shape, default=default, metavar="MxK", help=text)


def add_timing(parser: argparse.ArgumentParser, *, megabytes: int, rounds: int, what: str = "weights") -> None:
    """Adds --megabytes (of `what`) and --rounds with these defaults."""
    parser.add_argument(
        "--megabytes",
        type=count,
        default=megabytes,
        metavar="MB",
        help=f"{what} per round, more than the caches of the CPU hold (default: {megabytes}; 0: one, from cache)",
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=rounds,
        metavar="N",
        help=f"alternating rounds; medians count (default: {rounds})",
    )
