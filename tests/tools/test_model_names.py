"""What a user may call a model."""

from pathlib import Path

import pytest

from tmac.convert import fetch
from tmac.convert import pipeline as convert_pipeline
from tmac.convert.errors import ConvertError
from tmac.convert.inspect import inspect_gguf
from tmac.convert.report import Report
from tmac.convert.sources.checkpoint import read_header
from tmac.tools import cli, model_names
from tmac.tools.errors import ToolError

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n".format("0" * 64)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("org/name", "org/name"),
        ("org/name:Q4_0@v1", "org/name:Q4_0@v1"),
        ("hf.co/org/name", "org/name"),
        ("hf.co/org/name:Q4_0", "org/name:Q4_0"),
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/", "org/name"),
        ("https://huggingface.co/org/name/tree/main", "org/name"),
        ("https://huggingface.co/org/name/tree/v2", "org/name@v2"),
        ("https://huggingface.co/org/name/blob/main/a-Q4_0.gguf?download=true", "org/name:a-Q4_0.gguf"),
        ("https://hf.co/org/name/resolve/abc/a.gguf", "org/name:a.gguf@abc"),
        ("hf://org/name", "org/name"),
    ],
)
def test_addresses_of_the_hub(name, repository):
    assert model_names.resolve(name) == repository


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (" ", "MODEL is empty"),
        ("https://example.com/m.gguf", "not an address of the hub"),
        ("https://huggingface.co/org", "shows no repository"),
        ("https://huggingface.co/org/name/blob/main/config.json", "no GGUF"),
    ],
)
def test_others_are_refused(name, said):
    with pytest.raises(ToolError, match=said):
        model_names.resolve(name)


def test_misspelled_file_has_a_suggestion(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ToolError, match=r"modle.gguf does not exist; did you mean .*model.gguf\?"):
        model_names.resolve(str(tmp_path / "modle.gguf"))


def test_folder_that_holds_one_gguf(tmp_path):
    """It is that model, also of several files; two models have to be told apart, a checkpoint stays one."""
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    for beside in ("mmproj-m.gguf", "m-mmproj.gguf", "imatrix-m.gguf", "mtp-m.gguf"):
        (tmp_path / beside).write_bytes(b"GGUF")
    assert model_names.resolve(str(tmp_path)) == str(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "n.gguf").write_bytes(b"GGUF")
    with pytest.raises(ToolError, match="2 GGUF models, expected one: m, n"):
        model_names.resolve(str(tmp_path))
    (tmp_path / "model.safetensors").touch()
    assert model_names.resolve(str(tmp_path)) == str(tmp_path)


def test_settings_beside_a_gguf_are_no_checkpoint(tmp_path):
    """As in a repository of GGUF files that has the original's config.json; without any GGUF it is a checkpoint."""
    (tmp_path / "config.json").touch()
    assert model_names.resolve(str(tmp_path)) == str(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert model_names.resolve(str(tmp_path)) == str(tmp_path / "m.gguf")


def test_pointer_of_git_lfs_is_told(tmp_path):
    """As MODEL, in its folder, and where its header is read."""
    path = tmp_path / "m.gguf"
    path.write_text(POINTER)
    read = [
        lambda: model_names.resolve(str(path)),
        lambda: model_names.resolve(str(tmp_path)),
        lambda: inspect_gguf(path),
    ]
    for attempt in (*read, lambda: read_header(path)):
        with pytest.raises(ConvertError, match="Git LFS pointer for a file of 12345 bytes") as caught:
            attempt()
        assert "lfs pull" in caught.value.hint


def test_fetch_and_convert_take_addresses(monkeypatch, tmp_path, capsys):
    """A repository's, and that of one file, which is no path."""
    asked = []
    monkeypatch.setattr(fetch, "fetch", lambda repo, **options: asked.append(repo) or tmp_path / "a.gguf")

    def convert(source, output, **options):
        asked.append((source, output))
        return Report((output,), "test", [], 4)

    monkeypatch.setattr(convert_pipeline, "convert", convert)
    assert cli.main(["fetch", "https://huggingface.co/org/name/tree/v2"]) == 0
    for address in ("hf.co/org/name", "https://hf.co/org/name/blob/main/a.gguf"):
        assert cli.main(["convert", address]) == 0
    assert asked == [
        "org/name@v2",
        ("org/name", Path("name.gguf")),
        "org/name:a.gguf",
        (str(tmp_path / "a.gguf"), Path("a-tmac.gguf")),
    ]
