"""What made a conversion in the folder of models: a small JSON file beside it.

With it `tmac list` can say where a model comes from, and a download can be deleted once it is converted.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from tmac.common import files

SUFFIX = ".json"


@dataclass(frozen=True)
class Record:
    """name: what the user called the model; source: the folder or file that was converted; converter: a hash of it."""

    name: str
    source: str
    tmac: str
    converter: str
    made: str


def write(model: Path, name: str, source: Path, converter: str) -> None:
    """For a conversion that was just made."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    record = Record(name, str(source.absolute()), importlib.metadata.version("tmac"), converter, now)
    files.write_text(path_of(model), json.dumps(asdict(record), indent=1))


def read(model: Path) -> Record | None:
    """None where there is none, or a damaged one: then nothing is known."""
    try:
        values = json.loads(path_of(model).read_text("utf-8"))
        record = Record(**values)
    except (OSError, ValueError, TypeError):
        return None
    return record if all(isinstance(value, str) for value in asdict(record).values()) else None


def path_of(model: Path) -> Path:
    return model.with_name(model.name.removesuffix(".gguf") + SUFFIX)
