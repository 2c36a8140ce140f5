"""What `tmac bench kernels` and `tmac bench model` print, as JSON or a table, and the table in a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tmac.convert.write.atomic import check_target, replacing

from .. import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --json, --markdown and --force."""
    arguments.add_json(parser)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table to a file, too")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def check(args: argparse.Namespace) -> None:
    """Raises ConvertError for a file that cannot be written. For before measuring."""
    if args.markdown:
        check_target(args.markdown, args.force)


def show(args: argparse.Namespace, report: dict, table: str) -> None:
    """Prints the report or the table, and writes the table to a file if that was asked for."""
    print(json.dumps(report, indent=1) if args.json else table)
    if args.markdown:
        with replacing(args.markdown, args.force) as file:
            file.write_text(f"{table}\n", "utf-8")
