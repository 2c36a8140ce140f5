"""`tmac bench`: its parts, and the arguments of those without a module of their own."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from tmac.convert.architectures.decoder import MAX_LAYERS
from tmac.convert.write.atomic import check_target, replacing
from tmac.kernels.bench.shapes import SHAPES, Shape
from tmac.kernels.catalog import kernels_for
from tmac.kernels.forms import PRECISIONS
from tmac.kernels.isa import machine

from . import (
    arguments,
    bench_error,
    bench_gemm,
    bench_kernels,
    bench_model,
    bench_report,
    console,
    llama_run,
    pipeline,
    plot,
    random_model,
)
from .errors import ToolError
from .stock_types import RIVALS

DEFAULT_MODEL_SHAPE, DEFAULT_LAYERS, DEFAULT_VOCABULARY = "llama-2-7b", 8, 1024
# The symmetric types of the largest groups that have kernels, and what they are compared with.
TMAC_MODEL_TYPES = sorted({k.type for k in kernels_for(machine()) if k.type.group == 128 and not k.type.asymmetric})
STOCK_MODEL_TYPES = [name.lower() for kind in TMAC_MODEL_TYPES for name in RIVALS[kind.bits]]
DEFAULT_MODEL_TYPES = ",".join([*(kind.name for kind in TMAC_MODEL_TYPES), *STOCK_MODEL_TYPES])


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the parts of `tmac bench`."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    bench_kernels.configure_parser(
        parts.add_parser(
            "kernels",
            help="decode kernels against the read bandwidth measured in the same rounds",
        )
    )
    bench_gemm.configure_parser(
        parts.add_parser(
            "gemm",
            help="kernels of prompts and batches against each other, and from how many tokens on each should serve",
        )
    )
    bench_error.configure_parser(parts.add_parser("error", help="what each precision rounds, beside stock types"))
    _configure_model(
        parts.add_parser(
            "model",
            help="a whole model of random weights, in T-MAC's and llama.cpp's own types, through llama-bench",
            description="Writes models of random weights (kept in the work folder), runs llama-bench and "
            "llama-batched-bench on them in alternating rounds and prints Markdown tables: the speed of a decode, of "
            "prompts by their size, of decoding several sequences at once, and how many times as fast as llama.cpp's own "
            "types that is. Short prompts and batches are repeated until a sample lasts a second. Every shape is built as "
            "a Llama model: only matrix shapes matter, so BitNet's and Qwen3's additional norms are left out.",
        )
    )
    picture = parts.add_parser("plot", help="a picture of results that were printed with --json")
    picture.set_defaults(measure=plot_results)
    picture.add_argument("results", type=Path, metavar="FILE", help="JSON of `tmac bench model` or `... kernels`")
    picture.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .png, .svg or .pdf file")
    picture.add_argument("--force", action="store_true", help="replace the output if it exists")


def _configure_model(model: argparse.ArgumentParser) -> None:
    model.set_defaults(measure=bench_model_shape)
    cores = os.cpu_count() or 1
    threads = tuple(sorted({1, cores}))
    model.add_argument(
        "--shape",
        default=DEFAULT_MODEL_SHAPE,
        choices=tuple(SHAPES),
        metavar="NAME",
        help=f"{', '.join(SHAPES)} (default: {DEFAULT_MODEL_SHAPE})",
    )
    model.add_argument(
        "--layers",
        type=arguments.positive,
        default=DEFAULT_LAYERS,
        metavar="N",
        help=f"layers of the model (default: {DEFAULT_LAYERS})",
    )
    model.add_argument(
        "--vocabulary",
        type=arguments.positive,
        default=DEFAULT_VOCABULARY,
        metavar="N",
        help=f"small, so that only the layers count (default: {DEFAULT_VOCABULARY})",
    )
    model.add_argument(
        "--types",
        default=DEFAULT_MODEL_TYPES,
        metavar="T,..",
        help=f"of T-MAC and of llama.cpp (default: {DEFAULT_MODEL_TYPES})",
    )
    model.add_argument("--against", metavar="T", help="compare with this type (default: T-MAC's with the nearest)")
    model.add_argument(
        "-t",
        "--threads",
        type=arguments.positives,
        default=threads,
        metavar="N,..",
        help=f"numbers of threads (default: {','.join(map(str, threads))})",
    )
    model.add_argument(
        "-n",
        "--n-predict",
        type=arguments.count,
        default=128,
        metavar="N",
        help="tokens to decode; 0: none (default: 128)",
    )
    model.add_argument(
        "--prompt",
        type=arguments.sizes,
        default=(),
        metavar="N,..",
        help="tokens of prompts, each size measured on its own, for example 1,2,4,8,16,32,128,512 (default: 0, none)",
    )
    model.add_argument(
        "--batch",
        type=arguments.sizes,
        default=(),
        metavar="N,..",
        help="sequences decoded at once through llama-batched-bench, for example 1,2,4,8,16,32 (default: 0, none)",
    )
    model.add_argument("--rounds", type=arguments.positive, default=5, metavar="N", help="(default: 5)")
    model.add_argument(
        "--seed", type=arguments.count, default=1, metavar="S", help="of the random weights (default: 1)"
    )
    model.add_argument(
        "--kernel",
        metavar="NAME",
        help="force a kernel or instruction set of `tmac kernels list`; one that serves several tokens "
        "at once leaves single ones to the usual kernels",
    )
    model.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"what the kernels round (default: of a model of random weights, {PRECISIONS[0]})",
    )
    model.add_argument("--json", action="store_true", help="print JSON instead of the table")
    model.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    model.add_argument("--plot", type=Path, metavar="FILE", help="draw speed against bits, threads and sizes")
    model.add_argument("--force", action="store_true", help="replace files that exist")


def main(args: argparse.Namespace) -> None:
    """Measures what was asked for and prints it. Raises ToolError, KernelError or ConvertError."""
    args.measure(args)


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
        with replacing(args.markdown, args.force) as file:
            file.write_text(table + "\n", "utf-8")
    if args.plot:
        plot.draw(report, args.plot, args.force)


def plot_results(args: argparse.Namespace) -> None:
    check_target(args.output, args.force)
    plot.check(args.output)
    plot.draw(plot.read(args.results), args.output, args.force)


def _plan(args: argparse.Namespace) -> bench_model.Plan:
    if args.layers > MAX_LAYERS:
        raise ToolError(f"--layers {args.layers}: llama.cpp has at most {MAX_LAYERS}")
    shape: Shape = SHAPES[args.shape]
    return bench_model.Plan(
        shape,
        args.layers,
        args.vocabulary,
        types=tuple(dict.fromkeys(map(random_model.parse_type, args.types.split(",")))),
        threads=args.threads,
        decode_tokens=args.n_predict,
        prompt_sizes=args.prompt,
        batch_sizes=args.batch,
        rounds=args.rounds,
        seed=args.seed,
        kernel=args.kernel,
        precision=args.precision,
        against=random_model.parse_type(args.against) if args.against else None,
    )
