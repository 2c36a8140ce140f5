"""How fast llama.cpp decodes and reads prompts after a long context, by T-MAC's attention and its own.

Comes in: a `DepthBenchmark`. Goes out: one `DepthResult` for each type, cache, number of threads, phase, context and
attention. A process fills its cache once, with the most threads, and measures all numbers of threads after it. In a
round the attention changes fastest, and reading is timed after each process, so that a share of what the memory allows
is of the same moments. Ratios and shares are taken within a round; reported are the medians over the rounds.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tmac.convert.sources.ggml_types import GgmlType

from ..errors import ToolError
from ..llama.build import Build
from . import context, model_benchmark
from .context import ATTENTIONS, Context, cache_bytes
from .loops import MAX_THREADS, time_reads
from .model_benchmark import Measured, ModelBenchmark, median_speed, paired_ratio
from .model_run import DECODE, Sample, Workload
from .random_model import bits_per_weight, is_ours
from .reading import memory_to_read, read_limit

# How often each way of reading reads all the memory beside a run: so that starting threads takes no visible share.
READ_PASSES = 2


@dataclass(frozen=True)
class DepthBenchmark:
    """What is measured after each context. model: without batches; depths: tokens in the cache before."""

    model: ModelBenchmark
    depths: tuple[int, ...]
    caches: tuple[GgmlType, ...]

    def contexts(self) -> list[Context]:
        """In their order within a round."""
        return [
            Context(depth, cache, attention)
            for cache in self.caches
            for depth in self.depths
            for attention in ATTENTIONS
            if attention.serves(cache)
        ]

    def runs(self) -> list[tuple[Workload, ...]]:
        """The processes of one round, each with its workloads. The attention changes fastest."""
        return [
            tuple(
                Workload(phase, tokens, threads, kind, context=place)
                for threads in sorted(self.model.threads, reverse=True)
                for phase, tokens in self.model.sizes()
            )
            for kind in self.model.types
            for place in self.contexts()
        ]

    def place(self, result: DepthResult) -> tuple[int, int, int, int]:
        """Where a result is reported: as the options name types, caches and sizes, then by threads."""
        sizes = self.model.sizes()
        return (
            [kind.name for kind in self.model.types].index(result.type),
            [cache.name for cache in self.caches].index(result.cache),
            sizes.index((result.phase, result.tokens)),
            result.threads,
        )

    def left_out(self) -> list[str]:
        """A sentence for each attention and cache that cannot be measured."""
        return [
            f"Left out: {attention.name} with a {cache.name} cache; llama.cpp quantizes V with flash attention only."
            for cache in self.caches
            for attention in ATTENTIONS
            if not attention.serves(cache)
        ]

    def check(self) -> None:
        """Raises ToolError for what cannot be measured, before anything is made."""
        if self.model.batch_sizes:
            raise ToolError("--depth with --batch: llama-batched-bench fills no cache before it measures", "leave one")
        if self.model.against:
            raise ToolError("--depth compares attentions, but --against compares types", "leave one of them out")
        if max(self.model.threads) > MAX_THREADS:
            raise ToolError(
                f"-t {max(self.model.threads)}: reading is timed with at most {MAX_THREADS} threads", "give -t less"
            )
        context.check(self.model.shape, self.caches)
        self.model.check()


@dataclass(frozen=True)
class DepthResult:
    """Medians over the rounds, and the samples.

    depth: tokens in the cache before the `tokens` that are timed; cache: the type of K and V; attention: of ATTENTIONS.
    kv_bytes: of the cache up to the depth; bytes_per_token: those and the weights, as a decoded token reads at least,
    and what it reads and writes of the states of delta nets.
    read_gb_per_s: 1e9 bytes a second that as many threads read, beside these runs.
    limit_tokens_per_s: what that allows; share_of_limit: of it, within each round. Both of a decode only; the tokens
    that are decoded themselves are not counted, so above 1 the limit is wrong.
    kernels: those of T-MAC, as the plugin named them.
    ratios: of T-MAC's attention only: how many times as fast it is as another, by that one's name; fastest_stock: the
    same for the faster of llama.cpp's.
    """

    type: str
    is_tmac: bool
    bits_per_weight: float
    model_bytes: int
    phase: str
    tokens: int
    threads: int
    depth: int
    cache: str
    attention: str
    tokens_per_s: float
    kv_bytes: int
    bytes_per_token: int
    read_gb_per_s: float
    limit_tokens_per_s: float | None
    share_of_limit: float | None
    kernels: list[str]
    ratios: dict[str, float]
    fastest_stock: dict[str, float]
    samples: list[Sample]


def measure(build: Build, benchmark: DepthBenchmark, progress: Callable[[str], None]) -> list[DepthResult]:
    """All results of a benchmark that `check` has accepted; makes the models that are missing. Raises ToolError."""
    for sentence in benchmark.left_out():
        progress(sentence)
    runs, memory = benchmark.runs(), memory_to_read()
    reads: dict[Workload, list[list[float]]] = {workload: [] for run in runs for workload in run}

    def read_beside(run: Sequence[Workload]) -> None:
        seconds = {threads: time_reads(memory, threads, READ_PASSES) for threads in benchmark.model.threads}
        for workload in run:
            reads[workload].append(seconds[workload.threads])

    measured = model_benchmark.run_rounds(build, benchmark.model, runs, progress, read_beside)
    bandwidths = {
        workload: [memory.size / seconds for seconds in read_limit(rounds)] for workload, rounds in reads.items()
    }
    results = [_result(workload, measured, bandwidths[workload], benchmark) for workload in measured.samples]
    return sorted(results, key=benchmark.place)


def report(benchmark: DepthBenchmark, results: Sequence[DepthResult]) -> dict:
    """All that is known, for programs: the machine, the model, the results."""
    return {
        **model_benchmark.report(benchmark.model, results),
        "benchmark": "depth",
        "left_out": benchmark.left_out(),
    }


def _result(
    workload: Workload, measured: Measured, bandwidths: Sequence[float], benchmark: DepthBenchmark
) -> DepthResult:
    """bandwidths: bytes a second, of each round."""
    model, own, place = measured.models[workload.type], measured.samples[workload], workload.context
    kv_bytes = cache_bytes(benchmark.model.shape, benchmark.model.layers, place)
    nbytes = model.nbytes_per_token + kv_bytes + 2 * benchmark.model.shape.state_bytes(benchmark.model.layers)
    is_decode = workload.phase == DECODE
    stock = {
        other.context.attention.name: samples
        for other, samples in measured.samples.items()
        if place.attention.is_tmac
        and not other.context.attention.is_tmac
        and replace(other, context=replace(other.context, attention=place.attention)) == workload
    }
    fastest = sorted(stock, key=lambda name: median_speed(stock[name]))[-1:]
    return DepthResult(
        type=workload.type.name,
        is_tmac=is_ours(workload.type),
        bits_per_weight=bits_per_weight(workload.type),
        model_bytes=model.nbytes,
        phase=workload.phase,
        tokens=workload.tokens,
        threads=workload.threads,
        depth=place.depth,
        cache=place.cache.name,
        attention=place.attention.name,
        tokens_per_s=median_speed(own),
        kv_bytes=kv_bytes,
        bytes_per_token=nbytes,
        read_gb_per_s=statistics.median(bandwidths) / 1e9,
        limit_tokens_per_s=statistics.median(bandwidths) / nbytes if is_decode else None,
        share_of_limit=share_of_limit(own, bandwidths, nbytes) if is_decode else None,
        kernels=measured.kernels[workload],
        ratios={name: paired_ratio(own, samples) for name, samples in stock.items()},
        fastest_stock={name: paired_ratio(own, stock[name]) for name in fastest},
        samples=list(own),
    )


def share_of_limit(samples: Sequence[Sample], bandwidths: Sequence[float], bytes_per_token: int) -> float:
    """The median over the rounds of the bytes read a second, by the bandwidth of the same round in bytes a second."""
    pairs = zip(samples, bandwidths, strict=True)
    return statistics.median(sample.tokens_per_s * bytes_per_token / bandwidth for sample, bandwidth in pairs)
