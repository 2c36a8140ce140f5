"""One line for who runs a file whose weights no kernel of T-MAC serves: how to make one that they do."""

from __future__ import annotations

from math import prod
from pathlib import Path

from tmac.common.format import TYPES_BY_ID
from tmac.convert.readers.ggml_blocks import BLOCK_TYPES
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.sources.gguf_model import model_files
from tmac.convert.sources.linear_names import dimensions_of_linear

# Of stock types with fewer bits than four, the one that changes them little; of others w4g32z.
FEW_BITS = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s")


def of(model: Path) -> str:
    """The line; empty for a model most of whose linear weights have types that T-MAC serves or converts exactly."""
    bytes_of: dict[str, int] = {}
    served = 0
    for file in model_files(model):
        for tensor in read_gguf_header(file).tensors:
            if dimensions_of_linear(tensor.name) != len(tensor.shape):
                continue
            if tensor.type_id in TYPES_BY_ID or tensor.type_id in BLOCK_TYPES:
                served += prod(tensor.shape)
            else:
                bytes_of[tensor.type_name] = bytes_of.get(tensor.type_name, 0) + prod(tensor.shape)
    if sum(bytes_of.values()) <= served:
        return ""
    types = sorted(bytes_of, key=bytes_of.get, reverse=True)
    to = "w3g32z" if types[0] in FEW_BITS else "w4g32z"
    return (
        f"note: T-MAC's kernels do not serve {', '.join(types)}; tmac convert {model} --quantize {to} makes a file "
        "that they serve, with rounding (best with --imatrix)"
    )
