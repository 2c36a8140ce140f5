"""Models with experts through the real binaries: MUL_MAT_ID by lookup against llama.cpp's own on float32 weights."""

import re

import numpy as np
import pytest

from support.comparison import nmse
from support.expert_models import (
    EXPERTS,
    HIDDEN,
    LAYERS,
    expert_model,
)
from support.served import forms, runs_here
from support.tiny_models import logits
from tmac.common import process
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.common.format import TYPES_BY_NAME, parse_type
from tmac.convert.write.tensors import OutputTensor
from tmac.kernels.catalog import isas_for

TESTED = ("w4g128", "w3g32z", "w2t", "t3g128")


@pytest.mark.parametrize("has_orders", [False, True], ids=["plain", "ordered"])
@pytest.mark.parametrize("name", TESTED)
def test_logits_are_those_of_the_float_weights(build, tmp_path, monkeypatch, name, has_orders):
    """A prompt at once and token by token. The bits do not depend on the number of threads, and equal those of the
    plain-C kernels where these prepare activations in the same form.
    """
    model = expert_model(TYPES_BY_NAME[name], has_orders)
    expected = logits(build, model.write(tmp_path / "floats.gguf", as_floats=True))
    path = model.write(tmp_path / "tmac.gguf")
    for ubatch in ("512", "1"):
        found = logits(build, path, "-ub", ubatch, "-t", "2")
        assert nmse(found, expected) < 1e-3
        for threads in ("1", "5"):
            assert np.array_equal(found, logits(build, path, "-ub", ubatch, "-t", threads))
        by_set = {}
        for isa in filter(runs_here, isas_for(machine())):
            with monkeypatch.context() as patch:
                patch.setenv("TMAC_KERNEL", isa.name)
                by_set[isa.name] = logits(build, path, "-ub", ubatch, "-t", "2")
        forms_of = {isa: forms(parse_type(name), isa, most_tokens=int(ubatch)) for isa in by_set}
        alike = [isa for isa in by_set if forms_of[isa] == forms_of["scalar"]]
        assert ubatch == "512" or alike == list(by_set)
        assert all(np.array_equal(by_set[isa], by_set["scalar"]) for isa in alike)
        assert all(nmse(each, expected) < 1e-3 for each in by_set.values())


def test_log_counts_a_tensor_of_experts_as_one(build, tmp_path, monkeypatch):
    """Four attention matrices and three tensors of experts in each layer."""
    log = tmp_path / "log"
    path = expert_model(TYPES_BY_NAME["w2g64z"]).write(tmp_path / "tmac.gguf")
    monkeypatch.setenv("TMAC_LOG", "1")
    process.run(completion(build, path), log=log)
    assert f"tmac: {7 * LAYERS} x tmac_w2g64z by tmac_gemv_w2g64z_" in said(log)


def completion(build, path, *extra):
    return [build.binary("llama-completion"), "-m", path, "-p", "One morning", "-n", "2", "-no-cnv", *extra]


def said(log):
    """Random weights write random bytes, which need not be UTF-8."""
    return log.read_text(errors="replace")


def test_bad_scale_of_any_expert_is_found(build, tmp_path):
    """--check-tensors knows where the scales of each matrix lie: first all are finite, then one of the last expert is
    not.
    """
    model, broken = expert_model(TYPES_BY_NAME["w2g64z"]), "blk.1.ffn_up_exps"
    sound = model.write(tmp_path / "sound.gguf")
    process.run(completion(build, sound, "--check-tensors"), log=tmp_path / "log")
    model.weights[broken].matrices[EXPERTS - 1].scales[0, 1] = np.inf
    path = model.write(tmp_path / "broken.gguf")
    with pytest.raises(TmacError, match="invalid data"):
        process.run(completion(build, path, "--check-tensors"), log=tmp_path / "log")
    # Tile 0, group 1, row 0.
    found = f"scale 32 of matrix {EXPERTS - 1} of tensor '{broken}.weight' of type tmac_w2g64z is not finite"
    assert found in said(tmp_path / "log")


def test_rows_that_fill_no_tile_are_refused(build, tmp_path):
    """Experts of 48 rows, which no converter writes: the loader names tensor, type and reason."""
    kind, name = TYPES_BY_NAME["w2t"], "blk.0.ffn_gate_exps.weight"
    data = np.zeros(EXPERTS * kind.nbytes(48, HIDDEN), np.uint8)
    odd = OutputTensor(name, (EXPERTS, 48, HIDDEN), kind.id, kind.name, data.size, lambda: data)
    path = expert_model(kind, feed_forward=48).write(
        tmp_path / "model.gguf", as_floats=True, change=lambda tensors: [odd if t.name == name else t for t in tensors]
    )
    message = f"'{name}' of type tmac_w2t: the layout holds one matrix for each expert, whose rows are a multiple of 32"
    with pytest.raises(TmacError, match=re.escape(message)):
        process.run(completion(build, path), log=tmp_path / "log")


def test_copy_by_llama_quantize_is_the_same_model(build, tmp_path):
    """llama-quantize validates what it copies, so scales of experts and column orders must pass."""
    path, copy = (
        expert_model(TYPES_BY_NAME["w2t"], has_orders=True).write(tmp_path / "model.gguf"),
        tmp_path / "copy.gguf",
    )
    process.run([build.binary("llama-quantize"), "--allow-requantize", path, copy, "COPY"], log=tmp_path / "log")
    assert np.array_equal(logits(build, path), logits(build, copy))
