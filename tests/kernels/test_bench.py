"""The benchmark measures what it says and refuses what it cannot do; no test holds a speed."""

import json
import math

import pytest

from tmac.kernels import bench
from tmac.kernels.errors import KernelError
from tmac.kernels.spec import KernelSpec
from tmac.tools.cli import main

SCALAR = KernelSpec.parse("tmac_gemv_w2g64z_scalar")


def test_measurement_is_consistent(monkeypatch):
    """Time, bytes and bandwidth agree: 64 x 128 weights at 2.375 bits are 2432 bytes."""
    monkeypatch.setattr(bench, "LEAST_BYTES", 100_000)
    (m,) = bench.measure([SCALAR], 64, 128, threads=2, total_bytes=0, rounds=3)
    assert (m.kernel, m.isa, m.rows, m.cols, m.threads) == (SCALAR.name, "scalar", 64, 128, 2)
    assert math.isclose(m.gb_per_s, 2432 / (m.microseconds * 1e-6) / 1e9, rel_tol=1e-9)
    assert m.ratio > 0 and m.read_gb_per_s > 0 and m.tables_share > 0


@pytest.mark.parametrize(
    "rows, cols, threads, message",
    [
        (64, 128, 600, "600 threads"),
        (64, 128, 0, "0 threads"),
        (33, 128, 1, "shape 33x128 does not fit w2g64z"),
        (64, 100, 1, "shape 64x100"),
    ],
)
def test_what_cannot_be_measured_is_refused(rows, cols, threads, message):
    with pytest.raises(KernelError, match=message):
        bench.measure([SCALAR], rows, cols, threads, total_bytes=0, rounds=1)


def test_command_prints_a_table_and_json(monkeypatch, capsys):
    monkeypatch.setattr(bench, "LEAST_BYTES", 100_000)
    command = [
        "bench",
        "kernels",
        "--types",
        "w4g32",
        "--isa",
        "scalar",
        "--shape",
        "64x128",
        "--megabytes",
        "0",
        "--rounds",
        "1",
    ]
    assert main(command) == 0
    assert "tmac_gemv_w4g32_scalar" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["kernel"] == "tmac_gemv_w4g32_scalar"


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--megabytes", "99999999999999", "no memory for 9999999999"),
        ("--shape", "320000000000x12800", "no memory for a matrix of 320000000000 x 12800"),
        ("--types", "w9g64", "'w9g64' is not a T-MAC weight type"),
        ("--isa", "sse9", "no instruction set is called 'sse9'"),
        ("--shape", "64", "expected MxK"),
    ],
)
def test_wrong_words_are_one_line(capsys, option, value, message):
    assert main(["bench", "kernels", option, value]) == 1
    assert message in capsys.readouterr().err
