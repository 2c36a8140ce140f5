"""Runs the kernel tests again for each target of kernels/worker: NEON under an emulator, and sanitizers.

One target by itself: tmac test tests/kernels --target arm64
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.chosen import chosen_values
from tmac.common.cpu import machine
from tmac.kernels.worker import TARGETS

CHECKOUT = Path(__file__).parents[2]
# Set by .ci/run, which installs all that the targets need.
REQUIRED = "TMAC_REQUIRE_TARGETS"
SECONDS = 2400


def run_suite(target):
    command = [sys.executable, "-m", "pytest", "-q", "tests/kernels", "--target", target, "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture(scope="module")
def runs(request):
    """Test runs of the chosen targets that this machine can run, two at a time."""
    chosen = chosen_values(request, test_kernel_suite, "target")
    possible = [name for name in chosen if not TARGETS[name].obstacle()]
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


@pytest.mark.skipif(machine() == "arm64", reason="arm64 needs nothing here")
def test_what_is_missing_is_named(monkeypatch, tmp_path):
    """The reason of a skip says what is missing and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert TARGETS["arm64"].obstacle() == (
        "aarch64-linux-gnu-gcc is not installed; "
        "Debian, Ubuntu: sudo apt install g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
    )


def test_a_compiler_without_sanitizers_is_named(monkeypatch, tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cannot find -lasan' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert "an empty program fails" in TARGETS["asan"].obstacle() and "-lasan" in TARGETS["asan"].obstacle()
