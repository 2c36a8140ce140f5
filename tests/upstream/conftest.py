"""The pinned tree without our patches, extracted once a session. The archive is the one that the build uses."""

import tempfile
from pathlib import Path

import pytest

from support.llama_tree import LlamaTree
from upstream.ours import llama_source, paths


@pytest.fixture(scope="session")
def llama():
    """Removed at the end: pytest keeps its own temporary folders, and the tree has 180 MB."""
    pin = llama_source.read_pin()
    with tempfile.TemporaryDirectory(prefix="llama.cpp-") as folder:
        archive = llama_source.download(pin, paths.work_folder() / "downloads")
        llama_source.extract(archive, pin.tree, Path(folder))
        yield LlamaTree(Path(folder))
