"""`tmac bench gemm`: what it measures, from how many tokens on it says a kernel should serve, and how it shows that."""

import dataclasses
import json

import numpy as np
import pytest

from support.matrices import make
from tmac.common.cpu import machine
from tmac.common.format import parse_type
from tmac.kernels import native
from tmac.kernels.catalog import isas_for
from tmac.kernels.crossings import BY_INSTRUCTION_SET
from tmac.kernels.isa import Isa
from tmac.kernels.spec import KernelSpec
from tmac.tools import cli
from tmac.tools.bench import crossing, gemm, gemm_command
from tmac.tools.bench.gemm import GemmTiming
from tmac.tools.bench.loops import TimedProduct, time_products
from tmac.tools.bench.matrices import prepare_batch

TYPE = parse_type("w2g128")


@pytest.fixture
def two_sets(monkeypatch):
    """A faster instruction set with two forms above a slower one."""
    upper = Isa("avx512_vbmi", machine(), "avx512", ("x", "y"), gemm_forms=("int8", "tables"))
    lower = Isa("avx2", machine(), "avx2", ("x",), gemm_forms=("tables",))
    monkeypatch.setattr(crossing, "isas_for", lambda machine: (upper, lower))

    def measurements(int8, tables, below):
        cases = (("avx512_vbmi", "int8", int8), ("avx512_vbmi", "tables", tables), ("avx2", "tables", below))
        return [
            GemmTiming("kernel", TYPE.name, isa, form, n, 1, 32, 128, time, 0.1, 1.0, None)
            for isa, form, times in cases
            for n, time in zip((2, 4, 8, 16), times)
        ]

    return measurements


@pytest.mark.parametrize(
    "int8, tables, below, expected",
    [
        # int8 overtakes tables at 8 tokens and stays ahead
        ((9, 7, 3, 2), (5, 4, 4, 4), (9, 9, 9, 9), (8, 2, 2)),
        # ahead at 4 but much behind at 8: only from 16 on
        ((9, 3.5, 9, 2), (5, 4, 4, 4), (9, 9, 9, 9), (16, 2, 2)),
        # a little behind at 8 only: from 4 on, where most is gained
        ((9, 2, 4.2, 2), (5, 4, 4, 4), (9, 9, 9, 9), (4, 2, 2)),
        # never ahead
        ((9, 9, 9, 9), (5, 4, 4, 4), (9, 9, 9, 9), (0, 2, 2)),
        # always ahead: tables never serve
        ((1, 1, 1, 1), (5, 4, 4, 4), (9, 9, 9, 9), (2, 0, 2)),
        # what serves so far, which is tables, stays unless another is faster by more than the margin
        ((9, 3.9, 3.9, 3.9), (5, 4, 4, 4), (9, 9, 9, 9), (0, 2, 2)),
        # the set below is the fastest with few tokens
        ((9, 7, 3, 2), (5, 4, 4, 4), (3, 9, 9, 9), (8, 4, 2)),
    ],
)
def test_crossings_by_hand(two_sets, int8, tables, below, expected):
    found = gemm.crossings(two_sets(int8, tables, below))
    assert (
        tuple(found[key]["w2"] for key in (("avx512_vbmi", "int8"), ("avx512_vbmi", "tables"), ("avx2", "tables")))
        == expected
    )


def test_ternary_types_have_crossings_of_their_own(two_sets):
    timings = two_sets((9, 7, 3, 2), (5, 4, 4, 4), (9, 9, 9, 9))
    ternary = [dataclasses.replace(m, type="t3g128", microseconds=10 - m.microseconds) for m in timings]
    found = gemm.crossings([*timings, *ternary])
    assert found["avx512_vbmi", "int8"] == {"w2": 8, "t3": 0}
    assert found["avx512_vbmi", "tables"] == {"w2": 2, "t3": 0} and found["avx2", "tables"] == {"w2": 2, "t3": 2}


def test_measures_every_kernel_that_runs_here(capsys):
    """A small shape from cache: each kernel and number of tokens once, plausible numbers; JSON and Markdown agree."""
    arguments = [
        "bench",
        "gemm",
        "--types",
        "w2g128,w4g32z",
        "--tokens",
        "1,2,5",
        "--shape",
        "64x256",
        "--megabytes",
        "0",
        "--rounds",
        "1",
    ]
    assert cli.main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    kernels = gemm.kernels_of([TYPE, parse_type("w4g32z")], gemm_command.DEFAULT_FORMS, native.library())
    assert kernels and all(kernel.isa.name != "scalar" for kernel in kernels)
    found = [(result["kernel"], result["tokens"]) for result in report["results"]]
    assert sorted(found) == sorted((kernel.name, tokens) for kernel in kernels for tokens in (1, 2, 5))
    for result in report["results"]:
        assert result["microseconds"] > 0 and 0 < result["prepare_share"] < 1
        assert result["gmacs"] == pytest.approx(64 * 256 / result["microseconds"] / 1e3)
        assert result["peak_share"] is None or result["peak_share"] > 0
    assert {(least["isa"], least["form"]) for least in report["least_tokens"]} <= set(BY_INSTRUCTION_SET)
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(kernel.name in shown for kernel in kernels) and "crossings.py" in shown


def test_the_timed_product_is_the_product(rng):
    """What the timing loop computes is what the kernel computes, with threads too."""
    library, kernel = native.library(), KernelSpec(TYPE, isas_for(machine())[-1], "gemm", "tables")
    matrix, x = make(TYPE, 96, 256, rng), np.float32(rng.standard_normal((3, 256)))
    prepared = prepare_batch(library, kernel, x)
    for each, alone in zip(prepared, x):
        assert all(map(np.array_equal, each.arrays()[:-1], library.prepare(kernel.name, alone).arrays()))
    y = np.zeros((3, 96), np.float32)
    case = TimedProduct(kernel, library.row(kernel.name), matrix.packed, matrix.packed.size, x, prepared, y)
    assert time_products(library, case, threads=2) > 0
    assert np.array_equal(y, library.gemm(kernel.name, matrix.packed, 96, 256, prepared))


@pytest.mark.parametrize("method, tokens", [("gemv", 1), ("gemm", 3)])
def test_every_matrix_is_multiplied(rng, method, tokens):
    """After all passes y is the product with the last of several matrices, each with its own scales and zero-points."""
    library, weight_type, isa = native.library(), parse_type("w2g64z"), isas_for(machine())[-1]
    kernel = KernelSpec(weight_type, isa, method, "tables")
    matrices = [make(weight_type, 96, 256, rng).packed for _ in range(3)]
    x = np.float32(rng.standard_normal((tokens, 256)))
    prepared = [library.prepare(kernel.name, each) for each in x]
    y = np.zeros((tokens, 96), np.float32)
    case = TimedProduct(kernel, library.row(kernel.name), np.concatenate(matrices), matrices[0].size, x, prepared, y)
    for count in (None, 2):
        time_products(library, case, threads=2, count=count, passes=2)
        packed = matrices[(count or 3) - 1]
        for each, alone in zip(y, prepared):
            expected = (
                library.gemv(kernel.name, packed, 96, 256, alone)
                if method == "gemv"
                else library.gemm(kernel.name, packed, 96, 256, [alone])[0]
            )
            assert np.array_equal(each, expected)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--forms", "int7"], "no form is called 'int7'; known: tables, trits, int8, exact_int8, bf16"),
        (["--shape", "33x128"], "shape 33x128 does not fit w1g128"),
        (["--tokens", "0"], "--tokens"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, message):
    try:
        code = cli.main(["bench", "gemm", *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code and message in capsys.readouterr().err
