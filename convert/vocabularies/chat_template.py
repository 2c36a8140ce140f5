"""The chat template of a checkpoint, from the three places where it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import read_json
from .vocabulary import DAMAGED, utf8

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"


def read_chat_template(folder: Path, settings_file: Path, settings: dict[str, Any]) -> str | None:
    """A file of its own comes first, as in transformers; of a list of named templates, the one named `default`."""
    template_file, template_json = folder / TEMPLATE_FILE, folder / TEMPLATE_JSON
    if template_file.exists():
        try:
            return template_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConvertError(f"{template_file}: cannot be read as text ({error})", DAMAGED) from error
    if template_json.exists():
        settings_file, settings = template_json, read_json(template_json)
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    if found is not None and not isinstance(found, str):
        raise ConvertError(f"{settings_file}: chat_template is a {type(found).__name__}, expected a text", DAMAGED)
    return None if found is None else utf8(settings_file, found).decode()
