"""`--draft`: llama.cpp's arguments for speculative decoding, where several tokens are guessed and checked at once.

`ngram` guesses by copying: when the last tokens stood in the text before, what followed them there is the guess. It
costs nothing where nothing repeats. A second, smaller model with the same vocabulary guesses anything. The text is that
of the model alone, up to the rounding of products with several tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

NGRAM = "ngram"
# Tokens that must repeat, and that are copied then. Products with T-MAC's types get dearer with every token up to where
# GEMM kernels take over (kernels/crossings.py): llama.cpp's 48 cost more than they gain where a copy soon ends.
LOOKUP, COPIED = 6, 16
DRAFTED = 4
MODEL = "--spec-draft-model"


def arguments(draft: str | None, find_model: Callable[[str], Path]) -> Sequence[str]:
    """For llama-cli and llama-server. `draft` is NGRAM or the name of a model, which `find_model` makes a file of."""
    if draft is None:
        return ()
    if draft == NGRAM:
        sizes = ["--spec-ngram-simple-size-n", str(LOOKUP), "--spec-ngram-simple-size-m", str(COPIED)]
        return ["--spec-type", "ngram-simple", *sizes]
    return [
        "--spec-type",
        "draft-simple",
        MODEL,
        str(find_model(draft)),
        "--spec-draft-n-max",
        str(DRAFTED),
    ]
