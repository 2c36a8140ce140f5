"""Which of the arguments of `tmac run` and `tmac serve` are llama.cpp's own.

In: the arguments of a verb, and the parser of its own options. Out: those of the verb, and those for llama.cpp. Its
options are listed in options.txt: the number of values, the programs that know it (cli, completion, server), its
names. That list is made from the programs' --help (tests/e2e/test_run_command.py).
"""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIST = Path(__file__).with_name("options.txt")
PROGRAMS = ("cli", "completion", "server")
# Set by tmac itself. What to do instead; the caller may still pass them after --.
OWN = {
    "--model": "the model is the first argument: tmac run MODEL",
    "--model-url": "the model is the first argument: tmac run MODEL",
    "--hf-repo": "the model is the first argument: tmac run org/name",
    "--hf-file": "choose a file of a repository by its name: tmac run org/name:TYPE",
    "--docker-repo": "the model is the first argument: tmac run MODEL",
    "--file": "a prompt is also read from standard input: tmac run MODEL < FILE",
    "--binary-file": "a prompt is also read from standard input: tmac run MODEL < FILE",
    "--system-prompt": "tmac calls it --system",
    "--system-prompt-file": 'give its text: --system "$(cat FILE)"',
    "--conversation": "tmac chats when there is no prompt, and the model has a chat template",
    "--single-turn": "a prompt gets one answer: tmac run MODEL -p PROMPT",
    "--models-dir": "without a model, tmac serve serves the folder of models",
    "--verbosity": "tmac run -v shows what llama.cpp says",
    "--display-prompt": "tmac prints the answer alone",
    "--version": "tmac --version; tmac doctor says which llama.cpp is built",
}
# A name in --help, and what follows all of them: the values.
_NAME = re.compile(r"(--?[A-Za-z][\w.-]*)(,?\s+|$)")
# A short option with a number joined to it.
_JOINED = re.compile(r"(?P<name>-[A-Za-z])(?P<value>-?\d[\d.]*)")


class UsageError(Exception):
    """Arguments that neither tmac nor llama.cpp understands."""


@dataclass(frozen=True)
class LlamaOption:
    """One option of llama.cpp under all its names; `programs` are of PROGRAMS."""

    values: int
    programs: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join((str(self.values), ",".join(self.programs), *self.names))


@cache
def known() -> dict[str, LlamaOption]:
    """Every name of an option of llama.cpp."""
    options = []
    for line in LIST.read_text("utf-8").splitlines():
        values, programs, *names = line.split()
        options.append(LlamaOption(int(values), tuple(programs.split(",")), tuple(names)))
    return {name: option for option in options for name in option.names}


def from_help(texts: dict[str, str]) -> list[LlamaOption]:
    """The options in what programs print for --help, by the name of the program."""
    found: dict[tuple[tuple[str, ...], int], list[str]] = {}
    for program, text in texts.items():
        for line in text.splitlines():
            if not re.match(r"--?[A-Za-z]", line):
                continue
            names, at = [], 0
            while match := _NAME.match(line, at):
                names.append(match[1])
                at = match.end()
                if "," not in match[2]:
                    break
            hint = re.split(r"\s{2,}", line[at:])[0] if match and len(match[2]) < 2 else ""
            values = 0 if not hint else 2 if re.fullmatch(r"[A-Z]+ [A-Z]+", hint) else 1
            if names:
                found.setdefault((tuple(names), values), []).append(program)
    return [LlamaOption(values, tuple(programs), names) for (names, values), programs in sorted(found.items())]


def separate(
    arguments: Sequence[str], parser: argparse.ArgumentParser, programs: Iterable[str]
) -> tuple[list[str], list[str]]:
    """The arguments of `parser`, and those that llama.cpp's `programs` understand, with their values.

    The value of an own option is joined to it, so that it may begin with a dash, and what is no option comes last:
    argparse gives a positional argument that may be missing nothing when an option stands between it and the first.
    Underscores in names become dashes, as in llama.cpp. Raises UsageError for an option that nobody knows, that has no
    value, or that tmac sets itself, with what to write instead.
    """
    own = {name: action for action in parser._actions for name in action.option_strings}
    mine: list[str] = []
    words: list[str] = []
    theirs: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "-" or not argument.startswith("-") or re.fullmatch(r"-\d[\d.]*", argument):
            words.append(argument)
            continue
        name, has_value, value = _parts(argument, own)
        if name in own:
            if own[name].nargs is None and not has_value:
                if not rest:
                    raise UsageError(f"{name} needs a value")
                has_value, value = "=", rest.pop(0)
            mine.append(f"{name}{has_value}{value}")
            continue
        option = _option(name, own, set(programs))
        needed = option.values - bool(has_value)
        if needed < 0:
            raise UsageError(f"{name} of llama.cpp takes no value, found {argument}")
        if needed > len(rest):
            raise UsageError(f"{name} of llama.cpp needs {'a value' if option.values == 1 else 'two values'}")
        theirs += [name, *([value] if has_value else []), *rest[:needed]]
        del rest[:needed]
    return [*mine, *words], theirs


def _parts(argument: str, own: Mapping[str, argparse.Action]) -> tuple[str, str, str]:
    """The name of an option, `=` if its value is joined to it, and that value: --temp=0, -n8."""
    name, has_value, value = argument.partition("=")
    joined = _JOINED.fullmatch(argument)
    if joined and argument not in known() and joined["name"] in own and own[joined["name"]].nargs is None:
        return joined["name"], "=", joined["value"]
    return spelled(name), has_value, value


def spelled(name: str) -> str:
    """The name of an option with dashes; llama.cpp takes underscores for them too."""
    return name.replace("_", "-") if name.startswith("--") else name


def last_value(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """The value of an option among arguments for llama.cpp, of which the last counts there; None without the option."""
    found = None
    for at, argument in enumerate(arguments):
        name, has_value, value = argument.partition("=")
        if spelled(name) in names:
            found = value if has_value else next(iter(arguments[at + 1 :]), "")
    return found


def _option(name: str, own: Iterable[str], programs: set[str]) -> LlamaOption:
    if re.search(r"\s", name):
        raise UsageError(f"{name!r} begins with a dash, as options do; for a prompt: -p {shlex.quote(name)}")
    option = known().get(name)
    if option is None:
        close = difflib.get_close_matches(name, {*own, *known()}, n=3, cutoff=0.7)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"{name} is an option of neither tmac nor llama.cpp{meant}")
    advice = next((OWN[known_as] for known_as in option.names if known_as in OWN), None)
    if advice is not None:
        raise UsageError(f"{name} of llama.cpp is set by tmac: {advice}")
    if not programs.intersection(option.programs):
        raise UsageError(f"{name} is an option of llama-{', llama-'.join(option.programs)}, which is not used here")
    return option
