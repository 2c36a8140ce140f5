"""`tmac bench model`: arguments and output. model_benchmark.py measures, model_report.py makes the tables; with --depth
depth_benchmark.py and depth_report.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from types import ModuleType

from tmac.common import console
from tmac.common.cpu import machine
from tmac.common.format import SYMMETRIC
from tmac.convert.architectures.decoder import MAX_LAYERS
from tmac.convert.write.atomic import check_target
from tmac.kernels.catalog import kernels_for
from tmac.kernels.forms import PRECISIONS

from .. import arguments, pipeline
from ..errors import ToolError
from ..llama.run import check_kernel
from . import context, depth_benchmark, depth_report, model_benchmark, model_report, output, plot, random_model
from .depth_benchmark import DepthBenchmark
from .model_benchmark import ModelBenchmark
from .shapes import SHAPES
from .stock_types import RIVALS

DEFAULT_MODEL_SHAPE, DEFAULT_LAYERS = "llama-2-7b", 8
# The symmetric types of the largest groups that have kernels, and what they are compared with.
TMAC_MODEL_TYPES = sorted(
    {k.type for k in kernels_for(machine()) if k.type.group == 128 and k.type.grid == SYMMETRIC and not k.type.ternary}
)
STOCK_MODEL_TYPES = [name.lower() for kind in TMAC_MODEL_TYPES for name in RIVALS[kind.bits]]
DEFAULT_MODEL_TYPES = ",".join([*(kind.name for kind in TMAC_MODEL_TYPES), *STOCK_MODEL_TYPES])
DEFAULT_TOKENS = 128
# With --depth: one type, since attentions are compared, and few tokens, which end near the depth that they began at.
DEFAULT_DEPTH_TYPES, DEFAULT_DEPTH_TOKENS, DEFAULT_CACHE = "w2g128", 32, "f16"


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench model`."""
    parser.set_defaults(work=main)
    parser.description = (
        "Writes models of random weights (kept in the work folder), runs llama-bench and llama-batched-bench on them "
        "in alternating rounds and prints Markdown tables: the speed of a decode, of prompts by their size, of "
        "decoding several sequences at once, and how many times as fast as llama.cpp's own types that is. Short "
        "prompts and batches are repeated until a sample lasts a second. With --depth, decode and prompts come after "
        "a context, and T-MAC's attention is compared with llama.cpp's, with and without flash attention, and with "
        "the limit that reading weights and cache once a token sets. Every shape is built as a Llama model: only "
        "matrix shapes matter for speed, so the additional norms of BitNet and Qwen3 are left out. But models with "
        "delta nets (qwen3.5-0.8b, bonsai-2-27b) are built as what they are."
    )
    _add_model(parser)
    _add_measured(parser)
    output.add_arguments(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw speed against bits, threads, sizes or depth")


def _add_model(parser: argparse.ArgumentParser) -> None:
    """The options that say which models are made."""
    parser.add_argument(
        "--shape",
        default=DEFAULT_MODEL_SHAPE,
        choices=tuple(SHAPES),
        metavar="NAME",
        help=f"{', '.join(SHAPES)} (default: {DEFAULT_MODEL_SHAPE})",
    )
    parser.add_argument(
        "--layers",
        type=arguments.positive,
        default=DEFAULT_LAYERS,
        metavar="N",
        help=f"layers of the model (default: {DEFAULT_LAYERS})",
    )
    parser.add_argument(
        "--vocabulary",
        type=arguments.positive,
        default=random_model.DEFAULT_VOCABULARY,
        metavar="N",
        help=f"small, so that only the layers count (default: {random_model.DEFAULT_VOCABULARY})",
    )
    parser.add_argument(
        "--types",
        metavar="T,..",
        help="of T-MAC and of llama.cpp; q4_k@tmac: q4_k, repacked by T-MAC when it is loaded; q4_k@no-repack: by "
        "nobody, so that llama.cpp's tiled GEMM gets it "
        f"(default: {DEFAULT_MODEL_TYPES}; with --depth: {DEFAULT_DEPTH_TYPES})",
    )
    parser.add_argument(
        "--seed", type=arguments.count, default=1, metavar="S", help="of the random weights (default: 1)"
    )


def _add_measured(parser: argparse.ArgumentParser) -> None:
    """The options that say what is measured of each model."""
    threads = tuple(sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--against", metavar="T", help="compare with this type (default: T-MAC's with the nearest)")
    parser.add_argument(
        "-t",
        "--threads",
        type=arguments.positives,
        default=threads,
        metavar="N,..",
        help=f"numbers of threads (default: {','.join(map(str, threads))})",
    )
    parser.add_argument(
        "-n",
        "--n-predict",
        type=arguments.count,
        metavar="N",
        help=f"tokens to decode; 0: none (default: {DEFAULT_TOKENS}; with --depth: {DEFAULT_DEPTH_TOKENS})",
    )
    parser.add_argument(
        "--prompt",
        type=arguments.sizes,
        default=(),
        metavar="N,..",
        help="tokens of prompts, each size measured on its own, for example 1,2,4,8,16,32,128,512 (default: 0, none)",
    )
    parser.add_argument(
        "--batch",
        type=arguments.sizes,
        default=(),
        metavar="N,..",
        help="sequences decoded at once through llama-batched-bench, for example 1,2,4,8,16,32 (default: 0, none)",
    )
    parser.add_argument(
        "--depth",
        type=arguments.counts,
        metavar="N,..",
        help="tokens in the cache before those that are timed, for example 0,512,4096,16384 (default: an empty cache "
        "and one attention, whatever serves)",
    )
    parser.add_argument(
        "--cache",
        metavar="T,..",
        help=f"with --depth: types of K and V, of {', '.join(context.CACHE_TYPES)} (default: {DEFAULT_CACHE})",
    )
    parser.add_argument("--rounds", type=arguments.positive, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--kernel",
        metavar="NAME",
        help="force a kernel or instruction set of `tmac kernels list` (of an instruction set the attention, too); "
        "one that serves several tokens at once leaves single ones to the usual kernels",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help=f"what the kernels round (default: of a model of random weights, {PRECISIONS[0]})",
    )
    arguments.add_rpc(parser)


def main(args: argparse.Namespace) -> None:
    """Measures and prints. What can be refused is refused before anything is built or measured. Raises TmacError."""
    check_kernel(args.kernel)
    benchmark = _benchmark(args)
    benchmark.check()
    output.check(args)
    if args.plot:
        check_target(args.plot, args.force)
        plot.check(args.plot)
    measuring, tables = _parts(benchmark)
    results = measuring.measure(pipeline.build_llama(), benchmark, console.log)
    report = measuring.report(benchmark, results)
    output.show(args, report, tables.render(report))
    if args.plot:
        plot.draw(report, args.plot, args.force)


def _parts(benchmark: ModelBenchmark | DepthBenchmark) -> tuple[ModuleType, ModuleType]:
    """What measures it and what makes its tables."""
    if isinstance(benchmark, DepthBenchmark):
        return depth_benchmark, depth_report
    return model_benchmark, model_report


def _benchmark(args: argparse.Namespace) -> ModelBenchmark | DepthBenchmark:
    if args.layers > MAX_LAYERS:
        raise ToolError(f"--layers {args.layers}: llama.cpp has at most {MAX_LAYERS}")
    if args.cache and not args.depth:
        raise ToolError(f"--cache {args.cache} is measured with --depth only", "give --depth 0,4096")
    types, tokens = (DEFAULT_DEPTH_TYPES, DEFAULT_DEPTH_TOKENS) if args.depth else (DEFAULT_MODEL_TYPES, DEFAULT_TOKENS)
    model = ModelBenchmark(
        SHAPES[args.shape],
        args.layers,
        args.vocabulary,
        types=tuple(dict.fromkeys(map(random_model.parse_any_type, (args.types or types).split(",")))),
        threads=args.threads,
        decode_tokens=tokens if args.n_predict is None else args.n_predict,
        prompt_sizes=args.prompt,
        batch_sizes=args.batch,
        rounds=args.rounds,
        seed=args.seed,
        kernel=args.kernel,
        precision=args.precision,
        against=random_model.parse_any_type(args.against) if args.against else None,
        rpc=args.rpc,
    )
    if args.depth and args.rpc:
        raise ToolError("--depth measures attention on this machine, not with --rpc", "give one of the two")
    if not args.depth:
        return model
    return DepthBenchmark(model, args.depth, context.parse_cache_types(args.cache or DEFAULT_CACHE))
