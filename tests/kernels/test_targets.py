"""The kernel suite once more for each target of kernels/worker: NEON under an emulator, and under sanitizers.

One target by itself: tmac test tests/kernels --target arm64
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tmac.kernels.worker import TARGETS

CHECKOUT = Path(__file__).parents[2]
# Set by .ci/run, which installs all that the targets need.
REQUIRED = "TMAC_REQUIRE_TARGETS"
SECONDS = 1200


def run_suite(target):
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", "--target", target, "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture(scope="module")
def runs():
    """Sub-runs of the targets that this machine can run, two at a time."""
    possible = [name for name, target in TARGETS.items() if not target.obstacle()]
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run_suite, name) for name in possible}


@pytest.mark.parametrize("target", TARGETS)
def test_kernel_suite(runs, target):
    if target not in runs:
        obstacle = TARGETS[target].obstacle()
        assert REQUIRED not in os.environ, obstacle
        pytest.skip(obstacle)
    done = runs[target].result()
    said = f"tmac test tests/kernels --target {target}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    print(done.stdout.splitlines()[-1])
