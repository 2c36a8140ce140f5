"""Drafts on a server: tokens a second with and without them on a text that repeats, and whether they change it.

Comes in: a model, a `Task`, llama.cpp's arguments for drafts. Goes out: a `DraftTiming`. Two servers of one model,
whose mapped file they share, answer the same request in turn, the most likely token each time. Medians count.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import ToolError
from ..llama.build import Build
from ..llama.drafted import ServerOfAnswers
from ..llama.run import Options

# Repeated, because drafts are copied from what stood in the text before.
TEXT = (
    "Once upon a time there was a little dog. The little dog lived in a big house. One day the little dog went to the "
    "park to play. At the park the little dog met a cat. The cat said hello to the little dog, and they played. "
)
TIMES = 2
TOKENS = 96
# A list of records, as programs ask for it. A model of random weights repeats nothing, or one token for ever, so a
# grammar dictates the names, which differ, and all that repeats; the model chooses numbers and truth. It has a token
# for each byte, so a text takes it more tokens.
RECORDS_PROMPT = "A list of records in JSON, one in a line:\n"
RECORDS_TOKENS = 512
NAMES = ("apple", "pear", "quince", "plum", "cherry", "peach", "apricot", "fig", "grape", "mango", "papaya", "lemon")
# A record has at least so many tokens.
LEAST_TOKENS = 12
VALUES = """
number ::= [1-9] [0-9] [0-9]
truth ::= "true" | "false"
"""


@dataclass(frozen=True)
class Task:
    """What is asked for: so many tokens that follow a prompt. `grammar`: in llama.cpp's notation, what may follow."""

    prompt: str
    tokens: int
    grammar: str | None = None


def records(tokens: int) -> str:
    """The grammar of a list that is longer than so many tokens."""
    count = tokens // LEAST_TOKENS + 1
    return f'root ::= "[" {" ".join(map(_record, range(1, count + 1)))} "]"{VALUES}'


def _record(number: int) -> str:
    name = NAMES[number % len(NAMES)]
    opening = f'{{"id": {number}, "name": "{name}", "kind": "fruit", "count": '
    parts = [
        _literal("," * (number > 1) + "\n " + opening),
        "number",
        _literal(', "is in stock": '),
        "truth",
        _literal("}"),
    ]
    return " ".join(parts)


def _literal(text: str) -> str:
    """As llama.cpp's grammars have it."""
    return json.dumps(text)


@dataclass(frozen=True)
class DraftTiming:
    """Medians of the rounds. ratio: of tokens a second with drafts by those without, in the same round.

    precision: as given, None the model's own. drafted, accepted: tokens that were guessed, and those that were right.
    same_text: in all rounds, with drafts and without.
    """

    model: str
    precision: str | None
    tokens: int
    threads: int
    tokens_per_s: float
    tokens_per_s_with_drafts: float
    ratio: float
    drafted: int
    accepted: int
    same_text: bool

    def as_dict(self) -> dict:
        return asdict(self)


def measure(
    build: Build,
    model: Path,
    task: Task,
    options: Options,
    draft: Sequence[str],
    rounds: int,
    log: Callable[[str], None] = lambda line: None,
) -> DraftTiming:
    """Times the answers of a model. `options` are without drafts. Raises TmacError."""
    body = {
        "prompt": task.prompt,
        "n_predict": task.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "return_tokens": True,
        **({"grammar": task.grammar} if task.grammar else {}),
    }
    answers: list[list[dict]] = []
    with ExitStack() as stack:
        servers = [
            stack.enter_context(ServerOfAnswers(build, model, chosen, lambda line: None))
            for chosen in (options, replace(options, draft=draft))
        ]
        # The first answers read the file.
        texts = [server.ask("/completion", body)["tokens"] for server in servers]
        for number in range(rounds):
            log(f"{model.name}: round {number + 1} of {rounds}")
            answers.append([server.ask("/completion", body) for server in servers])
    texts += [answer["tokens"] for both in answers for answer in both]
    speeds = [[answer["timings"]["predicted_per_second"] for answer in both] for both in answers]
    drafted = [both[1]["timings"] for both in answers]
    if len(texts[0]) < task.tokens:
        raise ToolError(f"{model}: the context ended after {len(texts[0])} of {task.tokens} tokens", "give less: -n")
    return DraftTiming(
        model.name,
        options.precision,
        task.tokens,
        options.threads or 0,
        statistics.median(alone for alone, _ in speeds),
        statistics.median(with_drafts for _, with_drafts in speeds),
        statistics.median(with_drafts / alone for alone, with_drafts in speeds),
        round(statistics.median(timings.get("draft_n", 0) for timings in drafted)),
        round(statistics.median(timings.get("draft_n_accepted", 0) for timings in drafted)),
        all(text == texts[0] for text in texts),
    )
