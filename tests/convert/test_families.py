"""Model families other than Llama: what each reads from a configuration, writes, notes and refuses."""

import math
from pathlib import Path

import numpy as np
import pytest

from support.family_configs import BASE, LONGROPE, QWEN35, YARN, family, parts, written
from support.written import Written
from tmac.convert.architectures import ARCHITECTURES, architecture_for
from tmac.convert.architectures.part import Kind
from tmac.convert.errors import ConvertError
from tmac.convert.plan.from_checkpoint import CheckpointModel
from tmac.convert.plan.planner import plan
from tmac.convert.readers.gptq import GPTQReader
from tmac.convert.readers.grid import Grid
from tmac.convert.sources.checkpoint import Checkpoint

UNTIED = {"tie_word_embeddings": False}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_part_has_a_name_of_its_own(name):
    """The gguf package's map knows every tensor that a family names; for an unknown one it returns None."""
    targets = [part.target for part in family(name).parts()]
    assert all(isinstance(target, str) for target in targets) and len(set(targets)) == len(targets)


def test_refusals_call_a_family_by_the_name_in_its_configurations():
    assert all(ARCHITECTURES[architecture.family] is architecture for architecture in ARCHITECTURES.values())


@pytest.mark.parametrize(
    ("name", "biased"),
    [
        ("LlamaForCausalLM", {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}),
        ("Qwen2ForCausalLM", {"attn_q", "attn_k", "attn_v"}),
        ("Phi3ForCausalLM", {"attn_qkv"}),
        ("MixtralForCausalLM", {"attn_q", "attn_k", "attn_v", "attn_output"}),
        ("Qwen2MoeForCausalLM", {"attn_q", "attn_k", "attn_v"}),
    ],
)
def test_biases_are_kept_where_llama_cpp_adds_them(name, biased):
    linear = [part for part in family(name).parts() if part.kind is Kind.LINEAR]
    assert {part.target.rpartition(".")[2] for part in linear if part.bias} == biased


def test_only_linear_layers_have_biases():
    """llama.cpp adds none to norms, embeddings, heads, routers and gates."""
    biased = {part.kind for name in ARCHITECTURES for part in family(name).parts() if part.bias}
    assert biased == {Kind.LINEAR}


def test_norms_of_heads_are_of_the_families_that_have_them():
    """Of families without delta nets; those have them in their layers with attention, which test_qwen35.py converts."""
    names = ARCHITECTURES.keys() - QWEN35
    normed = {name for name in names if any(part.source.endswith(".q_norm") for part in family(name).parts())}
    gemma3 = {"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"}
    assert normed == {"Qwen3ForCausalLM", "Qwen3MoeForCausalLM", "OlmoeForCausalLM"} | gemma3


def test_only_llama_and_delta_nets_reorder_rows():
    """In llama, llama.cpp rotates neighbouring pairs; it has value heads of delta nets in another order."""
    reordered = {name for name in ARCHITECTURES if any(part.row_order for part in family(name).parts())}
    llama = {"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"}
    assert reordered == llama | QWEN35


def test_gemma_adds_one_to_every_norm():
    """And so does Qwen3.5, but to those inside delta nets."""
    for name in ARCHITECTURES.keys() - QWEN35:
        norms = [part for part in family(name).parts() if part.kind is Kind.NORM]
        assert {part.offset for part in norms} == {1.0 if name.startswith("Gemma") else 0.0}

    norms = [part for part in family("Qwen3_5ForCausalLM").parts() if part.kind is Kind.NORM]
    assert {part.target.endswith("ssm_norm"): part.offset for part in norms} == {True: 0.0, False: 1.0}


def test_experts_of_mixtral():
    """One tensor of all experts for each of their matrices; w1 is gate, w2 down, w3 up."""
    found = parts("MixtralForCausalLM", num_local_experts=3)
    assert found["blk.1.ffn_gate_inp"].source == "model.layers.1.block_sparse_moe.gate"
    assert found["blk.1.ffn_gate_inp"].shape == (3, 64) and found["blk.1.ffn_gate_inp"].kind is Kind.ROUTER
    for target, matrix, shape in (("gate", "w1", (96, 64)), ("down", "w2", (64, 96)), ("up", "w3", (96, 64))):
        part = found[f"blk.1.ffn_{target}_exps"]
        assert part.expert_sources == tuple(f"model.layers.1.block_sparse_moe.experts.{i}.{matrix}" for i in range(3))
        assert part.shape == shape and part.full_shape == (3, *shape)


@pytest.mark.parametrize("family_name", ["Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe"])
@pytest.mark.parametrize("key", ["num_experts", "num_local_experts"])
def test_number_of_experts_under_either_name(family_name, key):
    """transformers 5 writes num_local_experts for Qwen3-MoE, where older files have num_experts."""
    assert written(f"{family_name}ForCausalLM", **{key: 11})["expert_count"] == 11


def test_sizes_of_qwen2_moe():
    found = parts("Qwen2MoeForCausalLM", moe_intermediate_size=32, shared_expert_intermediate_size=80, num_experts=5)
    assert found["blk.0.ffn_up_exps"].full_shape == (5, 32, 64)
    assert found["blk.0.ffn_down_shexp"].shape == (64, 80)
    assert found["blk.0.ffn_gate_inp_shexp"].shape == (1, 64)


def test_what_no_setting_names():
    """transformers' defaults; llama.cpp opens no file without them."""
    metadata = written("LlamaForCausalLM", max_position_embeddings=None, rms_norm_eps=None)
    assert (metadata["layer_norm_rms_eps"], metadata["context_length"]) == (1e-6, 2048)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("Gemma")])
def test_swish_is_another_name_of_silu(name):
    assert written(name, hidden_act="swish") == written(name, hidden_act="silu")


def test_cap_of_gemma_3s_logits():
    """None in what Google published; others have one, and llama.cpp has no cap where the file says nothing."""
    assert written("Gemma3ForCausalLM", final_logit_softcapping=30.0)["final_logit_softcapping"] == 30.0
    assert "final_logit_softcapping" not in written("Gemma3ForCausalLM", final_logit_softcapping=None)


def test_layers_with_windows():
    """llama.cpp's own pattern is not written; any other is."""
    key = "gemma3.attention.sliding_window_pattern"
    types = ["sliding_attention"] * 5 + ["full_attention"]
    usual = written("Gemma3ForCausalLM", num_hidden_layers=6, layer_types=types, sliding_window=512)
    assert usual["sliding_window"] == 512 and key not in usual
    other = written("Gemma3ForCausalLM", num_hidden_layers=6, sliding_window_pattern=3)
    assert other[key] == [True, True, False, True, True, False]
    none = written("Gemma3ForCausalLM", layer_types=["full_attention"] * 2)
    assert "sliding_window" not in none
    assert written("Gemma2ForCausalLM")["sliding_window"] == 4096


def test_scale_of_the_largest_gemmas():
    """llama.cpp recognizes them by their number of layers and takes the root of another number."""
    assert family("Gemma2ForCausalLM", num_hidden_layers=46, head_dim=32, query_pre_attn_scalar=16)
    assert family("Gemma3ForCausalLM", num_hidden_layers=62, head_dim=32, query_pre_attn_scalar=16)


@pytest.mark.parametrize(
    ("name", "changes", "window"),
    [
        ("MistralForCausalLM", {}, None),
        ("MistralForCausalLM", {"max_position_embeddings": 32768}, 4096),
        ("MistralForCausalLM", {"sliding_window": None, "max_position_embeddings": 32768}, None),
        ("MixtralForCausalLM", {}, None),
        ("Qwen2ForCausalLM", {"sliding_window": 100}, None),
        ("Qwen2ForCausalLM", {"sliding_window": 100, "use_sliding_window": True}, 100),
        ("Phi3ForCausalLM", {"sliding_window": 2047}, 2047),
    ],
)
def test_windows_that_llama_cpp_ignores_are_noted(name, changes, window):
    notes = family(name, **changes).notes
    assert (f"last {window} tokens" in notes[0]) if window else notes == []


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("MistralForCausalLM", {"sliding_window": -1}, ["sliding_window is -1"]),
        ("MistralForCausalLM", {"sliding_window": True}, ["sliding_window is True"]),
        ("Qwen2ForCausalLM", {"use_sliding_window": "yes"}, ["use_sliding_window 'yes'"]),
        ("Qwen2ForCausalLM", {"head_dim": 32}, ["4 heads of 32", "hidden_size 64", "qwen2 architecture"]),
        ("Qwen2ForCausalLM", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["rope_type 'dynamic'"]),
        ("Qwen2ForCausalLM", {"rope_scaling": {**YARN, "beta_fast": 1}}, ["beta_fast of YaRN is 1", "beta_slow 1"]),
        ("Qwen2ForCausalLM", {"rope_scaling": {**YARN, "beta_slow": 0}}, ["beta_slow is 0", "above zero"]),
        (
            "Qwen2ForCausalLM",
            {"rope_scaling": {**YARN, "attention_factor": 0}},
            ["attention_factor is 0", "above zero"],
        ),
        ("Qwen2ForCausalLM", {"rope_scaling": {**YARN, "truncate": False}}, ["truncate of YaRN is False"]),
        (
            "Qwen3ForCausalLM",
            {"rope_scaling": {**YARN, "original_max_position_embeddings": 0}},
            ["original_max_position_embeddings is 0"],
        ),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "short_factor": [1.0] * 7}}, ["short_factor is a list of 7"]),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "long_factor": None}}, ["long_factor is None", "8 numbers"]),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "long_factor": [0.0] * 8}}, ["above zero"]),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "long_factor": [True] * 8}}, ["long_factor"]),
        ("Phi3ForCausalLM", {"rope_scaling": {**LONGROPE, "long_factor": [float("nan")] * 8}}, ["long_factor"]),
        ("Phi3ForCausalLM", {"rope_scaling": YARN}, ["rope_type 'yarn'"]),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 1.5}, ["partial_rotary_factor is 1.5"]),
        ("Phi3ForCausalLM", {"partial_rotary_factor": 0.06}, ["partial_rotary_factor is 0.06"]),
        (
            "Phi3ForCausalLM",
            {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.75}},
            ["partial_rotary_factor is 0.5 and 0.75"],
        ),
        ("Phi3ForCausalLM", {"partial_rotary_factor": "x"}, ["partial_rotary_factor is 'x'"]),
        ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 20}, ["query_pre_attn_scalar 20.0", "expected 16.0"]),
        ("Gemma2ForCausalLM", {"attn_logit_softcapping": None}, ["attn_logit_softcapping is None"]),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": 0}, ["final_logit_softcapping is 0"]),
        ("Gemma2ForCausalLM", {"hidden_activation": "gelu"}, ["hidden_activation 'gelu'", "gelu_pytorch_tanh"]),
        ("Gemma2ForCausalLM", {"tie_word_embeddings": False}, ["tie_word_embeddings False"]),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention"]}, ["layer_types", "each of 2 layers"]),
        ("Gemma2ForCausalLM", {"layer_types": ["full_attention", []]}, ["layer_types"]),
        ("Gemma2ForCausalLM", {"sliding_window": None}, ["sliding_window is None"]),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping 50.0"]),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, ["use_bidirectional_attention True"]),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 0}, ["sliding_window_pattern is 0"]),
        ("Gemma3ForCausalLM", {"rope_scaling": YARN}, ["rope_type 'yarn'"]),
        (
            "Gemma3ForCausalLM",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            ["rope_type of sliding_attention 'linear'"],
        ),
        ("Gemma3ForCausalLM", {"rope_parameters": {"full_attention": 3}}, ["rope_parameters is 3"]),
        ("MixtralForCausalLM", {"num_local_experts": 2000}, ["num_local_experts is 2000", "1024"]),
        ("MixtralForCausalLM", {"num_experts_per_tok": 9}, ["num_experts_per_tok is 9", "num_local_experts 8"]),
        ("Qwen2MoeForCausalLM", {"norm_topk_prob": True}, ["norm_topk_prob True"]),
        ("Qwen2MoeForCausalLM", {"decoder_sparse_step": 2}, ["decoder_sparse_step 2"]),
        ("Qwen2MoeForCausalLM", {"tie_word_embeddings": True}, ["tie_word_embeddings True"]),
        ("Qwen3MoeForCausalLM", {"norm_topk_prob": None}, ["norm_topk_prob False"]),
        ("Qwen3MoeForCausalLM", {"mlp_only_layers": [0]}, ["mlp_only_layers [0]"]),
        ("OlmoeForCausalLM", {"clip_qkv": 8.0}, ["clip_qkv 8.0"]),
        ("OlmoeForCausalLM", {"num_key_value_heads": 2}, ["num_key_value_heads 2", "expected 4"]),
        ("OlmoeForCausalLM", {"norm_topk_prob": True}, ["norm_topk_prob True"]),
    ],
)
def test_configurations_that_are_refused(refused, name, changes, words):
    refused(lambda: family(name, **changes), "config.json", *words)


def test_models_of_more_than_text_are_refused_by_name(folder, refused):
    folder.config.update(architectures=["LlavaForConditionalGeneration"], text_config={"hidden_size": 256})
    words = ["config.json", "LlavaForConditionalGeneration", "expected one of", "text part"]
    refused(lambda: architecture_for(Checkpoint(folder.save())), *words)


def test_one_scale_per_tensor_only_where_llama_cpp_multiplies_by_it():
    """Some of its graphs apply no scale to feed-forward layers or experts."""
    without = {name for name in ARCHITECTURES if not all(part.tensor_scale for part in family(name).parts())}
    assert without == {
        "Qwen2ForCausalLM",
        "Phi3ForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
        "Qwen2MoeForCausalLM",
        "OlmoeForCausalLM",
    }
    unscaled = {part.target.rpartition(".")[2] for part in family("Phi3ForCausalLM").parts() if not part.tensor_scale}
    assert unscaled == {"ffn_up", "ffn_down"}
    parts_of_one_layer = family("Qwen2MoeForCausalLM", num_hidden_layers=1).parts()
    unscaled = {part.target for part in parts_of_one_layer if not part.tensor_scale}
    assert unscaled == {f"blk.0.ffn_{name}_{kind}" for name in ("gate", "up", "down") for kind in ("exps", "shexp")}


def test_one_scale_per_tensor_is_refused_elsewhere(demo, refused):
    class OneScale(GPTQReader):
        def grid(self, module, rows, columns):
            return Grid(2, 0, False, tensor_scale=0.5)

    checkpoint = Checkpoint(demo)
    reader = OneScale(checkpoint, checkpoint.config["quantization_config"], checkpoint.config_file)

    def planned(name):
        architecture = ARCHITECTURES[name](checkpoint.config, checkpoint.config_file)
        return plan(CheckpointModel(checkpoint, reader, architecture))

    refused(lambda: planned("Qwen2ForCausalLM"), "layer model.layers.0.mlp.gate_proj has one scale", "qwen2")
    assert "blk.0.ffn_gate.scale" in {tensor.name for tensor in planned("LlamaForCausalLM").tensors}


@pytest.mark.parametrize(
    ("layer", "bias", "works"), [("self_attn.q_proj", 1, True), ("mlp.up_proj", 1, False), ("mlp.up_proj", 0, True)]
)
def test_one_scale_per_tensor_beside_a_bias(folder, refused, layer, bias, works):
    """llama.cpp multiplies by the scale before adding the bias in attention, but after it in feed-forward layers."""

    class OneScale(GPTQReader):
        def grid(self, module, rows, columns):
            return Grid(2, 0, False, tensor_scale=0.5)

    rows = {"self_attn.q_proj": 256, "mlp.up_proj": 768}[layer]
    folder.tensors[f"model.layers.0.{layer}.bias"] = np.full(rows, bias, np.float16)
    checkpoint = Checkpoint(folder.save())
    reader = OneScale(checkpoint, checkpoint.config["quantization_config"], checkpoint.config_file)
    architecture = ARCHITECTURES["LlamaForCausalLM"](checkpoint.config, checkpoint.config_file)
    if works:
        names = {tensor.name for tensor in plan(CheckpointModel(checkpoint, reader, architecture)).tensors}
        target = {"self_attn.q_proj": "blk.0.attn_q", "mlp.up_proj": "blk.0.ffn_up"}[layer]
        assert f"{target}.scale" in names and (f"{target}.bias" in names) == bool(bias)
    else:
        model = CheckpointModel(checkpoint, reader, architecture)
        refused(lambda: plan(model), "layer model.layers.0.mlp.up_proj", "multiply the bias")


def test_text_part_of_gemma3(refused):
    """Values that text_config omits have transformers' defaults; tensors are named language_model.*."""
    whole = ARCHITECTURES["Gemma3ForConditionalGeneration"]
    architecture = whole({"text_config": {"hidden_size": 2560, "num_hidden_layers": 34}}, Path("config.json"))
    sources = {part.target: part.source for part in architecture.parts()}
    assert sources["blk.0.attn_q"] == "language_model.model.layers.0.self_attn.q_proj"
    assert sources["token_embd"] == sources["output"] == "language_model.model.embed_tokens"
    assert (architecture.heads, architecture.kv_heads, architecture.vocab_size) == (8, 4, 262208)
    assert architecture.is_redundant("vision_tower.vision_model.head.probe")
    head = "language_model.lm_head.weight"
    assert architecture.is_redundant(head) and not architecture.is_redundant("lm_head.weight")
    assert "sees images" in architecture.notes[0]
    assert [whole({**said, "text_config": {}}, Path("config.json")).tied_head for said in ({}, UNTIED)] == [True, False]
    assert whole({**UNTIED, "text_config": {"tie_word_embeddings": True}}, Path("config.json")).tied_head
    refused(lambda: whole({}, Path("config.json")), "config.json: text_config is missing")


def test_text_part_of_gemma3_under_its_names_in_memory(folder):
    """As quantizers store it: model.language_model.*, with the head and the vision tensors beside it."""
    text = {"hidden_size": 256, "num_hidden_layers": 2, "tie_word_embeddings": False}
    folder.config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    folder.tensors = {"model.language_model.embed_tokens.weight": np.zeros(1, np.float16)}
    architecture = architecture_for(Checkpoint(folder.save()))
    sources = {part.target: part.source for part in architecture.parts()}
    assert sources["blk.1.ffn_up"] == "model.language_model.layers.1.mlp.up_proj"
    assert sources["output_norm"] == "model.language_model.norm" and sources["output"] == "lm_head"
    images = ("model.vision_tower.x", "model.multi_modal_projector.x")
    assert all(architecture.is_redundant(name) for name in images)
    assert not architecture.is_redundant("model.language_model.x")


HOSTILE = (None, True, -1, 0, 10**40, float("nan"), float("inf"), 0.5, "x", [], [None], {}, {"type": []})
KEYS = (
    *BASE,
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "hidden_act",
    "hidden_activation",
    "tie_word_embeddings",
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "sliding_window_pattern",
    "rope_local_base_freq",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "original_max_position_embeddings",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "clip_qkv",
)
ROPES = (
    {"rope_scaling": {**YARN, "beta_fast": 16, "beta_slow": 2}},
    {"rope_scaling": LONGROPE},
    {"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}},
)


def mutations():
    """One value of a configuration, or of its settings of RoPE, replaced."""
    yield from ({key: value} for key in KEYS for value in HOSTILE)
    for ropes in ROPES:
        for place, rope in ropes.items():
            yield from ({place: {**rope, key: value}} for key in rope for value in HOSTILE)


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES} - {"LLaMAForCausalLM"}))
def test_hostile_configurations_end_in_an_error_or_a_plan(name):
    """No other exception occurs, and an accepted configuration can be written."""
    few = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 2}
    outcomes = set()
    for changes in mutations():
        try:
            architecture = family(name, **{**few, **changes})
            architecture.add_metadata(Written())
            outcomes.add(all(math.isfinite(values.sum()) for values in architecture.constants().values()))
        except ConvertError:
            outcomes.add("refused")
    assert outcomes == {True, "refused"}
