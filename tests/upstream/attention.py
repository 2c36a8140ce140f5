"""What llama.cpp's graphs do in each family's attention: RoPE, windows, and how wide heads are; and output heads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from support.llama_tree import LlamaTree, case_groups
from upstream import ours
from upstream.fact import Fact
from upstream.family import ARCH_CPP, BITNET_CPP, GEMMA3, GRAPHS, MODEL_CPP, OLMOE, QWEN2, each, graph_of

HPARAMS_H, OPS_CPP = "src/llama-hparams.h", "ggml/src/ggml-cpu/ops.cpp"
# Of Gemma, without spaces: by what attention scores are multiplied.
SCORE_SCALE = (
    "LLM_TYPE_27B?1.0f/std::sqrt(float(hparams.n_embd/hparams.n_head(0)))"
    ":1.0f/std::sqrt(float(hparams.n_embd_head_k()))"
)


@each
def rotation(llama: LlamaTree, family) -> Iterator[str]:
    kinds = {}
    for labels, code in case_groups(llama.function(MODEL_CPP, "llama_model_rope_type")):
        returned = re.search(r"return\s+(\w+)\s*;", code)
        kinds |= dict.fromkeys(labels, returned[1] if returned else "")
    names = {text: key for key, text in llama.texts_of(ARCH_CPP, "LLM_ARCH_NAMES").items()}
    kind = kinds.get(names.get(family.name))
    # With several axes of position it pairs elements as NEOX does.
    others = "LLAMA_ROPE_TYPE_IMROPE" if hasattr(family, "sections") else "LLAMA_ROPE_TYPE_NEOX"
    expected = "LLAMA_ROPE_TYPE_NORM" if family.rotates_pairs else others
    if kind != expected:
        yield f"llama.cpp rotates by {kind}; `rotates_pairs` means {expected}"


@each
def heads(llama: LlamaTree, family) -> Iterator[str]:
    """Whether there is an output head of its own, whether it must be there, and how wide all heads are together."""
    code = llama.code(graph_of(family))
    made = re.search(r'tn\(LLM_TENSOR_OUTPUT\s*,\s*"weight"\)\s*,\s*\{[^}]*\}\s*,\s*(\w+)', code)
    if (made is None) != family.head_is_embedding:
        yield f"llama.cpp {'has no' if made is None else 'has an'} output head; `head_is_embedding` says otherwise"
    required = made is not None and made[1] == "0"
    if required != _refuses_tied(family):
        yield f"llama.cpp {'requires' if required else 'does not require'} an output head of its own; we do otherwise"
    wide = re.search(
        r"create_tensor_qkv\(layer, i, n_embd, n_embd,|LLM_TENSOR_ATTN_Q,\s*\"weight\", i\), \{n_embd, n_embd\}", code
    )
    if (wide is not None) != family.heads_fill_hidden:
        does = "takes" if wide else "does not take"
        yield f"llama.cpp {does} it that all heads make up the hidden state; `heads_fill_hidden` says otherwise"


def _refuses_tied(family) -> bool:
    config = {**family.settings.values, "tie_word_embeddings": True}
    try:
        type(family)(config, Path("config.json"))
    except ours.convert_errors.ConvertError:
        return True
    return False


@each
def windows(llama: LlamaTree, family) -> Iterator[str]:
    code = llama.code(graph_of(family))
    pattern = re.search(r"load_swa_pattern\(ml, (\d+)\)", code)
    if isinstance(family, ours.gemma2.GemmaArchitecture):
        if not pattern or int(pattern[1]) != family.pattern:
            yield f"llama.cpp's usual pattern of windows is {pattern and pattern[1]}; ours is {family.pattern}"
        largest = re.search(r"case (\d+):\s*type = LLM_TYPE_27B", code)
        if not largest or int(largest[1]) != family.largest_layers:
            yield f"llama.cpp knows the largest model by {largest and largest[1]} layers; we by {family.largest_layers}"
        if SCORE_SCALE not in re.sub(r"\s", "", code):
            yield "llama.cpp divides attention scores by something else (query_pre_attn_scalar)"
    elif "swa" in code and "hparams.swa_type = LLAMA_SWA_TYPE_NONE" not in code:
        yield "llama.cpp now has a sliding window here; we say that it has none (note_window)"


def rope_factors(llama: LlamaTree) -> Iterator[str]:
    """What is in no key: YaRN's constants, how factors of frequencies are used, when the long ones of LongRoPE are."""
    defaults = dict(re.findall(r"yarn_(beta_\w+)\s*=\s*([\d.]+)f;", llama.code(HPARAMS_H)))
    if {key: float(value) for key, value in defaults.items()} != ours.rope.YARN_BETAS:
        yield f"llama.cpp's constants of YaRN are {defaults}; ours are {ours.rope.YARN_BETAS}"
    code = llama.code(OPS_CPP)
    if "mscale *= 1.0f + 0.1f * logf(1.0f / freq_scale)" not in code:
        yield "llama.cpp scales attention by something else with YaRN (attention_factor)"
    if "freq_factors ? freq_factors[i0/2] : 1.0f" not in code or "theta/ff" not in code:
        yield "llama.cpp no longer divides rotary frequencies by the factors of rope_freqs"
    chosen = llama.function(MODEL_CPP, "llama_model::get_rope_factors")
    if not re.search(r"if \(n_ctx_seq > hparams\.n_ctx_orig_yarn\) \{\s*return layers\[il\]\.rope_long;", chosen):
        yield "llama.cpp takes the long factors of LongRoPE otherwise than for contexts above the original one"


FACTS = [
    Fact(
        "pairs that RoPE rotates",
        [ours.architectures],
        MODEL_CPP,
        rotation,
        (
            (
                MODEL_CPP,
                "        case LLM_ARCH_QWEN3MOE:\n        case LLM_ARCH_LLADA_MOE:",
                "        case LLM_ARCH_LLADA_MOE:",
            ),
        ),
    ),
    Fact(
        "output heads and widths of heads",
        [ours.architectures],
        GRAPHS,
        heads,
        (
            (OLMOE, "{n_embd, n_vocab}, 0);\n\n    for", "{n_embd, n_vocab}, TENSOR_NOT_REQUIRED);\n\n    for"),
            (
                BITNET_CPP,
                "// output",
                'output = create_tensor(tn(LLM_TENSOR_OUTPUT, "weight"), {n_embd, n_vocab}, TENSOR_NOT_REQUIRED);',
            ),
            (
                QWEN2,
                "create_tensor_qkv(layer, i, n_embd, n_embd,",
                "create_tensor_qkv(layer, i, n_embd, n_embd_head_k * n_head,",
            ),
        ),
    ),
    Fact(
        "sliding windows",
        [ours.architectures],
        GRAPHS,
        windows,
        (
            (GEMMA3, "load_swa_pattern(ml, 6)", "load_swa_pattern(ml, 4)"),
            (GEMMA3, "case 62: type = LLM_TYPE_27B", "case 64: type = LLM_TYPE_27B"),
            (GEMMA3, "hparams.n_embd / hparams.n_head(0)", "hparams.n_embd_head_v()"),
            (QWEN2, "build_attn_inp_kv()", "build_attn_inp_kv_iswa()"),
        ),
    ),
    Fact(
        "constants of YaRN and LongRoPE",
        [ours.rope, ours.phi3],
        f"{HPARAMS_H}, {OPS_CPP}, {MODEL_CPP}",
        rope_factors,
        (
            (HPARAMS_H, "yarn_beta_fast   = 32.0f", "yarn_beta_fast = 16.0f"),
            (OPS_CPP, "mscale *= 1.0f + 0.1f * logf(1.0f / freq_scale)", "mscale *= 1.0f"),
            (OPS_CPP, "theta/ff", "theta*ff"),
            (MODEL_CPP, "n_ctx_seq > hparams.n_ctx_orig_yarn", "n_ctx_seq >= hparams.n_ctx_orig_yarn"),
        ),
    ),
]
