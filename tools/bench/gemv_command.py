"""`tmac bench kernels`: arguments and output. The measuring is in gemv.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tmac.common import console, cpu, tables
from tmac.common.cpu import machine
from tmac.common.format import TmacType
from tmac.kernels.catalog import gemv_isas_for
from tmac.kernels.forms import PRECISIONS, gemv_form
from tmac.kernels.isa import Isa
from tmac.kernels.spec import KernelSpec

from .. import arguments
from ..errors import ToolError
from . import output
from .gemv import GemvTiming, measure
from .kernel_report import kernel_report
from .matrices import check
from .shapes import SHAPES

DEFAULT_TYPES = (TmacType(2, 128), TmacType(4, 128))
DEFAULT_SHAPE = "4096x4096"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench kernels`."""
    parser.set_defaults(work=main)
    arguments.add_types(parser, DEFAULT_TYPES)
    arguments.add_timing(parser, megabytes=900, rounds=7)
    output.add_arguments(parser)
    parser.add_argument("--isa", type=arguments.isas, metavar="I,..", help="instruction sets (default: all but scalar)")
    parser.add_argument(
        "--precision",
        type=_precisions,
        default=PRECISIONS[:1],
        metavar="P,..",
        help=f"of {', '.join(PRECISIONS)} (default: {PRECISIONS[0]})",
    )
    parser.add_argument(
        "--shape",
        type=_shapes,
        default=DEFAULT_SHAPE,
        metavar="S,..",
        help=f"MxK, outputs x inputs, or all matrices of a model: {', '.join(SHAPES)} (default: {DEFAULT_SHAPE})",
    )
    parser.add_argument("-t", "--threads", type=arguments.positives, default=(1,), metavar="N,..", help="(default: 1)")


def main(args: argparse.Namespace) -> None:
    """Times every kernel, shape and number of threads that was asked for. Raises TmacError.

    What can be refused is refused before anything is timed, so that no timings are lost.
    """
    specs = kernels_of(args.types, args.isa, args.precision)
    output.check(args)
    for _, cols, model in args.shape:
        fitting = _fitting(specs, cols, model)
        for name in dict.fromkeys(spec.type.name for spec in specs if spec not in fitting):
            console.log(f"{model} has no {name}: {cols} columns are no whole number of groups")
    runs = [
        (_fitting(specs, cols, model), rows, cols, threads, args.megabytes * arguments.MEGABYTE, args.rounds)
        for rows, cols, model in args.shape
        for threads in args.threads
    ]
    for run in runs:
        check(*run)
    timings = [timing for run in runs for timing in measure(*run, console.log)]
    report = kernel_report("kernels", timings, args.megabytes, args.rounds)
    output.show(args, report, render(timings, args.megabytes, args.rounds))


def _fitting(specs: Sequence[KernelSpec], cols: int, model: str) -> list[KernelSpec]:
    """Of a model, the kernels whose type its matrix can have. Without one, all: `check` refuses what does not fit."""
    return [spec for spec in specs if not model or cols % spec.type.block_weights == 0]


def kernels_of(types: Sequence[TmacType], isas: Sequence[Isa] | None, precisions: Sequence[str]) -> list[KernelSpec]:
    """The GEMV kernels of these kinds, by default of all instruction sets but scalar. Raises ToolError for none."""
    if not isas:
        isas = [isa for isa in gemv_isas_for(machine()) if isa.name != "scalar"] or gemv_isas_for(machine())
    specs = [
        KernelSpec(weight_type, isa, "gemv", form)
        for weight_type in types
        for precision in precisions
        for isa in isas
        if (form := gemv_form(precision, weight_type.ternary)) in isa.gemv_forms
    ]
    for isa in isas:
        if specs and (lacking := [precision for precision in precisions if gemv_form(precision) not in isa.gemv_forms]):
            console.log(f"{isa.name} has no {', '.join(lacking)} kernels")
    for precision in precisions:
        lacking = [weight_type.name for weight_type in types if not gemv_form(precision, weight_type.ternary)]
        if specs and lacking:
            console.log(f"{', '.join(lacking)} (ternary) have no {precision} kernels; those of rounded serve")
    if not specs:
        raise ToolError(
            f"no kernel of {', '.join(isa.name for isa in isas)} is {', '.join(precisions)}",
            "`tmac kernels list` shows all",
        )
    return specs


def render(timings: Sequence[GemvTiming], megabytes: int, rounds: int) -> str:
    """A Markdown table: one row for each kernel, shape and number of threads."""
    if not timings:
        return "nothing was measured"
    heads = ["kernel", "shape", "threads", "time", "weights", "reading", "ratio", "tables"]
    rows = [
        [
            m.kernel,
            f"{m.rows} x {m.cols}",
            str(m.threads),
            f"{m.microseconds:.1f} us",
            f"{m.gb_per_s:.1f} GB/s",
            f"{m.read_gb_per_s:.1f} GB/s",
            f"{m.ratio:.2f}",
            f"{m.tables_share:.1%}",
        ]
        for m in timings
    ]
    source = f"{megabytes} MB of weights from memory" if megabytes else "one matrix from cache"
    return (
        f"{tables.render(heads, rows)}\n\n{cpu.name()}; {source}, medians of {rounds} rounds; ratio: of the read "
        "bandwidth in the same round; tables: building them, of the product's time"
    )


def _precisions(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"no precision is called {name!r}; known: {', '.join(PRECISIONS)}")
    return tuple(dict.fromkeys(text.split(",")))


def _shapes(text: str) -> tuple[tuple[int, int, str], ...]:
    """(rows, columns, model or empty) of each shape with commas between them, once."""
    found = []
    for name in text.split(","):
        if name in SHAPES:
            found += [(*matrix, name) for matrix in SHAPES[name].matrices]
        elif name[:1].isdecimal():
            found.append((*arguments.shape(name), ""))
        else:
            raise argparse.ArgumentTypeError(f"{name!r} is neither MxK nor a model: {', '.join(SHAPES)}")
    return tuple({(rows, cols): (rows, cols, model) for rows, cols, model in found}.values())
