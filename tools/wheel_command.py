"""`tmac wheel`: a package with binaries, for this machine's system or, by a cross compiler, for another."""

from __future__ import annotations

import argparse
from pathlib import Path

from tmac.common import platforms

from .arguments import positive


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    parser.add_argument("-o", "--output", type=Path, default=Path("dist"), metavar="DIR", help="(default: dist)")
    own, *others = platforms.names()
    crossed = f", or by a cross compiler {', '.join(others)}" if others else ""
    usage = f"what the package is for: {own} (default){crossed}"
    parser.add_argument("--platform", choices=[own, *others], default=own, metavar="NAME", help=usage)
    usage = "only these CPU backends of ggml, such as x64,haswell (default: all that it has for this architecture)"
    parser.add_argument("--variants", type=lambda text: tuple(text.split(",")), default=(), metavar="NAMES", help=usage)
    parser.add_argument("--ui", action="store_true", help="with the server's page to chat at, made by npm")
    parser.add_argument("--jobs", type=positive, metavar="N", help="parallel compilations (default: one per core)")


def make(checkout: Path, args: argparse.Namespace) -> Path:
    """Makes it, and returns its path. Raises TmacError."""
    from . import wheel

    return wheel.make(checkout, args.output, args.variants, args.jobs, args.ui, platforms.named(args.platform))
