"""The results of `tmac bench model` as Markdown whose tables are also readable as plain text."""

from __future__ import annotations

from . import tables
from .bench_model import DECODE, PROMPT, counted

PHASES = {DECODE: "Decode, {} tokens", PROMPT: "Prompt of {} tokens"}
COLUMNS = ("type", "bits/weight", "model MB", "threads", "tok/s", "GB/s", "CPU-ms/token", "times as fast", "kernel")
LEFT_ALIGNED = ("type", "times as fast", "kernel")
NOTES = (
    "Medians of alternating rounds; times as fast: median of the ratios within each round. GB/s: weights that the "
    "speed means, all but the embedding. CPU-ms/token: user and system time of all threads, without loading (told by "
    "Linux only); on one machine it goes with the energy."
)
PROMPT_NOTE = (
    "Of a prompt, llama.cpp computes the last layer's feed-forward part for the last token only, in every type: a "
    "model of few layers shows more tokens/s than the same share of a whole one."
)


def render(report: dict) -> str:
    """A heading, the machine, one table for each phase, the notes. `report` is that of bench_model.report."""
    parts = [f"# {_model_line(report)}", _machine_line(report)]
    for phase, title in PHASES.items():
        rows = [result for result in report["results"] if result["phase"] == phase]
        if rows:
            table = tables.render(COLUMNS, [_row(result) for result in rows], LEFT_ALIGNED)
            parts += [f"## {title.format(rows[0]['tokens'])}", table]
    if any(result["phase"] == PROMPT for result in report["results"]):
        parts.append(PROMPT_NOTE)
    return "\n\n".join([*parts, NOTES])


def _model_line(report: dict) -> str:
    sizes = f"{counted(report['layers'], 'layer')}, vocabulary {report['vocabulary']}"
    return f"{report['shape']['name']} shape, {sizes}, random weights"


def _machine_line(report: dict) -> str:
    facts = [report["cpu"]]
    if report["instruction_sets"]:
        facts.append(f"instruction sets with kernels: {', '.join(report['instruction_sets'])}")
    threads = dict.fromkeys(counted(result["threads"], "thread") for result in report["results"])
    facts += [report["compiler"], " and ".join(threads), counted(report["rounds"], "round")]
    if report["forced_kernel"]:
        facts.append(f"forced: {report['forced_kernel']}")
    if report["precision"]:
        facts.append(f"precision: {report['precision']}")
    return "; ".join(facts) + "."


def _row(result: dict) -> tuple[str, ...]:
    bandwidth = "" if result["gb_per_s"] is None else f"{result['gb_per_s']:.1f}"
    ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in result["ratios"].items())
    cpu_time = "" if result["cpu_s_per_token"] is None else f"{1000 * result['cpu_s_per_token']:.2f}"
    megabytes = f"{result['model_bytes'] / 1e6:.0f}"
    return (
        result["type"], f"{result['bits_per_weight']:.4g}", megabytes, str(result["threads"]),
        f"{result['tokens_per_s']:.1f}", bandwidth, cpu_time, ratios,
        ", ".join(result["kernels"]) or "ggml",
    )
