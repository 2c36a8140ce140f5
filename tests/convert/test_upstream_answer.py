"""How the child's problems are told; llama.cpp's converter is a module that has one of them."""

import sys

import pytest

from tmac.common.errors import TmacError
from tmac.convert.errors import ConvertError
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Upstream, ask


@pytest.fixture
def child(demo, tmp_path, monkeypatch):
    """child(text): runs the child on the demo with this module as llama.cpp's converter; None: it is not there."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "work"))
    source, folder = tmp_path / "source", tmp_path / "folder"
    folder.mkdir()

    def run(text):
        if text is not None:
            (source / "conversion").mkdir(parents=True)
            (source / "conversion" / "__init__.py").write_text(text)
        upstream = Upstream(source, sys.executable)
        ask(upstream, Checkpoint(demo), {}, {}, name="", pre=None, keeps_settings=False, folder=folder)

    return run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import errno\nraise OSError(errno.ENOSPC, 'full')", ("the disk is full", "folder", "free some space")),
        ("raise MemoryError", ("not enough memory", "close other programs")),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: can not allocate')", ("not enough memory",)),
        (None, ("needs a Python package", "No module named 'conversion'", "-m pip install")),
        ("raise SystemExit('no such model')", ("refuses the model", "no such model")),
        ("raise KeyError('layers')", ("refuses the model", "KeyError", "layers")),
    ],
)
def test_problem_has_a_sentence(child, refused, text, words):
    refused(lambda: child(text), *words)


@pytest.mark.parametrize("text", ["raise KeyboardInterrupt", "import os\nprint('words')\nos._exit(3)"])
def test_what_is_no_refusal_is_told_with_a_log_that_stays(child, tmp_path, text):
    """A child that was interrupted, or died, has refused nothing."""
    with pytest.raises(TmacError) as caught:
        child(text)
    log = tmp_path / "work" / "logs" / "upstream.log"
    assert not isinstance(caught.value, ConvertError)
    assert f"full output: {log}" in caught.value.message and (
        "words" in log.read_text() or "Interrupt" in log.read_text()
    )
