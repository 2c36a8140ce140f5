"""`tmac bench drafts`: arguments and output. The measuring is in drafts.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tmac.common import console, cpu, tables
from tmac.common.paths import expand
from tmac.kernels.forms import PRECISIONS

from .. import arguments, pipeline
from ..llama import draft
from ..llama.context import Context
from ..llama.run import Options
from . import drafts, output
from .drafts import DraftTiming


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench drafts`."""
    parser.set_defaults(work=main)
    parser.description = (
        "Times llama-server with drafts and without, in turn, on a text that repeats: tokens a second, how many of the "
        "guessed tokens were right, and whether the text is the same."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="as of tmac run (default: the bundled checkpoint)")
    parser.add_argument("--draft", default=draft.NGRAM, metavar="D", help=f"as of tmac serve (default: {draft.NGRAM})")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="a text (default: a story two times)")
    parser.add_argument("--kernel", metavar="NAME", help="a kernel or an instruction set")
    parser.add_argument("--precision", choices=PRECISIONS, help="(default: the model's own)")
    parser.add_argument("-n", "--tokens", type=arguments.positive, default=96, metavar="N", help="(default: 96)")
    parser.add_argument("-t", "--threads", type=arguments.positive, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--rounds", type=arguments.positive, default=3, metavar="N", help="(default: 3)")
    output.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Times each model. Raises TmacError."""
    output.check(args)
    text = expand(str(args.prompt)).read_text("utf-8") if args.prompt else drafts.TEXT * drafts.TIMES
    build = pipeline.ready_llama()
    models = [pipeline.ensure_model(name) for name in args.models or [str(pipeline.DEMO_CHECKPOINT)]]
    chosen = draft.arguments(args.draft, pipeline.ensure_model)
    # Room for the prompt, of which a token is at least a byte, and the answer.
    options = Options(
        threads=args.threads,
        kernel=args.kernel,
        precision=args.precision,
        context=Context(len(text.encode()) + args.tokens + 64),
    )
    timings = [
        drafts.measure(build, model, text, options, chosen, args.tokens, args.rounds, console.log) for model in models
    ]
    output.show(args, report(args, timings), render(args, timings))


def report(args: argparse.Namespace, timings: Sequence[DraftTiming]) -> dict:
    """The report for programs."""
    return {
        "benchmark": "drafts",
        "cpu": cpu.name(),
        "draft": args.draft,
        "kernel": args.kernel,
        "precision": args.precision,
        "rounds": args.rounds,
        "results": [timing.as_dict() for timing in timings],
    }


def render(args: argparse.Namespace, timings: Sequence[DraftTiming]) -> str:
    """Markdown: a row for each model."""
    heads = ["model", "tokens/s", f"with --draft {args.draft}", "times as fast", "accepted", "same text"]
    rows = [
        [
            timing.model,
            f"{timing.tokens_per_s:.1f}",
            f"{timing.tokens_per_s_with_drafts:.1f}",
            f"{timing.ratio:.2f}",
            f"{timing.accepted} of {timing.drafted}",
            "yes" if timing.same_text else "no",
        ]
        for timing in timings
    ]
    title = (
        f"llama-server, {args.tokens} tokens of a text that repeats; {cpu.name()}, {args.threads} thread(s), medians"
    )
    return f"{title} of {args.rounds} rounds\n\n{tables.render(heads, rows, heads[:1])}"
