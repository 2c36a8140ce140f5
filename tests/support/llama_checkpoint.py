"""The weights of a Llama checkpoint in GPTQ's format, computed slowly from the definition."""

import numpy as np

HF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


HEADS = {"attn_q": 4, "attn_k": 2}


def hf_module(target):
    _, layer, name, _ = target.split(".")
    return f"model.layers.{layer}.{HF_NAMES[name]}"


def checkpoint_weights(folder, module):
    """A second, slow dequantization by the definition: W[n, k] = s[k // g, n] * (q[k, n] - z[k // g, n])."""
    settings = folder.config["quantization_config"]
    bits, group = settings["bits"], settings["group_size"]
    offset = 1 if settings["checkpoint_format"] == "gptq" else 0
    qweight, qzeros = (folder.tensors[f"{module}.{part}"].view(np.uint32) for part in ("qweight", "qzeros"))
    mask, per_word = (1 << bits) - 1, 32 // bits
    inputs, outputs = qweight.shape[0] * per_word, qweight.shape[1]
    codes = np.stack([qweight[k // per_word] >> bits * (k % per_word) & mask for k in range(inputs)])
    stored = [qzeros[:, n // per_word] >> bits * (n % per_word) & mask for n in range(outputs)]
    zeros = np.stack(stored, axis=1) + offset
    groups = np.arange(inputs) // group
    scales = folder.tensors[f"{module}.scales"].astype(np.float64)
    return (scales[groups] * (codes.astype(np.float64) - zeros[groups])).T


def interleaved(weights, heads):
    """llama.cpp's rows from transformers' rows: in a head of d rows, row 2i + p is row p * d/2 + i."""
    out = np.empty_like(weights)
    dim = len(weights) // heads
    for row in range(len(weights)):
        head, within = divmod(row, dim)
        out[row] = weights[head * dim + within % 2 * (dim // 2) + within // 2]
    return out
