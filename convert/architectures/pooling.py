"""How a model that gives embeddings makes one of those of all tokens: a file of the sentence-transformers package."""

from __future__ import annotations

from pathlib import Path

from gguf import PoolingType

from ..errors import ConvertError
from ..sources.checkpoint import read_json

POOLING_FILE = "1_Pooling/config.json"
_MODES = {
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_lasttoken": PoolingType.LAST,
}


def read_pooling(folder: Path) -> PoolingType | None:
    """The way that the file names, None without the file. Raises ConvertError for one that llama.cpp does not have."""
    file = folder / POOLING_FILE
    if not file.exists():
        return None
    values = read_json(file)
    chosen = [key for key, value in values.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise ConvertError(
            f"{file}: the pooling is {' and '.join(chosen) or 'none'}, expected one of {', '.join(_MODES)}",
            "llama.cpp has no other; its embeddings would differ",
        )
    return _MODES[chosen[0]]
