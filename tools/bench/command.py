"""`tmac bench`: its parts. Each part defines its own arguments, and `work`, the function that runs."""

from __future__ import annotations

import argparse

from . import (
    accuracy_command,
    attention_command,
    drafts_command,
    gemm_command,
    gemv_command,
    model_command,
    plot_command,
)

PARTS = {
    "kernels": (gemv_command, "decode kernels against the read bandwidth measured in the same rounds"),
    "gemm": (
        gemm_command,
        "kernels of prompts and batches against each other, and from how many tokens on each should serve",
    ),
    "attention": (
        attention_command,
        "attention by T-MAC's kernels and by llama.cpp's own, by cache, context and number of queries",
    ),
    "error": (accuracy_command, "what each precision rounds, beside stock types"),
    "model": (
        model_command,
        "a whole model of random weights, in T-MAC's and llama.cpp's own types, through llama-bench",
    ),
    "drafts": (drafts_command, "a server with drafts and without, on a text that repeats"),
    "plot": (plot_command, "a picture of results that were printed with --json"),
}


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the parts of `tmac bench`."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    for name, (command, text) in PARTS.items():
        command.configure_parser(parts.add_parser(name, help=text))
