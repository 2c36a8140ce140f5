"""Receipts of downloads, without a hub: which ones are believed, and when they serve in its place."""

import json

import huggingface_hub
import pytest

from support.hub import MAIN
from tmac.convert.downloads import RECEIPT_FILE, Receipt, begin, find_finished, finish
from tmac.convert.fetch import fetch


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("model.safetensors", True),
        ("1_Pooling/config.json", True),
        ("../model.safetensors", False),
        ("a/../../model.safetensors", False),
        ("/etc/passwd", False),
        ("a//b", False),
        ("..\\x", False),
        ("C:x", False),
        ("x" * 300, False),
        ("a\0b", False),
        ("./model.safetensors", False),
    ],
)
def test_receipt_with_a_file_outside_its_folder(tmp_path, name, is_taken):
    """A receipt may be a file of strangers: one that leads out of its folder proves nothing."""
    folder = tmp_path / "download"
    (folder / "1_Pooling").mkdir(parents=True)
    # What other systems take for a way out is a name here, so that such a file is there, too.
    for file in ("model.safetensors", "1_Pooling/config.json", "../model.safetensors", "..\\x", "C:x"):
        (folder / file).touch()
    receipt = {"repository": "org/model", "revision": "main", "commit": MAIN, "files": [name]}
    (folder / RECEIPT_FILE).write_text(json.dumps(receipt))
    assert bool(find_finished("org/model", "main", folder)) == is_taken


def test_commit_that_leads_out_of_the_cache(tmp_path):
    receipt = {"repository": "org/model", "revision": "main", "commit": "../x", "files": ["model.safetensors"]}
    (tmp_path / RECEIPT_FILE).write_text(json.dumps(receipt))
    (tmp_path / "model.safetensors").touch()
    assert find_finished("org/model", "main", tmp_path) is None


@pytest.mark.parametrize("step", ["begin", "finish"])
def test_receipt_that_cannot_be_written(tmp_path, refused, step):
    """A folder has its name, for example."""
    (tmp_path / RECEIPT_FILE).mkdir()
    receipt = Receipt("org/model", "main", MAIN, ("config.json",))
    steps = {"begin": lambda: begin(tmp_path, receipt), "finish": lambda: finish(receipt, tmp_path, tmp_path)}
    refused(steps[step], f"{RECEIPT_FILE}: cannot be written", "choose a folder")


UNREACHABLE = ("ConnectionError", "ConnectError", "NetworkError", "Timeout", "TimeoutException", "TimeoutError")


@pytest.mark.parametrize(
    ("names", "serves"),
    [
        *(((name,), True) for name in UNREACHABLE),
        (("ConnectionError", "NewConnectionError"), True),
        (("ConnectionError", "SSLError"), False),
        (("ConnectionError", "ProxyError"), False),
        (("ValueError",), False),
    ],
)
def test_which_errors_of_a_transport_an_earlier_download_serves_for(monkeypatch, refused, tmp_path, names, serves):
    """Those of requests, httpx and others, by name, also of a base class; not where something has answered."""
    kind = Exception
    for name in names:
        kind = type(name, (kind,), {})

    def fail(*args, **options):
        raise kind

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    (tmp_path / "config.json").touch()
    finish(Receipt("org/model", "main", MAIN, ("config.json",)), tmp_path, tmp_path)
    if serves:
        assert fetch("org/model", folder=tmp_path) == tmp_path
    else:
        refused(lambda: fetch("org/model", folder=tmp_path), f"the download failed ({names[-1]}: )")
