"""Tensors that are not what a format stores, and what its reader says of them."""

import numpy as np

from tmac.convert.errors import ConvertError

# As safetensors_files.py has them: uint16 is bfloat16.
FLOATS = ("float16", "float32", "uint16")


def changes(values):
    """Words, and the tensor: two more or less along each axis, one axis more, whole numbers for floats or the reverse.

    One more or less can be the other of two packings of 3 bits.
    """
    for axis in range(values.ndim):
        yield f"longer along {axis}", np.concatenate((values, np.take(values, [0, 0], axis)), axis)
        yield f"shorter along {axis}", np.delete(values, slice(2), axis)
    yield "an axis more", values[None]
    yield "another type", np.zeros_like(values, np.int32 if values.dtype.name in FLOATS else np.float16)


def changes_that_are_read(make, tensors, names, module, shape):
    """Of the tensors with these names, the changes with which a layer is read all the same; `make` makes the reader.

    Raises ConvertError if it does not read the tensors as they are: then refusals would say nothing.
    """

    def read(given):
        reader = make(given)
        reader.grid(module, *shape)
        reader.read(module, *shape)

    read(tensors)
    found = []
    for name in names:
        for what, changed in changes(tensors[name]):
            try:
                read({**tensors, name: changed})
                found.append(f"{name} {tensors[name].dtype}{tensors[name].shape} {what}")
            except ConvertError:
                pass
    return found
