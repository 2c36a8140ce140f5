"""The compiled repackers: the bytes that numpy makes of the same blocks, whatever instruction set, shape and part."""

import ctypes

import numpy as np
import pytest

from support.stock import SCALES_AT, random_blocks
from tmac.common.cpu import machine
from tmac.common.stock import STOCK_TYPES
from tmac.convert.readers.ggml_blocks import BLOCK_TYPES, linear_of
from tmac.convert.write import layout
from tmac.kernels import native_repack
from tmac.kernels import repack as repack_module
from tmac.kernels.catalog import isas_for
from tmac.kernels.catalog_source import bits_of_features, features_of
from tmac.kernels.compile import build_library
from tmac.kernels.errors import KernelError
from tmac.kernels.generate import C_FOLDER
from tmac.kernels.repack import Repacker, repack_isas_for
from tmac.kernels.repack_source import stock_type_row

NOT_FINITE, INEXACT = 1, 2
REPACKERS = [Repacker(stock, isa) for stock in STOCK_TYPES for isa in repack_isas_for(machine())]


@pytest.fixture(params=REPACKERS, ids=lambda repacker: repacker.name)
def repacker(request):
    if request.param.isa not in native_repack.isas_here():
        pytest.skip(f"this CPU lacks {' '.join(request.param.isa.features)}")
    return request.param


def repacked(repacker, data, rows, columns, parts=((0, None),)):
    """The bytes, and what was found. Every byte that is not written is 0xEE."""
    out = np.full(repacker.stock.target.nbytes(rows, columns), 0xEE, np.uint8)
    found = 0
    for first, last in parts:
        tiles = (first, rows // 32 if last is None else last)
        found |= native_repack.library().repack(repacker, data, rows, columns, out, tiles)
    return out, found


def expected(stock, data, columns):
    linear = linear_of(BLOCK_TYPES[stock.id], "x", data, columns)
    return layout.pack(linear.as_type(stock.target))


@pytest.mark.parametrize("blocks", [1, 3, 11])
def test_bytes_are_those_of_numpy(repacker, blocks):
    """One block of columns, several, and more than are repacked together; tiles in any order."""
    rows, columns = 96, repacker.stock.block * blocks
    data = random_blocks(repacker.stock.id, (rows, columns), blocks)
    want = expected(repacker.stock, data, columns)
    for parts in (((0, None),), ((2, 3), (0, 1), (1, 2))):
        out, found = repacked(repacker, data, rows, columns, parts)
        assert found == 0 and np.array_equal(out, want)


def test_extreme_numbers_are_copied(repacker):
    """Zeros of both signs, subnormal, largest (of Q1_0: that can be doubled) and negative scales and minima."""
    rows, columns = 32, repacker.stock.block * 2
    largest = 32752.0 if repacker.stock.name == "q1_0" else 65504.0
    numbers = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 1.0, largest, -largest], "<f2")
    data = random_blocks(repacker.stock.id, (rows, columns)).reshape(-1, repacker.stock.nbytes)
    for i, at in enumerate(SCALES_AT[repacker.stock.id]):
        data[:, at : at + 2] = np.resize(np.roll(numbers, 3 * i), (len(data), 1)).view(np.uint8).reshape(-1, 2)
    out, found = repacked(repacker, data.reshape(-1), rows, columns)
    assert found == 0 and np.array_equal(out, expected(repacker.stock, data.reshape(-1), columns))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_found(repacker, value):
    rows, columns = 32, repacker.stock.block
    for at in SCALES_AT[repacker.stock.id]:
        data = random_blocks(repacker.stock.id, (rows, columns)).reshape(-1, repacker.stock.nbytes)
        data[17, at : at + 2] = np.array([value], "<f2").view(np.uint8)
        assert repacked(repacker, data.reshape(-1), rows, columns)[1] == NOT_FINITE


def test_what_the_target_lacks_is_found(repacker):
    """A scale of Q1_0 that cannot be doubled, and the fourth code of TQ2_0; other types have nothing such."""
    rows, columns = 32, repacker.stock.block
    data = random_blocks(repacker.stock.id, (rows, columns)).reshape(-1, repacker.stock.nbytes)
    if repacker.stock.name == "q1_0":
        data[31, :2] = np.array([-32768.0], "<f2").view(np.uint8)
    elif repacker.stock.name == "tq2_0":
        data[31, 63] |= 0b11000000
    else:
        pytest.skip("its target has all values")
    assert repacked(repacker, data.reshape(-1), rows, columns)[1] == INEXACT


def test_shapes_are_checked():
    stock = STOCK_TYPES[0]
    repacker = Repacker(stock, native_repack.isas_here()[-1])
    for rows, columns, size in ((16, 32, 18 * 16), (32, 32, 18 * 31)):
        out = np.zeros(stock.target.nbytes(rows, columns), np.uint8)
        with pytest.raises(ValueError, match="expected"):
            native_repack.library().repack(repacker, np.zeros(size, np.uint8), rows, columns, out)


@pytest.mark.parametrize("name", ["q4_k", "tq2_0"])
def test_large_matrices_are_repacked_in_parts(name, monkeypatch):
    """The last part is shorter than the others; what one part finds is found."""
    (stock,) = (kind for kind in STOCK_TYPES if kind.name == name)
    rows, columns = 160, 512
    data = random_blocks(stock.id, (rows, columns))
    monkeypatch.setattr(native_repack, "PART_BYTES", data.nbytes * 2 // 5)
    out = np.full(stock.target.nbytes(rows, columns), 0xEE, np.uint8)
    assert native_repack.repack(stock, data, rows, columns, out)
    assert np.array_equal(out, expected(stock, data, columns))
    at = SCALES_AT[stock.id][0] - stock.nbytes + len(data)
    data[at : at + 2] = np.array([np.inf], "<f2").view(np.uint8)
    assert not native_repack.repack(stock, data, rows, columns, out)


def test_library_that_cannot_be_loaded_is_an_error_of_ours(tmp_path):
    """Which callers answer by numpy: a work folder may be mounted without permission to execute."""
    (tmp_path / "odd.so").write_text("no library")
    with pytest.raises(KernelError, match="odd.so was compiled, but cannot be loaded"):
        native_repack.NativeRepackers(tmp_path / "odd.so")


def test_row_of_types_left_to_llama_cpp(monkeypatch):
    """The table is empty today. A row names CPUs by the first instruction set that they have."""
    isas = [isa for isa in isas_for(machine()) if isa.gemm_forms]
    left, kept = (next(kind for kind in STOCK_TYPES if kind.name == name) for name in ("q4_k", "q6_k"))
    monkeypatch.setattr(repack_module, "LEFT_TO_STOCK", {left.name: (isas[1].name,)})
    bits = bits_of_features()
    lines = [
        '#include "interface/tmac.h"',
        "static void gemm(void) {}",
        "const struct tmac_type tmac_types[64];",
        f"const struct tmac_stock_type tmac_stock_types[] = {{ {stock_type_row(left)} {stock_type_row(kept)} }};",
        "const size_t tmac_stock_type_count = 2, tmac_repacker_count = 0;",
        "const struct tmac_repacker tmac_repackers[1];",
        "const struct tmac_kernel tmac_kernels[] = {",
        *(
            f'{{ .isa = "{isa.name}", .cpu_features = {features_of(isa, bits)}, .gemm = (tmac_gemm_fn) gemm }},'
            for isa in isas
        ),
        "};",
        f"const size_t tmac_kernel_count = {len(isas)};",
        "int left(int type, int isa) {",
        "    return tmac_is_left_to_stock(&tmac_stock_types[type], tmac_kernels[isa].cpu_features);",
        "}",
    ]
    text = (C_FOLDER / "interface" / "repack.c").read_text()
    sources = {"interface/repack.c": text, "test/tables.c": "\n".join(lines)}
    library = ctypes.CDLL(str(build_library({name: (text, ()) for name, text in sources.items()})))
    answers = [[library.left(kind, i) for i in range(len(isas))] for kind in (0, 1)]
    assert answers == [[isa == isas[1] for isa in isas], [False] * len(isas)]
