"""Rules for every error and note of the converter."""

import ast
from pathlib import Path

import tmac.convert
from tmac.convert.errors import ConvertError
from tmac.convert.notes import Notes


def test_every_error_has_a_hint():
    """Every place that raises a ConvertError gives a message and a non-empty hint."""
    without = []
    for path in sorted(Path(tmac.convert.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ConvertError":
                hint = node.args[1] if len(node.args) > 1 else None
                if hint is None or (isinstance(hint, ast.Constant) and not hint.value):
                    without.append(f"{path.name}:{node.lineno}")
    assert without == []


def test_equal_notes_become_one():
    """In order of first appearance, with the first subject and the number of others."""
    notes = Notes()
    notes.add("is kept", "a")
    notes.add("the head is tied")
    for name in ("b", "c", "d"):
        notes.add("is left out", name)
    notes.add("is kept", "e")
    assert notes.lines() == ["a is kept (and 1 more like it)", "the head is tied", "b is left out (and 2 more like it)"]
    assert Notes().lines() == []


def test_messages_are_one_line_that_prints():
    """Names and values come from files: control characters are escaped, and long texts keep both ends."""
    error = ConvertError("x.safetensors: tensor a\n\x1b[2J\udc80b is missing", "hint\rhint")
    assert error.message == "x.safetensors: tensor a\\n\\x1b[2J\\udc80b is missing" and error.hint == "hint\\rhint"
    long = ConvertError(f"config.json: bits is {'9' * 10**6}, expected 4", "").message
    assert long.startswith("config.json: bits is 999") and long.endswith("999, expected 4") and len(long) < 2100
