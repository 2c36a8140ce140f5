"""Tensors and configuration of a checkpoint like Qwen3.5 27B, with fewer layers and words, for convert_large.py.

As published: a text model inside one that sees (which is not written here), BF16 floats, no block that drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from sizes import sizes
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tmac.tools.bench.shapes import Shape

# (name, safetensors dtype, shape)
Entry = tuple[str, str, tuple[int, ...]]
VOCABULARY, LAYERS = 248320, 64
# The words of Qwen2, which T-MAC knows by their structure and llama.cpp's converter is then told.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def vocabulary(shape: Shape) -> int:
    """As many words as it would have if they shrank with the layers."""
    return VOCABULARY * shape.layers // LAYERS


def entries(shape: Shape, linear: Callable[[str, int, int], Iterator[Entry]]) -> Iterator[Entry]:
    """All tensors; `linear` gives those of a quantized layer of a name, rows and columns."""
    nets, hidden, words = shape.delta_nets, shape.hidden, vocabulary(shape)
    yield "model.language_model.embed_tokens.weight", "BF16", (words, hidden)
    for i in range(shape.layers):
        block = f"model.language_model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{block}.{norm}.weight", "BF16", (hidden,)
        if shape.has_attention(i):
            yield from _linears(
                f"{block}.self_attn", ("q_proj", "k_proj", "v_proj", "o_proj"), shape.linear_layers, linear
            )
            for norm in ("q_norm", "k_norm"):
                yield f"{block}.self_attn.{norm}.weight", "BF16", (shape.head_dim,)
        else:
            net = f"{block}.linear_attn"
            yield from _linears(net, ("in_proj_qkv", "in_proj_z", "out_proj"), shape.delta_layers, linear)
            for gate in ("in_proj_a", "in_proj_b"):
                yield f"{net}.{gate}.weight", "BF16", (nets.heads, hidden)
            for values in ("A_log", "dt_bias"):
                yield f"{net}.{values}", "F32", (nets.heads,)
            yield f"{net}.conv1d.weight", "BF16", (nets.mixed_size, 1, nets.taps)
            yield f"{net}.norm.weight", "F32", (nets.width,)
        yield from _linears(f"{block}.mlp", ("gate_proj", "up_proj", "down_proj"), shape.linear_layers[-3:], linear)
    yield "model.language_model.norm.weight", "BF16", (hidden,)
    yield "lm_head.weight", "BF16", (words, hidden)


def _linears(place: str, names, sizes, linear) -> Iterator[Entry]:
    for name, size in zip(names, sizes):
        yield from linear(f"{place}.{name}", *size)


def config(shape: Shape) -> dict:
    nets = shape.delta_nets
    text = {
        **sizes(shape, vocabulary(shape)),
        "model_type": "qwen3_5_text",
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-6,
        "full_attention_interval": nets.attention_interval,
        "linear_num_key_heads": nets.groups,
        "linear_num_value_heads": nets.heads,
        "linear_key_head_dim": nets.width,
        "linear_value_head_dim": nets.width,
        "linear_conv_kernel_dim": nets.taps,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.25,
            "mrope_interleaved": True,
            "mrope_section": [11, 11, 10],
        },
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "model_type": "qwen3_5",
        "tie_word_embeddings": False,
        "text_config": text,
    }


def write_tokenizer(folder: Path) -> None:
    """Bytes and one merge, which llama.cpp asks for: the rest of the vocabulary is unused."""
    end, merge, alphabet = "<|endoftext|>", ("t", "h"), sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [end, *alphabet, "".join(merge)]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, [merge]))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([end])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "{end}"}}'
    )
