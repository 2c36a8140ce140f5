"""Files that are complete or not there."""

import pytest

from tmac.common import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    """Until then the old one is there; the folder is made; nothing else stays."""
    path = tmp_path / "made" / "a.json"
    files.write_text(path, "old")
    with files.replacing(path) as file:
        file.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and names(path.parent) == ["a.json"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "a") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and names(tmp_path) == ["a"]


def test_two_writers_do_not_meet(tmp_path):
    """Each writes beside the other; the last to finish wins."""
    with files.replacing(tmp_path / "a") as one:
        with files.replacing(tmp_path / "a") as other:
            one.write_text("one")
            other.write_text("other")
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "one"


def test_several_files_are_published_all_or_none(tmp_path):
    """A rename that fails takes back those before it; files move in the order given."""
    moved = []

    def rename(file, target):
        if target.name == "c" and moved:
            raise FileExistsError(target)
        file.rename(target)
        moved.append(target.name)

    for order, expected in ((("b", "c"), []), (("c", "b"), ["b", "c"])):
        moved.clear()
        with files.folder_beside(tmp_path / "x") as folder:
            for name in order:
                (folder / name).write_text(name)
            if expected:
                files.publish([folder / name for name in order], tmp_path, rename)
                assert moved == list(order)
            else:
                with pytest.raises(FileExistsError):
                    files.publish([folder / name for name in order], tmp_path, rename)
        assert names(tmp_path) == expected


def test_a_folder_that_moved_away_is_no_error(tmp_path):
    """A whole tree is made beside its place, too."""
    with files.folder_beside(tmp_path / "tree") as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "tree")
    assert names(tmp_path) == ["tree"] and names(tmp_path / "tree") == ["file"]
