"""Patching a llama.cpp tree, with trees of a few lines."""

import shutil
import subprocess

import pytest

from tmac.common.errors import TmacError
from tmac.tools.errors import ToolError
from tmac.tools.llama import patch as llama_patch
from tmac.tools.llama import source as llama_source

BEFORE = "".join(f"line {n}\n" for n in range(1, 21))


def diff(tmp_path, name, path, old, new):
    """A patch file that turns text `old` of `path` into `new`."""
    (tmp_path / "a").write_text(old)
    (tmp_path / "b").write_text(new)
    made = subprocess.run(
        ["diff", "-u", "--label", f"a/{path}", "--label", f"b/{path}", "a", "b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    ).stdout
    patch = tmp_path / name
    patch.write_text(f"Why this is needed.\n\n{made}")
    return patch


def state(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "tree"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "one.c").write_text(BEFORE)
    (folder / "src" / "two.c").write_text(BEFORE)
    return folder


@pytest.fixture
def series(tmp_path):
    """Two patches, the second on the line after the first one's, and on another file."""
    first = BEFORE.replace("line 5\n", "line 5\nfirst\n")
    second = first.replace("first\n", "first\nsecond\n")
    patches = [
        diff(tmp_path, "0001-a.patch", "src/one.c", BEFORE, first),
        diff(tmp_path, "0002-b.patch", "src/one.c", first, second),
    ]
    other = diff(tmp_path, "other", "src/two.c", BEFORE, BEFORE.replace("line 9\n", "nine\n"))
    patches[1].write_text(patches[1].read_text() + other.read_text())
    return patches


def test_series_is_applied_in_order(tree, series):
    """Patches that build on one another all arrive, and the changed files are named."""
    changed = llama_patch.apply_patches(tree, series)
    assert "line 5\nfirst\nsecond\nline 6\n" in (tree / "src/one.c").read_text()
    assert "nine" in (tree / "src/two.c").read_text()
    assert changed == [tree / "src/one.c", tree / "src/two.c"]


def test_second_run_changes_nothing(tree, series):
    """Once all patches are applied, neither content nor time of any file changes."""
    llama_patch.apply_patches(tree, series)
    before = state(tree)
    assert llama_patch.apply_patches(tree, series) == []
    assert state(tree) == before


def test_said_command_works_when_pasted(tree, series, tmp_path, monkeypatch, capsys):
    """The printed command does the same in a shell, with odd folder names and git's variables set."""
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    odd = tree.rename(tmp_path / "a tree's")
    untouched = tmp_path / "untouched"
    shutil.copytree(odd, untouched)
    llama_patch.apply_patches(odd, series)
    line = capsys.readouterr().err.strip().removeprefix("+ ")
    patched = (odd / "src/one.c").read_text()
    shutil.rmtree(odd)
    untouched.rename(odd)
    subprocess.run(["sh", "-c", line], check=True)
    assert (odd / "src/one.c").read_text() == patched and "second" in patched


def test_series_that_grew_is_completed(tree, series):
    """A tree that has the first patch gets only the second."""
    llama_patch.apply_patches(tree, series[:1])
    llama_patch.apply_patches(tree, series)
    assert "line 5\nfirst\nsecond\nline 6\n" in (tree / "src/one.c").read_text()


@pytest.mark.parametrize("place", ["", "build"])
def test_patch_inside_ignored_folder_of_a_repository(tmp_path, series, monkeypatch, place):
    """In a git-ignored folder of a repository, where git apply alone skips everything, the files do change."""
    repository = tmp_path / "repository"
    tree = repository / place / "llama.cpp"
    (tree / "src").mkdir(parents=True)
    for name in ("one.c", "two.c"):
        (tree / "src" / name).write_text(BEFORE)
    subprocess.run(["git", "init", "-q", repository], check=True)
    (repository / ".gitignore").write_text("/build/\n/llama.cpp/\n")
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(repository))
    llama_patch.apply_patches(tree, series)
    assert "second" in (tree / "src/one.c").read_text()
    assert "nine" in (tree / "src/two.c").read_text()


def test_hunk_that_does_not_fit_stops_with_nothing_applied(tree, series):
    """The error names patch, file and line; no file changed, not even by the patch that fits."""
    (tree / "src/two.c").write_text(BEFORE.replace("line 9\n", "something else\n"))
    before = state(tree)
    with pytest.raises(ToolError) as caught:
        llama_patch.apply_patches(tree, series)
    assert state(tree) == before
    assert "0002-b.patch" in caught.value.message
    assert "src/two.c:6" in caught.value.message
    assert "tmac build --clean" in caught.value.hint


def test_missing_git_names_the_package(tree, series, monkeypatch):
    """Without git the hint says what to install."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TmacError) as caught:
        llama_patch.apply_patches(tree, series)
    assert "apt install git" in caught.value.hint


def test_overlay_is_copied_only_where_it_differs(tmp_path, tree):
    """New and changed files are written; equal ones keep their time, so that they are not compiled again."""
    overlay = tmp_path / "overlay"
    (overlay / "src" / "new").mkdir(parents=True)
    (overlay / "src/new/a.h").write_text("a")
    (overlay / "src/one.c").write_text(BEFORE)
    before = state(tree)
    assert llama_patch.copy_overlay(overlay, tree) == [tree / "src/new/a.h"]
    assert (tree / "src/new/a.h").read_text() == "a"
    assert before.items() <= state(tree).items()
    assert llama_patch.copy_overlay(overlay, tree) == []


def test_prepare_patches_copies_and_generates(tmp_path, tree, series):
    """One call does all three steps and returns every changed file."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "x.h").write_text("x")
    written = []
    changed = llama_patch.prepare(tree, lambda folder: written.append(folder) or [folder / "k.c"], patches=tmp_path)
    assert written == [tree / llama_patch.KERNELS]
    assert changed == [tree / "src/one.c", tree / "src/two.c", tree / "x.h", tree / llama_patch.KERNELS / "k.c"]


@pytest.fixture
def patched_source(tmp_path, series):
    """A function that makes a patched copy of a user's llama.cpp, and the folder of its patches."""
    own = tmp_path / "own"
    for name in ("src/one.c", "src/two.c", "src/three.c", "ggml/src/ggml-cpu/traits.h"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(BEFORE)
    patches = tmp_path / "patches"
    (patches / "overlay" / "src").mkdir(parents=True)
    (patches / "overlay" / "src" / "new.c").write_text("new")
    for patch in series:
        patch.rename(patches / patch.name)

    def make():
        source = llama_source.obtain(own, patches)
        llama_patch.prepare(source, lambda folder: [], patches)
        return source

    return make, patches


def test_unchanged_series_leaves_the_source_alone(patched_source):
    """Nothing is patched again, and no file's time changes."""
    make, patches = patched_source
    before = state(make())
    (patches / "README.md").write_text("no part of the series")
    assert state(make()) == before


@pytest.mark.parametrize("change", ["last edited", "last removed", "first edited", "overlay removed"])
def test_changed_series_takes_the_source_anew(patched_source, capsys, change):
    """After a git pull the tree has exactly the new patches; one line says why; other files keep their time."""
    make, patches = patched_source
    before = state(make())
    first, last = sorted(patches.glob("*.patch"))
    if change == "last edited":
        last.write_text(last.read_text().replace("+nine", "+NINE"))
    elif change == "last removed":
        last.unlink()
    elif change == "first edited":
        for patch in (first, last):
            patch.write_text(patch.read_text().replace("first", "FIRST"))
    else:
        (patches / "overlay/src/new.c").unlink()
    capsys.readouterr()
    source = make()
    said = capsys.readouterr().err
    assert said.count("T-MAC's patches changed") == 1
    one, two = (source / "src/one.c").read_text(), (source / "src/two.c").read_text()
    assert ("NINE" in two) == (change == "last edited")
    assert ("nine" in two) == (change in ("first edited", "overlay removed"))
    assert ("FIRST" in one) == (change == "first edited") and ("second" in one) == (change != "last removed")
    assert (source / "src/new.c").exists() == (change != "overlay removed")
    after = state(source)
    assert after[source / "src/three.c"] == before[source / "src/three.c"]
    assert after[source / "src/two.c"][1] > before[source / "src/two.c"][1]


def test_edited_tree_is_still_a_clear_stop(patched_source):
    """If a hunk does not fit an edited tree, the error says so, and the edit is kept."""
    make, _ = patched_source
    edited = make() / "src/two.c"
    edited.write_text("mine")
    with pytest.raises(ToolError, match="does not fit"):
        make()
    assert edited.read_text() == "mine"
