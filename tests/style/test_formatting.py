"""All Python and C of the checkout is as ruff and clang-format write it, by the settings that lie in the repository."""

import subprocess

import pytest

from support.checkpoints import REPOSITORY
from tmac.tools import formatting


def test_everything_is_formatted():
    problems = formatting.check(REPOSITORY)
    assert not problems, f"run `tmac format`:\n{problems}"


@pytest.mark.parametrize(
    "name, text, says", [("x.py", "import os\nx=1\n", "F401"), ("x.py", "x=1\n", "x.py"), ("x.c", "int  x;\n", "x.c")]
)
def test_what_is_not_formatted_is_found_and_mended(tmp_path, name, text, says):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for settings in (".clang-format", "pyproject.toml"):
        (tmp_path / settings).write_text((REPOSITORY / settings).read_text())
    (tmp_path / name).write_text(text)
    assert says in formatting.check(tmp_path)
    assert formatting.write(tmp_path) == ""
    assert formatting.check(tmp_path) == ""
