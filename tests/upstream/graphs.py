"""What llama.cpp's graphs do with each family's layers: biases, scales, experts, activations, names."""

from __future__ import annotations

import re
from collections.abc import Iterator

import gguf

from support.llama_tree import LlamaTree, calls_in, enclosed, split
from upstream import ours
from upstream.fact import Fact
from upstream.family import (
    ARCH_CPP,
    BITNET_CPP,
    GEMMA3,
    GRAPHS,
    LLAMA,
    MODEL_CPP,
    OLMOE,
    PHI3,
    QWEN2,
    QWEN3,
    QWEN3MOE,
    each,
    graph_of,
    instances,
)

GRAPH_CPP, GRAPH_H = "src/llama-graph.cpp", "src/llama-graph.h"
# Arguments of build_ffn and build_moe_ffn: of each matrix the weight, the bias and the scale; of build_attn o_proj's.
FFN = {"up_proj": (1, 2, 3), "gate_proj": (4, 5, 6), "down_proj": (7, 8, 9)}
MOE_SCALES = {"up_proj": 15, "gate_proj": 16, "down_proj": 17}
PARAMETERS = {
    "build_ffn": {at: f"{name[:-5]}{end}" for name, all_at in FFN.items() for at, end in zip(all_at, ("", "_b", "_s"))}
    | {11: "type_op"},
    "build_moe_ffn": {at: f"{name[:-5]}_exps_s" for name, at in MOE_SCALES.items()}
    | {2: "up_exps", 3: "gate_exps", 4: "down_exps", 8: "type_op", 9: "norm_w", 11: "gating_op", 14: "gate_up_exps"},
    "build_attn": {1: "wo", 2: "wo_b", 3: "wo_s"},
    "build_lora_mm": {0: "w", 2: "w_s"},
}
MOE_ACTIVATION, MOE_NORMALIZES, MOE_GATING = 8, 9, 11
FFN_ACTIVATION = 11
ATTN_BIAS, ATTN_SCALE = 2, 3
TENSORS = {"o_proj": "ATTN_OUT", "gate_proj": "FFN_GATE", "up_proj": "FFN_UP", "down_proj": "FFN_DOWN"}
TENSORS |= {"in_proj_qkv": "ATTN_QKV", "in_proj_z": "ATTN_GATE", "out_proj": "SSM_OUT"}
# Matrices of delta nets by their names in a layer of llama.cpp's.
DELTA_NETS = {"in_proj_qkv": "wqkv", "in_proj_z": "wqkv_gate", "out_proj": "ssm_out"}
# What the checkpoints call llama.cpp's matrices where two are one.
FUSED = {"gate_up_proj": "up_proj"}
ACTIVATIONS = {"silu": "LLM_FFN_SILU", "gelu_pytorch_tanh": "LLM_FFN_GELU"}
NOTHING = {"NULL", "nullptr", ""}


def _given(arguments: list[str], at: int) -> bool:
    return at < len(arguments) and arguments[at] not in NOTHING


def _feed_forward_calls(llama: LlamaTree, family) -> tuple[list[list[str]], list[list[str]]]:
    """The calls of build_ffn and build_moe_ffn for this family's layers: a graph may have others for other models."""
    dense, experts = llama.calls(graph_of(family), "build_ffn"), llama.calls(graph_of(family), "build_moe_ffn")
    if not isinstance(family, ours.experts.ExpertsArchitecture):
        return dense, []
    return [call for call in dense if "shexp" in call[1]], experts


def _linear_names(family) -> set[str]:
    parts = [part for part in family.parts() if part.kind is ours.part.Kind.LINEAR]
    roles = dict(zip(getattr(family, "matrices", ()), ("gate_proj", "up_proj", "down_proj")))
    return {roles.get(name, name) for name in (part.source.rpartition(".")[2] for part in parts)}


@each
def biases(llama: LlamaTree, family) -> Iterator[str]:
    code = llama.code(graph_of(family))
    dense, _ = _feed_forward_calls(llama, family)
    for name in sorted(
        _linear_names(family)
        if not isinstance(family, ours.experts.ExpertsArchitecture)
        else {*ours.decoder.QKV, "o_proj"}
    ):
        role = FUSED.get(name, name)
        if role in (*ours.decoder.QKV, "qkv_proj"):
            theirs = "create_tensor_qkv(" in code
        elif role == "o_proj":
            added = [call for call in calls_in(code, "build_attn") if _given(call, ATTN_BIAS)]
            theirs = bool(added) and _has_tensor(code, role)
        elif role in DELTA_NETS:
            theirs = _has_tensor(code, role)
        else:
            theirs = _has_tensor(code, role) and all(_given(call, FFN[role][1]) for call in dense)
        if theirs != (name in family.biased):
            yield f"llama.cpp {'adds' if theirs else 'has no'} bias of {name}; `biased` says otherwise"


def _has_tensor(code: str, role: str) -> bool:
    return re.search(rf'LLM_TENSOR_{TENSORS[role]}\s*,\s*"bias"', code) is not None


@each
def scales(llama: LlamaTree, family) -> Iterator[str]:
    code = llama.code(graph_of(family))
    dense, experts = _feed_forward_calls(llama, family)
    multiplied = {call[0].rpartition(".")[2] for call in calls_in(code, "build_lora_mm") if _given(call, 2)}
    for name in sorted(_linear_names(family)):
        role = FUSED.get(name, name)
        if role in (*ours.decoder.QKV, "qkv_proj"):
            theirs = "build_qkv(" in code
        elif role == "o_proj":
            theirs = any(_given(call, ATTN_SCALE) for call in calls_in(code, "build_attn")) or "wo" in multiplied
        elif role in DELTA_NETS:
            theirs = DELTA_NETS[role] in multiplied
        else:
            weight, _, scale = FFN[role]
            found = [
                _given(call, scale) or (not _given(call, weight) and f"ffn_{role[:-5]}" in multiplied) for call in dense
            ]
            found += [_given(call, MOE_SCALES[role]) for call in experts]
            theirs = bool(found) and all(found)
        if theirs == (name in family.unscaled):
            does = "multiplies" if theirs else "does not multiply"
            yield f"llama.cpp {does} {name} by its scale; `unscaled` says otherwise"


def scale_tensors(llama: LlamaTree) -> Iterator[str]:
    """Scales are read for every weight that may have one, and the order of scale and bias."""
    code = llama.code(MODEL_CPP)
    names = llama.texts_of(ARCH_CPP, "LLM_TENSOR_NAMES")
    suffix = ours.tmac_format.SCALE_SUFFIX.removeprefix(".")
    read = re.findall(rf'tn\((LLM_TENSOR_\w+),\s*"{suffix}",\s*i\),\s*\{{(\w+)\}}', code)
    shapes = {names[tensor].removeprefix("blk.%d."): shape for tensor, shape in read}
    for family in instances().values():
        for part in family.parts():
            if part.kind is ours.part.Kind.LINEAR and part.tensor_scale:
                name, shape = part.target.split(".")[2], "n_expert" if part.expert_sources else "1"
                if shapes.get(name) != shape:
                    yield f"llama.cpp reads scales of {name} in the shape {shapes.get(name)}; we write {shape}"
    if not re.search(
        rf'if \(output && output->type == GGML_TYPE_NVFP4\) \{{\s*if \(!output_s\) \{{\s*output_s = [^;]*"{suffix}"',
        code,
    ):
        yield "llama.cpp no longer reads a scale of the output head for NVFP4 alone; we write no head with one scale"
    bodies = {
        name: llama.block(GRAPH_CPP, rf"llm_graph_context::{name}\([^;{{]*\)\s*const\s*\{{")
        for name in ("build_lora_mm", "build_ffn")
    }
    if "ggml_mul(ctx0, res, w_s)" not in bodies["build_lora_mm"]:
        yield "llama.cpp's build_lora_mm no longer multiplies the product by the scale"
    for matrix in ("up", "gate", "down"):
        positions = [
            bodies["build_ffn"].find(f"ggml_{operation}(ctx0, {x}, {matrix}_{kind})")
            for operation, kind, x in _steps(matrix)
        ]
        if -1 in positions or positions[0] > positions[1]:
            yield f"llama.cpp's build_ffn no longer multiplies {matrix} by its scale after the bias (Part.scales_bias)"
    qkv = llama.code(GRAPH_CPP)
    for weight in ("wq", "wk", "wv", "wqkv"):
        if f"build_lora_mm(layer.{weight}, cur, layer.{weight}_s)" not in qkv:
            yield f"llama.cpp's build_qkv no longer multiplies {weight} by its scale before it adds the bias"


def signatures(llama: LlamaTree) -> Iterator[str]:
    """The places of arguments that the other comparisons rely on."""
    code = llama.code(GRAPH_CPP)
    for function, places in PARAMETERS.items():
        lists = [
            split(enclosed(code, found.end() - 1)) for found in re.finditer(rf"llm_graph_context::{function}\(", code)
        ]
        names = [[re.search(r"(\w+)$", parameter)[1] for parameter in parameters] for parameters in lists]
        if not any(all(at < len(own) and own[at] == name for at, name in places.items()) for own in names):
            yield f"llama.cpp's {function} has its arguments in another order: adapt the numbers in tests/upstream"


def _steps(matrix: str) -> list[tuple[str, str, str]]:
    variable = "tmp" if matrix == "up" else "cur"
    return [("add", "b", variable), ("mul", "s", variable)]


@each
def experts(llama: LlamaTree, family) -> Iterator[str]:
    if not isinstance(family, ours.experts.ExpertsArchitecture):
        return
    _, calls = _feed_forward_calls(llama, family)
    found = {(call[MOE_NORMALIZES], call[MOE_GATING]) for call in calls}
    expected = {(str(family.normalizes).lower(), "LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX")}
    if found != expected:
        yield f"llama.cpp's experts are normalized and gated by {found}; ours by {expected}"


@each
def activations(llama: LlamaTree, family) -> Iterator[str]:
    dense, calls = _feed_forward_calls(llama, family)
    found = {call[FFN_ACTIVATION] for call in dense} | {call[MOE_ACTIVATION] for call in calls}
    if isinstance(family, ours.phi3.Phi3Architecture):
        # Gate and up in one matrix: SwiGLU is SiLU of its one half.
        expected = {"LLM_FFN_SWIGLU"}
    else:
        expected = {ACTIVATIONS[act] for act in family.hidden_acts if act in ACTIVATIONS}
    if found != expected:
        yield f"llama.cpp computes {sorted(found)}; `hidden_acts` means {sorted(expected)}"
    if ours.bitnet.SQUARED_RELU in family.hidden_acts and "LLM_FFN_RELU_SQR" not in llama.enum(
        GRAPH_H, "llm_ffn_op_type"
    ):
        yield "llama.cpp has no LLM_FFN_RELU_SQR any more, which patch 0004 uses"


@each
def names(llama: LlamaTree, family) -> Iterator[str]:
    """Our tensors are those that the graph makes, and its keys those that llama.cpp knows."""
    texts = llama.texts_of(ARCH_CPP, "LLM_TENSOR_NAMES")
    if family.name not in llama.texts_of(ARCH_CPP, "LLM_ARCH_NAMES").values():
        yield f"llama.cpp has no architecture {family.name} any more"
    code = llama.code(graph_of(family))
    code += llama.block(MODEL_CPP, r"::create_tensor_qkv\([^;{]*\)\s*\{") if "create_tensor_qkv(" in code else ""
    called = re.findall(r'tn\((LLM_TENSOR_\w+)\s*,\s*(?:"(\w+)")?', code)
    made = {texts[tensor] + (f".{suffix}" if suffix else "") for tensor, suffix in called}
    targets = {re.sub(r"^blk\.\d+\.", "blk.%d.", part.tensor) for part in family.parts()} | {*family.constants()}
    # A tied head is the embedding, and not written.
    targets -= {"output.weight"} if family.tied_head else set()
    yield from (f"llama.cpp makes no tensor {name}; we write it" for name in sorted(targets - made))
    writer = gguf.GGUFWriter(None, family.name)
    family.add_metadata(writer)
    known = {key.replace("%s", family.name) for key in llama.texts_of(ARCH_CPP, "LLM_KV_NAMES").values()}
    yield from (f"llama.cpp has no key {key}; we write it" for key in writer.kv_data[0] if key not in known)


def last_layer(llama: LlamaTree) -> Iterator[str]:
    """In a benchmark's model, only the last token goes through the last layer's feed-forward part."""
    pattern = r"if \(il == n_layer - 1 && inp_out_ids\) \{\s*cur\s*=\s*ggml_get_rows\(ctx0,\s*cur, inp_out_ids\);"
    if not re.search(pattern, llama.code(LLAMA)):
        yield "llama.cpp computes the last layer's feed-forward part for other tokens than the last"


FACTS = [
    Fact(
        "biases of linear layers",
        [ours.architectures],
        GRAPHS,
        biases,
        (
            (QWEN3, "create_tensor_qkv(", "create_tensor_qk_v("),
            (LLAMA, "model.layers[il].ffn_up_b,", "NULL,"),
            (LLAMA, 'tn(LLM_TENSOR_ATTN_OUT, "bias", i)', 'tn(LLM_TENSOR_ATTN_OUT, "biases", i)'),
        ),
    ),
    Fact(
        "scales of whole tensors",
        [ours.architectures],
        GRAPHS,
        scales,
        (
            (QWEN3, "model.layers[il].ffn_up_s,", "NULL,"),
            (
                QWEN2,
                "model.layers[il].ffn_up,   NULL, NULL,",
                "model.layers[il].ffn_up, NULL, model.layers[il].ffn_up_s,",
            ),
            (QWEN3MOE, "model.layers[il].ffn_down_exps_s", "nullptr"),
            (BITNET_CPP, "model.layers[il].ffn_down_s)", "nullptr)"),
            (PHI3, "model.layers[il].wo_s,", "nullptr,"),
        ),
    ),
    Fact(
        "where scales are read and multiplied",
        [ours.part, ours.grid_types],
        f"{MODEL_CPP}, {GRAPH_CPP}",
        scale_tensors,
        (
            (MODEL_CPP, "if (output && output->type == GGML_TYPE_NVFP4)", "if (output)"),
            (MODEL_CPP, 'tn(LLM_TENSOR_ATTN_QKV, "scale", i), {1}', 'tn(LLM_TENSOR_ATTN_QKV, "scale", i), {n_head}'),
            (GRAPH_CPP, "build_lora_mm(layer.wk, cur, layer.wk_s)", "build_lora_mm(layer.wk, cur)"),
            (GRAPH_CPP, "tmp = ggml_mul(ctx0, tmp, up_s);", "tmp = ggml_mul(ctx0, up_s, tmp);"),
        ),
    ),
    Fact(
        "arguments of the functions that graphs are made of",
        [ours.architectures, ours.linear_names],
        GRAPH_CPP,
        signatures,
        (
            (
                GRAPH_CPP,
                "         ggml_tensor * up_b,\n",
                "         ggml_tensor * extra,\n         ggml_tensor * up_b,\n",
            ),
            (GRAPH_CPP, "bool   norm_w,", "bool   norm,"),
            (GRAPH_CPP, "ggml_tensor * wo_s,", "ggml_tensor * wo_scale,"),
        ),
    ),
    Fact(
        "weights of chosen experts",
        [ours.architectures],
        GRAPHS,
        experts,
        (
            (OLMOE, "LLM_FFN_SILU, false", "LLM_FFN_SILU, true"),
            (QWEN3MOE, "GATING_FUNC_TYPE_SOFTMAX", "GATING_FUNC_TYPE_SIGMOID"),
        ),
    ),
    Fact(
        "activations of feed-forward layers",
        [ours.architectures],
        f"{GRAPHS}, {GRAPH_H}",
        activations,
        (
            (BITNET_CPP, "LLM_FFN_SILU", "LLM_FFN_RELU_SQR"),
            (GEMMA3, "LLM_FFN_GELU", "LLM_FFN_GELU_ERF"),
            (GRAPH_H, "LLM_FFN_RELU_SQR,", ""),
        ),
    ),
    Fact(
        "names of tensors and keys",
        [ours.architectures],
        f"{ARCH_CPP}, {MODEL_CPP}, {GRAPHS}",
        names,
        (
            (ARCH_CPP, '"blk.%d.attn_q_norm"', '"blk.%d.q_norm"'),
            (ARCH_CPP, '"%s.rope.freq_base_swa"', '"%s.rope.freq_base_window"'),
            (ARCH_CPP, '"%s.hidden_activation"', '"%s.activation"'),
            (ARCH_CPP, '"rope_factors_long"', '"rope_factors_of_long"'),
            (QWEN3, "LLM_TENSOR_ATTN_K_NORM", "LLM_TENSOR_ATTN_NORM_2"),
        ),
    ),
    Fact(
        "tokens of the last layer",
        [ours.model_report],
        LLAMA,
        last_layer,
        ((LLAMA, "il == n_layer - 1 && inp_out_ids", "il == n_layer && inp_out_ids"),),
    ),
]
