"""`tmac bench`: what is measured, and how it is shown. The measuring itself is in tmac.kernels.bench."""

from __future__ import annotations

import argparse
import json

from tmac.kernels.bench import Measurement, measure
from tmac.kernels.catalog import isas_for
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import machine
from tmac.kernels.spec import KernelSpec, WeightType

from . import bench_error, console
from .errors import ToolError

MEGABYTE = 1_000_000
DEFAULT_TYPES = "w2g128,w4g128"
DEFAULT_SHAPE = "4096x4096"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the parts of `tmac bench`."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    kernels = parts.add_parser("kernels", help="decode kernels against the read bandwidth measured in the same rounds")
    kernels.set_defaults(measure=bench_kernels)
    types, shape = f"weight types (default: {DEFAULT_TYPES})", f"outputs x inputs (default: {DEFAULT_SHAPE})"
    kernels.add_argument("--types", default=DEFAULT_TYPES, metavar="T,..", help=types)
    kernels.add_argument("--isa", metavar="I,..", help="instruction sets (default: all but scalar)")
    kernels.add_argument("--shape", default=DEFAULT_SHAPE, metavar="MxK", help=shape)
    kernels.add_argument("-t", "--threads", type=int, default=1, metavar="N", help="(default: 1)")
    kernels.add_argument("--megabytes", type=int, default=900, metavar="MB",
                         help="weights per round, more than the caches hold (default: 900; 0: one matrix, from cache)")
    kernels.add_argument("--rounds", type=int, default=7, metavar="N",
                         help="alternating rounds; medians are shown (default: 7)")
    kernels.add_argument("--json", action="store_true", help="print JSON")
    bench_error.configure_parser(parts.add_parser("error", help="what each precision rounds, beside stock types"))


def main(args: argparse.Namespace) -> None:
    """Measures what was asked for and prints it. Raises ToolError or KernelError."""
    args.measure(args)


def bench_kernels(args: argparse.Namespace) -> None:
    rows, cols = _shape(args.shape)
    specs, nbytes = _specs(args.types, args.isa), args.megabytes * MEGABYTE
    measurements = measure(specs, rows, cols, args.threads, nbytes, args.rounds, console.log)
    if args.json:
        print(json.dumps([m.as_dict() for m in measurements], indent=1))
    else:
        print(render(measurements))


def render(measurements: list[Measurement]) -> str:
    """A table for people: one row a kernel."""
    if not measurements:
        return "nothing was measured"
    head = f"{'kernel':34}{'time':>10}{'weights':>11}{'reading':>11}{'ratio':>7}{'tables':>8}"
    rows = [
        f"{m.kernel:34}{m.microseconds:>7.1f} us{m.gb_per_s:>6.1f} GB/s{m.read_gb_per_s:>6.1f} GB/s"
        f"{m.ratio:>7.2f}{m.tables_share:>8.1%}"
        for m in measurements
    ]
    first = measurements[0]
    foot = (
        f"{first.rows} x {first.cols}, {first.threads} thread{'s' if first.threads > 1 else ''}; "
        "ratio: of the read bandwidth in the same round; tables: building them, of the product's time"
    )
    return "\n".join([head, *rows, foot])


def _shape(text: str) -> tuple[int, int]:
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise ToolError(f"--shape {text}: expected MxK, for example {DEFAULT_SHAPE}")
    return int(rows), int(cols)


def _specs(types: str, isas: str | None) -> list[KernelSpec]:
    known = {isa.name: isa for isa in isas_for(machine())}
    names = isas.split(",") if isas else [name for name in known if name != "scalar"] or ["scalar"]
    for name in names:
        if name not in known:
            raise KernelError(f"no instruction set is called {name!r} on {machine()}", f"known: {', '.join(known)}")
    try:
        weight_types = [WeightType.parse(name) for name in types.split(",")]
    except ValueError as problem:
        raise KernelError(str(problem)) from None
    return [KernelSpec(weight_type, known[name]) for weight_type in weight_types for name in names]
