"""What the child decides by itself. Torch, transformers and the converter, which only tests/e2e has, are stubs here."""

import importlib
import sys
from hashlib import sha256
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

from tmac.convert.upstream.answer import CHILD

OURS = ("capture", "probes")
REMOTE = "trust_remote_code"


@pytest.fixture
def capture(monkeypatch):
    """child/capture.py, with converter and transformers that a test may fill."""
    limit = sys.getrecursionlimit()
    modules = {name: MagicMock() for name in ("torch", "torch.utils", "transformers", "conversion")}
    modules["torch.utils._python_dispatch"] = ModuleType("torch.utils._python_dispatch")
    modules["torch.utils._python_dispatch"].TorchDispatchMode = object
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(CHILD.parent)
    yield importlib.import_module("capture")
    sys.setrecursionlimit(limit)
    for name in OURS:
        del sys.modules[name]


GRANITE = {"model_type": "granitemoehybrid"}


@pytest.mark.parametrize(
    ("hparams", "written", "expected"),
    [
        ({"b": 2}, {"a": 1}, {"a": 1, "b": 2}),
        ({"a": 2}, {"a": 1}, {"a": 2}),
        ({"layer_types": ["new"]}, {"layer_types": ["old"]}, {"layer_types": ["old"]}),
        ({"layers_block_type": ["new"]}, {"layers_block_type": ["old"]}, {"layers_block_type": ["old"]}),
        ({"layer_types": ["new"]}, {"layer_types": None}, {"layer_types": ["new"]}),
        (
            {**GRANITE, "layer_types": ["linear_attention", "full_attention", "other"]},
            {},
            {**GRANITE, "layer_types": ["mamba", "attention", "other"]},
        ),
        ({"layer_types": ["full_attention"]}, {}, {"layer_types": ["full_attention"]}),
        ({"layer_types": None}, GRANITE, {"layer_types": None, **GRANITE}),
        ({"text_config": {"b": 2}}, {"text_config": {"a": 1}}, {"text_config": {"a": 1, "b": 2}}),
        ({"text_config": None}, {"text_config": {"a": 1}}, {"text_config": None}),
        ({"text_config": {"b": 2}}, {"text_config": None}, {"text_config": {"b": 2}}),
    ],
)
def test_settings_are_those_of_transformers_with_what_it_leaves_out(capture, hparams, written, expected):
    assert capture.as_written(hparams, written) == expected


LAYERS = {"num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("hparams", "name", "expected"),
    [
        (LAYERS, "model.layers.3.mlp.up_proj.weight", False),
        (LAYERS, "model.layers.4.mlp.up_proj.weight", True),
        (LAYERS, "model.layers.10.mlp.up_proj.weight", True),
        *[({name: 4}, "layers.4.mlp.up_proj.weight", True) for name in ("n_layers", "num_layers", "n_layer")],
        ({"text_config": LAYERS}, "model.language_model.layers.4.mlp.up_proj.weight", True),
        ({"num_hidden_layers": 9, "text_config": LAYERS}, "model.layers.4.mlp.up_proj.weight", True),
        ({"text_config": None, **LAYERS}, "model.layers.4.mlp.up_proj.weight", True),
        ({}, "model.layers.4.mlp.up_proj.weight", False),
        ({}, "mtp.fc.weight", True),
        ({}, "model.mtp.fc.weight", True),
        ({}, "model.mtp_block.fc.weight", True),
        ({}, "model.nextn.fc.weight", True),
        (LAYERS, "model.smtp.fc.weight", False),
        (LAYERS, "model.norm.weight", False),
    ],
)
def test_drafts_are_blocks_behind_the_others_or_named_so(capture, hparams, name, expected):
    assert capture.has_drafts(hparams, ["model.norm.weight", name]) is expected


def pre_tokenizer(capture, fallback, known):
    """What a converter says whose table knows no other than `known`, of a tokenizer whose tokens are characters."""

    class TextModel:
        def get_vocab_base_pre(self, tokenizer):
            if known is None:
                raise NotImplementedError("which is short", "the longest text, whose tokens count")
            return known

    capture.base.TextModel = TextModel
    capture.know_pre_tokenizer(fallback)
    return TextModel().get_vocab_base_pre(SimpleNamespace(encode=lambda text: list(map(ord, text))))


def test_pre_tokenizer_is_that_of_the_table_else_ours_else_a_problem_with_its_hash(capture):
    assert pre_tokenizer(capture, "ours", "theirs") == "theirs"
    assert pre_tokenizer(capture, "ours", None) == "ours"
    with pytest.raises(capture.UnknownPreTokenizer) as caught:
        pre_tokenizer(capture, None, None)
    tokens = list(map(ord, "the longest text, whose tokens count"))
    assert str(caught.value) == sha256(str(tokens).encode()).hexdigest()


@pytest.mark.parametrize("auto", ["AutoConfig", "AutoTokenizer"])
def test_code_of_a_checkpoint_is_refused_whatever_the_converter_asks_for(capture, auto):
    def from_pretrained(folder, **settings):
        """As transformers: it says which setting would be needed, and has other problems."""
        if folder != "fine":
            raise ValueError(folder)
        return settings

    loader = getattr(capture.transformers, auto)
    loader.from_pretrained = from_pretrained
    capture.refuse_code()
    assert loader.from_pretrained("fine", **{REMOTE: True, "other": 1}) == {REMOTE: False, "other": 1}
    for problem, kind in ((f"needs {REMOTE}=True", capture.NeedsCode), ("damaged", ValueError)):
        with pytest.raises(kind, match=problem) as caught:
            loader.from_pretrained(problem)
        assert type(caught.value) is kind
