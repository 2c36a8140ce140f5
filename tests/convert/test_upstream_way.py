"""The whole way by llama.cpp's converter, with an answer that says what our own way does: the files are the same."""

import json

import numpy as np
import pytest

from support.safetensors_files import write_tensors
from support.stock import stored_tensors
from support.upstream_answers import AnswerFolder
from tmac.convert.architectures import architecture_for
from tmac.convert.architectures.part import Kind
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.upstream.answer import Matrix, Run

# What a conversion sets itself, or what says how a folder is named.
OWN = {"alignment": 32, "file_type": 7, **dict.fromkeys(("name", "basename", "finetune", "version"), "folder")}


@pytest.fixture
def both_ways(tmp_path, monkeypatch, quietly):
    """both_ways(checkpoint, **options): our own way's file, the other, its report, and what the child was asked."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "work"))

    def run(source, **options):
        checkpoint, answer = Checkpoint(source), AnswerFolder(tmp_path / "answer")
        for part in architecture_for(checkpoint).parts():
            if part.kind is Kind.NORM:
                answer.add_values(part.tensor, "F32", checkpoint.read(part.source + ".weight").astype("<f4"))
                continue
            rows = np.arange(part.shape[0]) if part.row_order is None else part.row_order()
            answer.add(part.tensor, "F16", part.shape, Matrix((Run(part.source + ".weight", 0, rows),), None, False))
        answer.save(
            "llama",
            llama__block_count=4,
            tokenizer__ggml__tokens=["a", "b"],
            **{f"general__{key}": value for key, value in OWN.items()},
        )
        files = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
        quietly(source, files[0], **options)
        upstream = answer.upstream(tmp_path / "tree")
        report = quietly(source, files[1], find_upstream=lambda: upstream, prefer_upstream=True, **options)
        return *files, report, answer.request

    return run


@pytest.mark.parametrize("options", [{}, {"embedding": "f16", "head": "f16"}])
def test_both_ways_give_the_same_tensors(both_ways, each_checkpoint, options):
    ours, theirs, report, _ = both_ways(each_checkpoint, **options)
    assert stored_tensors(ours) == stored_tensors(theirs)
    assert any("arranged by llama.cpp's own converter" in note for note in report.notes)


def test_metadata_are_those_of_the_answer_but_for_ours(both_ways, folder, tokenizer):
    """The name is that of the checkpoint, which the child is told, as is the pre-tokenizer that T-MAC recognises."""
    folder.config["_name_or_path"] = "maker/Model"
    (folder.path / "tokenizer.json").write_text(json.dumps(tokenizer.json))
    (folder.path / "tokenizer.model").unlink()
    _, theirs, _, request = both_ways(folder.save())
    found = read_gguf_header(theirs).metadata
    expected = {"general.architecture": "llama", "llama.block_count": 4, "tokenizer.ggml.tokens": ["a", "b"]}
    assert expected.items() <= found.items()
    assert not {f"general.{key}": value for key, value in OWN.items()}.items() & found.items()
    assert (request["name"], request["pre"], request["keeps_settings"]) == ("Model", "gpt-2", False)


def test_4_bit_floats_are_left_to_the_converter(folder, tmp_path, monkeypatch, quietly):
    """Of a family of our own, too: it sees the settings, and every tensor as it is stored."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "work"))
    folder.config["quantization_config"] = {"quant_method": "mxfp4"}
    folder.tensors["experts.scales"] = np.ones((2, 4), np.uint8)
    write_tensors(folder.weights, folder.tensors, small=["experts.scales"])
    (folder.path / "config.json").write_text(json.dumps(folder.config))
    answer, data = AnswerFolder(tmp_path / "answer"), np.arange(2 * 17, dtype=np.uint8)
    answer.add_values("blk.0.ffn_up_exps.weight", "MXFP4", data)
    answer.outputs[0]["shape"] = [1, 2, 32]
    answer.save("llama")
    upstream = answer.upstream(tmp_path / "tree")
    report = quietly(folder.path, tmp_path / "out.gguf", find_upstream=lambda: upstream)
    assert stored_tensors(tmp_path / "out.gguf") == {"blk.0.ffn_up_exps.weight": ("mxfp4", (1, 2, 32), data.tobytes())}
    assert report.source == "mxfp4 mxfp4" and answer.request["keeps_settings"] is True
    assert answer.request["tensors"].keys() == Checkpoint(folder.path).tensors.keys()
