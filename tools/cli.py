"""The command `tmac`: parses the arguments, runs the verb of verbs.py, and turns what goes wrong into one message.

Exit codes: 0 done, 1 the work failed, 2 wrong arguments, 129 the terminal was closed, 130 interrupted, 143 terminated.
Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from tmac.common import console
from tmac.common.errors import TmacError
from tmac.common.paths import log_file
from tmac.common.process import Terminated

from .llama.options import UsageError, separate
from .verbs import FAILED, OK, VERBS

USAGE, INTERRUPTED, SIGNALLED = 2, 130, 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code. What a user can cause never ends in a traceback."""
    _open_closed_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, extra = _split_at_dashes(arguments)
    parser = make_parser(own[0] if own else "")
    if not arguments:
        parser.print_help(sys.stderr)
        return USAGE
    own, passed = _split_programs_options(own)
    args, unknown = parser.parse_known_args(own)
    if unknown and not VERBS[args.verb].passes_unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if extra and not VERBS[args.verb].takes_extra:
        parser.error(f"{args.verb} takes nothing after --")
    # `passed` was read, and may be checked; what stands after -- is not.
    args.passed, args.extra = passed, passed + unknown + extra
    # Only of what runs a model; others say what they do.
    console.be_quiet(bool(VERBS[args.verb].programs) and not args.verbose)
    with _signals_interrupt():
        return _run_verb(args)


def _run_verb(args: argparse.Namespace) -> int:
    try:
        code = args.work(args) or OK
        # A short text leaves the buffer only now: later, nobody would catch that its reader has gone.
        sys.stdout.flush()
        return code
    except TmacError as problem:
        console.error(problem.message, problem.hint)
        return FAILED
    except BrokenPipeError:
        # The reader of stdout has gone (`tmac inspect | head`): nothing is left to say, nor anyone to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as problem:
        console.error(str(problem), "check the path, the permissions and the free disk space")
        return FAILED
    except Terminated as end:
        # After SIGHUP there may be no terminal to say it on.
        with suppress(OSError):
            console.log("terminated")
        return SIGNALLED + end.signal
    except KeyboardInterrupt:
        console.log("interrupted")
        return INTERRUPTED
    except Exception as problem:
        _report_bug(problem)
        return FAILED


def _open_closed_streams() -> None:
    """Opens the null device for a standard stream that the caller closed (`tmac ... <&-`), which Python has as None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  open as long as the process runs


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end the work as Ctrl-C does: every clean-up runs. `nohup` is respected."""

    def terminate(number, frame):
        raise Terminated(number)

    before = {}
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, terminate)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report_bug(problem: Exception) -> None:
    """One sentence. The traceback goes to a log that it names; to stderr with TMAC_DEBUG, or where there is no log."""
    text = "".join(traceback.format_exception(problem))
    try:
        log = log_file("bug")
        log.write_text(text, "utf-8", "backslashreplace")
        hint = f"please report it with {log}"
    except (OSError, TmacError):
        hint = "please report it with the traceback above"
    if os.environ.get("TMAC_DEBUG") or hint.endswith("above"):
        console.log(text.rstrip())
    console.error(f"this is a bug in tmac: {type(problem).__name__}: {problem}", hint)


def _split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _split_programs_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments for us, and those for the llama.cpp programs that the verb starts."""
    verb = VERBS.get(arguments[0]) if arguments else None
    if verb is None or not verb.programs:
        return arguments, []
    own = argparse.ArgumentParser()
    verb.configure(own)
    try:
        mine, theirs = separate(arguments[1:], own, verb.programs)
    except UsageError as problem:
        console.error(
            str(problem), f"tmac {arguments[0]} --help lists the options; what follows -- goes to llama.cpp unread"
        )
        raise SystemExit(USAGE) from None
    return [arguments[0], *mine], theirs


def make_parser(chosen: str = "", *, whole: bool = False) -> argparse.ArgumentParser:
    """All verbs; only the chosen one has its arguments unless `whole`, because some of them take long to import."""
    parser = argparse.ArgumentParser(
        prog="tmac",
        description="Low-bit LLM inference on CPUs by table lookup.",
        epilog="exit codes: 0 done, 1 the work failed, 2 wrong arguments, 129 the terminal was closed, "
        "130 interrupted, 143 terminated",
    )
    parser.add_argument("--version", action="version", version=f"tmac {importlib.metadata.version('tmac')}")
    choices = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        sub = choices.add_parser(name, help=verb.help, description=verb.help[0].upper() + verb.help[1:] + ".")
        sub.set_defaults(work=verb.work)
        if whole or name == chosen:
            verb.configure(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
