"""The names of a text model's tensors, of those that it has inside a model that also sees images.

transformers has `model.language_model.layers.0...` and `lm_head` there, mlx-vlm `language_model.model.layers.0...` and
`language_model.lm_head`; the model of text alone has `model.layers.0...` and `lm_head`. What drafts is `mtp...` in all
of them, or `model.mtp...`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConvertError

_WRAPPER, _TOP, _DRAFTS = "language_model.", "model.", "mtp."
# What sees images has names that begin so.
_IMAGES = ("visual.", "vision_tower.", "multi_modal_projector.")
IMAGES = (*_IMAGES, *(_TOP + name for name in _IMAGES))


def text_name(name: str) -> str:
    """The name in the model of text alone."""
    name = name.replace(_WRAPPER, "", 1)
    return name.removeprefix(_TOP) if name.startswith(_TOP + _DRAFTS) else name


def stored_names(where: object, names: Iterable[str]) -> dict[str, str]:
    """The tensors, and the modules that they belong to, by their names in the model of text alone.

    Raises ConvertError, beginning with `where`, for two tensors that have the same name there.
    """
    found: dict[str, str] = {}
    for name in names:
        if name.startswith(IMAGES):
            continue
        text = text_name(name)
        if text in found and found[text] != name:
            raise ConvertError(
                f"{where}: tensors {found[text]} and {name} are both {text} of the text model, expected one of them",
                "the folder mixes two checkpoints; download it again into an empty folder",
            )
        found[text] = name
        found.setdefault(text.rpartition(".")[0], name.rpartition(".")[0])
    return found
