"""`tmac test --soak MINUTES`: a time of nothing chooses nothing, and all tests would run instead."""

import subprocess
import sys

import pytest

from support.checkpoints import REPOSITORY


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_have_to_be_above_zero(minutes):
    command = [sys.executable, "-m", "pytest", f"--soak={minutes}", "--collect-only", "tests/style"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 4 and f"{minutes}: expected minutes above zero" in done.stderr
