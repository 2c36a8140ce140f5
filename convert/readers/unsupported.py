"""Quantization methods that are known but not converted, and why: one line each, by quant_method."""

_CODEBOOK = "its weights are entries of a codebook, not codes on an even grid"
_FLOAT8 = "its weights are 8-bit floats, not codes on an even grid"
_FLOAT4 = "its weights are 4-bit floats, not codes on an even grid"
UNSUPPORTED = {
    "aqlm": _CODEBOOK,
    "bitsandbytes": "its weights are of the types nf4, fp4 or int8 with outliers, not codes on an even grid",
    "deepspeedfp": "its weights are small floats, not codes on an even grid",
    "eetq": "it has 8 bits per weight, in the order of a GPU kernel",
    "exl2": "its groups have different bits and sizes",
    "exl3": _CODEBOOK,
    "fbgemm_fp8": _FLOAT8,
    "fouroversix": _FLOAT4,
    "fp8": _FLOAT8,
    "fp_quant": "its weights are 4-bit floats in rotated space",
    "gemma": "its layers have 2, 4 or 8 bits in a layout of its own",
    "gguf": "give the GGUF file itself",
    "gptq_marlin": "its weights are in the order of a GPU kernel",
    "higgs": "its weights are entries of a codebook in rotated space",
    "marlin": "its weights are in the order of a GPU kernel",
    "metal": "its tensors are those of transformers' own kernels for Metal; what mlx-lm writes is read",
    "modelopt": "its weights are 8-bit or 4-bit floats",
    "mxfp4": _FLOAT4,
    "mxfp8": _FLOAT8,
    "nvfp4": _FLOAT4,
    "paroquant": "its activations have to be scaled and rotated before each layer",
    "ptpc_fp8": _FLOAT8,
    "qqq": "its weights are in the order of a GPU kernel, and its activations have 8 bits",
    "qtip": _CODEBOOK,
    "quanto": "its tensors are saved in the order of a kernel",
    "quark": "its tensors are those of AMD's tools",
    "quip": _CODEBOOK,
    "sinq": "its weights have scales for rows and for columns",
    "spqr": "it keeps outliers beside the quantized weights",
    "torchao": "its tensors are pickled objects",
    "vptq": _CODEBOOK,
}
