"""Runs the built llama.cpp on a model: one answer to a prompt, a chat, or a server.

One answer comes from llama-completion, whose stdout is text alone; it applies the model's chat template when the
model has one. With drafts it comes from a server of its own (drafted.py). A chat comes from llama-cli, which owns the
terminal. Nothing here converts or builds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tmac.common import console, process
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.common.paths import log_file
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.kernels import attention
from tmac.kernels.catalog import isas_for, kernels_for

from ..errors import ToolError
from . import drafted, serving
from .build import Build
from .context import UNSAID, Context
from .prompt import PromptFiles, in_files
from .prompt_cache import UNSAID as UNSAID_CACHE
from .prompt_cache import PromptCache

CHAT_TEMPLATE_KEY = "tokenizer.chat_template"
PLAIN_LIMIT = 256  # tokens, for a model that may never end by itself

END_MARK = b" [end of text]"
# What may turn out to be the end that llama-completion adds to the text: white space, then the mark or part of it.
POSSIBLE_END = re.compile(rb"\s*(?:\[[a-z ]{0,11}\]?)?\s*\Z")
LOG_PREFIX = re.compile(r"\d+(?:\.\d\d\d?){3} (?:([A-Z]) )?")
TOO_LONG = re.compile(r".*prompt is too long \((\d+) tokens, max (\d+)\)")
# llama.cpp's names of the phases, and ours.
PHASES = {"prompt eval": "prompt", "eval": "generation"}
# With an adapter it loses the time of the prompt: 5 tokens in 0.00 ms are no speed.
RATE = re.compile(r"common_perf_print:\s+(prompt eval|eval) time = +(?! |0\.00 ms).*?([\d.]+) tokens per second")


@dataclass(frozen=True)
class Options:
    """What `tmac run` passes on. None leaves the choice to llama.cpp.

    `kernel` is a name of `tmac kernels list`; `precision` is one of PRECISIONS, None the model's own. `draft` are
    llama.cpp's arguments for it (draft.py), `variables` more of the environment, None for what is to be unset. Servers
    and chats have a `prompt_cache`.
    """

    n_predict: int | None = None
    threads: int | None = None
    temperature: float | None = None
    seed: int | None = None
    kernel: str | None = None
    precision: str | None = None
    extra: Sequence[str] = ()
    context: Context = UNSAID
    prompt_cache: PromptCache = UNSAID_CACHE
    system: str | None = None
    draft: Sequence[str] = ()
    verbose: bool = False
    variables: Mapping[str, str | None] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The same as llama.cpp's own arguments."""
        pairs = (("-n", self.n_predict), ("-t", self.threads), ("--temp", self.temperature), ("-s", self.seed))
        own = [part for flag, value in pairs if value is not None for part in (flag, str(value))]
        # Texts are complete when they come here (prompt.py).
        return [*own, *self.context.arguments(), "--no-escape", *self.draft, *self.extra]

    def environment(self, *, says_kernels: bool = True) -> dict[str, str | None]:
        """With `says_kernels`, the plugin says once which kernels serve which types."""
        chosen = {"TMAC_KERNEL": self.kernel, "TMAC_PRECISION": self.precision, "TMAC_LOG": "1" if says_kernels else ""}
        return {name: value for name, value in chosen.items() if value} | dict(self.variables)


@dataclass
class Generation:
    """What a model wrote, the plugin's lines about attention and about other kernels, tokens per second by phase, and
    llama.cpp's lines about errors.
    """

    text: str = ""
    kernels: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    too_long: tuple[int, int] | None = None
    errors: list[str] = field(default_factory=list)


def is_chat_model(model: Path) -> bool:
    """Whether the model says how a conversation is written. Raises ConvertError for a file that is not GGUF."""
    return CHAT_TEMPLATE_KEY in read_gguf_header(model).metadata


def generation_command(build: Build, model: Path, files: PromptFiles, options: Options, chat: bool) -> list[str | Path]:
    """The command that answers one prompt and ends."""
    mode = ["--jinja", "-cnv", "-st"] if chat else ["-no-cnv"]
    limit = [] if chat or options.n_predict is not None else ["-n", str(PLAIN_LIMIT)]
    # A warm-up would read all weights once more than the answer needs.
    quiet = ["--no-display-prompt", "--simple-io", "--no-warmup", "-lv", "3"]
    texts = ["-bf", files.prompt, *_system_arguments(files)]
    return [build.binary("llama-completion"), "-m", model, *mode, *texts, *quiet, *limit, *options.arguments()]


def chat_command(build: Build, model: Path, files: PromptFiles, options: Options) -> list[str | Path]:
    """The command that talks with the person at the terminal."""
    return [
        build.binary("llama-cli"),
        *("-m", model),
        *_system_arguments(files),
        *options.prompt_cache.arguments(),
        *options.arguments(),
    ]


def _system_arguments(files: PromptFiles) -> list[str | Path]:
    return [] if files.system is None else ["-sysf", files.system]


def generate(
    build: Build, model: Path, prompt: str, options: Options, *, out: BinaryIO | None = None, opening: str = ""
) -> Generation:
    """Writes `opening`, then the model's text, to `out` (stdout) as it comes. Raises TmacError when llama.cpp fails."""
    result = Generation()
    text = _Text(sys.stdout.buffer if out is None else out, opening.encode())
    chat = is_chat_model(model)
    try:
        if options.draft:
            read = partial(_read_log_line, result, options.verbose)
            rates = drafted.generate(build, model, prompt, options, None if chat else PLAIN_LIMIT, text.feed, read)
            result.rates = {PHASES[phase]: rate for phase, rate in rates.items()}
        else:
            _generate(build, model, prompt, options, chat, text, result)
    except KeyboardInterrupt:
        text.finish()
        raise
    result.text = text.finish()
    # Such as a control vector of another width, without which it goes on.
    for line in result.errors:
        console.log(f"llama.cpp went on after an error: {line}")
    words = [f"{phase} {rate:.1f} tokens/s" for phase, rate in result.rates.items()]
    if said := "; ".join(filter(None, (f"speed: {', '.join(words)}" if words else "", options.context.words))):
        console.log(said)
    return result


def _generate(
    build: Build, model: Path, prompt: str, options: Options, chat: bool, text: _Text, result: Generation
) -> None:
    with in_files(prompt, options.system) as files:
        try:
            process.stream(
                generation_command(build, model, files, options, chat),
                env=options.environment(),
                log=log_file("run"),
                on_output=text.feed,
                on_line=partial(_read_log_line, result, options.verbose),
            )
        except TmacError as problem:
            if result.too_long is None:
                raise
            tokens, most = result.too_long
            hint = (
                f"tmac run --ctx-size {tokens + PLAIN_LIMIT}, if the model and the memory allow it; or a shorter prompt"
            )
            raise ToolError(f"the prompt has {tokens} tokens, the context holds {most}", hint) from problem


def check_kernel(name: str | None) -> None:
    """Raises ToolError for a kernel or instruction set that the catalog does not have. Called before all work."""
    if name is None:
        return
    isas = [isa.name for isa in isas_for(machine())]
    if name not in isas and name not in [kernel.name for kernel in kernels_for(machine())]:
        hint = f"an instruction set: {', '.join(isas)}; or a kernel of `tmac kernels list`"
        raise ToolError(f"--kernel {name!r} is no kernel or instruction set on {machine()}", hint)


def check(model: Path, *, chat: bool, system: bool = False) -> None:
    """Raises TmacError for a model that cannot be read, or has no template where one is needed. Called before a build.

    `chat` and `system`: whether there is no prompt, and whether there is a system prompt.
    """
    chat_model = is_chat_model(model)
    if system and not chat_model:
        hint = "leave --system out, and write what it says into the prompt"
        raise ToolError(f"{model} has no chat template, which would say where a system prompt goes", hint)
    if not chat:
        return
    if not chat_model:
        raise ToolError(f"{model} has no chat template: it only continues a text", 'give one: tmac run MODEL -p "..."')
    if not sys.stdin.isatty():
        raise ToolError("there is neither a prompt nor a terminal to chat at", 'give a prompt: tmac run MODEL -p "..."')


def chat(build: Build, model: Path, options: Options) -> None:
    """A conversation of a person at the terminal with a model that `check` has accepted."""
    with in_files(None, options.system) as files:
        process.run(chat_command(build, model, files, options), env=options.environment(says_kernels=options.verbose))


def serve(build: Build, models: Sequence[str | Path], options: Options, host: str, port: int) -> None:
    """Runs llama-server until it is interrupted. `models` as of serving.py."""
    environment = options.environment(says_kernels=options.verbose)
    arguments = [*options.prompt_cache.arguments(), *options.arguments()]
    serving.serve(build, models, arguments, environment, host, port)


def _read_log_line(result: Generation, shown: bool, line: str) -> None:
    """Of llama.cpp's log only the plugin's lines are details for people, unless all are `shown`; keeps the speeds."""
    if shown and not line.startswith("tmac: "):
        console.log(line)
    prefix = LOG_PREFIX.match(line)
    line = line[prefix.end() :] if prefix else line
    if line.startswith("tmac: "):
        console.detail(line)
        (result.attention if line.startswith(attention.LINE) else result.kernels).append(line)
    elif rate := RATE.match(line):
        result.rates[PHASES[rate[1]]] = float(rate[2])
    elif long := TOO_LONG.match(line):
        result.too_long = int(long[1]), int(long[2])
    elif prefix and prefix[1] == "E":
        result.errors.append(line)


class _Text:
    """Passes bytes on, but holds back what may be the end that llama-completion adds."""

    def __init__(self, out: BinaryIO, opening: bytes = b""):
        self.out, self.opening, self.held, self.passed = out, opening, b"", b""

    def feed(self, piece: bytes) -> None:
        pending = self.held + piece
        end = POSSIBLE_END.search(pending).start()
        self._write(pending[:end])
        self.held = pending[end:]

    def finish(self) -> str:
        """Writes what belongs to the text and one line end. Returns the whole text without it."""
        rest = self.held.rstrip()
        rest = rest.removesuffix(END_MARK.strip()).rstrip() if rest.endswith(END_MARK.strip()) else rest
        self._write(rest)
        self.out.write(b"\n")
        self.out.flush()
        return self.passed.decode("utf-8", "replace")

    def _write(self, piece: bytes) -> None:
        self.passed += piece
        self.out.write(self.opening + piece)
        self.opening = b""
        self.out.flush()
