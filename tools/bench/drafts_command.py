"""`tmac bench drafts`: arguments and output. The measuring is in drafts.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tmac.common import console, cpu, tables
from tmac.common.format import parse_type
from tmac.common.paths import expand
from tmac.kernels.forms import PRECISIONS

from .. import arguments, pipeline
from ..errors import ToolError
from ..llama import draft
from ..llama.context import Context
from ..llama.run import Options
from . import drafts, output, random_model, variables
from .drafts import DraftTiming, Task
from .random_model import Recipe
from .shapes import SHAPES

# Of models of random weights.
DEFAULT_TYPES = (parse_type("w2g128"),)


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench drafts`."""
    parser.set_defaults(work=main)
    parser.description = (
        "Times llama-server with drafts and without, in turn, on a text that repeats: tokens a second, how many of the "
        "guessed tokens were right, and whether the text is the same. What a model of random weights writes does not "
        "repeat by itself, so with --shape it writes --records."
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="as of tmac run (default: the bundled checkpoint)")
    parser.add_argument(
        "--shape", choices=tuple(SHAPES), metavar="NAME", help=f"models of random weights: {', '.join(SHAPES)}"
    )
    arguments.add_types(parser, [], f"{DEFAULT_TYPES[0].name}; with --shape only")
    parser.add_argument(
        "--layers", type=arguments.positive, metavar="N", help="of --shape (default: as many as the model has)"
    )
    parser.add_argument("--draft", default=draft.NGRAM, metavar="D", help=f"as of tmac serve (default: {draft.NGRAM})")
    parser.add_argument("--prompt", type=Path, metavar="FILE", help="a text (default: a story two times)")
    parser.add_argument(
        "--records",
        action="store_true",
        help="the answer is a list of records in JSON, of which a grammar dictates all but some numbers",
    )
    parser.add_argument("--kernel", metavar="NAME", help="a kernel or an instruction set")
    parser.add_argument(
        "--precision",
        type=_precisions,
        default=(None,),
        metavar="P,..",
        help=f"one or more of {', '.join(PRECISIONS)} (default: the model's own)",
    )
    parser.add_argument(
        "-n",
        "--tokens",
        type=arguments.positive,
        metavar="N",
        help=f"(default: {drafts.TOKENS}; of --records: {drafts.RECORDS_TOKENS})",
    )
    parser.add_argument("-t", "--threads", type=arguments.positive, default=1, metavar="N", help="(default: 1)")
    parser.add_argument("--rounds", type=arguments.positive, default=3, metavar="N", help="(default: 3)")
    output.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    """Times each model. Raises TmacError."""
    if args.models and args.shape:
        raise ToolError(f"--shape {args.shape} makes models, and {args.models[0]} is one", "give one of the two")
    for option in ("layers", "types"):
        if getattr(args, option) and not args.shape:
            raise ToolError(f"--{option} says what models --shape makes, and there is no --shape", "give both, or none")
    output.check(args)
    task = _task(args)
    recipes = _recipes(args)
    build = pipeline.ready_llama()
    models = _models(args, recipes)
    chosen = draft.arguments(args.draft, pipeline.ensure_model)
    timings = []
    for model in models:
        for precision in args.precision:
            # Room for the prompt, of which a token is at least a byte, and the answer.
            context = Context(len(task.prompt.encode()) + task.tokens + 64)
            options = Options(
                threads=args.threads,
                kernel=args.kernel,
                precision=precision,
                context=context,
                variables=variables.chosen(args.kernel, precision),
            )
            timings.append(drafts.measure(build, model, task, options, chosen, args.rounds, console.log))
    output.show(args, report(args, task, timings), render(args, task, timings))


def _task(args: argparse.Namespace) -> Task:
    is_records = args.records or bool(args.shape)
    default = drafts.RECORDS_PROMPT if is_records else drafts.TEXT * drafts.TIMES
    tokens = args.tokens or (drafts.RECORDS_TOKENS if is_records else drafts.TOKENS)
    prompt = expand(str(args.prompt)).read_text("utf-8") if args.prompt else default
    return Task(prompt, tokens, drafts.records(tokens) if is_records else None)


def _recipes(args: argparse.Namespace) -> list[Recipe]:
    """Of the models of random weights. Raises ToolError for those that cannot be made."""
    if not args.shape:
        return []
    shape = SHAPES[args.shape]
    layers, vocabulary = args.layers or shape.layers, random_model.DEFAULT_VOCABULARY
    recipes = [Recipe(shape, layers, vocabulary, kind, seed=1) for kind in args.types or DEFAULT_TYPES]
    for recipe in recipes:
        random_model.check(shape, recipe.type)
    random_model.check_space(recipes)
    return recipes


def _models(args: argparse.Namespace, recipes: Sequence[Recipe]) -> list[Path]:
    if recipes:
        return [model.path for model in random_model.ensure(recipes)]
    return [pipeline.ensure_model(name) for name in args.models or [str(pipeline.DEMO_CHECKPOINT)]]


def _precisions(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in PRECISIONS:
            raise argparse.ArgumentTypeError(f"{name!r} is no precision; expected {', '.join(PRECISIONS)}")
    return tuple(dict.fromkeys(text.split(",")))


def report(args: argparse.Namespace, task: Task, timings: Sequence[DraftTiming]) -> dict:
    """The report for programs."""
    return {
        "benchmark": "drafts",
        "cpu": cpu.name(),
        "draft": args.draft,
        "kernel": args.kernel,
        "is_records": task.grammar is not None,
        "rounds": args.rounds,
        "results": [timing.as_dict() for timing in timings],
    }


def render(args: argparse.Namespace, task: Task, timings: Sequence[DraftTiming]) -> str:
    """Markdown: a row for each model and precision."""
    heads = ["model", "precision", "tokens/s", f"with --draft {args.draft}", "times as fast", "accepted", "same text"]
    rows = [
        [
            timing.model,
            timing.precision or "the model's own",
            f"{timing.tokens_per_s:.1f}",
            f"{timing.tokens_per_s_with_drafts:.1f}",
            f"{timing.ratio:.2f}",
            f"{timing.accepted} of {timing.drafted}",
            "yes" if timing.same_text else "no",
        ]
        for timing in timings
    ]
    text = "records that a grammar asks for" if task.grammar else "a text that repeats"
    title = f"llama-server, {task.tokens} tokens of {text}; {cpu.name()}, {args.threads} thread(s), medians"
    return f"{title} of {args.rounds} rounds\n\n{tables.render(heads, rows, heads[:1])}"
