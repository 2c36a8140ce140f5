"""`tmac list`, `tmac show` and `tmac rm`: the models on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from tmac.common import console
from tmac.common.errors import printable_line
from tmac.convert.report import human_size as size_text

from .arguments import add_json
from .errors import ToolError


def configure_list(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tmac list`."""
    add_json(parser)


def list_models(args: argparse.Namespace) -> None:
    """One line per model: its name, its size, what it is, and where it is from."""
    from . import caches

    entries = caches.entries()
    if args.json:
        print(json.dumps([_data(entry) for entry in entries], indent=1))
        return
    rows = [(entry.name, size_text(entry.nbytes), entry.kind, entry.origin) for entry in entries]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for name, size, kind, origin in rows:
        line = f"{name:{widths[0]}}  {size:>{widths[1]}}  {kind:{widths[2]}}  {origin}"
        print(printable_line(line.rstrip()))
    if bench := caches.random_files():
        total = size_text(sum(path.stat().st_size for path in bench))
        console.log(f"besides: {len(bench)} models of random weights of tmac bench, {total}: tmac rm {caches.RANDOM}")
    models = f"{len(entries)} model{'' if len(entries) == 1 else 's'}"
    console.log(f"{models}, {size_text(sum(entry.nbytes for entry in entries))}; {caches.models_folder()}")


def _data(entry) -> dict[str, object]:
    data = {**asdict(entry), "path": str(entry.path), "nbytes": entry.nbytes, "origin": entry.origin}
    return {name: value for name, value in data.items() if value not in (None, "") and name != "files"}


def configure_show(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tmac show`."""
    parser.add_argument("model", metavar="NAME", help="a name of `tmac list`")
    add_json(parser)


def show(args: argparse.Namespace) -> None:
    """All that is known of a model: where it is, what made it, what is in it."""
    from tmac.convert.inspect import inspect_checkpoint, inspect_gguf

    from . import caches

    data = []
    for entry in caches.find_entries(args.model):
        found = inspect_gguf(entry.path) if entry.runs else inspect_checkpoint(entry.path)
        data.append({**_data(entry), "facts": dict(found.facts)})
        if not args.json:
            made = f"\nmade: {printable_line(entry.origin)}" if entry.origin else ""
            print(f"name: {printable_line(entry.name)}\nkind: {entry.kind}, {size_text(entry.nbytes)}{made}")
            print(found.render())
    if args.json:
        print(json.dumps(data, indent=1))


def configure_rm(parser: argparse.ArgumentParser) -> None:
    """The arguments of `tmac rm`."""
    parser.add_argument("models", metavar="NAME", nargs="+", help="a name of `tmac list`; random: those of tmac bench")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--download", action="store_true", help="only what was downloaded: its conversion goes on to work without it"
    )


def remove(args: argparse.Namespace) -> None:
    """Deletes models after asking. In the list are what T-MAC made or downloaded, and what lies in its folder."""
    from . import caches

    chosen, files = [], []
    for name in args.models:
        if name == caches.RANDOM:
            files += caches.random_files()
            continue
        found = [entry for entry in caches.find_entries(name) if entry.commit or not args.download]
        if not found:
            raise ToolError(f"{name} has no download here", "tmac list shows what there is")
        if args.download and not caches.has_conversion(found[0]):
            raise ToolError(f"{name} was not converted: the download is the model", f"to delete it: tmac rm {name}")
        chosen += [entry for entry in found if entry not in chosen]
    for entry in chosen:
        note = " (a file of yours, which tmac did not make)" if entry.kind == caches.FILE else ""
        console.log(f"{entry.kind} {entry.name}, {size_text(entry.nbytes)}: {entry.path}{note}")
    total = sum(entry.nbytes for entry in chosen) + sum(path.stat().st_size for path in files)
    _confirm(args.yes, len(chosen) + len(files), total)
    for entry in chosen:
        caches.remove(entry)
    for path in files:
        path.unlink()
    console.log(f"deleted {size_text(total)}")


def _confirm(yes: bool, count: int, nbytes: int) -> None:
    """Asks the person at the terminal. Raises ToolError for a no, or where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ToolError("nobody can be asked whether to delete", "tmac rm --yes NAME")
    sys.stderr.write(f"delete {count} of them, {size_text(nbytes)}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ToolError("nothing was deleted")
