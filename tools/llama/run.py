"""Runs the built llama.cpp on a model: one answer to a prompt, a chat, or a server.

One answer comes from llama-completion, whose stdout is text alone; it applies the model's chat template when the
model has one. A chat comes from llama-cli, which owns the terminal. Nothing here converts or builds.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tmac.common import console, process
from tmac.common.cpu import machine
from tmac.common.paths import log_file
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.kernels import attention
from tmac.kernels.catalog import isas_for, kernels_for

from ..errors import ToolError
from . import serving
from .build import Build

CHAT_TEMPLATE_KEY = "tokenizer.chat_template"
PLAIN_LIMIT = 256  # tokens, for a model that may never end by itself

END_MARK = b" [end of text]"
# What may turn out to be the end that llama-completion adds to the text: white space, then the mark or part of it.
POSSIBLE_END = re.compile(rb"\s*(?:\[[a-z ]{0,11}\]?)?\s*\Z")
LOG_PREFIX = re.compile(r"\d+(?:\.\d\d\d?){3} (?:[A-Z] )?")
RATE = re.compile(r"common_perf_print:\s+(prompt eval|eval) time =.*?([\d.]+) tokens per second")


@dataclass(frozen=True)
class Options:
    """What `tmac run` passes on. None leaves the choice to llama.cpp.

    `kernel` is a name of `tmac kernels list`; `precision` is one of PRECISIONS, None the model's own.
    """

    n_predict: int | None = None
    threads: int | None = None
    temperature: float | None = None
    seed: int | None = None
    kernel: str | None = None
    precision: str | None = None
    extra: Sequence[str] = ()

    def arguments(self) -> list[str]:
        """The same as llama.cpp's own arguments."""
        pairs = (("-n", self.n_predict), ("-t", self.threads), ("--temp", self.temperature), ("-s", self.seed))
        return [part for flag, value in pairs if value is not None for part in (flag, str(value))] + list(self.extra)

    def environment(self) -> dict[str, str]:
        """TMAC_LOG makes the plugin say once which kernels serve which types."""
        chosen = {"TMAC_KERNEL": self.kernel, "TMAC_PRECISION": self.precision}
        return {"TMAC_LOG": "1"} | {name: value for name, value in chosen.items() if value}


@dataclass
class Generation:
    """What a model wrote, the plugin's lines about attention and about other kernels, tokens per second by phase."""

    text: str = ""
    kernels: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)


def is_chat_model(model: Path) -> bool:
    """Whether the model says how a conversation is written. Raises ConvertError for a file that is not GGUF."""
    return CHAT_TEMPLATE_KEY in read_gguf_header(model).metadata


def generation_command(build: Build, model: Path, prompt: str, options: Options, chat: bool) -> list[str | Path]:
    """The command that answers one prompt and ends."""
    mode = ["--jinja", "-cnv", "-st"] if chat else ["-no-cnv"]
    limit = [] if chat or options.n_predict is not None else ["-n", str(PLAIN_LIMIT)]
    quiet = ["--no-display-prompt", "--simple-io", "-lv", "3"]
    return [build.binary("llama-completion"), "-m", model, *mode, "-p", prompt, *quiet, *limit, *options.arguments()]


def chat_command(build: Build, model: Path, options: Options) -> list[str | Path]:
    """The command that talks with the person at the terminal."""
    return [build.binary("llama-cli"), "-m", model, *options.arguments()]


def generate(
    build: Build, model: Path, prompt: str, options: Options, *, out: BinaryIO | None = None, opening: str = ""
) -> Generation:
    """Writes `opening`, then the model's text, to `out` (stdout) as it comes. Raises TmacError when llama.cpp fails."""
    result = Generation()
    text = _Text(sys.stdout.buffer if out is None else out, opening.encode())
    command = generation_command(build, model, prompt, options, is_chat_model(model))
    process.stream(
        command,
        env=options.environment(),
        log=log_file("run"),
        on_output=text.feed,
        on_line=lambda line: _read_log_line(line, result),
    )
    result.text = text.finish()
    if result.rates:
        speeds = ", ".join(f"{phase} {rate:.1f} tokens/s" for phase, rate in result.rates.items())
        console.log(f"speed: {speeds}")
    return result


def check_kernel(name: str | None) -> None:
    """Raises ToolError for a kernel or instruction set that the catalog does not have. Called before all work."""
    if name is None:
        return
    isas = [isa.name for isa in isas_for(machine())]
    if name not in isas and name not in [kernel.name for kernel in kernels_for(machine())]:
        hint = f"an instruction set: {', '.join(isas)}; or a kernel of `tmac kernels list`"
        raise ToolError(f"--kernel {name!r} is no kernel or instruction set on {machine()}", hint)


def check(model: Path, *, chat: bool) -> None:
    """Raises TmacError for a model that cannot be read, or with `chat` has no template. Called before a build."""
    chat_model = is_chat_model(model)
    if not chat:
        return
    if not chat_model:
        raise ToolError(f"{model} has no chat template: it only continues a text", 'give one: tmac run MODEL -p "..."')
    if not sys.stdin.isatty():
        raise ToolError("there is neither a prompt nor a terminal to chat at", 'give a prompt: tmac run MODEL -p "..."')


def chat(build: Build, model: Path, options: Options) -> None:
    """A conversation of a person at the terminal with a model that `check` has accepted."""
    process.run(chat_command(build, model, options), env=options.environment())


def serve(build: Build, model: Path, options: Options, host: str, port: int) -> None:
    """Runs llama-server until it is interrupted."""
    serving.serve(build, ["-m", model], options.arguments(), options.environment(), host, port)


def _read_log_line(line: str, result: Generation) -> None:
    """Of llama.cpp's log only the plugin's lines are for people; the speeds are kept for the end."""
    prefix = LOG_PREFIX.match(line)
    line = line[prefix.end() :] if prefix else line
    if line.startswith("tmac: "):
        console.log(line)
        (result.attention if line.startswith(attention.LINE) else result.kernels).append(line)
    elif rate := RATE.match(line):
        result.rates["prompt" if rate[1] == "prompt eval" else "generation"] = float(rate[2])


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
