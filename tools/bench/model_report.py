"""The results of `tmac bench model` as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tmac.common import tables

from .model_benchmark import LEAST_RISE, counted
from .model_run import BATCH, BATCH_PROMPT, BATCH_TOKENS, DECODE, PROMPT

DECODE_COLUMNS = ("type", "bits/weight", "model MB", "threads", "tok/s", "GB/s", "CPU-ms/token", "times as fast")
LEFT_ALIGNED = ("type", "times as fast", "than")
# By phase: what its sizes count, its heading, the heading of its speeds.
SIZES = {
    PROMPT: ("token", "Prompts", "tokens/s by the tokens of the prompt"),
    BATCH: ("sequence", "Batches", "tokens/s of all sequences together, by their number"),
}
NOTES = (
    "Medians of alternating rounds; times as fast: median of the ratios within each round. GB/s: weights that the "
    "speed means, all but the embedding. CPU-ms/token: user and system time of all threads, without loading (told by "
    "Linux only); on one machine it goes with the energy."
)
SIZES_NOTE = (
    "Fastest: of llama.cpp's types measured here, of any width. The time per token rises where the median of its "
    f"ratios to the next smaller size, within each round, is above 1 by more than {100 * LEAST_RISE:g} % and by more "
    "than their median deviation."
)
PROMPT_NOTE = (
    "Of a prompt, llama.cpp computes the last layer's feed-forward part for the last token only, in every type: a "
    "model of few layers shows more tokens/s than the same share of a whole one."
)
BATCH_NOTE = f"Of a batch, every sequence decodes {BATCH_TOKENS} tokens after a prompt of {BATCH_PROMPT}."


def render(report: dict) -> str:
    """A heading, the machine, the tables of each phase, the kernels, the notes. `report`: of model_benchmark.report."""
    parts = [f"# {model_line(report)}", machine_line(report)]
    by_phase = {phase: matching(report["results"], phase=phase) for phase in (DECODE, PROMPT, BATCH)}
    if rows := by_phase[DECODE]:
        table = tables.render(DECODE_COLUMNS, [_decode_row(result) for result in rows], LEFT_ALIGNED)
        parts += [f"## Decode, {rows[0]['tokens']} tokens", table]
    for phase in SIZES:
        for threads in dict.fromkeys(result["threads"] for result in by_phase[phase]):
            parts += _by_size(phase, matching(by_phase[phase], threads=threads))
    parts += kernel_list(report["results"])
    if by_phase[PROMPT] or by_phase[BATCH]:
        parts.append(SIZES_NOTE)
    parts += [note for phase, note in ((PROMPT, PROMPT_NOTE), (BATCH, BATCH_NOTE)) if by_phase[phase]]
    return "\n\n".join([*parts, NOTES])


def matching(results: Sequence[dict], **values) -> list[dict]:
    """Those results whose fields have these values."""
    return [result for result in results if all(result[name] == value for name, value in values.items())]


def model_line(report: dict) -> str:
    sizes = f"{counted(report['layers'], 'layer')}, vocabulary {report['vocabulary']}"
    return f"{report['shape']['name']} shape, {sizes}, random weights"


def machine_line(report: dict) -> str:
    facts = [report["cpu"]]
    if report["instruction_sets"]:
        facts.append(f"instruction sets with kernels: {', '.join(report['instruction_sets'])}")
    threads = dict.fromkeys(counted(result["threads"], "thread") for result in report["results"])
    facts += [report["compiler"], " and ".join(threads), counted(report["rounds"], "round")]
    if report["forced_kernel"]:
        facts.append(f"forced: {report['forced_kernel']}")
    # Not in results of earlier versions.
    if servers := report.get("rpc"):
        facts.append(f"layers on {servers}")
    if report["precision"]:
        facts.append(f"precision: {report['precision']}")
    return "; ".join(facts) + "."


def _decode_row(result: dict) -> tuple[str, ...]:
    bandwidth = "" if result["gb_per_s"] is None else f"{result['gb_per_s']:.1f}"
    ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in result["ratios"].items())
    cpu_time = "" if result["cpu_s_per_token"] is None else f"{1000 * result['cpu_s_per_token']:.2f}"
    megabytes = f"{result['model_bytes'] / 1e6:.0f}"
    return (
        result["type"],
        f"{result['bits_per_weight']:.4g}",
        megabytes,
        str(result["threads"]),
        f"{result['tokens_per_s']:.1f}",
        bandwidth,
        cpu_time,
        ratios,
    )


def _by_size(phase: str, results: Sequence[dict]) -> list[str]:
    """Of one number of threads: a row for each type, a column for each size; then the same with ratios."""
    thing, title, speed_title = SIZES[phase]
    rows = [matching(results, type=name) for name in dict.fromkeys(result["type"] for result in results)]
    sizes = [size_of(result) for result in rows[0]]
    speeds = [
        [row[0]["type"], f"{row[0]['bits_per_weight']:.4g}", *(f"{result['tokens_per_s']:.1f}" for result in row)]
        for row in rows
    ]
    heads = list(map(str, sizes))
    parts = [f"## {title}, {counted(results[0]['threads'], 'thread')}: {speed_title}"]
    parts.append(tables.render(["type", "bits/weight", *heads], speeds, LEFT_ALIGNED))
    if phase == BATCH:
        each = [
            [row[0]["type"], *(f"{result['tokens_per_s'] / result['sequences']:.1f}" for result in row)] for row in rows
        ]
        parts += ["Tokens/s of each sequence:", tables.render(["type", *heads], each, LEFT_ALIGNED)]
    if ratios := [line for row in rows for line in _ratio_lines(row, counted(sizes[0], thing))]:
        parts += ["Times as fast:", tables.render(["type", "than", *heads], ratios, LEFT_ALIGNED)]
    ours = [row for row in rows if row[0]["is_tmac"]]
    if ours and len(sizes) > 1:
        parts.append(_rise_line([result for row in ours for result in row], sizes, thing))
    return parts


def size_of(result: dict) -> int:
    """How many tokens the model computes at once, in a prompt or a batch."""
    return result["sequences"] if result["phase"] == BATCH else result["tokens"]


def _ratio_lines(row: Sequence[dict], smallest: str) -> list[list[str]]:
    """What one type is compared with, a line for each: itself at the smallest size, its rivals, the fastest."""
    name = row[0]["type"]
    lines = [[name, smallest, *(f"{result['gain']:.2f}" for result in row)]] if len(row) > 1 else []
    for rival in row[0]["ratios"]:
        lines.append([name, rival, *(f"{result['ratios'][rival]:.2f}" for result in row)])
    if row[0]["fastest_stock"]:
        fastest = [next(iter(result["fastest_stock"].items())) for result in row]
        lines.append([name, "fastest", *(f"{ratio:.2f} x {stock}" for stock, ratio in fastest)])
    return lines


def _rise_line(results: Sequence[dict], sizes: Sequence[int], thing: str) -> str:
    before = dict(zip(sizes[1:], sizes))
    rises = [
        f"{result['type']} from {before[size_of(result)]} to {size_of(result)} ({result['slowdown']:.2f} x)"
        for result in results
        if result["rises"]
    ]
    span = f"from {sizes[0]} to {counted(sizes[-1], thing)}"
    if not rises:
        return f"T-MAC's time per token rises nowhere {span}."
    return f"T-MAC's time per token, {span}, rises here: {', '.join(rises)}."


def kernel_list(results: Sequence[dict]) -> list[str]:
    """A list of types, each with T-MAC's kernels that were named in any of its runs."""
    named: dict[str, dict[str, None]] = {}
    for result in results:
        if result["kernels"]:
            named.setdefault(result["type"], {}).update(dict.fromkeys(result["kernels"]))
    lines = [f"- {name}: {', '.join(kernels)}" for name, kernels in named.items()]
    return ["## Kernels", "\n".join(lines)] if lines else []
