"""`tmac completion`: the script of bash in a real bash, those of other shells by what they name."""

import subprocess
import sys

import pytest

from tmac.tools.verbs import VERBS

TMAC = (sys.executable, "-m", "tmac.tools.cli")


def script_of(shell):
    return subprocess.run([*TMAC, "completion", shell], capture_output=True, text=True, check=True).stdout


def test_bash_completes_verbs_options_and_files(tmp_path):
    """The script is run in a bash of its own, and asked as the shell would ask it."""
    script = script_of("bash")
    (tmp_path / "story.gguf").touch()

    def complete(*words):
        function = "$(complete -p tmac | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
        ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; {function}"
        asked = f"{script}\n{ask}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        return subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path).stdout.split()

    assert complete("tmac", "se") == ["serve"]
    assert "--ctx-size" in complete("tmac", "run", "--ctx")
    assert complete("tmac", "run", "st") == ["story.gguf"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell):
    """It names every verb."""
    script = script_of(shell)
    assert all(name in script for name in VERBS)
