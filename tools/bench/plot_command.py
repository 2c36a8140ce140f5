"""`tmac bench plot`: arguments. The drawing is in plot.py."""

from __future__ import annotations

import argparse
from pathlib import Path

from tmac.convert.write.atomic import check_target

from ..errors import ToolError
from . import plot


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac bench plot`."""
    parser.set_defaults(work=main)
    parser.add_argument("results", type=Path, metavar="FILE", help="JSON of `tmac bench model` or `... kernels`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a .png, .svg or .pdf file")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")


def main(args: argparse.Namespace) -> None:
    """Draws the picture. Raises TmacError."""
    check_target(args.output, args.force)
    plot.check(args.output)
    report = plot.read(args.results)
    try:
        plot.draw(report, args.output, args.force)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as problem:
        raise ToolError(
            f"{args.results} is damaged: no picture can be made of it ({type(problem).__name__}: {problem})", plot.HINT
        ) from problem
