"""`python3 -m tools` on a bare checkout: when it installs, when it does not, what it says when it cannot."""

import ast
import builtins
import subprocess
import sys
from pathlib import Path

import pytest
from tmac.tools import __main__ as bootstrap


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[project]")
    return folder


class Commands:
    """Stands for running commands: notes them, and leaves what venv and pip would leave."""

    def __init__(self, venv, fail_at=None):
        self.venv, self.fail_at, self.ran = venv, fail_at, []

    def __call__(self, command):
        kind = "venv" if "venv" in command else "pip"
        self.ran.append((kind, command[-1]))
        if kind == self.fail_at:
            return 1
        for name in ("python", "tmac"):
            path = bootstrap.program(self.venv, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return 0


def install(checkout, extra="", **options):
    commands = Commands(checkout / ".venv", **options)
    bootstrap.install(checkout / ".venv", checkout, extra, commands)
    return commands.ran


def installed(checkout, extra=""):
    return bootstrap.is_installed(checkout / ".venv", checkout, extra)


def test_first_run_makes_venv_and_installs(checkout):
    """A bare checkout gets a venv and an editable install of itself."""
    assert not installed(checkout)
    assert install(checkout) == [("venv", str(checkout / ".venv")), ("pip", str(checkout))]
    assert installed(checkout)


def test_tests_need_their_extra_and_bring_the_rest(checkout):
    """`test` installs more than `demo`, and serves for it too; the other way round it does not."""
    install(checkout)
    assert not installed(checkout, "test")
    assert install(checkout, "test") == [("pip", f"{checkout}[test]")]
    assert installed(checkout, "test") and installed(checkout)


def test_changed_requirements_are_installed_again(checkout):
    """An updated checkout whose pyproject.toml differs is installed into the venv that is there."""
    install(checkout)
    (checkout / "pyproject.toml").write_text("[project] # newer")
    assert not installed(checkout)
    assert [kind for kind, _ in install(checkout)] == ["pip"]


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_failed_install_leaves_no_stamp(checkout, step):
    """After a failure or an interruption the next run starts again."""
    with pytest.raises(bootstrap.SetupError):
        install(checkout, fail_at=step)
    assert not installed(checkout)
    install(checkout)
    (checkout / "pyproject.toml").write_text("[project] # newer")
    with pytest.raises(bootstrap.SetupError):
        install(checkout, fail_at="pip")
    assert not list((checkout / ".venv").glob(bootstrap.STAMP + "*"))


def test_moved_checkout_gets_a_new_venv(checkout, tmp_path):
    """A venv holds absolute paths: in another place it is made anew."""
    install(checkout)
    moved = checkout.rename(tmp_path / "moved")
    assert not installed(moved)
    assert [kind for kind, _ in install(moved)] == ["venv", "pip"]


def test_venv_whose_python_has_gone_is_made_anew(checkout):
    """After an upgrade of the system's Python the links in a venv lead nowhere."""
    install(checkout)
    bootstrap.program(checkout / ".venv", "python").unlink()
    assert not installed(checkout)
    assert [kind for kind, _ in install(checkout)] == ["venv", "pip"]


def test_own_venv_of_the_user_is_kept(checkout):
    """A .venv without our stamp is installed into, not emptied."""
    Commands(checkout / ".venv")(["venv"])
    assert [kind for kind, _ in install(checkout)] == ["pip"]


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
