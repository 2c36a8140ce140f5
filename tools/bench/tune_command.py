"""`tmac kernels tune`: arguments and output. The search is in tuner.py."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tmac.common import console, tables
from tmac.kernels import crossings_file, tuning_file
from tmac.kernels.crossings import BY_INSTRUCTION_SET, COLUMNS, Crossings, rows_in_words
from tmac.kernels.isa import Isa
from tmac.kernels.tuning import CODES

from .. import arguments
from ..errors import ToolError

if TYPE_CHECKING:
    from .tuner import TuningResult


MEGABYTES, ROUNDS, THREADS = 900, 15, 1


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `tmac kernels tune`."""
    known = ",".join(map(str, CODES))
    parser.description = (
        "Searches the free parameters of the kernels for this CPU and compiler, and keeps what is faster than the "
        "defaults: `tmac build` (but not --portable) uses it from then on. It changes speed, never results. Kernels of "
        "`rounded` precision are timed; all precisions use the parameters that are found. Then measures from how many "
        "tokens on each kernel serves, as the first `tmac build` did."
    )
    parser.add_argument(
        "--bits",
        type=_codes,
        default=CODES,
        metavar="B,..",
        help=f"bit widths; t3: ternary types (default: {known})",
    )
    parser.add_argument(
        "--isa",
        type=arguments.isas,
        metavar="I,..",
        help="instruction sets (default: the one that serves on this CPU); with --crossings: prints what rows of "
        "kernels/crossings.py a CPU would need that has none above each of these, and keeps nothing",
    )
    parser.add_argument(
        "-t", "--threads", type=arguments.positive, default=THREADS, metavar="N", help=f"(default: {THREADS})"
    )
    arguments.add_timing(parser, megabytes=MEGABYTES, rounds=ROUNDS)
    arguments.add_json(parser)
    parser.add_argument(
        "--crossings", action="store_true", help="only measure from how many tokens on each kernel serves: some seconds"
    )
    parser.add_argument("--reset", action="store_true", help="forget what was found for this CPU and compiler")


def main(args: argparse.Namespace) -> None:
    """Searches, keeps and prints what was found; with --reset forgets it. Raises TmacError."""
    if args.reset:
        removed = [tuning_file.reset(), crossings_file.reset()]
        console.log(
            f"{'removed' if any(removed) else 'there was no'} tuning of {tuning_file.host_key()} in "
            f"{tuning_file.path()} and {crossings_file.path()}"
        )
        return
    for codes in args.bits:
        if codes not in CODES:
            raise ToolError(f"--bits {codes}: no such bit width", f"known: {', '.join(map(str, CODES))}")
    if args.crossings:
        _check_without_search(args)
    if args.crossings and args.isa:
        print(show_sets(args.isa, args.json))
        return
    results = [] if args.crossings else search(args)
    measured = measure_crossings()
    if args.json:
        print(
            json.dumps(
                {
                    "host": tuning_file.host_key(),
                    "file": str(tuning_file.path()),
                    "results": [result.as_dict() for result in results],
                    "crossings": {"cpus": measured.cpus, "isa": measured.isa, "numbers": crossings_file.rows(measured)},
                },
                indent=1,
            )
        )
    elif results:
        print(render(results))
    else:
        print("\n".join(rows_in_words(measured.numbers)))


def _check_without_search(args: argparse.Namespace) -> None:
    """Raises ToolError for what only the search for parameters would heed."""
    defaults = {"bits": CODES, "threads": THREADS, "megabytes": MEGABYTES, "rounds": ROUNDS}
    if unheeded := [f"--{name}" for name, default in defaults.items() if getattr(args, name) != default]:
        found = f"{', '.join(unheeded)}: of the search for parameters, and with --crossings there is none"
        raise ToolError(found, "leave it out")


def search(args: argparse.Namespace) -> list[TuningResult]:
    """One result for each bit width and instruction set. Each is saved as soon as it is found."""
    from .tuner import tune

    tuning_file.check_writable()
    results = []
    for codes in args.bits:
        for isa in args.isa or (_serving(codes),):
            if not isa.parameters:
                raise ToolError(f"{isa.name} has no free parameters", "give other instruction sets: --isa")
            result = tune(
                isa,
                codes,
                threads=args.threads,
                total_bytes=args.megabytes * arguments.MEGABYTE,
                rounds=args.rounds,
                log=console.log,
            )
            tuning_file.save(isa, codes, result.found)
            results.append(result)
    return results


def measure_crossings() -> Crossings:
    """From how many tokens on each kernel serves with the parameters that builds have. It is kept. Raises TmacError."""
    from tmac.kernels.compile import build
    from tmac.kernels.native import Library

    from .. import crossings

    measured = crossings.measure(Library(build(tuning=tuning_file.for_this_machine())))
    console.log("`tmac build` uses it from now on, but not with --portable or --no-measure")
    return measured


def show_sets(isas: Sequence[Isa], as_json: bool) -> str:
    """The rows of kernels/crossings.py for each of some instruction sets as measured here, with defaults of parameters.

    Raises TmacError.
    """
    from .. import crossings
    from .tuner import untuned_library

    found = [crossings.measure_set(untuned_library(), isa) for isa in isas]
    if as_json:
        return json.dumps(
            {"cpus": found[0].cpus, "numbers": {k: v for of in found for k, v in crossings_file.rows(of).items()}},
            indent=1,
        )
    return "\n".join(f'    ("{isa}", "{form}"): {row},{was}' for of in found for isa, form, row, was in _changes(of))


def _changes(measured: Crossings) -> Iterator[tuple[str, str, tuple[int, ...], str]]:
    """Each instruction set and form with its numbers, and in words what the table has if that differs."""
    for (isa, form), of_columns in measured.numbers.items():
        row = tuple(of_columns.get(column, 0) for column in COLUMNS)
        before = BY_INSTRUCTION_SET[isa, form]
        yield isa, form, row, "" if row == before else f"  # the table has {before}"


def _codes(text: str) -> tuple[int | str, ...]:
    return tuple(int(part) if part.isdigit() else part for part in text.split(","))


def _serving(codes: int | str) -> Isa:
    """The instruction set of the GEMV kernel that serves a bit width, or ternary types, on this CPU."""
    from tmac.kernels.spec import KernelSpec

    from .tuner import timed_type, untuned_library

    return KernelSpec.parse(untuned_library().select(timed_type(codes))).isa


def render(results: Sequence[TuningResult]) -> str:
    """A Markdown table: which parameters were chosen, and what they gain."""
    from .tuner import words

    rows = []
    for result in results:
        changed = {name: value for name, value in result.chosen.items() if value != result.defaults[name]}
        chosen = words(changed) or "the defaults"
        gain = f"{result.gain:.1%}" if changed else f"no gain above {result.noise:.1%}: defaults kept"
        rows.append([str(result.bits), result.isa, words(result.defaults), chosen, gain])
    kept = any(result.found for result in results)
    foot = f"{tuning_file.host_key()}\n{'kept in' if kept else 'nothing to keep in'} {tuning_file.path()}"
    table = tables.render(["bits", "ISA", "defaults", "chosen", "gain"], rows)
    return f"{table}\n\n{foot}{'; `tmac build` uses it from now on' if kept else ''}"
