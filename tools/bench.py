"""`tmac bench`: arguments, and where results go. The measuring is in tmac.kernels.bench and in bench_model."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from tmac.convert.architectures.llama import MAX_LAYERS
from tmac.convert.writer import check_target
from tmac.kernels.bench import Measurement, measure
from tmac.kernels.bench.shapes import SHAPES, Shape
from tmac.kernels.catalog import isas_for, kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import machine
from tmac.kernels.spec import KernelSpec, WeightType

from . import bench_error, bench_model, bench_report, console, llama_run, pipeline, plot, random_model
from .errors import ToolError
from .stock_types import RIVALS

MEGABYTE = 1_000_000
DEFAULT_TYPES = "w2g128,w4g128"
DEFAULT_SHAPE = "4096x4096"
DEFAULT_MODEL_SHAPE, DEFAULT_LAYERS, DEFAULT_VOCABULARY = "llama-2-7b", 8, 1024
# The symmetric types of the largest groups that have kernels, and what they are compared with.
TMAC_MODEL_TYPES = sorted({k.type for k in kernels_for(machine()) if k.type.group == 128 and not k.type.zeros})
STOCK_MODEL_TYPES = [name.lower() for kind in TMAC_MODEL_TYPES for name in RIVALS[kind.bits]]
DEFAULT_MODEL_TYPES = ",".join([*(kind.name for kind in TMAC_MODEL_TYPES), *STOCK_MODEL_TYPES])


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the parts of `tmac bench`."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    kernels = parts.add_parser("kernels", help="decode kernels against the read bandwidth measured in the same rounds")
    kernels.set_defaults(measure=bench_kernels)
    types = f"weight types (default: {DEFAULT_TYPES})"
    shape = f"outputs x inputs, or a model of `tmac bench model` for all its matrices (default: {DEFAULT_SHAPE})"
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
    _configure_model(parts.add_parser(
        "model", help="a whole model of random weights, in T-MAC's and llama.cpp's own types, through llama-bench",
        description="Writes models of random weights (kept in the work folder), runs llama-bench on them in "
        "alternating rounds and prints a Markdown table. Every shape is built as a Llama model: only matrix shapes "
        "matter, so BitNet's and Qwen3's additional norms are left out.",
    ))
    picture = parts.add_parser("plot", help="a picture of results that were printed with --json")
    picture.set_defaults(measure=plot_results)
    picture.add_argument("results", type=Path, metavar="FILE", help="JSON of `tmac bench model` or `... kernels`")
    picture.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .png, .svg or .pdf file")
    picture.add_argument("--force", action="store_true", help="replace the output if it exists")


def _configure_model(model: argparse.ArgumentParser) -> None:
    model.set_defaults(measure=bench_model_shape)
    cores = os.cpu_count() or 1
    threads = tuple(sorted({1, cores}))
    model.add_argument("--shape", default=DEFAULT_MODEL_SHAPE, choices=tuple(SHAPES), metavar="NAME",
                       help=f"{', '.join(SHAPES)} (default: {DEFAULT_MODEL_SHAPE})")
    model.add_argument("--layers", type=_positive, default=DEFAULT_LAYERS, metavar="N",
                       help=f"layers of the model (default: {DEFAULT_LAYERS})")
    model.add_argument("--vocabulary", type=_positive, default=DEFAULT_VOCABULARY, metavar="N",
                       help=f"small, so that only the layers count (default: {DEFAULT_VOCABULARY})")
    model.add_argument("--types", default=DEFAULT_MODEL_TYPES, metavar="T,..",
                       help=f"of T-MAC and of llama.cpp (default: {DEFAULT_MODEL_TYPES})")
    model.add_argument("--against", metavar="T", help="compare with this type (default: T-MAC's with the nearest)")
    model.add_argument("-t", "--threads", type=_threads, default=threads, metavar="N,..",
                       help=f"numbers of threads (default: {','.join(map(str, threads))})")
    model.add_argument("-n", "--n-predict", type=_count, default=128, metavar="N",
                       help="tokens to decode; 0: none (default: 128)")
    model.add_argument("--prompt", type=_count, default=0, metavar="N", help="tokens of a prompt (default: 0, none)")
    model.add_argument("--rounds", type=_positive, default=5, metavar="N", help="(default: 5)")
    model.add_argument("--seed", type=_count, default=1, metavar="S", help="of the random weights (default: 1)")
    model.add_argument("--kernel", metavar="NAME", help="force a kernel or instruction set of `tmac kernels list`")
    model.add_argument("--json", action="store_true", help="print JSON instead of the table")
    model.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    model.add_argument("--plot", type=Path, metavar="FILE", help="draw speed against bits and against threads")
    model.add_argument("--force", action="store_true", help="replace files that exist")


def main(args: argparse.Namespace) -> None:
    """Measures what was asked for and prints it. Raises ToolError, KernelError or ConvertError."""
    args.measure(args)


def bench_kernels(args: argparse.Namespace) -> None:
    specs, nbytes = _specs(args.types, args.isa), args.megabytes * MEGABYTE
    by_matrix = [
        measure(specs, rows, cols, args.threads, nbytes, args.rounds, console.log)
        for rows, cols in _matrices(args.shape)
    ]
    if args.json:
        print(json.dumps([m.as_dict() for measurements in by_matrix for m in measurements], indent=1))
    else:
        print("\n\n".join(map(render, by_matrix)))


def bench_model_shape(args: argparse.Namespace) -> None:
    """Everything that can be refused is refused before the build, the models and the measuring."""
    llama_run.check_kernel(args.kernel)
    plan = _plan(args)
    plan.check()
    for output in filter(None, (args.markdown, args.plot)):
        check_target(output, args.force)
    if args.plot:
        plot.check(args.plot)
    results = bench_model.measure(pipeline.build_llama(), plan, console.log)
    report = bench_model.report(plan, results)
    table = bench_report.render(report)
    print(json.dumps(report, indent=1) if args.json else table)
    if args.markdown:
        args.markdown.write_text(table + "\n", "utf-8")
    if args.plot:
        plot.draw(report, args.plot)


def plot_results(args: argparse.Namespace) -> None:
    check_target(args.output, args.force)
    plot.check(args.output)
    plot.draw(plot.read(args.results), args.output)


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


def _plan(args: argparse.Namespace) -> bench_model.Plan:
    if args.layers > MAX_LAYERS:
        raise ToolError(f"--layers {args.layers}: llama.cpp has at most {MAX_LAYERS}")
    shape: Shape = SHAPES[args.shape]
    return bench_model.Plan(
        shape, args.layers, args.vocabulary,
        types=tuple(dict.fromkeys(map(random_model.parse_type, args.types.split(",")))),
        threads=args.threads, decode_tokens=args.n_predict, prompt_tokens=args.prompt, rounds=args.rounds,
        seed=args.seed, kernel=args.kernel, against=random_model.parse_type(args.against) if args.against else None,
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _threads(text: str) -> tuple[int, ...]:
    return tuple(sorted(set(map(_positive, text.split(",")))))


def _matrices(text: str) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of MxK, or of all the matrices of a named model."""
    if text in SHAPES:
        return SHAPES[text].matrices
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        known = f"or a model: {', '.join(SHAPES)}"
        raise ToolError(f"--shape {text}: expected MxK, for example {DEFAULT_SHAPE}, {known}")
    return ((int(rows), int(cols)),)


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
