"""`tmac completion SHELL`: the script that completes verbs, options and file names, made from the parser by shtab."""

from __future__ import annotations

import argparse

import shtab

# What the value of such an argument is, by its name in the help.
_FILES = ("FILE", "MODEL", "SRC", "MODEL|ngram")
_FOLDERS = ("DIR",)


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for bash, zsh or fish; `parser` has all verbs with their arguments."""
    _mark_paths(parser)
    return shtab.complete(parser, shell)


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _mark_paths(sub)
        elif action.metavar in _FILES:
            action.complete = shtab.FILE
        elif action.metavar in _FOLDERS:
            action.complete = shtab.DIRECTORY
