"""`tmac bench kernels`: what it measures and what it refuses. No test asserts a speed."""

import dataclasses
import json
import math

import pytest

from tmac.common.compilers import compiler_name
from tmac.kernels.spec import KernelSpec
from tmac.tools import arguments
from tmac.tools.bench import gemv, gemv_command, reading
from tmac.tools.bench.shapes import SHAPES, Shape
from tmac.tools.cli import main
from tmac.tools.errors import ToolError

SCALAR = KernelSpec.parse("tmac_gemv_w2g64z_tables_scalar")


def test_measurement_is_consistent(monkeypatch):
    """Time, bytes and bandwidth agree: 64 x 128 weights at 2.375 bits are 2432 bytes."""
    monkeypatch.setattr(gemv, "LEAST_BYTES", 100_000)
    (m,) = gemv.measure([SCALAR], 64, 128, threads=2, total_bytes=0, rounds=3)
    assert (m.kernel, m.type, m.precision, m.isa) == (SCALAR.name, "w2g64z", "rounded", "scalar")
    assert (m.rows, m.cols, m.threads) == (64, 128, 2)
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
    with pytest.raises(ToolError, match=message):
        gemv.measure([SCALAR], rows, cols, threads, total_bytes=0, rounds=1)


def test_command_prints_a_table_and_json(monkeypatch, capsys):
    monkeypatch.setattr(gemv, "LEAST_BYTES", 100_000)
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
    assert "tmac_gemv_w4g32_tables_scalar" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "kernels" and report["cpu"] and report["compiler"] == compiler_name()
    assert (report["megabytes"], report["rounds"]) == (0, 1)
    assert [result["kernel"] for result in report["results"]] == ["tmac_gemv_w4g32_tables_scalar"]


def lines_of(monkeypatch, capsys, *options):
    """What `tmac bench kernels` prints, for plain C from cache, and its rows."""
    monkeypatch.setattr(gemv, "LEAST_BYTES", 10_000)
    assert main(["bench", "kernels", "--isa", "scalar", "--megabytes", "0", "--rounds", "1", *options]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if "_gemv_" in line]
    return said, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_every_combination_is_measured(monkeypatch, capsys):
    """Types, precisions, shapes and numbers of threads."""
    options = "--types w1g32,w2t --precision exact,fast --shape 32x64,64x32 --threads 2,1"
    _, rows = lines_of(monkeypatch, capsys, *options.split())
    assert [row[:3] for row in rows] == [
        [f"tmac_gemv_{kind}_{precision}_tables_scalar", shape, threads]
        for shape in ("32 x 64", "64 x 32")
        for threads in "12"
        for kind in ("w1g32", "w2t")
        for precision in ("exact", "fast")
    ]


def test_a_model_is_all_its_matrices(monkeypatch, capsys):
    """Each matrix once. If the groups of a type do not fit a matrix, that pair is left out, and a line says so."""
    monkeypatch.setitem(SHAPES, "small", Shape("small", 64, 96, 2, 1, 32, 1))
    said, rows = lines_of(monkeypatch, capsys, "--types", "w2g64,w2g32", "--shape", "small,64x64")
    assert [row[:2] for row in rows] == [
        [f"tmac_gemv_{kind}_tables_scalar", shape]
        for shape in ("64 x 64", "32 x 64", "96 x 64", "64 x 96")
        for kind in ("w2g64", "w2g32")
        if not (shape == "64 x 96" and kind == "w2g64")
    ]
    assert "small has no w2g64: 96 columns" in said.err


def test_table_goes_to_a_file_too(monkeypatch, capsys, tmp_path):
    """The file is not overwritten without --force."""
    file = tmp_path / "table.md"
    options = ["--types", "w1g32", "--shape", "32x32", "--markdown", str(file)]
    said, _ = lines_of(monkeypatch, capsys, *options)
    assert file.read_text() == said.out and said.out.startswith("| kernel")
    assert main(["bench", "kernels", *options]) == 1 and "table.md exists" in capsys.readouterr().err
    lines_of(monkeypatch, capsys, *options, "--force")


def test_precision_that_an_instruction_set_lacks_is_told(monkeypatch, capsys):
    lacking = dataclasses.replace(SCALAR.isa, gemv_forms=("tables",))
    monkeypatch.setattr(arguments, "isas_for", lambda machine: (lacking,))
    assert main(["bench", "kernels", "--isa", "scalar", "--precision", "fast"]) == 1
    assert "no kernel of scalar is fast" in capsys.readouterr().err


def test_instruction_sets_without_a_precision_are_left_out_and_that_is_said(monkeypatch, capsys):
    lacking = dataclasses.replace(SCALAR.isa, name="lacking", gemv_forms=("tables",))
    monkeypatch.setattr(arguments, "isas_for", lambda machine: (lacking, SCALAR.isa))
    options = ["--types", "w1g32", "--shape", "32x32", "--precision", "fast", "--isa", "lacking,scalar"]
    said, rows = lines_of(monkeypatch, capsys, *options)
    assert [row[0] for row in rows] == ["tmac_gemv_w1g32_fast_tables_scalar"]
    assert "lacking has no fast kernels" in said.err


def test_types_without_a_precision_are_told(monkeypatch, capsys):
    options = ["--types", "w1g32,t3g128", "--shape", "32x128", "--precision", "fast", "--isa", "scalar"]
    said, rows = lines_of(monkeypatch, capsys, *options)
    assert [row[0] for row in rows] == ["tmac_gemv_w1g32_fast_tables_scalar"]
    assert "t3g128 (ternary) have no fast kernels" in said.err


@pytest.mark.parametrize(
    "options, words",
    [
        (["--types", "w1g32,w1g128", "--shape", "32x128,32x64"], "shape 32x64 does not fit w1g128"),
        (["--types", "w1g32", "--threads", "1,999"], "999 threads"),
        (["--types", "w1g32", "--shape", "32x64,320000000000x12800"], "no memory for a matrix of 320000000000 x 12800"),
    ],
)
def test_what_comes_last_is_refused_before_anything_is_measured(monkeypatch, capsys, options, words):
    """Otherwise the measurements made before the refusal would be lost."""
    monkeypatch.setattr(gemv_command, "measure", lambda *given: pytest.fail("nothing is to be measured"))
    assert main(["bench", "kernels", "--megabytes", "0", *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value, code, message",
    [
        ("--megabytes", "99999999999999", 1, "no memory for 9999999999"),
        ("--shape", "320000000000x12800", 1, "no memory for a matrix of 320000000000 x 12800"),
        ("--types", "w9g64", 2, "'w9g64' is not a T-MAC weight type"),
        ("--isa", "sse9", 2, "no instruction set is called 'sse9'"),
        ("--precision", "fats", 2, "no precision is called 'fats'"),
        ("--shape", "64", 2, "expected MxK"),
        ("--shape", "llama-9", 2, "'llama-9' is neither MxK nor a model: llama-2-7b,"),
        ("--threads", "1,0", 2, "must be at least 1"),
    ],
)
def test_wrong_words_are_one_line(capsys, option, value, code, message):
    try:
        ended = main(["bench", "kernels", option, value])
    except SystemExit as stopped:
        ended = stopped.code
    assert ended == code and message in capsys.readouterr().err


def test_read_limit_is_one_way_of_reading():
    """The limit is the way of reading with the best median over the rounds, not the best single round: here way 1."""
    assert reading.read_limit([(5.0, 2.0, 9.0), (1.0, 2.5, 9.0), (5.0, 2.25, 9.0)]) == [2.0, 2.5, 2.25]
