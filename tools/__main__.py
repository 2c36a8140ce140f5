"""`python3 -m tools VERB ...` on a bare checkout: makes .venv, installs the checkout into it, hands over to `tmac`.

Needs nothing but Python's standard library. The stamp of a finished install says for which checkout and which
pyproject.toml it was, so that a second run starts at once and a moved or updated checkout is installed again.
"""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

OLDEST_PYTHON = (3, 10)
FAILED = 1
STAMP = ".tmac-installed"
VENV_HINT = (
    "Debian, Ubuntu: sudo apt install python3-venv    others: a Python with the modules venv and ensurepip"
)


class SetupError(Exception):
    """What a user must do before anything else can run: message, hint."""


def main(arguments):
    """Never returns when all is well: the process becomes the venv's `tmac`."""
    checkout = Path(__file__).resolve().parent.parent
    try:
        check_python(sys.version_info)
        venv = checkout / ".venv"
        extra = "test" if arguments[:1] == ["test"] else ""
        if not is_installed(venv, checkout, extra):
            install(venv, checkout, extra)
        return hand_over(program(venv, "tmac"), arguments)
    except SetupError as problem:
        message, hint = problem.args
        print("error: {}\nhint: {}".format(message, hint), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; the next run starts the installation again", file=sys.stderr)
        return 130


def check_python(version):
    """Raises SetupError for a Python that T-MAC does not run on."""
    if tuple(version[:2]) < OLDEST_PYTHON:
        raise SetupError(
            "this is Python {}.{}, T-MAC needs {}.{} or later".format(version[0], version[1], *OLDEST_PYTHON),
            "run the command with a newer one, for example: python3.12 -m tools demo",
        )


def stamp_of(venv, extra):
    """The file that says what was installed with an extra."""
    return venv / (STAMP + ("-" + extra if extra else ""))


def stamp_text(checkout, extra):
    """All that decides what an install makes. A venv holds absolute paths, so the checkout's place is part of it."""
    facts = hashlib.sha256((checkout / "pyproject.toml").read_bytes()).hexdigest()
    return "{}\n{}\n{}\n".format(checkout, extra, facts)


def is_installed(venv, checkout, extra):
    """Whether an install for this checkout, pyproject.toml and extra was finished, and its Python still exists."""
    stamp = stamp_of(venv, extra)
    ready = stamp.is_file() and program(venv, "python").exists() and program(venv, "tmac").exists()
    return ready and stamp.read_text() == stamp_text(checkout, extra)


def install(venv, checkout, extra, run=None):
    """Makes the venv unless it can be used, installs the checkout editable, and last of all writes the stamps."""
    run = run or run_command
    print("setting up {} (once, about a minute)".format(venv), file=sys.stderr)
    usable = program(venv, "python").exists() and was_made_for(venv, checkout)
    for stamp in venv.glob(STAMP + "*"):
        stamp.unlink()
    if not usable:
        make_venv(venv, run)
    target = "{}[{}]".format(checkout, extra) if extra else str(checkout)
    pip = [str(program(venv, "python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if run([*pip, "--editable", target]):
        raise SetupError(
            "pip could not install {}".format(target),
            "its own message is above; check the network and the package index, then run the command again",
        )
    for name in {extra, ""}:
        stamp_of(venv, name).write_text(stamp_text(checkout, name))


def was_made_for(venv, checkout):
    """False for a venv that was made for the checkout in another place; one without stamps is the user's own."""
    stamp = stamp_of(venv, "")
    return not stamp.is_file() or stamp.read_text().splitlines()[:1] == [str(checkout)]


def make_venv(venv, run):
    """Makes an empty venv with pip. Raises SetupError with the name of the package that is missing."""
    try:
        import ensurepip  # noqa: F401  Debian leaves it out of python3
        import venv as module  # noqa: F401
    except ImportError:
        raise SetupError("this Python cannot make virtual environments", VENV_HINT) from None
    if run([sys.executable, "-m", "venv", "--clear", str(venv)]):
        raise SetupError("the virtual environment {} could not be made".format(venv), VENV_HINT)


def run_command(command):
    """Says and runs a command, its output on stderr; returns its exit code."""
    print("+ " + " ".join(shlex.quote(part) for part in command), file=sys.stderr, flush=True)
    return subprocess.call(command, stdout=sys.stderr)


def program(venv, name):
    """The path of a program in the venv."""
    return venv / ("Scripts/{}.exe" if os.name == "nt" else "bin/{}").format(name)


def hand_over(command, arguments):
    """Becomes another program; where the system cannot, runs it and returns its exit code."""
    if os.name == "nt":
        return subprocess.call([str(command), *arguments])
    os.execv(command, [str(command), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
