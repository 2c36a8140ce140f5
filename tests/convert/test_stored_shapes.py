"""Every format's layers, as packages wrote them: what tensors say of a layer's shape, and tensors of another one.

The fixtures are those of test_package_fixtures.py.
"""

from pathlib import Path

import numpy as np
import pytest

from support.safetensors_files import read_tensors, write_tensors
from tmac.convert.errors import ConvertError
from tmac.convert.readers import hqq, reader_for
from tmac.convert.sources.checkpoint import Checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
# As safetensors_files.py has them: uint16 is bfloat16.
# Of HQQ, beside the tensors: most are not read, and one may have any type.
NUMBERS = hqq.META
FLOATS = ("float16", "float32", "uint16")
LAYERS = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))


def shapes_of(fixture):
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        return {module: layers[module].shape for module in layers.files}


@pytest.mark.parametrize("fixture", LAYERS)
def test_shapes_that_tensors_say(fixture):
    """By them llama.cpp's converter is told what it reads. It has no place for BitNet's scale."""
    reader = reader_for(Checkpoint(FIXTURES / fixture))
    if reader.method == "bitnet":
        with pytest.raises(ConvertError, match="has a place only in the graphs of the families that T-MAC has itself"):
            reader.shapes()
    else:
        assert reader.shapes() == shapes_of(fixture)


def changes(values):
    """Another shape or type: two more or less along each axis, one axis more, whole numbers for floats or the reverse.

    One more or less can be the other of two packings of 3 bits.
    """
    for axis in range(values.ndim):
        yield f"longer along {axis}", np.concatenate((values, np.take(values, [0, 0], axis)), axis)
        yield f"shorter along {axis}", np.delete(values, slice(2), axis)
    yield "an axis more", values[None]
    yield "another type", values.astype(np.int32 if values.dtype.name in FLOATS else np.float16)


@pytest.mark.parametrize("fixture", LAYERS)
def test_tensors_of_another_shape_or_type_are_refused(fixture, tmp_path):
    """Each tensor of a layer: nothing is cut off, stretched or taken for another number."""
    source = FIXTURES / fixture
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors, (module, shape) = read_tensors(source / "model.safetensors"), next(iter(shapes_of(fixture).items()))
    taken = []
    for name in reader_for(Checkpoint(source)).names(module):
        if name.rpartition(".")[2] in NUMBERS:
            continue
        for what, changed in changes(tensors[name]):
            write_tensors(tmp_path / "model.safetensors", {**tensors, name: changed})
            try:
                reader = reader_for(Checkpoint(tmp_path))
                reader.grid(module, *shape)
                reader.read(module, *shape)
                taken.append(f"{name} {tensors[name].dtype}{tensors[name].shape} {what}")
            except ConvertError:
                pass
    assert taken == []
