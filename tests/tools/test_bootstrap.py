"""`python3 -m tools` on a bare checkout: when it installs, when it does not, and its messages when it cannot."""

import ast
import builtins
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tmac.tools import __main__ as bootstrap


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]")
    (folder / "constraints.txt").write_text("numpy==2.0.0")
    return folder


class Commands:
    """Stands for running commands: notes them, and creates the files that venv and pip would."""

    def __init__(self, venv, fail_at=None):
        self.venv, self.fail_at, self.ran = venv, fail_at, []

    def __call__(self, command):
        kind = "venv" if "venv" in command else "pip"
        self.ran.append((kind, command[-1]))
        if kind == self.fail_at:
            return 1
        pip = self.venv / "lib" / "python3" / "site-packages" / "pip" / "__main__.py"
        for path in (*(bootstrap.program(self.venv, name) for name in ("python", "tmac")), pip):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return 0


def install_by(checkout, commands, extra=""):
    with bootstrap.locked(checkout / ".venv"):
        bootstrap.install(checkout / ".venv", checkout, extra, commands)


def install(checkout, extra="", **options):
    commands = Commands(checkout / ".venv", **options)
    install_by(checkout, commands, extra)
    return commands.ran


def installed(checkout, extra=""):
    return bootstrap.is_installed(checkout / ".venv", checkout, extra)


def test_first_run_makes_venv_and_installs(checkout):
    """A bare checkout gets a venv and an editable install of itself."""
    assert not installed(checkout)
    assert install(checkout) == [("venv", str(checkout / ".venv")), ("pip", str(checkout))]
    assert installed(checkout)


def test_versions_are_those_of_the_constraints(checkout):
    """The constraints file is that of the installed checkout."""
    ran = []
    with pytest.raises(bootstrap.SetupError):
        install_by(checkout, lambda command: ran.append(command) or "pip" in command)
    assert ran[-1][ran[-1].index("--constraint") + 1] == str(checkout / "constraints.txt")


def test_tests_need_their_extra_and_bring_the_rest(checkout):
    """`test` installs more than `demo`, so it also serves for `demo`; the reverse is not true."""
    install(checkout)
    assert not installed(checkout, "test")
    assert install(checkout, "test") == [("pip", f"{checkout}[test]")]
    assert installed(checkout, "test") and installed(checkout)


@pytest.mark.parametrize("name", bootstrap.REQUIREMENTS)
def test_changed_requirements_are_installed_again(checkout, name):
    """If the requirements of an updated checkout differ, they are installed into the existing venv."""
    install(checkout)
    (checkout / name).write_text("# newer")
    assert not installed(checkout)
    assert [kind for kind, _ in install(checkout)] == ["pip"]


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_failed_install_leaves_no_stamp(checkout, step):
    """After a failure or an interruption the next run installs again."""
    with pytest.raises(bootstrap.SetupError):
        install(checkout, fail_at=step)
    assert not installed(checkout)
    install(checkout)
    (checkout / "pyproject.toml").write_text("[project] # newer")
    with pytest.raises(bootstrap.SetupError):
        install(checkout, fail_at="pip")
    assert not list((checkout / ".venv").glob(bootstrap.STAMP + "*"))


def test_moved_checkout_gets_a_new_venv(checkout, tmp_path):
    """A venv holds absolute paths, so it is made again in another place."""
    install(checkout)
    moved = checkout.rename(tmp_path / "moved")
    assert not installed(moved)
    assert [kind for kind, _ in install(moved)] == ["venv", "pip"]


def test_venv_whose_python_has_gone_is_made_anew(checkout):
    """After an upgrade of the system's Python the links in a venv are broken."""
    install(checkout)
    bootstrap.program(checkout / ".venv", "python").unlink()
    assert not installed(checkout)
    assert [kind for kind, _ in install(checkout)] == ["venv", "pip"]


@pytest.mark.parametrize("fact", ["version_info", "_base_executable"])
def test_venv_of_another_python_is_made_anew(checkout, monkeypatch, fact):
    """After an upgrade from 3.11 to 3.12 the links lead to a Python that does not see the old one's packages."""
    install(checkout)
    monkeypatch.setattr(sys, fact, (3, 99, 0) if fact == "version_info" else "/opt/other/python3")
    assert not installed(checkout)
    assert [kind for kind, _ in install(checkout)] == ["venv", "pip"]
    assert installed(checkout)


def test_real_venv_is_made_and_then_used(checkout):
    """With the real `python -m venv` and only pip's install stubbed: a Python that runs, and a finished install."""
    ran = []

    def all_but_pip(command):
        ran.append(command)
        if "pip" in command:
            bootstrap.program(checkout / ".venv", "tmac").touch()
            return 0
        return bootstrap.run_command(command)

    install_by(checkout, all_but_pip)
    python = str(bootstrap.program(checkout / ".venv", "python"))
    prefix = subprocess.run([python, "-c", "import sys, pip; print(sys.prefix)"], capture_output=True, text=True)
    assert prefix.stdout.strip() == str(checkout / ".venv") and ran[1][0] == python
    assert installed(checkout)


def test_own_venv_of_the_user_is_kept(checkout):
    """A .venv without our stamp is installed into, not deleted."""
    Commands(checkout / ".venv")(["venv"])
    assert [kind for kind, _ in install(checkout)] == ["pip"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize("step", ["venv", "pip"])
@pytest.mark.parametrize("end", [KeyboardInterrupt, Killed])
def test_a_venv_that_was_cut_off_is_made_anew(checkout, step, end):
    """`python -m venv` makes bin/python long before pip; whoever ends it or pip, the next run does not take the rest
    for the user's own.
    """

    def cut_off(command):
        if "venv" in command:
            python = bootstrap.program(checkout / ".venv", "python")
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()
        if step in command:
            raise end
        return 0

    with pytest.raises(end):
        install_by(checkout, cut_off)
    assert [kind for kind, _ in install(checkout)] == ["venv", "pip"] and installed(checkout)
    (checkout / "pyproject.toml").write_text("[project] # newer")
    assert [kind for kind, _ in install(checkout)] == ["pip"]


@pytest.mark.parametrize("how", ["anew", "on top"])
def test_a_venv_that_the_user_made_after_one_was_cut_off(checkout, how):
    """It is installed into, not deleted, whichever way it was made."""
    venv = checkout / ".venv"

    def cut_off(command):
        (venv / "pyvenv.cfg").touch()
        raise Killed

    with pytest.raises(Killed):
        install_by(checkout, cut_off)
    assert bootstrap.is_half_made(venv)
    if how == "on top":
        os.utime(venv / bootstrap.HALF_MADE, (time.time() - 3600,) * 2)
    else:
        shutil.rmtree(venv)
    Commands(venv)(["venv"])
    own = venv / "own"
    for path in (own, venv / "pyvenv.cfg"):
        path.touch()
    assert [kind for kind, _ in install(checkout)] == ["pip"] and own.exists()
    assert not bootstrap.is_half_made(venv)


def test_a_venv_without_pip_is_not_used(checkout):
    """Half-made by an older T-MAC, or made by uv: said, not deleted."""
    python = bootstrap.program(checkout / ".venv", "python")
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(bootstrap.SetupError, match="has no pip"):
        install(checkout)
    assert python.exists()


def test_a_real_first_run_that_is_killed_at_any_moment(checkout, tmp_path):
    """SIGKILL during the real `python -m venv`: the next run makes a venv that works."""
    root = str(Path(bootstrap.__file__).parents[1])
    script = f"""
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from tools import __main__ as bootstrap
venv = Path({str(checkout / ".venv")!r})
with bootstrap.locked(venv):
    bootstrap.install(venv, venv.parent, "", lambda c: 0 if "pip" in c else bootstrap.run_command(c))
"""
    for seconds in (0.1, 0.6, 1.5):
        child = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    python = bootstrap.program(checkout / ".venv", "python")
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def test_two_first_runs_wait_for_each_other(checkout, monkeypatch, capfd):
    """The second one waits, says so, and then has nothing to do."""
    root = str(Path(bootstrap.__file__).parents[1])
    (checkout / "tools").mkdir()
    script = f"""
import sys, time; sys.path.insert(0, {root!r})
from pathlib import Path
from tools import __main__ as bootstrap
bootstrap.__file__ = {str(checkout / "tools" / "__main__.py")!r}
bootstrap.hand_over = lambda *ignored: 0
def run(command):
    print(command[2], flush=True)
    time.sleep(0.5)
    for name in ("python", "tmac"):
        path = bootstrap.program(Path({str(checkout / ".venv")!r}), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return 0
bootstrap.run_command = run
sys.exit(bootstrap.main(["demo"]))
"""
    children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    out, err = capfd.readouterr()
    assert out.split() == ["venv", "pip"] and "waiting for another run that sets up" in err


def test_old_python_is_told_what_is_needed():
    """The message has both versions."""
    with pytest.raises(bootstrap.SetupError, match="this is Python 3.9, T-MAC needs 3.10"):
        bootstrap.check_python((3, 9, 18))
    bootstrap.check_python((3, 10, 0))


def test_missing_venv_module_names_the_package(checkout, monkeypatch, capsys):
    """Debian's python3 without python3-venv: error, hint, exit code 1, nothing made."""
    real = builtins.__import__

    def without_ensurepip(name, *rest):
        if name == "ensurepip":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_ensurepip)
    monkeypatch.setattr(bootstrap, "__file__", str(checkout / "tools" / "__main__.py"))
    assert bootstrap.main(["demo"]) == bootstrap.FAILED
    said = capsys.readouterr().err
    assert "error: this Python cannot make virtual environments" in said and "apt install python3-venv" in said
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    "obstacle, words",
    [
        ("file", ".venv is a file"),
        ("read-only", "cannot be written to"),
        ("failure", "could not be made"),
        ("disk", "No space left"),
    ],
)
def test_obstacle_to_the_venv_has_its_message(checkout, monkeypatch, capsys, obstacle, words):
    """Each is an error with its own hint; python3-venv is named only where it is missing."""
    if obstacle == "file":
        (checkout / ".venv").touch()
    elif obstacle == "read-only":
        monkeypatch.setattr(bootstrap.os, "access", lambda path, mode: False)

    def call(command, **options):
        if obstacle == "disk":
            raise OSError(28, "No space left on device")
        return 1

    monkeypatch.setattr(bootstrap.subprocess, "call", call)
    monkeypatch.setattr(bootstrap, "__file__", str(checkout / "tools" / "__main__.py"))
    assert bootstrap.main(["demo"]) == bootstrap.FAILED
    said = capsys.readouterr().err
    assert "error: " in said and words in said and "hint: " in said and "python3-venv" not in said


def test_installed_package_sets_nothing_up(tmp_path, monkeypatch, capsys):
    """`python -m tmac.tools` from site-packages runs tmac; no .venv is made there."""
    monkeypatch.setattr(bootstrap, "__file__", str(tmp_path / "tmac" / "tools" / "__main__.py"))
    monkeypatch.setattr(bootstrap, "install", lambda *ignored: pytest.fail("nothing is to be installed"))
    assert bootstrap.main(["kernels", "list"]) == 0
    assert "scalar" in capsys.readouterr().out


def test_arguments_are_handed_over_unchanged(checkout, monkeypatch):
    """Once installed, the process becomes the venv's tmac with the same arguments, and runs nothing else."""
    install(checkout)
    became = []
    monkeypatch.setattr(bootstrap, "__file__", str(checkout / "tools" / "__main__.py"))
    monkeypatch.setattr(bootstrap.os, "execv", lambda path, command: became.append(command))
    monkeypatch.setattr(bootstrap.subprocess, "call", lambda *ignored, **also: pytest.fail("nothing is to be run"))
    bootstrap.main(["run", "x", "-p", "a b"])
    assert became == [[str(checkout / ".venv/bin/tmac"), "run", "x", "-p", "a b"]]


def test_only_the_standard_library_is_imported():
    """The file runs before anything is installed, on any Python that could give the message about its age."""
    tree = ast.parse(Path(bootstrap.__file__).read_text(), feature_version=(3, 6))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
    checkout = str(Path(bootstrap.__file__).parent.parent)
    script = f"import sys; sys.path.insert(0, {checkout!r}); import tools.__main__"
    assert subprocess.run([sys.executable, "-S", "-I", "-c", script]).returncode == 0
