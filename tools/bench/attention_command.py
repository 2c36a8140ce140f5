"""`tmac bench attention`: arguments and output. The measuring is in attention.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tmac.common import console, cpu, packaged, tables
from tmac.common.compilers import compiler_name
from tmac.kernels.attention import LEAST_WIDTH

from .. import arguments, pipeline
from ..errors import ToolError
from ..llama import source
from . import attention, context, output
from .attention import AttentionBenchmark, AttentionTiming, Heads, Operation

# Llama 2 7B, Qwen3 0.6B, Llama 3 8B, SmolLM2 135M, Gemma 3 270M.
DEFAULT_HEADS = "32x32x128,16x8x128,32x8x128,9x3x64,4x1x256"
DEFAULT_POSITIONS, DEFAULT_QUERIES = "64,256,1024,4096,16384", "1"
SECONDS = 0.05


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench attention`."""
    parser.set_defaults(work=main)
    parser.description = (
        "Times the attention of one layer, for each context, number of queries and type of cache: T-MAC's kernels, "
        "llama.cpp's flash attention, and its attention without (two products and a softmax), alternating."
    )
    parser.add_argument(
        "--heads",
        type=_heads,
        default=DEFAULT_HEADS,
        metavar="QxKVxW,..",
        help=f"query heads x KV heads x width of a head (default: {DEFAULT_HEADS})",
    )
    parser.add_argument(
        "--positions",
        type=arguments.positives,
        default=DEFAULT_POSITIONS,
        metavar="N,..",
        help=f"in the cache (default: {DEFAULT_POSITIONS})",
    )
    parser.add_argument(
        "--queries",
        type=arguments.positives,
        default=DEFAULT_QUERIES,
        metavar="N,..",
        help=f"tokens at once (default: {DEFAULT_QUERIES}); those that exceed the positions are left out",
    )
    parser.add_argument(
        "--cache",
        default="f16",
        metavar="T,..",
        help=f"types of K and V, of {', '.join(context.CACHE_TYPES)} (default: f16)",
    )
    parser.add_argument("--kernel", metavar="NAME", help="of T-MAC's attention: a kernel or an instruction set")
    parser.add_argument("-t", "--threads", type=arguments.positive, default=1, metavar="N", help="(default: 1)")
    arguments.add_timing(parser, megabytes=400, rounds=3, what="caches")
    output.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Times all operations. Raises TmacError."""
    output.check(args)
    caches = context.parse_cache_types(args.cache)
    for cache in caches:
        for heads in args.heads:
            step = max(LEAST_WIDTH, cache.block)
            if heads.width % step:
                raise ToolError(
                    f"--heads {heads}: T-MAC's attention with a {cache.name} cache takes multiples of {step}"
                )
    benchmark = AttentionBenchmark(
        tuple(
            Operation(heads, cache, positions, queries)
            for heads in args.heads
            for cache in caches
            for queries in args.queries
            for positions in args.positions
            if queries <= positions
        ),
        args.threads,
        args.megabytes,
        SECONDS,
        args.rounds,
        args.kernel,
    )
    if packaged.used():
        raise ToolError(
            "attentions are timed by a program that is compiled with the libraries of a build made here, and the "
            "binaries in use are the package's",
            "install git and a C and C++ compiler, then: tmac build",
        )
    build = pipeline.build_llama()
    timings = attention.measure(build, source.obtain(pipeline.last_choice().source), benchmark, console.log)
    output.show(args, report(benchmark, timings), render(benchmark, timings))


def report(benchmark: AttentionBenchmark, timings: Sequence[AttentionTiming]) -> dict:
    """The report for programs."""
    return {
        "benchmark": "attention",
        "cpu": cpu.name(),
        "compiler": compiler_name(),
        "kernel": benchmark.kernel,
        "threads": benchmark.threads,
        "megabytes": benchmark.megabytes,
        "rounds": benchmark.rounds,
        "results": [timing.as_dict() for timing in timings],
    }


def render(benchmark: AttentionBenchmark, timings: Sequence[AttentionTiming]) -> str:
    """Markdown: a row for each operation."""
    others = [other.name for other in context.ATTENTIONS if not other.is_tmac]
    rows = [
        [
            str(timing.operation.heads),
            timing.operation.cache.name,
            str(timing.operation.queries),
            str(timing.operation.positions),
            f"{timing.microseconds:.0f}",
            f"{timing.gigabytes_per_s:.1f}",
            *(f"{timing.ratios[other]:.2f}" if other in timing.ratios else "-" for other in others),
        ]
        for timing in timings
    ]
    heads = ["heads", "cache", "queries", "positions", "us", "GB/s", *(f"x {other}" for other in others)]
    title = (
        f"The attention of one layer by {benchmark.kernel or 'the fastest kernel'}, and how many times as fast it is "
        f"as llama.cpp's; {cpu.name()}, {benchmark.threads} thread(s), medians of {benchmark.rounds} rounds"
    )
    return f"{title}\n\n{tables.render(heads, rows, heads[:2])}"


def _heads(text: str) -> tuple[Heads, ...]:
    return tuple(dict.fromkeys(map(_heads_of, text.split(","))))


def _heads_of(text: str) -> Heads:
    numbers = text.split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: expected query heads x KV heads x width, for example 32x8x128")
    heads = Heads(*map(int, numbers))
    if heads.query % heads.kv:
        raise argparse.ArgumentTypeError(f"{text!r}: {heads.kv} KV heads cannot be shared by {heads.query} query heads")
    return heads
