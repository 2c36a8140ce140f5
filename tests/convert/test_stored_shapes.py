"""Every format's layers, as packages wrote them: what tensors say of a layer's shape, and tensors of another one.

The fixtures are those of test_package_fixtures.py.
"""

from pathlib import Path

import numpy as np
import pytest

from support.other_shapes import changes_that_are_read
from support.safetensors_files import read_tensors, write_tensors
from tmac.convert.errors import ConvertError
from tmac.convert.readers import hqq, reader_for
from tmac.convert.sources.checkpoint import Checkpoint

FIXTURES = Path(__file__).parents[1] / "fixtures"
FOLDERS = sorted(path.parent.name for path in FIXTURES.glob("*/config.json"))
# Their layers are not read at all.
REFUSED = ("hqq_w4_axis_0",)


def shapes_of(fixture):
    with np.load(FIXTURES / fixture / "expected.npz") as layers:
        return {module: layers[module].shape for module in layers.files}


@pytest.mark.parametrize("fixture", FOLDERS)
def test_shapes_that_tensors_say(fixture):
    """By them llama.cpp's converter is told what it reads. It has no place for BitNet's scale."""
    reader = reader_for(Checkpoint(FIXTURES / fixture))
    if reader.method == "bitnet":
        with pytest.raises(ConvertError, match="has a place only in the graphs of the families that T-MAC has itself"):
            reader.shapes()
    else:
        assert reader.shapes() == shapes_of(fixture)


@pytest.mark.parametrize("fixture", [name for name in FOLDERS if name not in REFUSED])
def test_tensors_of_another_shape_or_type_are_refused(fixture, tmp_path):
    """Each tensor of a layer: nothing is cut off, stretched or taken for another number."""
    source = FIXTURES / fixture
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())

    def make(tensors):
        write_tensors(tmp_path / "model.safetensors", tensors)
        return reader_for(Checkpoint(tmp_path))

    reader, tensors = reader_for(Checkpoint(source)), read_tensors(source / "model.safetensors")
    for module, shape in shapes_of(fixture).items():
        # HQQ's numbers beside the tensors: most are not read, and one may have any type.
        names = [name for name in reader.names(module) if name.rpartition(".")[2] not in hqq.META]
        assert names and changes_that_are_read(make, tensors, names, module, shape) == []
