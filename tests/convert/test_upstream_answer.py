"""What goes between the child and us; llama.cpp's converter is a module that has a problem, or an answer of ours."""

import sys
from dataclasses import astuple

import numpy as np
import pytest

from support.upstream_answers import AnswerFolder, stand_in
from tmac.common.errors import TmacError
from tmac.convert.errors import ConvertError
from tmac.convert.sources.checkpoint import Checkpoint
from tmac.convert.upstream.answer import Matrix, Run, Upstream, ask

# What child/probes.py and child/capture.py raise, by its name.
RAISES = "class {name}(Exception): pass\nraise {name}({text!r})"


@pytest.fixture
def asked(demo, tmp_path, monkeypatch):
    """asked(upstream, **arguments): the answer of the child to a question about the demo."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "work"))
    folder = tmp_path / "folder"
    folder.mkdir()

    def run(upstream, tensors=(), quantized=(), name="", pre=None, keeps_settings=False):
        given = {"name": name, "pre": pre, "keeps_settings": keeps_settings, "folder": folder}
        return ask(upstream, Checkpoint(demo), dict(tensors), dict(quantized), **given)

    return run


@pytest.fixture
def child(asked, tmp_path):
    """child(text): asks with this module as llama.cpp's converter; None: it is not there."""

    def run(text):
        source = tmp_path / "source"
        (source / "gguf-py" / "gguf").mkdir(parents=True)
        (source / "gguf-py" / "gguf" / "__init__.py").write_text("OURS = 'of the tree'")
        asked(Upstream(source, sys.executable) if text is None else stand_in(source, text))

    return run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import errno\nraise OSError(errno.ENOSPC, 'full')", ("the disk is full", "folder", "free some space")),
        ("raise MemoryError", ("not enough memory", "close other programs")),
        ("raise RuntimeError('[enforce fail] DefaultCPUAllocator: can not allocate')", ("not enough memory",)),
        (None, ("needs a Python package", "No module named 'conversion'", "-m pip install")),
        ("raise SystemExit('no such model')", ("refuses the model", "SystemExit: no such model")),
        ("raise KeyError('layers')", ("refuses the model", "KeyError", "layers")),
        ("raise RuntimeError('shapes')", ("refuses the model", "RuntimeError: shapes")),
        ("raise OSError('gone')", ("refuses the model", "OSError: gone")),
        (
            "import os\nraise KeyError(os.environ['HF_HUB_OFFLINE'], os.environ['TRANSFORMERS_OFFLINE'])",
            ("('1', '1')",),
        ),
        ("import gguf\nraise KeyError(gguf.OURS)", ("of the tree",)),
        (RAISES.format(name="UnknownPreTokenizer", text="1234"), ("pre-tokenizer", "would be 1234", "otherwise than")),
        (RAISES.format(name="ReadsValues", text="blk.q"), ("the values of blk.q, which is quantized", "in floats")),
        (RAISES.format(name="NeedsCode", text="x"), ("by code that it brings along", "never runs code")),
    ],
)
def test_problem_has_a_sentence(child, refused, text, words):
    """Two of them say what the child has done before: the network is off, and the tree's own gguf goes first."""
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


def test_answer_is_read_as_it_was_written(asked, tmp_path):
    """Every field of an output: several matrices, with and without each of their fields, values, and a refusal."""
    given = AnswerFolder(tmp_path / "answer")
    plain = Matrix((Run("w", 0, np.arange(3)),), None, False)
    whole = Matrix(
        (Run("w", 0, np.array([4, 2])), Run("v", 7, np.array([1]))), np.array([1, 0]), True, np.arange(3) / 3
    )
    given.add("two", "F16", (2, 3, 2), plain, whole)
    given.add_values("before", "F32", np.arange(5, dtype="<f4"))
    given.add_values("values", "F32", np.arange(2, dtype="<f4"))
    given.add("none", "F32", (2, 2), refused="mixes rows")
    given.save("llama", ("left", "out"), llama__block_count=3)
    found = asked(given.upstream(tmp_path / "tree"))

    def plainly(value):
        if isinstance(value, np.ndarray):
            return value.tolist()
        return list(map(plainly, value)) if isinstance(value, tuple) else value

    matrices = tuple(map(astuple, (plain, whole)))
    assert [plainly(astuple(output)) for output in found.outputs] == [
        plainly(fields)
        for fields in (
            ("two", "F16", (2, 3, 2), matrices, -1, 0, ""),
            ("before", "F32", (5,), (), 0, 20, ""),
            ("values", "F32", (2,), (), 20, 8, ""),
            ("none", "F32", (2, 2), (), -1, 0, "mixes rows"),
        )
    ]
    assert (found.architecture, found.unused) == ("llama", ["left", "out"])
    assert found.header.metadata["llama.block_count"] == 3
    assert np.array_equal(np.fromfile(found.values, "<f4")[5:], [0, 1])


def test_the_request(asked, demo, tmp_path):
    given = AnswerFolder(tmp_path / "answer")
    given.save("llama")
    asked(given.upstream(tmp_path / "tree"), {"w": ("file", 1)}, {"v": (1, 2)}, "name", "gpt-2", True)
    assert given.request == {
        "source": str((tmp_path / "tree").resolve()),
        "folder": str(demo.resolve()),
        "tensors": {"w": ["file", 1]},
        "quantized": {"v": [1, 2]},
        "block": 128,
        "name": "name",
        "pre": "gpt-2",
        "keeps_settings": True,
    }
