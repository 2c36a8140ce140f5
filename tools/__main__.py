"""`python3 -m tools VERB ...` on a bare checkout: makes .venv, installs the checkout into it, hands over to `tmac`.

Needs nothing but Python's standard library. Versions are those of constraints.txt. The stamp of a finished install says
for which checkout, Python and requirements it was, so that a second run starts at once and a moved or updated checkout
is installed again. A lock lets one run install at a time. A file in a venv of ours says that it is not finished, so
that neither it nor the user's own is taken for the other. An installed package, which has no pyproject.toml beside it,
needs no setup: `tmac` runs at once.
"""

import contextlib
import hashlib
import importlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

OLDEST_PYTHON = (3, 10)
FAILED = 1
STAMP = ".tmac-installed"
LOCK_SUFFIX = ".lock"
# In the venv, whose paths are absolute: it cannot be made elsewhere and then renamed.
HALF_MADE = ".tmac-half-made"
# Seconds in which `python -m venv` surely writes its first file.
FIRST_SECONDS = 60
# Verbs that need an extra of pyproject.toml, which has the verb's name.
EXTRAS = ("test", "wheel")
# What decides, in a checkout, which packages an install brings.
REQUIREMENTS = ("pyproject.toml", "constraints.txt")
VENV_HINT = "Debian, Ubuntu: sudo apt install python3-venv    others: a Python with the modules venv and ensurepip"
WRITING_HINT = "check the permissions and the free disk space; in a read-only checkout: copy it to a folder of your own"


class SetupError(Exception):
    """What a user must do before anything else can run: message, hint."""


def main(arguments):
    """Never returns when all is well: the process becomes the venv's `tmac`."""
    checkout = Path(__file__).resolve().parent.parent
    try:
        check_python(sys.version_info)
        if not (checkout / "pyproject.toml").is_file():
            return importlib.import_module("tmac.tools.cli").main(arguments)
        venv = checkout / ".venv"
        extra = arguments[0] if arguments and arguments[0] in EXTRAS else ""
        if not is_installed(venv, checkout, extra):
            with locked(venv):
                if not is_installed(venv, checkout, extra):
                    install(venv, checkout, extra)
        return hand_over(program(venv, "tmac"), arguments)
    except SetupError as problem:
        message, hint = problem.args
        print(f"error: {message}\nhint: {hint}", file=sys.stderr)
        return FAILED
    except OSError as problem:
        print(f"error: {problem}\nhint: {WRITING_HINT}", file=sys.stderr)
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
    """All that decides what an install makes; the first two lines, what decides the venv."""
    facts = hashlib.sha256(b"\0".join((checkout / name).read_bytes() for name in REQUIREMENTS)).hexdigest()
    return f"{checkout}\n{python_name()}\n{extra}\n{facts}\n"


def python_name():
    """The Python that a venv is made of. The folder of a venv's packages has its version in its name."""
    return "{}.{} {}".format(*sys.version_info[:2], os.path.realpath(base_python()))


def base_python():
    """The Python that runs, or that which the venv that runs was made of."""
    return getattr(sys, "_base_executable", None) or sys.executable


def is_installed(venv, checkout, extra):
    """Whether an install with this extra was finished for the checkout as it is, and its Python still exists."""
    stamp = stamp_of(venv, extra)
    ready = stamp.is_file() and program(venv, "python").exists() and program(venv, "tmac").exists()
    return ready and stamp.read_text() == stamp_text(checkout, extra)


@contextlib.contextmanager
def locked(venv):
    """Holds the lock of the venv, as one process at a time does; the system releases it however that ends."""
    with venv.with_name(venv.name + LOCK_SUFFIX).open("a+") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"waiting for another run that sets up {venv}", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError:
                print(f"note: {venv} cannot be locked here; let no other run set it up", file=sys.stderr)
        yield


def is_half_made(venv):
    """Whether a run of ours began this venv and did not finish it; False if the user has made it anew since."""
    mark, first = venv / HALF_MADE, venv / "pyvenv.cfg"
    if not mark.is_file():
        return False
    return not first.is_file() or first.stat().st_mtime - mark.stat().st_mtime < FIRST_SECONDS


def install(venv, checkout, extra, run=None):
    """Makes the venv unless it can be used, installs the checkout editable, and last of all writes the stamps."""
    run = run or run_command
    print(f"setting up {venv} (once, about a minute)", file=sys.stderr)
    usable = program(venv, "python").exists() and was_made_for(venv, checkout) and not is_half_made(venv)
    for stamp in venv.glob(STAMP + "*"):
        stamp.unlink()
    if usable:
        check_pip(venv)
    else:
        make_venv(venv, run)
    target = f"{checkout}[{extra}]" if extra else str(checkout)
    pip = [str(program(venv, "python")), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if run([*pip, "--constraint", str(checkout / "constraints.txt"), "--editable", target]):
        raise SetupError(
            f"pip could not install {target}",
            "its own message is above; check the network and the package index, which must have the versions of "
            "constraints.txt, then run the command again",
        )
    for name in {extra, ""}:
        stamp_of(venv, name).write_text(stamp_text(checkout, name))
    with contextlib.suppress(FileNotFoundError):
        (venv / HALF_MADE).unlink()


def check_pip(venv):
    """Raises SetupError for a venv without pip, which may be half-made by hand or by an older T-MAC."""
    places = "lib/python*/site-packages", "Lib/site-packages"
    if not any(path for place in places for path in venv.glob(place + "/pip/__main__.py")):
        raise SetupError(
            f"{venv} has no pip: it is half-made, or made by another tool",
            f"delete {venv}, or install pip into it: {program(venv, 'python')} -m ensurepip",
        )


def was_made_for(venv, checkout):
    """False for a venv of the checkout in another place or of another Python; one without stamps is the user's own."""
    stamp = stamp_of(venv, "")
    return not stamp.is_file() or stamp.read_text().splitlines()[:2] == [str(checkout), python_name()]


def make_venv(venv, run):
    """Makes an empty venv with pip; until it is installed into, a file in it says that it is half-made.

    Raises SetupError with what stands in the way.
    """
    if venv.exists() and not venv.is_dir():
        raise SetupError(f"{venv} is a file, and the virtual environment is made there", "move it away")
    if not os.access(str(venv.parent), os.W_OK):
        raise SetupError(f"{venv.parent} cannot be written to", WRITING_HINT)
    try:
        import ensurepip  # noqa: F401  Debian leaves it out of python3
        import venv as module  # noqa: F401
    except ImportError:
        raise SetupError("this Python cannot make virtual environments", VENV_HINT) from None
    venv.mkdir(exist_ok=True)
    (venv / HALF_MADE).touch()
    # As `venv --clear` does, but for that file.
    for path in venv.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(str(path))
        elif path.name != HALF_MADE:
            path.unlink()
    if run([base_python(), "-m", "venv", str(venv)]):
        hint = "its own message is above; " + WRITING_HINT
        raise SetupError(f"the virtual environment {venv} could not be made", hint)


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
    return os.execv(command, [str(command), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
