"""An independent reader and writer of safetensors, for tests and the scripts that make fixtures."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np

# numpy has no bfloat16: uint16 is written as BF16.
CODES = {
    "int32": "I32",
    "float16": "F16",
    "float32": "F32",
    "uint16": "BF16",
    "int64": "I64",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint32": "U32",
}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    dtypes = {code: dtype for dtype, code in CODES.items()}
    tensors = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end], dtypes[entry["dtype"]]).reshape(entry["shape"]).copy()
    return tensors


def write_tensors(path: Path, tensors: dict[str, np.ndarray], small: Collection[str] = ()) -> None:
    """Also writes the usual metadata that names torch, which transformers requires. `small`: uint8 that are F8_E4M3."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, values in tensors.items():
        end = at + values.nbytes
        code = "F8_E4M3" if name in small else CODES[values.dtype.name]
        header[name] = {"dtype": code, "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values()))
