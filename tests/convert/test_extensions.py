"""A new format or model family needs only its own file and a line in the list. Here each is a class of this test."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from support.stock import stored_tensors
from tmac.convert import architectures, readers
from tmac.convert.architectures.decoder import DecoderArchitecture
from tmac.convert.readers.affine import AffineLayer, AffineReader, exact_scales, whole_zeros
from tmac.convert.readers.method_settings import MethodSettings
from tmac.convert.readers.reader import Format
from tmac.convert.sources.checkpoint import FLOAT_DTYPES, Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header

CONVERT = Path(readers.__file__).parents[1]
BITS = 2


class PlainReader(AffineReader):
    """One byte per code and per zero-point:

    codes   uint8 [N, K]
    scales  fp16 [N, K/g]
    zeros   uint8 [N, K/g]
    """

    method = "plain"
    mark = "codes"
    parts = ("codes", "scales", "zeros")

    def __init__(self, checkpoint, settings, file):
        super().__init__(checkpoint, file)
        self.group_size = MethodSettings("Plain", "any group_size", file, settings).group_size()

    def _layer(self, module, rows, columns):
        shape = (rows, columns // self.group_size)
        self._checkpoint.info(f"{module}.codes", ("U8",), (rows, columns))
        self._checkpoint.info(f"{module}.scales", FLOAT_DTYPES, shape)
        self._checkpoint.info(f"{module}.zeros", ("U8",), shape)
        zeros = whole_zeros(self._checkpoint.read(f"{module}.zeros"), BITS)
        return AffineLayer(BITS, self.group_size, exact_scales(self._checkpoint, f"{module}.scales"), zeros)

    def _codes(self, module, rows, columns, layer):
        return self._checkpoint.read(f"{module}.codes")


class NewArchitecture(DecoderArchitecture):
    """As Llama, but in llama.cpp's graph of Qwen2, which rotates as transformers does."""

    family = "NewForCausalLM"
    model = gguf.MODEL_ARCH.QWEN2


def as_plain(folder):
    """Rewrites the tensors of the demo, 2-bit GPTQ in groups of 64, in the new format."""
    reader = readers.reader_for(Checkpoint(folder.path))
    for name in [name for name in folder.tensors if name.endswith(".qweight")]:
        module = name.removesuffix(".qweight")
        words, rows = folder.tensors[name].shape
        linear = reader.read(module, rows, words * 32 // BITS)
        for old in reader.names(module):
            del folder.tensors[old]
        parts = {"codes": linear.codes, "scales": linear.scales, "zeros": (linear.zeros // 16).astype(np.uint8)}
        folder.tensors.update({f"{module}.{part}": values for part, values in parts.items()})


@pytest.mark.parametrize("place", ["quantization_config", "plain", "plain.json", "inferred"])
def test_a_new_format(folder, demo, quietly, tmp_path, monkeypatch, place):
    """The file has the tensors of the demo's, wherever the settings are stored."""
    own = Format(
        ("plain",),
        PlainReader,
        config_key="plain",
        settings_file="plain.json",
        infer=lambda checkpoint: {"group_size": 64} if place == "inferred" else None,
    )
    as_plain(folder)
    monkeypatch.setattr(readers, "FORMATS", (*readers.FORMATS, own))
    del folder.config["quantization_config"]
    if place == "quantization_config":
        folder.config[place] = {"quant_method": "plain", "group_size": 64}
    elif place == "plain":
        folder.config[place] = {"group_size": 64}
    elif place == "plain.json":
        (folder.path / place).write_text(json.dumps({"group_size": 64}))
    report = quietly(folder.save(), tmp_path / "new.gguf")
    quietly(demo, tmp_path / "demo.gguf")
    assert stored_tensors(tmp_path / "new.gguf") == stored_tensors(tmp_path / "demo.gguf")
    assert report.source == "plain w2g64 asymmetric" and "plain.json" in readers.settings_files()


def test_settings_of_a_new_format_are_refused_by_name(folder, refused, monkeypatch):
    monkeypatch.setattr(readers, "FORMATS", (*readers.FORMATS, Format(("plain",), PlainReader)))
    folder.config["quantization_config"] = {"quant_method": "plain", "group_size": 48}
    words = ("config.json", "Plain with group_size 48 is not supported", "expected 32, 64, 128", "any group_size")
    refused(lambda: readers.reader_for(Checkpoint(folder.save())), *words)


def test_a_new_family(folder, demo, quietly, tmp_path, monkeypatch):
    """All tensors of the demo are used, and rows of queries and keys keep their order."""
    monkeypatch.setitem(architectures.ARCHITECTURES, "NewForCausalLM", NewArchitecture)
    folder.config["architectures"] = ["NewForCausalLM"]
    quietly(folder.save(), tmp_path / "new.gguf")
    quietly(demo, tmp_path / "demo.gguf")
    new, old = stored_tensors(tmp_path / "new.gguf"), stored_tensors(tmp_path / "demo.gguf")
    assert read_gguf_header(tmp_path / "new.gguf").metadata["general.architecture"] == "qwen2"
    assert new.keys() == old.keys()
    reordered = {name for name in new if new[name] != old[name]}
    assert {name.split(".")[2] for name in reordered} == {"attn_q", "attn_k"}


def test_no_other_list_of_formats():
    """Settings files are listed only once; no method is both read and refused."""
    sources = {path: path.read_text() for path in CONVERT.rglob("*.py")}
    for file in readers.settings_files():
        assert len([path for path, text in sources.items() if f'"{file}"' in text]) == 1, file
    methods = [method for kind in readers.FORMATS for method in kind.methods]
    assert len(methods) == len({*methods}) and not {*methods} & readers.UNSUPPORTED.keys()
