"""Which GGUF of a hub repository to take: of one that has no checkpoint, or where a type is asked for by name.

Repositories have one model in several types, each in a file, or in several that are numbered. Files for images, for
drafts and of importance matrices are none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import ConvertError
from .sources.ggml_types import PQ2_0, PTQ1_0, Q1_0, Q2_0, TQ1_0, TQ2_0
from .sources.gguf_model import SPLIT_NAME

# Types of one and of three values, which are made for such weights, by their size.
_SMALL = sorted((PQ2_0, PTQ1_0, Q1_0, Q2_0, TQ1_0, TQ2_0), key=lambda kind: kind.nbytes / kind.block)
PREFERRED = tuple(kind.name.upper() for kind in _SMALL)
_BESIDE_MODELS = ("imatrix", "mtp-")


def choose_gguf(repo: str, listing: Iterable[str], asked: str | None) -> tuple[list[str], str]:
    """The files of one model, and a sentence that says by what rule it was taken.

    `asked`: a type or another part of the name, as in org/name:PTQ1_0, or all of it. Raises ConvertError unless one
    model fits.
    """
    models = _models(listing)
    if not models:
        raise ConvertError(f"{repo}: has no GGUF of a model, expected one", "look for another repository of the model")
    shown = ", ".join(sorted(models))
    if asked is not None:
        fitting = [name for name in models if name.lower() == asked.lower().removesuffix(".gguf")]
        fitting = fitting or [name for name in models if _says(name, asked)]
        rule = f"the one named {asked}"
    elif len(models) == 1:
        fitting, rule = list(models), "the only one"
    else:
        kind = next((kind for kind in PREFERRED if any(_says(name, kind) for name in models)), "")
        fitting = [name for name in models if kind and _says(name, kind)]
        rule = f"the first of {', '.join(PREFERRED)} that there is"
    if len(fitting) != 1:
        found = f"{len(fitting)} of them fit" if asked or fitting else "none of them is " + " or ".join(PREFERRED)
        raise ConvertError(
            f"{repo}: has {shown}; {found}{f' {asked}' if asked else ''}, expected one",
            f"choose one by a part of its name: {repo.partition(':')[0].partition('@')[0]}:TYPE",
        )
    name = fitting[0]
    return models[name], f"{repo}: taking {name} of {len(models)} GGUF models, {rule}; org/name:TYPE chooses another"


def is_model(file: str) -> bool:
    """Whether a GGUF of this name is a model: no projector of images, importance matrix or block that drafts."""
    name = file.lower()
    return "mmproj" not in name and not name.startswith(_BESIDE_MODELS)


def _models(listing: Iterable[str]) -> dict[str, list[str]]:
    """The files of each model by the name of its first one. Parts that are missing are noticed when it is opened."""
    models: dict[str, list[str]] = {}
    for file in sorted(listing):
        if "/" in file or not file.endswith(".gguf") or not is_model(file):
            continue
        split = SPLIT_NAME.fullmatch(file)
        first = f"{split['stem']}-00001-of-{split['count']}" if split else file.removesuffix(".gguf")
        models.setdefault(first, []).append(file)
    return models


def _says(name: str, word: str) -> bool:
    """Whether a name has a word: not as a part of a longer one, as Q2_0 is of PQ2_0."""
    return re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", name, re.IGNORECASE) is not None
