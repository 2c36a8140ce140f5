"""The server's page: when npm builds it, and how it gets into the tree and out of it."""

import pytest

from tmac.common.errors import TmacError
from tmac.tools.errors import ToolError
from tmac.tools.llama import page

NPM = """#!/bin/sh
echo "$@" >> {calls}
if [ "$1" = run ]; then [ -f src/a.svelte ] && echo page > "$LLAMA_UI_OUT_DIR/index.html"; else mkdir node_modules; fi
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with sources of a page."""
    ui = tmp_path / "tree" / page.SOURCES
    (ui / "src").mkdir(parents=True)
    (ui / "package-lock.json").write_text("{}")
    (ui / "src" / "a.svelte").write_text("a")
    return tmp_path / "tree"


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Programs npm and node that do the least; the calls of npm."""
    folder = tmp_path / "programs"
    folder.mkdir()
    calls = tmp_path / "calls"

    def make(node="v22.1.0"):
        for name, text in (("npm", NPM.format(calls=calls)), ("node", f"#!/bin/sh\necho {node}\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return calls

    return make


def test_page_is_made_once_from_the_lock_file(tree, npm, work):
    """A second build runs nothing; other sources are another page. Scripts of packages never run."""
    calls = npm()
    made = page.build(tree)
    assert (made / "index.html").read_text() == "page\n" and made.parent == work
    assert calls.read_text().splitlines()[0].startswith("ci --ignore-scripts")
    assert page.build(tree) == made and len(calls.read_text().splitlines()) == 2
    (tree / page.SOURCES / "src" / "a.svelte").write_text("b")
    assert page.build(tree) != made


def test_a_killed_build_leaves_what_the_next_one_removes(tree, npm, work, tmp_path):
    """npm works in the partial folder of the page, and nothing else is made in the work folder."""
    npm()
    program = tmp_path / "programs" / "npm"
    program.write_text(program.read_text() + f"pwd >> {tmp_path / 'places'}; ls -A {work} >> {tmp_path / 'made'}\n")
    made = page.build(tree)
    places = (tmp_path / "places").read_text().splitlines()
    assert len(places) == 2 and all(f"/.{made.name}." in place and ".partial/" in place for place in places)
    assert all(f".{made.name}." in name or name == "logs" for name in (tmp_path / "made").read_text().split())


def test_placed_page_changes_neither_its_key_nor_the_tree_for_good(tree, npm, work):
    npm()
    made = page.build(tree)
    page.place(tree, made)
    assert (tree / page.PLACE / "index.html").is_file() and page.build(tree) == made
    page.place(tree, made)
    page.place(tree, None)
    assert not (tree / page.PLACE).exists() and not (tree / page.MARK).exists()


def test_page_that_came_with_the_tree_stays(tree):
    (tree / page.PLACE).mkdir()
    (tree / page.PLACE / "index.html").write_text("its own")
    page.place(tree, None)
    assert (tree / page.PLACE / "index.html").read_text() == "its own"


def test_cut_off_copy_is_made_again(tree, npm, work):
    npm()
    made = page.build(tree)
    (tree / page.PLACE).mkdir()
    (tree / page.MARK).write_text("")
    page.place(tree, made)
    assert (tree / page.PLACE / "index.html").is_file()


@pytest.mark.parametrize("node", ["v18.20.4", "v20.18.0", "strange"])
def test_old_node_is_refused_before_anything_is_downloaded(tree, npm, work, node):
    calls = npm(node)
    with pytest.raises(ToolError, match=r"node 20\.19 or later"):
        page.build(tree)
    assert not calls.exists()


def test_tree_without_a_page_is_refused(tmp_path):
    with pytest.raises(ToolError, match="no sources of a page"):
        page.build(tmp_path)


def test_failure_of_npm_leaves_no_page(tree, npm, work):
    npm()
    (tree / page.SOURCES / "src" / "a.svelte").unlink()
    with pytest.raises(TmacError, match="npm ended with exit code 1"):
        page.build(tree)
    assert not [path for path in work.iterdir() if path.name.startswith("page-")]
