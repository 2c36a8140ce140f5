"""`tmac bench gemm`: arguments and output. The measuring is in gemm.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from tmac.common import console, cpu, tables
from tmac.common.format import BITS, TmacType
from tmac.kernels import native
from tmac.kernels.forms import GEMM_FORMS

from .. import arguments
from ..errors import ToolError
from . import gemm
from .gemm import GemmTiming
from .kernel_report import kernel_report

DEFAULT_TYPES = tuple(TmacType(bits, 128) for bits in BITS)
DEFAULT_TOKENS = "2,3,4,6,8,12,16,24,32,64,128"
DEFAULT_FORMS = tuple(form for form in GEMM_FORMS if form != "exact_int8")


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench gemm`."""
    parser.set_defaults(work=main)
    arguments.add_types(parser, DEFAULT_TYPES)
    arguments.add_shape(parser, (4096, 4096))
    arguments.add_timing(parser, megabytes=400, rounds=5)
    arguments.add_json(parser)
    parser.add_argument(
        "--forms",
        type=_forms,
        default=DEFAULT_FORMS,
        metavar="F,..",
        help=f"of {', '.join(GEMM_FORMS)} (default: {','.join(DEFAULT_FORMS)})",
    )
    parser.add_argument(
        "--tokens",
        type=arguments.positives,
        default=DEFAULT_TOKENS,
        metavar="N,..",
        help=f"(default: {DEFAULT_TOKENS})",
    )
    parser.add_argument("-t", "--threads", type=arguments.positive, default=1, metavar="N", help="(default: 1)")


def main(args: argparse.Namespace) -> None:
    """Times every GEMM kernel that this CPU runs. Raises TmacError."""
    gemm.check_tokens(args.tokens)
    rows, cols = args.shape
    specs = gemm.kernels_of(args.types, args.forms, native.library())
    if not specs:
        raise ToolError(f"no GEMM kernel of this CPU takes {', '.join(args.forms)}", "`tmac kernels list` shows all")
    timings = gemm.measure(
        specs, args.tokens, rows, cols, args.threads, args.megabytes * arguments.MEGABYTE, args.rounds, console.log
    )
    if args.json:
        print(json.dumps(report(timings, args.megabytes, args.rounds), indent=1))
    else:
        print(render(timings, args.rounds))


def report(timings: Sequence[GemmTiming], megabytes: int, rounds: int) -> dict:
    """The report for programs, with what follows from the timings: from how many tokens on each kernel should serve."""
    least_tokens = [
        {"isa": isa, "form": form, "column": column, "tokens": tokens}
        for (isa, form), of_columns in gemm.crossings(timings).items()
        for column, tokens in of_columns.items()
    ]
    return kernel_report("gemm", timings, megabytes, rounds) | {"least_tokens": least_tokens}


def render(timings: Sequence[GemmTiming], rounds: int) -> str:
    """Markdown: time per token and share of the peak by kernel and tokens, then the rows of crossings.py."""
    first = timings[0]
    tokens = list(dict.fromkeys(m.tokens for m in timings))
    by_kernel = {
        kernel: {m.tokens: m for m in timings if m.kernel == kernel}
        for kernel in dict.fromkeys(m.kernel for m in timings)
    }
    heads = ["kernel", *map(str, tokens)]
    parts = [
        f"Microseconds per token of a matrix of {first.rows} x {first.cols}, by tokens; {cpu.name()}, "
        f"{first.threads} thread(s), medians of {rounds} rounds",
        tables.render(
            heads, [[k, *(f"{of[n].microseconds:.0f}" for n in tokens)] for k, of in by_kernel.items()], heads[:1]
        ),
    ]
    shown = {k: of for k, of in by_kernel.items() if first_of(of).peak_share is not None}
    if shown:
        parts += [
            "Share of what the instruction set reaches in registers and first-level cache, preparing left out",
            tables.render(
                heads, [[k, *(f"{of[n].peak_share:.2f}" for n in tokens)] for k, of in shown.items()], heads[:1]
            ),
        ]
    parts += [
        "From how many tokens on each should serve (0: never), for kernels/crossings.py",
        "\n".join(f'    ("{isa}", "{form}"): {row},' for (isa, form), row in gemm.crossings(timings).items()),
    ]
    return "\n\n".join(parts)


def first_of(by_tokens: dict[int, GemmTiming]) -> GemmTiming:
    return next(iter(by_tokens.values()))


def _forms(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in GEMM_FORMS:
            raise argparse.ArgumentTypeError(f"no form is called {name!r}; known: {', '.join(GEMM_FORMS)}")
    return tuple(form for form in GEMM_FORMS if form in text.split(","))
