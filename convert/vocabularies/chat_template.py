"""The chat templates of a checkpoint, from the places where they may be: one for all, and others by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..errors import ConvertError
from ..sources.checkpoint import read_json
from .vocabulary import DAMAGED, utf8

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
# transformers puts the others here, one <name>.jinja each, when it writes the first one into a file of its own.
OTHERS_FOLDER = "additional_chat_templates"
OTHER_TEMPLATE = re.compile(rf"{OTHERS_FOLDER}/[^/]+\.jinja")
DEFAULT = "default"
MAX_NAME = 64


def read_chat_templates(folder: Path, settings_file: Path, settings: dict[str, Any]) -> dict[str, str]:
    """The templates by name, that for all as `default`. A file of its own comes first, as in transformers.

    llama-server takes the one named `tool_use`, if there is one, for requests with tools.
    """
    template_file, template_json = folder / TEMPLATE_FILE, folder / TEMPLATE_JSON
    if template_file.exists():
        others = sorted((folder / OTHERS_FOLDER).glob("*"))
        others = [file for file in others if OTHER_TEMPLATE.fullmatch(file.relative_to(folder).as_posix())]
        files = {**{_key_part(file.stem): file for file in others}, DEFAULT: template_file}
        return {name: _text_of(file) for name, file in files.items()}
    if template_json.exists():
        settings_file, settings = template_json, read_json(template_json)
    found = settings.get("chat_template")
    if found is None:
        return {}
    entries = found if isinstance(found, list) else [{"name": DEFAULT, "template": found}]
    templates = {}
    for entry in entries:
        name, text = (entry.get(key) if isinstance(entry, dict) else entry for key in ("name", "template"))
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not isinstance(text, str):
            what = type(text).__name__
            raise ConvertError(
                f"{settings_file}: chat_template is a {what}, expected a text, or texts by name", DAMAGED
            )
        templates.setdefault(_key_part(name), utf8(settings_file, text).decode())
    return templates


def _key_part(name: str) -> str:
    """The name as it is in a key of the GGUF; llama.cpp's own converter replaces the same characters."""
    return re.sub("[^A-Za-z0-9_]", "_", name)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConvertError(f"{file}: cannot be read as text ({error})", DAMAGED) from error
