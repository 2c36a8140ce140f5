"""The float twin of a converted model: the same file with T-MAC's tensors as float numbers."""

from functools import partial

import numpy as np

from tmac.common.format import TYPES_BY_ID
from tmac.convert.plan.from_gguf import packed_metadata
from tmac.convert.sources.gguf_model import GgufSource
from tmac.convert.write import layout
from tmac.convert.write.container import write_gguf
from tmac.convert.write.tensors import OutputTensor

F32, F16 = 0, 1


def dequantized(tensor):
    """float32 values of a SourceTensor in a T-MAC type; experts one after the other."""
    entry, kind = tensor.entry, TYPES_BY_ID[tensor.entry.type_id]
    rows, columns = entry.shape[-2:]
    matrices = tensor.read(0, entry.nbytes).reshape(-1, kind.nbytes(rows, columns))
    return np.stack([layout.unpack(data, rows, columns, kind).dequantize() for data in matrices]).reshape(entry.shape)


def in_floats(model, output, type_id):
    """The same model with T-MAC's tensors as floats; everything else is unchanged."""
    source = GgufSource(model)

    def tensor(found):
        entry = found.entry
        if entry.type_id not in TYPES_BY_ID:
            load = partial(found.read, 0, entry.nbytes)
            return OutputTensor(entry.name, entry.shape, entry.type_id, entry.type_name, entry.nbytes, load)
        values = dequantized(found).astype(np.float32 if type_id == F32 else np.float16)
        return OutputTensor(entry.name, entry.shape, type_id, "float", values.nbytes, lambda: values)

    tensors = [tensor(found) for found in source.tensors]
    write_gguf(
        output,
        source.architecture,
        lambda writer: None,
        tensors,
        source="a test",
        file_type=type_id,
        packed=packed_metadata(source),
    )
    return output
