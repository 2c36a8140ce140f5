"""Tensor names, and which of these tensors are only ever multiplied with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from support.llama_tree import LlamaTree
from upstream import ours
from upstream.fact import Fact, new_and_gone, words

ARCH_CPP, MODEL_CPP, GRAPH_CPP = "src/llama-arch.cpp", "src/llama-model.cpp", "src/llama-graph.cpp"
MODELS = "src/models/*.cpp"
# Multiplied with by llama.cpp's own list, and left alone by us: small, read in other ways too (see linear_names.py of
# convert/sources), or of parts of a model that are not for text (drafting, images, speech).
LEFT_ALONE = words(
    """
    altup_proj altup_unembd_proj cls cls.output conf_proj convnext.%d.pw1 convnext.%d.pw2 dense_2 dense_3 fc
    markov_w2 nextn.post_projection nextn.pre_projection output_hc_down output_hc_fn output_hc_up
    per_layer_model_proj posnet.%d.attn_k posnet.%d.attn_output posnet.%d.attn_q posnet.%d.attn_v selector_hidden
    """
)
LEFT_ALONE_IN_BLOCKS = words(
    """
    altup_correct_coef altup_predict_coef altup_router attn_compressor_gate attn_compressor_kv attn_conv_proj
    attn_k_b attn_kv attn_output_a attn_output_b attn_v_b ffn_conv_proj ffn_down_chexps ffn_gate_chexps ffn_gate_inp
    ffn_gate_inp_shexp ffn_latent_down ffn_latent_up ffn_routed_down ffn_routed_up ffn_up_chexps hc_attn_down
    hc_attn_fn hc_attn_inject hc_attn_up hc_ffn_down hc_ffn_fn hc_ffn_inject hc_ffn_up indexer.attn_k
    indexer.attn_q_b indexer.k_proj indexer.proj indexer.q_proj indexer_compressor_gate indexer_compressor_kv
    inp_gate laurel_l laurel_r nextn.eh_proj nextn.shared_head_head ple_key ple_value proj ssm_alpha ssm_ba ssm_beta
    ssm_dt ssm_f_a ssm_f_b ssm_g ssm_g_a ssm_g_b ssm_x time_mix_a1 time_mix_a2 time_mix_decay_w1 time_mix_decay_w2
    time_mix_g1 time_mix_g2 time_mix_v1 time_mix_v2 time_mix_w1 time_mix_w2 vis_attn_output vis_attn_qkv vis_down
    vis_gate vis_up
    """
)
# What multiplies with an argument, by the argument's place; the last four are functions of single models.
MULTIPLIES = {
    "ggml_mul_mat": {1},
    "build_lora_mm": {0},
    "build_lora_mm_id": {0},
    "build_ffn": {1, 4, 7},
    "build_moe_ffn": {2, 3, 4, 5, 7, 14},
    "build_attn": {1},
    "build_switched_lora_mm": {0},
    "causal_conv1d": {6},
    "bailingmoe3_causal_conv1d": {6},
    "glm5_conv1d": {6},
    "kimi_k3_conv1d": {6},
}
# These functions multiply with it themselves; the first argument of the product is the parameter of this name.
OF_SINGLE_MODELS = {"build_switched_lora_mm": "w", "causal_conv1d": "proj_w", "bailingmoe3_causal_conv1d": "proj_w"}
OF_SINGLE_MODELS |= {"glm5_conv1d": "proj_w", "kimi_k3_conv1d": "proj_w"}
# Where a weight is only asked whether it is there.
ASKED = {"if", "GGML_ASSERT"}
_STRUCT = r"(?:\blayers\[\w+\]|\b\w*layer\w*|\bmodel)(?:\.|->)"


def listed_names() -> set[str]:
    """Our linear weights, as llama.cpp's table writes names; HEAD_NAME has its suffix."""
    names = {f"blk.%d.{name}" for name in (*ours.linear_names._BLOCK, *ours.linear_names._EXPERTS)}
    names |= {f"enc.blk.%d.{name}" for name in ours.linear_names._ENCODER} | {
        f"dec.blk.%d.{name}" for name in ours.linear_names._DECODER
    }
    return names | {ours.linear_names.HEAD_NAME.removesuffix(".weight")}


def check_names(llama: LlamaTree) -> Iterable[str]:
    names, operations = llama.texts_of(ARCH_CPP, "LLM_TENSOR_NAMES"), dict(llama.table(ARCH_CPP, "LLM_TENSOR_INFOS"))
    unused = LEFT_ALONE | {f"blk.%d.{name}" for name in LEFT_ALONE_IN_BLOCKS}
    multiplied = {name for tensor, name in names.items() if "GGML_OP_MUL_MAT" in operations.get(tensor, "")}
    return new_and_gone("multiplied tensor", multiplied, listed_names(), unused)


def check_dimensions(llama: LlamaTree) -> Iterator[str]:
    """Names of three dimensions in every graph that makes them, and no others, are tensors of experts."""
    names = llama.texts_of(ARCH_CPP, "LLM_TENSOR_NAMES")
    for path in (*llama.paths(MODELS), MODEL_CPP):
        made = re.findall(r'tn\((LLM_TENSOR_\w+),\s*"weight"[^)]*\)\s*,\s*\{([^}]*)\}', llama.code(path))
        for tensor, shape in made:
            name, found = names[tensor], shape.count(",") + 1
            expected = ours.linear_names.dimensions_of_linear(f"{name.replace('%d', '0')}.weight")
            if expected and found != expected:
                yield f"{path} makes {name} with {found} dimensions; for us it has {expected}"


def members(llama: LlamaTree) -> dict[str, set[str]]:
    """Names of variables that hold weights, each with the tensors that are stored in it anywhere."""
    found: dict[str, set[str]] = {}
    names = llama.texts_of(ARCH_CPP, "LLM_TENSOR_NAMES")
    for path in (*llama.paths(MODELS), MODEL_CPP):
        pattern = r'([\w.]+)\s*=\s*create_tensor\s*\(\s*tn\(\s*(LLM_TENSOR_\w+)\s*,\s*"weight"'
        for variable, tensor in re.findall(pattern, llama.code(path)):
            found.setdefault(variable.removeprefix("layer."), set()).add(names[tensor])
    return found


def check_uses(llama: LlamaTree) -> Iterator[str]:
    """Every use of a linear weight in every graph: multiplied with, or asked for its presence or its size."""
    # A tied head is stored where the embedding's rows are read.
    linear = {name for name, tensors in members(llama).items() if tensors & listed_names()} - {"tok_embd"}
    use = re.compile(rf"(?:{_STRUCT})({'|'.join(map(re.escape, sorted(linear, key=len, reverse=True)))})\b(?!\.)")
    for path in (*llama.paths(MODELS), GRAPH_CPP, MODEL_CPP):
        # Texts may name weights too.
        code = re.sub(r'"(?:\\.|[^"\\\n])*"', '""', llama.code(path))
        copies = set()
        for found in use.finditer(code):
            other = _other_use(code, found)
            if other.startswith("="):
                copies.add(other[1:])
            elif other:
                yield f"{path} uses {found[0]} {other}; for us it is only multiplied with"
        for copy in sorted(copies):
            for found in re.finditer(rf"(?<![\w.>\"]){copy}\b(?!\s*\(|\.|\s*=[^=])", code):
                other = _other_use(code, found)
                if other and not other.startswith("=") and not _is_declared(code, found):
                    yield f"{path} uses {copy}, which holds a linear weight, {other}"
    for name, parameter in OF_SINGLE_MODELS.items():
        bodies = [body for path in llama.paths(MODELS) for body in _bodies(llama.code(path), name)]
        uses = [_other_use(body, found) for body in bodies for found in re.finditer(rf"\b{parameter}\b", body)]
        if not bodies:
            yield f"llama.cpp has no function {name} any more"
        elif not uses or any(uses):
            yield f"llama.cpp's {name} does not only multiply with {parameter} any more"


def _bodies(code: str, name: str) -> Iterator[str]:
    for found in re.finditer(rf"\b{name}\([^;{{}}]*?\)\s*(?:const\s*)?\{{", code if name in code else ""):
        yield code[found.end() : code.find("\n}", found.end())]


def _is_declared(code: str, found: re.Match[str]) -> bool:
    return (
        re.search(r"(?:ggml_tensor|auto)\s*\*[^;()]*$", code[max(0, found.start() - 200) : found.start()]) is not None
    )


def _other_use(code: str, found: re.Match[str]) -> str:
    """Empty for a product or a question; `=name` where it is copied to a variable; else how it is used."""
    after = code[found.end() : found.end() + 60]
    if re.match(
        r"\s*(?:=\s*(?:create_tensor|nullptr|layer|model|ml)|->ne\[|->type\b|[!=]=\s*(?:nullptr|NULL)|\?|&&|\|\|)",
        after,
    ):
        return ""
    function, place, start = _call_around(code, found.start())
    if function in ASKED or place in MULTIPLIES.get(function, ()):
        return ""
    if function == "ggml_add" or function == "ggml_concat":
        # llama_layer has one variable for the bias of q and the second low-rank matrix of q.
        return "" if found[0].endswith("wq_b") else f"as an argument of {function}"
    if function:
        return f"as argument {place} of {function}"
    copied = re.search(r"(\w+)\s*=\s*[^=;]*$", code[start : found.start()])
    is_question = re.search(r"bool\s+\w+\s*=[^;]*$|!\s*$|&&\s*$|\|\|\s*$", code[start : found.start()])
    return "" if is_question else f"={copied[1]}" if copied else "in another way"


def _call_around(code: str, at: int) -> tuple[str, int, int]:
    """The innermost function that is called around a place, the argument's number, and where the statement starts."""
    depth = place = 0
    for i in range(at - 1, -1, -1):
        depth += (code[i] in ")]}") - (code[i] in "([{")
        if depth < 0:
            name = re.search(r"(\w+)\s*$", code[max(0, i - 60) : i]) if code[i] == "(" else None
            return (name[1] if name else "", place, i)
        if depth == 0 and code[i] in ";}":
            return "", 0, i
        place += code[i] == "," and depth == 0
    return "", 0, 0


FACTS = [
    Fact(
        "names of linear weights",
        [ours.linear_names],
        ARCH_CPP,
        check_names,
        (
            (ARCH_CPP, '"blk.%d.attn_qkv"', '"blk.%d.attn_q_k_v"'),
            (ARCH_CPP, '"blk.%d.ssm_dt"', '"blk.%d.ssm_new"'),
            (
                ARCH_CPP,
                "{LLM_TENSOR_FFN_UP,                     {LLM_TENSOR_LAYER_REPEATING, GGML_OP_MUL_MAT}}",
                "{LLM_TENSOR_FFN_UP, {LLM_TENSOR_LAYER_REPEATING, GGML_OP_ADD}}",
            ),
        ),
    ),
    Fact(
        "dimensions of linear weights",
        [ours.linear_names],
        MODELS,
        check_dimensions,
        (("src/models/qwen3.cpp", "{n_embd,   n_ff}", "{n_embd,   n_ff, 2}"),),
    ),
    Fact(
        "linear weights are only multiplied with",
        [ours.linear_names],
        f"{MODELS}, {GRAPH_CPP}",
        check_uses,
        (
            (
                "src/models/qwen3.cpp",
                "inpL = build_inp_embd(model.tok_embd);",
                "inpL = ggml_get_rows(ctx0, model.layers[0].ffn_up, ids);",
            ),
            ("src/models/eagle3.cpp", "build_lora_mm(output,", "ggml_reshape_2d(ctx0, output,"),
            (
                "src/models/kimi-k3.cpp",
                "ggml_mul_mat(ctx0, proj_w, x)",
                "ggml_mul_mat(ctx0, ggml_cont(ctx0, proj_w), x)",
            ),
            (GRAPH_CPP, "build_lora_mm(layer.wq, cur, layer.wq_s)", "ggml_reshape_2d(ctx0, layer.wq, 1, 2)"),
        ),
    ),
]
