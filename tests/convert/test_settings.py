"""Values of a config.json: which are taken, and which are refused by name."""

from pathlib import Path

import pytest

from tmac.convert.settings import Settings

READ = {
    "integer": lambda settings: settings.integer("key", at_most=8),
    "optional_integer": lambda settings: settings.optional_integer("key"),
    "positive": lambda settings: settings.positive("key"),
    "child": lambda settings: settings.child("key"),
}


@pytest.mark.parametrize(
    ("how", "sound", "damaged"),
    [
        ("integer", [1, 8], [0, 9, -1, True, 1.0, "1", None, [1], 10**400]),
        ("optional_integer", [1, 2**31 - 1, None], [0, 2**31, -1, True, 1.0, "1", [1]]),
        ("positive", [1, 1e-30, 1e30], [0, 0.0, -1, 1e31, True, "1", None, [1], float("inf"), float("nan"), 10**400]),
        ("child", [None], [1, "a", True, [], [{}]]),
    ],
)
def test_values(refused, how, sound, damaged):
    for value in sound:
        found = READ[how](Settings({"key": value}, Path("config.json")))
        assert found == value and type(found) is (float if how == "positive" else type(value))
    for value in damaged:
        refused(lambda: READ[how](Settings({"key": value}, Path("config.json"))), "config.json: key is", "expected")


def test_values_that_are_absent():
    """null is as good as absent; a default stands for either."""
    for values in ({}, {"key": None}):
        settings = Settings(values, Path("config.json"))
        assert settings.integer("key", 3) == 3 and settings.positive("key", 0.5) == 0.5
        assert settings.optional_integer("key") is None and settings.child("key") is None


def test_values_of_an_object_within(refused):
    child = Settings({"key": {"inner": 0}}, Path("config.json")).child("key")
    refused(lambda: child.integer("inner"), "config.json: inner is 0, expected a whole number from 1 to 2147483647")
