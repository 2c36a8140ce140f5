"""GGUF files in llama.cpp's own types, made by llama-quantize, then converted: they compute what the same weights in
float32 do.
"""

import json

import numpy as np
import pytest

from support.checkpoints import CHECKPOINTS, VALIDATION_TEXT
from support.comparison import FLOAT_ATTENTION, nmse
from support.float_twin import F16, F32, dequantized, in_floats
from tmac.common import process
from tmac.common.format import TYPES_BY_ID
from tmac.convert.pipeline import convert
from tmac.convert.quantize.imatrix import Imatrix
from tmac.convert.sources.gguf_model import GgufSource
from tmac.kernels import repack
from tmac.tools.llama.verify import all_logits

STOCK_TYPES = {
    "Q4_0": "tmac_w4g32",
    "TQ1_0": "tmac_t3g256",
    "TQ2_0": "tmac_t3g256",
    "Q2_0": "tmac_w2g64",
    "Q1_0": "tmac_w1g128",
}


@pytest.fixture(scope="module")
def stock(build, converted, tmp_path_factory):
    """A function: name of one of llama.cpp's types -> the demo model in it."""
    folder = tmp_path_factory.mktemp("stock")
    floats = in_floats(converted("w2g64z", embedding="f16", head="f16"), folder / "f16.gguf", F16)

    def get(name):
        if name != "F16" and not (folder / f"{name}.gguf").exists():
            command = [build.binary("llama-quantize"), "--pure", floats, folder / f"{name}.gguf", name]
            process.run(command, log=folder / f"{name}.log")
        return floats if name == "F16" else folder / f"{name}.gguf"

    return get


def quietly(source, output, **options):
    return convert(source, output, progress=False, log=lambda line: None, **options)


def text():
    expected = json.loads((CHECKPOINTS["w2g64z"] / "expected.json").read_text())
    return f"{expected['prompt']} {expected['greedy_text']}"


@pytest.mark.parametrize("name", STOCK_TYPES)
def test_logits_of_a_converted_file(build, stock, name, tmp_path, monkeypatch):
    """The error against float32 on the same weights is at most about twice that of llama.cpp's own kernels on the stock
    file. (A 2-bit model forced onto a ternary grid is so noisy that any rounding is magnified.)
    """
    report = quietly(stock(name), tmp_path / "tmac.gguf")
    assert STOCK_TYPES[name] in [total.type_name for total in report.totals]
    monkeypatch.setenv(repack.VARIABLE, repack.STOCK)
    models = stock(name), tmp_path / "tmac.gguf", in_floats(tmp_path / "tmac.gguf", tmp_path / "float.gguf", F32)
    found = [all_logits(build, model, text(), FLOAT_ATTENTION) for model in models]
    assert all(np.array_equal(tokens, found[0][0]) for tokens, _ in found)
    theirs, ours, exact = (logits for _, logits in found)
    errors = nmse(ours, exact), nmse(theirs, exact)
    print(f"{name}: NMSE {errors[0]:.1e}, of llama.cpp's own {errors[1]:.1e}; of each other {nmse(ours, theirs):.1e}")
    assert errors[0] < max(2 * errors[1], 3e-4)
    assert nmse(ours, theirs) < (1e-2 if name.startswith("TQ") else 1e-3)


def test_fresh_quantization_of_a_float_file(build, stock, tmp_path):
    """The demo's weights lie on a 2-bit grid: at 2 bits they are the same model, at fewer bits another one."""
    report = quietly(stock("F16"), tmp_path / "fresh.gguf", quantize="w2g64z")
    assert report.notes[-1] == "every weight of 28 tensors lies on the grid of tmac_w2g64z; none was changed"
    _, expected = all_logits(build, stock("F16"), text(), FLOAT_ATTENTION)
    _, fresh = all_logits(build, tmp_path / "fresh.gguf", text(), FLOAT_ATTENTION)
    assert nmse(fresh, expected) < 1e-3
    quietly(stock("F16"), tmp_path / "worse.gguf", quantize="w1g128")
    _, worse = all_logits(build, tmp_path / "worse.gguf", text(), FLOAT_ATTENTION)
    assert nmse(worse, expected) > 1e-2


def test_importance_by_llama_imatrix(build, stock, tmp_path):
    """Both formats of llama-imatrix are read alike, for every layer. More important columns get a smaller error."""
    measured = {}
    for form in ("gguf", "dat"):
        file = tmp_path / f"imatrix.{form}"
        command = [build.binary("llama-imatrix"), "-m", stock("F16"), "-f", VALIDATION_TEXT, "-o", file]
        process.run([*command, "--output-format", form, "-c", "128", "--chunks", "4"], log=tmp_path / "log")
        measured[form] = Imatrix(file)
    report = quietly(stock("F16"), tmp_path / "weighted.gguf", quantize="w3g128", imatrix=tmp_path / "imatrix.gguf")
    assert not any("without an entry" in note for note in report.notes)
    quietly(stock("F16"), tmp_path / "plain.gguf", quantize="w3g128")
    files = stock("F16"), tmp_path / "weighted.gguf", tmp_path / "plain.gguf"
    layers, errors = 0, np.zeros(2)
    for exact, weighted, plain in zip(*(GgufSource(file).tensors for file in files)):
        name, shape = exact.entry.name, exact.entry.shape
        if plain.entry.type_id in TYPES_BY_ID:
            layers += 1
            importance = measured["gguf"].of(name, 1, shape[1])
            assert np.allclose(measured["dat"].of(name, 1, shape[1]), importance, rtol=1e-5)
            values = exact.read(0, exact.entry.nbytes).view(np.float16).reshape(shape).astype(np.float64)
            squares = [np.square(dequantized(other) - values) * importance for other in (weighted, plain)]
            errors += np.sum(squares, axis=(1, 2))
    assert layers == 28 and errors[0] < 0.98 * errors[1]
