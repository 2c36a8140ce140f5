"""`tmac run` and what `tmac serve` shares with it: options, and from them what llama.cpp is given."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmac.common import console
from tmac.common.errors import TmacError
from tmac.common.paths import expand
from tmac.kernels.forms import PRECISIONS

from .arguments import add_rpc, cache_size, count
from .errors import ToolError

if TYPE_CHECKING:
    from .llama.context import Context
    from .llama.prompt_cache import PromptCache

MODEL_HELP = "a .gguf file, a checkpoint folder, or a hub repository org/name[:TYPE][@revision]"
# llama-server's file of several models.
PRESETS = "models.ini"
# How many of them it has in memory together; 0: all.
MOST_MODELS, MOST_MODELS_VARIABLE, DEFAULT_MOST_MODELS = "--models-max", "LLAMA_ARG_MODELS_MAX", 4
EPILOG = "options of llama.cpp are passed on; so is, unread, what follows --"


def add_running(parser: argparse.ArgumentParser) -> None:
    """The options of `run` and of `serve`, MODEL apart."""
    parser.allow_abbrev = False
    parser.add_argument("-v", "--verbose", action="store_true", help="show command lines, kernels and logs")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: llama.cpp's choice)")
    parser.add_argument(
        "-c",
        "--ctx-size",
        type=count,
        metavar="N",
        help="tokens of context (default: what memory allows, at most 8192; 0: all that the model was trained for)",
    )
    add_rpc(parser)
    parser.add_argument("--temp", type=float, metavar="T", help="temperature; 0 always takes the likeliest token")
    parser.add_argument("-s", "--seed", type=int, metavar="S", help="seed of the sampling")
    parser.add_argument(
        "-n",
        "--n-predict",
        type=int,
        metavar="N",
        help="tokens at most (default: until the model ends its answer; run: 256 for a model without chat template)",
    )
    parser.add_argument(
        "--draft",
        metavar="MODEL|ngram",
        help="guess several tokens and check them at once, for the same text: ngram copies from the text before, a "
        "small MODEL of the same vocabulary guesses anything",
    )
    parser.add_argument("--kernel", metavar="NAME", help="force a kernel or instruction set of `tmac kernels list`")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="rounded: 8-bit tables; exact: int8 activations, exact tables; fast: rounding averages, loses quality "
        "(default: what the model was trained with, else rounded)",
    )
    parser.epilog = EPILOG


def add_cache_ram(parser: argparse.ArgumentParser) -> None:
    """The option of `serve` for earlier prompts; a chat of `run` passes llama.cpp's own on."""
    usage = (
        "for states of earlier prompts, which then go on at once (default: what memory allows, at most 8192; 0: none)"
    )
    parser.add_argument("--cache-ram", type=cache_size, metavar="MIB", help=usage)


def configure_run(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tmac run`."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("words", metavar="PROMPT", nargs="*", help="the same as -p")
    parser.add_argument(
        "-p",
        "--prompt",
        help="write one answer and end; literal, with what is on standard input below it (- is that alone); without "
        "any, chat at the terminal",
    )
    parser.add_argument("-e", "--escape", action="store_true", help=r"replace \n, \t, \xHH and the like in the prompt")
    parser.add_argument("--system", metavar="TEXT", help="system prompt, for a model with a chat template")
    add_running(parser)


def run(args: argparse.Namespace) -> None:
    """`tmac run`: an answer, or a chat."""
    from . import advice, pipeline
    from .llama import prompt as llama_prompt
    from .llama import run as llama_run

    llama_run.check_kernel(args.kernel)
    prompt = llama_prompt.gather(_written(args))
    if args.escape:
        prompt, args.system = (text and llama_prompt.unescape(text) for text in (prompt, args.system))
    _check_passed(args.passed, "cli" if prompt is None else "server" if args.draft else "completion")
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=prompt is None, system=args.system is not None)
    options = _options(args, model, prompt)
    built = pipeline.ready_llama()
    said = advice.of(model)
    if prompt is None:
        _say(options.context.words, options.prompt_cache.words, said)
        llama_run.chat(built, model, options)
    else:
        llama_run.generate(built, model, prompt, options)
        _say(said)


def _say(*lines: str) -> None:
    """Those that are not empty."""
    for line in filter(None, lines):
        console.log(line)


@contextmanager
def served(args: argparse.Namespace) -> Iterator[tuple[Any, list[str | Path], Any]]:
    """For `tmac serve`: the build, what llama-server is given for its model or models, and the options."""
    from . import advice, pipeline
    from .llama import run as llama_run

    llama_run.check_kernel(args.kernel)
    if args.model is None:
        if args.alias is not None:
            raise ToolError(f"--alias {args.alias} names one model, and none is given", "tmac serve MODEL --alias NAME")
        options = _options(args, None)
        with _several(args, options.draft) as folder:
            # Otherwise the router would serve the hub client's cache as well: others' downloads, and ours twice.
            options = replace(options, variables={"LLAMA_CACHE": str(folder)})
            yield pipeline.ready_llama(), ["--models-preset", folder / PRESETS], options
        return
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=False)
    options = _options(args, model)
    _say(options.context.words, options.prompt_cache.words, advice.of(model))
    alias = args.alias or api_name(args.model)
    yield pipeline.ready_llama(), ["-m", model, "-a", alias], options


def api_name(given: str) -> str:
    """What the API calls a model that the user gave: a repository's own name, or that of the file or folder."""
    from tmac.convert.sources.gguf_model import model_name

    from . import model_names

    name = model_names.resolve(given)
    path = expand(name)
    # A comma would separate two names.
    found = name.partition("@")[0] if not path.exists() else path.resolve().name if path.is_dir() else model_name(path)
    return found.replace(",", "_")


@contextmanager
def _several(args: argparse.Namespace, drafted: Sequence[str]) -> Iterator[Path]:
    """A folder with PRESETS for a server of all models of `tmac list`, each loaded when it is first asked for.

    `drafted`: llama.cpp's arguments for drafts.
    """
    from . import caches

    found, sections = {}, []
    entries = {entry.name: entry for entry in reversed(caches.entries()) if entry.runs}
    servers = _loaded_at_once(args.extra, len(entries))
    for name, entry in entries.items():
        try:
            sections.append(_section(name, entry.path, args, drafted, servers))
            found[name] = entry
        except TmacError as problem:
            console.log(f"left out: {problem.message}; {problem.hint}")
    if not found:
        hint = f"tmac run org/name gets one; or put .gguf files into {caches.models_folder()}"
        raise ToolError("there is no model to serve", hint)
    console.log(f"models: {', '.join(sorted(found))}")
    with tempfile.TemporaryDirectory(prefix="tmac-models-") as folder:
        (Path(folder) / PRESETS).write_text("\n".join(["version = 1", *sorted(sections)]) + "\n", "utf-8")
        yield Path(folder)


def _loaded_at_once(extra: Sequence[str], models: int) -> int:
    """How many of a server's models it may have in memory together."""
    from .llama import options

    said = options.last_value(extra, [MOST_MODELS]) or os.environ.get(MOST_MODELS_VARIABLE, "")
    most = int(said) if said.isdecimal() else DEFAULT_MOST_MODELS
    return min(models, most or models)


def _section(name: str, path: Path, args: argparse.Namespace, drafted: Sequence[str], servers: int) -> str:
    """A model in PRESETS, one of as many as `servers` in memory, without what the router tells the servers of all.

    Raises TmacError for one that cannot be read, or whose name the file cannot hold.
    """
    # Brackets end a name there, the others a value; nothing stands for them.
    for text, refused in ((name, "[]\r\n"), (str(path), "#;\r\n")):
        if bad := next((char for char in text if char in refused), None):
            raise ToolError(f"{text!r} has {bad!r} in it, which a list of models cannot have", "give it another name")
    asked = _asked_context(args)
    _, tokens = asked or _usual_context(args, path)
    chosen = {} if asked else {"ctx-size": tokens}
    if _asked_cache(args) is None:
        kept = _prompt_cache(args, path, tokens, drafted, servers)
        chosen["cache-ram"] = kept.mib
        if kept.words:
            console.detail(f"{name}: {kept.words}")
    lines = [f"{key} = {value}" for key, value in chosen.items() if value is not None]
    return "\n".join([f"[{name}]", f"model = {path}", *lines])


def _written(args: argparse.Namespace) -> str | None:
    """The prompt in the arguments. Raises ToolError for two."""
    if not args.words:
        return args.prompt
    if args.prompt is not None or len(args.words) > 1:
        found = " ".join(args.words)
        raise ToolError(
            f"found {found!r} besides {'-p' if args.prompt is not None else 'the model'}, expected one prompt",
            f'put a prompt of several words into quotes: tmac run {args.model} "{found}"',
        )
    return args.words[0]


# What `tmac run` starts, in words.
_USES = {"cli": "a chat", "completion": "one answer", "server": "one answer with --draft"}


def _check_passed(passed: Sequence[str], program: str) -> None:
    """Raises ToolError for an option that the program to be started does not know, though others do."""
    from .llama import options

    for name in passed:
        option = options.known().get(name)
        if option is not None and program not in option.programs:
            known = f"{name} is an option of llama-{', llama-'.join(option.programs)}"
            raise ToolError(f"{known}, but {_USES[program]} comes from llama-{program}", "leave it out")


def _asked_context(args: argparse.Namespace) -> tuple[Context, int | None] | None:
    """The context that the user chose, if so, and its tokens, None where that is no number."""
    from .llama import context, options

    said = options.last_value(args.extra, context.OPTIONS)
    if said is not None:
        # The arguments for llama.cpp come last there and count, so that tmac says nothing.
        return context.UNSAID, int(said) if said.isdecimal() else None
    return None if args.ctx_size is None else (context.Context(args.ctx_size), args.ctx_size)


def _usual_context(
    args: argparse.Namespace, model: Path | None, prompt: str | None = None
) -> tuple[Context, int | None]:
    """The context that tmac chooses, and its tokens; none for a server of several, where each model has its own."""
    from .llama import context

    # Of a model on several machines, this one's memory says nothing.
    chosen = context.UNSAID if model is None else context.choose(model, prompt, is_local=not args.rpc)
    return chosen, chosen.tokens


def _asked_cache(args: argparse.Namespace) -> PromptCache | None:
    """The cache of prompts that the user chose, if so: `tmac serve` has an option of its own for it."""
    from .llama import prompt_cache

    own = getattr(args, "cache_ram", None)
    if own is not None:
        return prompt_cache.PromptCache(own)
    return prompt_cache.UNSAID if prompt_cache.is_asked(args.extra) else None


def _prompt_cache(
    args: argparse.Namespace, model: Path, tokens: int | None, drafted: Sequence[str], servers: int = 1
) -> PromptCache:
    """The cache of prompts that tmac chooses, for a model with a context of `tokens`, None where it does not know."""
    from .llama import draft, options, prompt_cache

    # Of a model on several machines, this one's memory says nothing.
    if args.rpc or tokens is None:
        return prompt_cache.UNSAID
    small = options.last_value(drafted, [draft.MODEL])
    return prompt_cache.choose([model, *([Path(small)] if small else [])], tokens, servers)


def _options(args: argparse.Namespace, model: Path | None, prompt: str | None = None):
    """What llama.cpp is given; `model` is None for a server of several."""
    from . import pipeline
    from .llama import draft, prompt_cache
    from .llama import run as llama_run

    chosen, tokens = _asked_context(args) or _usual_context(args, model, prompt)
    drafted = draft.arguments(args.draft, pipeline.ensure_model)
    kept = _asked_cache(args)
    if kept is None and model is not None and prompt is None:
        kept = _prompt_cache(args, model, tokens, drafted)
    return llama_run.Options(
        args.n_predict,
        args.threads,
        args.temp,
        args.seed,
        args.kernel,
        args.precision,
        [*(["--rpc", args.rpc] if args.rpc else []), *args.extra],
        context=chosen,
        prompt_cache=kept or prompt_cache.UNSAID,
        system=getattr(args, "system", None),
        draft=drafted,
        verbose=args.verbose,
    )
