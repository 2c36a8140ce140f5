"""Whether the built llama.cpp computes a checkpoint as its expected.json says.

Comes in: a converted model and a folder with expected.json (prompt, prompt_ids, greedy_ids, greedy_text) and
expected_logits.npy (float32 [vocabulary] after the last prompt token), both from float32 arithmetic on the exact
weights. Goes out: how close the logits are, and where another token is likelier than the expected one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import sentencepiece

from tmac.common import process

from ..errors import ToolError
from .build import Build

# Three times what 8-bit tables and Q8_0 ends measure; it also bounds what may count as a near tie.
LOGITS_NMSE_LIMIT = 1e-4
# Two logits that are off by independent errors of this many standard deviations at most may change places.
NEAR_TIE_DEVIATIONS = 4


@dataclass(frozen=True)
class Verification:
    """nmse and rounding: error of the last prompt token's logits, its standard deviation in logits; leads: for every
    token of the expected text, by how much the likeliest other one beats it (negative where the expected one leads).
    """

    nmse: float
    rounding: float
    leads: np.ndarray

    @property
    def near_tie(self) -> float:
        """The largest lead that rounding explains, in logits."""
        return NEAR_TIE_DEVIATIONS * self.rounding

    def problems(self) -> list[str]:
        """What rounding does not explain; empty when the model is computed rightly."""
        found = []
        if not self.nmse <= LOGITS_NMSE_LIMIT:
            limit = f"{LOGITS_NMSE_LIMIT:.0e}"
            found.append(f"the logits after the prompt have NMSE {self.nmse:.1e}, expected at most {limit}")
        found += [
            f"at token {position} of the text another token leads by {self.leads[position]:.4f}, "
            f"more than the {self.near_tie:.4f} that rounding explains"
            for position in np.flatnonzero(~(self.leads <= self.near_tie))
        ]
        return found

    def explains(self, position: int) -> bool:
        """Whether a text may leave the expected one at this token: the two likeliest tokens are a near tie."""
        return position < len(self.leads) and bool(abs(self.leads[position]) <= self.near_tie)

    def render(self) -> str:
        """One line on the logits, one for each place where another token is likelier."""
        lines = [
            f"logits after the prompt: NMSE {self.nmse:.1e} against float32 on the exact weights, "
            f"rounding error {self.rounding:.4f}"
        ]
        lines += [
            f"near tie at token {position}: another token leads by {self.leads[position]:.4f}"
            for position in np.flatnonzero(self.leads > 0)
        ]
        return "\n".join(lines)


def first_difference(reference: Path, text: str) -> int | None:
    """The first token, counted from the end of the prompt, at which a text leaves the expected one; None if nowhere.

    A text that goes on beyond the expected end leaves it there. Both are split by the checkpoint's own tokenizer.model.
    """
    expected = json.loads((reference / "expected.json").read_text("utf-8"))
    if text.strip() == expected["greedy_text"].strip():
        return None
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(reference / "tokenizer.model"))
    tokens = tokenizer.encode(f"{expected['prompt']} {text.strip()}")[len(expected["prompt_ids"]) - 1 :]
    pairs = zip(tokens, expected["greedy_ids"])
    shorter = min(len(tokens), len(expected["greedy_ids"]))
    return next((i for i, (got, wanted) in enumerate(pairs) if got != wanted), shorter)


def all_logits(build: Build, model: Path, text: str, extra: Sequence[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int [n] of a text and float32 logits [n, vocabulary] after each, by llama-results. Raises TmacError."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.gguf"
        command = [build.binary("llama-results"), "-m", model, "-p", text, "-o", results, *extra]
        process.run(command, log=Path(folder) / "log")
        tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(results).tensors}
    tokens = tensors["tokens"].reshape(-1)
    return tokens, tensors["logits"].reshape(tokens.size, -1)


def verify(build: Build, model: Path, reference: Path, extra: Sequence[str] = ()) -> Verification:
    """Runs the whole expected text through the model and compares. Raises ToolError if it is tokenized otherwise."""
    expected = json.loads((reference / "expected.json").read_text("utf-8"))
    reference_logits = np.load(reference / "expected_logits.npy").astype(np.float64)
    prompt, story = expected["prompt_ids"], expected["greedy_ids"]
    tokens, logits = all_logits(build, model, f"{expected['prompt']} {expected['greedy_text']}", extra)
    if tokens.tolist() != prompt + story:
        raise ToolError(
            f"{model} splits the text of {reference / 'expected.json'} into other tokens than expected",
            "convert the model again",
        )
    error = logits[len(prompt) - 1] - reference_logits
    nmse = float((error**2).sum() / (reference_logits**2).sum())
    rows = logits[len(prompt) - 1 : -1]
    wanted = np.arange(len(story)), np.array(story)
    wanted_logits = rows[wanted].copy()
    rows[wanted] = -np.inf
    return Verification(nmse, float(np.sqrt((error**2).mean())), rows.max(axis=1) - wanted_logits)
