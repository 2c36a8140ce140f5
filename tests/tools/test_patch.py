"""Patching a llama.cpp tree, on trees of a few lines."""

import subprocess

import pytest
from tmac.tools import llama_patch
from tmac.tools.errors import ToolError

BEFORE = "".join(f"line {n}\n" for n in range(1, 21))


def diff(tmp_path, name, path, old, new):
    """A patch file that turns text `old` of `path` into `new`."""
    (tmp_path / "a").write_text(old)
    (tmp_path / "b").write_text(new)
    made = subprocess.run(["diff", "-u", "--label", f"a/{path}", "--label", f"b/{path}", "a", "b"],
                          cwd=tmp_path, capture_output=True, text=True).stdout
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
    patches = [diff(tmp_path, "0001-a.patch", "src/one.c", BEFORE, first),
               diff(tmp_path, "0002-b.patch", "src/one.c", first, second)]
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
    """Neither content nor time of any file changes when all patches are there."""
    llama_patch.apply_patches(tree, series)
    before = state(tree)
    assert llama_patch.apply_patches(tree, series) == []
    assert state(tree) == before


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
    with pytest.raises(ToolError) as caught:
        llama_patch.apply_patches(tree, series)
    assert "apt install git" in caught.value.hint


def test_overlay_is_copied_only_where_it_differs(tmp_path, tree):
    """New and changed files are written; equal ones keep their time, so that nothing is compiled again."""
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
    """One call does all three steps and tells every changed file."""
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    (overlay / "x.h").write_text("x")
    written = []
    changed = llama_patch.prepare(tree, lambda folder: written.append(folder) or [folder / "k.c"], patches=tmp_path)
    assert written == [tree / llama_patch.KERNELS]
    assert changed == [tree / "src/one.c", tree / "src/two.c", tree / "x.h", tree / llama_patch.KERNELS / "k.c"]
