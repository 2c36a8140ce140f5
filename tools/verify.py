"""Whether the built llama.cpp computes a checkpoint as its expected.json says.

Comes in: a converted model and a folder with expected.json (prompt, prompt_ids, greedy_ids, greedy_text) and
expected_logits.npy (float32 [vocabulary] after the last prompt token), both from float32 arithmetic on the exact
weights. Goes out: how close the logits are, and every place where another token is likelier than the expected one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from . import process
from .errors import ToolError
from .llama_build import Build

LOGITS_NMSE_LIMIT = 1e-3
# Two logits that are off by independent errors of this many standard deviations at most may change places.
NEAR_TIE_DEVIATIONS = 4


@dataclass(frozen=True)
class Difference:
    """At token `position` of the expected text, `got` has the highest logit instead of `expected`."""

    position: int
    expected: int
    got: int
    expected_logit: float
    got_logit: float

    @property
    def gap(self) -> float:
        return self.got_logit - self.expected_logit


@dataclass(frozen=True)
class Verification:
    """nmse: of the last prompt token's logits; rounding: standard deviation of their error; differences: in greedy choice."""

    nmse: float
    rounding: float
    differences: tuple[Difference, ...]

    @property
    def near_tie_limit(self) -> float:
        """The largest gap that the rounding error explains."""
        return NEAR_TIE_DEVIATIONS * self.rounding

    def problems(self) -> list[str]:
        """What rounding does not explain; empty when the model is computed rightly."""
        found = []
        if not self.nmse <= LOGITS_NMSE_LIMIT:
            found.append(f"the logits after the prompt have NMSE {self.nmse:.1e}, expected at most {LOGITS_NMSE_LIMIT:.0e}")
        found += [f"token {d.position} of the text: logit {d.got_logit:.4f} of token {d.got} beats {d.expected_logit:.4f} of the expected "
                  f"{d.expected} by more than rounding explains ({self.near_tie_limit:.4f})"
                  for d in self.differences if not d.gap <= self.near_tie_limit]
        return found

    def render(self) -> str:
        """One line on the logits, one for each near tie."""
        lines = [f"logits after the prompt: NMSE {self.nmse:.1e} against float32 on the exact weights"]
        lines += [f"near tie at token {d.position}: logits {d.got_logit:.4f} and {d.expected_logit:.4f}, apart by {d.gap:.4f}; "
                  f"rounding error {self.rounding:.4f}" for d in self.differences]
        return "\n".join(lines)


def all_logits(build: Build, model: Path, text: str, env: dict[str, str] | None = None, extra: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int [n] of a text and float32 logits [n, vocabulary] after each, by llama-results. Raises ToolError."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.gguf"
        process.run([build.binary("llama-results"), "-m", model, "-p", text, "-o", results, *extra], env=env or {}, log=Path(folder) / "log")
        tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(results).tensors}
    tokens = tensors["tokens"].reshape(-1)
    return tokens, tensors["logits"].reshape(tokens.size, -1)


def verify(build: Build, model: Path, reference: Path, env: dict[str, str] | None = None, extra: Sequence[str] = ()) -> Verification:
    """Runs the whole expected text through the model and compares. Raises ToolError if the text is tokenized otherwise."""
    expected = json.loads((reference / "expected.json").read_text("utf-8"))
    reference_logits = np.load(reference / "expected_logits.npy").astype(np.float64)
    prompt, story = expected["prompt_ids"], expected["greedy_ids"]
    tokens, logits = all_logits(build, model, f"{expected['prompt']} {expected['greedy_text']}", env, extra)
    if tokens.tolist() != prompt + story:
        raise ToolError(f"{model} splits the text of {reference / 'expected.json'} into other tokens than expected", "convert the model again")
    error = logits[len(prompt) - 1] - reference_logits
    nmse = float((error ** 2).sum() / (reference_logits ** 2).sum())
    differences = []
    for position, token in enumerate(story):
        row = logits[len(prompt) - 1 + position]
        got = int(row.argmax())
        if got != token:
            differences.append(Difference(position, token, got, float(row[token]), float(row[got])))
    return Verification(nmse, float(np.sqrt((error ** 2).mean())), tuple(differences))
