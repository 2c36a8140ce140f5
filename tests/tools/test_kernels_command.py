"""`tmac kernels list`, `explain` and `generate`."""

import json
import os
import subprocess
import sys

import pytest

from tmac.kernels.attention import ATTENTION_KERNELS, CACHE_TYPES
from tmac.kernels.catalog import KERNELS
from tmac.kernels.delta_net import DELTA_NET_KERNELS
from tmac.kernels.rotation import ROTATION_KERNELS
from tmac.tools import cli


def test_kernels_are_listed_for_people_and_programs(capsys):
    """One name per line, or JSON; both from the catalog."""
    assert cli.main(["kernels", "list"]) == 0
    names = capsys.readouterr().out.split()
    assert cli.main(["kernels", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    everything = (*KERNELS, *ATTENTION_KERNELS, *DELTA_NET_KERNELS, *ROTATION_KERNELS)
    assert [row["name"] for row in rows] == names == [kernel.name for kernel in everything]
    assert {row["method"] for row in rows} == {"gemv", "gemm", "attention", "delta net", "rotation"}
    assert cli.main(["kernels", "explain", names[0]]) == 0
    assert capsys.readouterr().out.startswith(names[0])


def explained(capsys, kernel):
    """The lines that explain a kernel: what it computes first, what the CPU must have last."""
    assert cli.main(["kernels", "explain", kernel.name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{kernel.name}: ")
    assert f"{kernel.isa.name}: {', '.join(kernel.isa.features) or 'portable C'}" in lines[-1]
    return lines


@pytest.mark.parametrize("kernel", ATTENTION_KERNELS, ids=lambda kernel: kernel.name)
def test_attention_kernel_is_explained(capsys, kernel):
    """Its types of caches, too."""
    first, caches, *_ = explained(capsys, kernel)
    assert "softmax" in first
    assert [kind.name for kind in CACHE_TYPES] == caches.split(maxsplit=1)[1].split(", ")


@pytest.mark.parametrize("kernel", DELTA_NET_KERNELS, ids=lambda kernel: kernel.name)
def test_kernel_of_delta_nets_is_explained(capsys, kernel):
    assert "beta (v - a S k)" in explained(capsys, kernel)[0]


@pytest.mark.parametrize("kernel", ROTATION_KERNELS, ids=lambda kernel: kernel.name)
def test_rotation_kernel_is_explained(capsys, kernel):
    assert "Walsh-Hadamard" in explained(capsys, kernel)[0]


def test_unknown_kernel_is_named(capsys):
    """explain says which name is unknown and how to list the known ones."""
    assert cli.main(["kernels", "explain", "nonsense"]) == 1
    assert "'nonsense'" in capsys.readouterr().err


def test_generated_kernels_go_where_asked(tmp_path, capsys):
    """The folder is on stdout; a second run changes nothing."""
    for changed in (True, False):
        assert cli.main(["kernels", "generate", "-o", str(tmp_path / "k")]) == 0
        said = capsys.readouterr()
        assert said.out == f"{tmp_path / 'k'}\n" and said.err.startswith("0 files") != changed


@pytest.mark.parametrize("part", [["list", "--json"], ["explain", "tmac_gemv_w2g64_tables_scalar"]])
def test_reader_that_stops_early_is_no_error(monkeypatch, part):
    """`tmac kernels list | head -1` ends quietly; so does a text that Python keeps in its buffer to the end."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "tmac.tools.cli", "kernels", *part], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == 0 and done.stderr == ""
