"""Models are converted once; `tmac run` uses the last build."""

import fcntl
import os
import shutil
import threading
import time

import numpy as np
import pytest

from support.stock import NORM, blocks, write_stock
from tmac.common.errors import TmacError
from tmac.convert.report import Report
from tmac.convert.sources.ggml_types import FORK_IDS
from tmac.tools import pipeline
from tmac.tools.errors import ToolError
from tmac.tools.llama import patch as llama_patch
from tmac.tools.llama import source as llama_source
from tmac.tools.llama.build import Build
from tmac.tools.llama.verify import Verification


def test_shipped_files_are_found():
    """Patches, pin and demo lie where the package looks for them."""
    assert list(llama_patch.PATCHES.glob("*.patch"))
    assert llama_source.PIN.is_file() and (pipeline.DEMO_CHECKPOINT / "config.json").is_file()


@pytest.fixture
def conversions(monkeypatch):
    """Replaces the converter by one that writes a few bytes; returns the list of its calls."""
    calls = []

    def convert(source, output, **options):
        calls.append(source)
        output.write_text("GGUF")
        return Report((output,), "test", [], 4)

    monkeypatch.setattr(pipeline, "convert", convert)
    return calls


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "org--model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    return folder


def test_gguf_is_used_as_it_is(tmp_path, conversions):
    """A file in types that llama.cpp knows needs no conversion, be they rotated or not."""
    for key in ("general.name", "prism.hadamard.version"):
        path = write_stock(tmp_path / "m.gguf", {"a": NORM[1]}, lambda writer, key=key: writer.add_string(key, "x"))
        assert pipeline.ensure_model(str(path)) == path and conversions == []


@pytest.mark.parametrize("type_id", FORK_IDS)
def test_gguf_in_types_of_a_fork_is_converted_once(tmp_path, conversions, work, type_id):
    """llama.cpp does not know them. A file that changes is converted again."""
    path = write_stock(tmp_path / "m.gguf", {"a": NORM[1], "b": blocks(type_id, (32, 128))})
    first = pipeline.ensure_model(str(path))
    assert first.parent == work / "models" and first.name.startswith("m-") and conversions == [path]
    assert pipeline.ensure_model(str(path)) == first and len(conversions) == 1
    write_stock(path, {"a": NORM[1], "b": blocks(type_id, (32, 128), seed=1)})
    assert pipeline.ensure_model(str(path)) != first and len(conversions) == 2 and not first.exists()


@pytest.mark.parametrize("what", ["pin", "list", "versions"])
def test_conversions_depend_on_llama_cpps_converter(tmp_path, monkeypatch, what):
    """Its tree, its list of families, and the packages that it runs with."""
    before = pipeline._converter_key()
    assert pipeline._converter_key() == before
    (tmp_path / "another").write_text("another")
    if what == "versions":
        monkeypatch.setattr(pipeline.llama_converter, "wanted", lambda: "torch==1.0")
    else:
        module, name = (llama_source, "PIN") if what == "pin" else (pipeline.upstream_models, "LIST")
        monkeypatch.setattr(module, name, tmp_path / "another")
    assert pipeline._converter_key() != before


def test_a_file_that_is_not_gguf_is_told(tmp_path, conversions):
    (tmp_path / "m.gguf").touch()
    with pytest.raises(TmacError, match="not a GGUF file"):
        pipeline.ensure_model(str(tmp_path / "m.gguf"))


def test_missing_gguf_is_told(tmp_path):
    """A .gguf path is never taken for a repository name."""
    with pytest.raises(ToolError, match="does not exist"):
        pipeline.ensure_model(str(tmp_path / "org" / "m.gguf"))


def test_checkpoint_is_converted_once(checkpoint, conversions, work):
    """The second time the file of the first is used."""
    first = pipeline.ensure_model(str(checkpoint))
    assert first.parent == work / "models" and first.name.startswith("org--model-")
    assert pipeline.ensure_model(str(checkpoint)) == first and len(conversions) == 1


def test_changed_checkpoint_is_converted_again(checkpoint, conversions, monkeypatch):
    """The file made from other content is not used, and deleted. For small files the content counts, not the time."""
    weights = checkpoint / "model.safetensors"
    first = pipeline.ensure_model(str(checkpoint))
    facts = weights.stat()
    weights.write_text("WEIGHTS")
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    second = pipeline.ensure_model(str(checkpoint))
    os.utime(weights)
    assert second != first and len(conversions) == 2 and pipeline.ensure_model(str(checkpoint)) == second
    assert sorted(second.parent.iterdir()) == sorted([second, second.with_suffix(".json")])
    monkeypatch.setattr(pipeline, "READ_LIMIT", 0)
    large = pipeline.ensure_model(str(checkpoint))
    os.utime(weights, ns=(1, 1))
    assert pipeline.ensure_model(str(checkpoint)) != large


def test_any_file_that_is_read_counts(checkpoint, conversions):
    """Also those below the folder; no others."""
    models = {pipeline.ensure_model(str(checkpoint))}
    for name in ("config.json", "1_Pooling/config.json", "additional_chat_templates/tool-use.jinja"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text("{}")
        models.add(pipeline.ensure_model(str(checkpoint)))
    for name in ("README.md", "1_Pooling/other.json", "additional_chat_templates/x.txt"):
        (checkpoint / name).write_text("{}")
        models.add(pipeline.ensure_model(str(checkpoint)))
    assert len(models) == len(conversions) == 4


def test_equal_looking_checkpoints_do_not_share_a_model(tmp_path, checkpoint, conversions):
    """Same folder name, file names, sizes and times in another place: another model; the first one is kept."""
    other = tmp_path / "elsewhere" / checkpoint.name
    shutil.copytree(checkpoint, other)
    first, second = pipeline.ensure_model(str(checkpoint)), pipeline.ensure_model(str(other))
    assert first != second and len(conversions) == 2 and first.is_file()


def test_second_conversion_at_the_same_time_waits_for_the_first(checkpoint, conversions, monkeypatch, capsys):
    """Two runs of one model convert it once: the second says that it waits, and uses the result."""
    convert, entered, others = pipeline.convert, threading.Event(), []

    def slow(*given, **options):
        entered.set()
        while "waiting for another tmac" not in capsys.readouterr().err:
            time.sleep(0.01)
        return convert(*given, **options)

    monkeypatch.setattr(pipeline, "convert", slow)
    first = threading.Thread(target=lambda: others.append(pipeline.ensure_model(str(checkpoint))))
    first.start()
    assert entered.wait(10)
    second = pipeline.ensure_model(str(checkpoint))
    first.join()
    assert [second] == others and len(conversions) == 1


def test_builds_and_cleaning_wait_for_one_another(monkeypatch, work):
    """Getting the source, patching and compiling hold one lock, so no other tmac interrupts."""
    held = []
    steps = (pipeline.llama_source, "obtain"), (pipeline.llama_patch, "prepare"), (pipeline.llama_page, "place")
    for module, name in steps:
        monkeypatch.setattr(module, name, lambda *ignored: held.append(is_locked(work / "locks" / "build.lock")))
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: None)
    monkeypatch.setattr(
        pipeline.llama_build,
        "compile_tree",
        lambda *ignored, **also: held.append(is_locked(work / "locks" / "build.lock")),
    )
    pipeline.build_llama(pipeline.BuildChoice())
    monkeypatch.setattr(pipeline.shutil, "rmtree", lambda folder: held.append(is_locked(work / "locks" / "build.lock")))
    (work / "llama-build-native").mkdir()
    pipeline.clean(pipeline.BuildChoice())
    assert held == [True] * 5 and not is_locked(work / "locks" / "build.lock")


def test_a_build_for_this_machine_is_made_again_with_what_was_measured(monkeypatch, work, tmp_path):
    """Once: the numbers are kept. Never for a build that is for other machines, nor with --no-measure, which holds for
    the builds that other verbs make after it.
    """
    steps = []
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: None)
    monkeypatch.setattr(pipeline, "patched_source", lambda choice: steps.append("source") or tmp_path)
    monkeypatch.setattr(pipeline.llama_page, "place", lambda *ignored: None)
    monkeypatch.setattr(pipeline.llama_build, "compile_tree", lambda *ignored, **also: steps.append("compiled"))
    measured = iter([True, False])
    monkeypatch.setattr(pipeline.crossings, "measure_once", lambda build: steps.append("asked") or next(measured))
    once = ["source", "compiled"]
    for choice, expected in (
        (pipeline.BuildChoice(portable=True), once),
        (pipeline.BuildChoice(measures=False), once),
        (None, once),
        (pipeline.BuildChoice(), [*once, "asked", *once]),
        (None, [*once, "asked"]),
    ):
        steps.clear()
        pipeline.build_llama(choice)
        assert steps == expected


def is_locked(path):
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize(
    "text",
    [
        '{"portable": "yes"}',
        '{"page": 1}',
        '{"measures": "no"}',
        '{"llama_src": 5}',
        '{"other": 1}',
        "[1]",
        "3",
        "{",
        b"\xff".decode("latin-1"),
    ],
)
def test_damaged_choice_is_the_default(work, text):
    """A damaged or truncated file does not stop a run."""
    work.mkdir()
    (work / pipeline.CHOICE_FILE).write_text(text, encoding="latin-1")
    assert pipeline.last_choice() == pipeline.BuildChoice()


def test_repository_is_fetched_then_converted(checkpoint, conversions, monkeypatch):
    """org/name@revision becomes a model of that name."""
    asked = []
    monkeypatch.setattr(pipeline, "local_source", lambda name: asked.append(name) or checkpoint)
    model = pipeline.ensure_model("org/name@main")
    assert asked == ["org/name@main"] and model.name.startswith("org--name--main-")


@pytest.mark.parametrize(("type_id", "is_converted"), [(2, False), (FORK_IDS[0], True)])
def test_a_gguf_of_the_hub(conversions, monkeypatch, tmp_path, type_id, is_converted):
    """It is run as a local file is: converted only if llama.cpp does not know its types."""
    path = write_stock(tmp_path / "m.gguf", {"blk.0.attn_q.weight": blocks(type_id, (32, 128)), NORM[0]: NORM[1]})
    monkeypatch.setattr(pipeline, "local_source", lambda name: path)
    assert (pipeline.ensure_model("org/name:PQ2_0") != path) is is_converted and len(conversions) == is_converted


def test_run_uses_what_was_built_last(monkeypatch, work, tmp_path):
    """After `tmac build --portable` or --llama-src, `tmac run` builds and runs the same."""
    asked = []
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: None)
    monkeypatch.setattr(pipeline.llama_source, "obtain", lambda source: asked.append(source) or work)
    monkeypatch.setattr(pipeline.llama_patch, "prepare", lambda *ignored: [])
    monkeypatch.setattr(
        pipeline.llama_build,
        "compile_tree",
        lambda source, folder, **options: asked.append((folder, options["portable"])),
    )
    work.mkdir()
    assert pipeline.last_choice() == pipeline.BuildChoice()
    pipeline.build_llama(pipeline.BuildChoice(portable=True, llama_src=str(tmp_path)))
    pipeline.build_llama()
    assert asked[:2] == asked[2:] and asked[0] == tmp_path and asked[1][1]
    pipeline.build_llama(pipeline.BuildChoice())
    assert pipeline.last_choice() == pipeline.BuildChoice()


def test_page_is_in_the_tree_exactly_if_it_was_asked_for(monkeypatch, work, tmp_path):
    """`tmac build --ui` holds for the runs after it, until a build without."""
    placed = []
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: None)
    monkeypatch.setattr(pipeline, "patched_source", lambda choice: tmp_path)
    monkeypatch.setattr(pipeline.llama_build, "compile_tree", lambda *ignored, **also: None)
    monkeypatch.setattr(pipeline.llama_page, "build", lambda source: source / "built")
    monkeypatch.setattr(pipeline.llama_page, "place", lambda source, page: placed.append(page))
    for choice in (pipeline.BuildChoice(page=True), None, pipeline.BuildChoice(), None):
        pipeline.build_llama(choice)
    assert placed == [tmp_path / "built", tmp_path / "built", None, None]


def test_an_installed_package_runs_what_it_carries(monkeypatch, work, tmp_path):
    """Nothing is looked for, downloaded or built; until the user builds, and again after `tmac build --packaged`."""
    package = tmp_path / "binaries"
    package.mkdir()
    (package / pipeline.packaged.ABOUT).touch()
    monkeypatch.setattr(pipeline.packaged, "carried", lambda *ignored: package)
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: pytest.fail("no tool is to be looked for"))
    assert pipeline.build_llama() == Build(package)
    pipeline._remember(pipeline.BuildChoice())
    with pytest.raises(pytest.fail.Exception):
        pipeline.build_llama()
    assert pipeline.return_to_package() == package / "bin"
    assert pipeline.build_llama() == Build(package)


def test_a_checkout_has_no_binaries_to_return_to():
    with pytest.raises(TmacError, match="carries no binaries"):
        pipeline.return_to_package()


def test_missing_compiler_is_told_before_the_download(monkeypatch):
    """77 MB are not downloaded for a build that cannot succeed."""
    monkeypatch.setattr(pipeline.llama_source, "obtain", lambda source: pytest.fail("nothing is to be fetched"))
    monkeypatch.setattr(pipeline.llama_build.process, "find", lambda name: name)
    monkeypatch.setenv("CC", "no-such-cc")
    with pytest.raises(TmacError) as caught:
        pipeline.build_llama()
    assert "no-such-cc" in caught.value.message and "build-essential" in caught.value.hint


def checked(nmse=1e-5, leads=(-2.0, -0.03, -2.0)):
    return Verification(nmse, rounding=0.01, leads=np.array(leads))


@pytest.mark.parametrize(
    "verification, difference, words",
    [
        (checked(), None, "word for word"),
        (checked(), 1, "another word at token 1, a near tie: two logits 0.0300 apart, rounding error 0.0100"),
        (checked(leads=(-2.0, 0.04, -2.0)), 1, "another word at token 1, a near tie"),
    ],
)
def test_story_is_judged_against_the_reference(verification, difference, words):
    """The demo says whether the text is right; another word is accepted only if the two logits are close."""
    assert words in pipeline.judge_story(verification, difference)


@pytest.mark.parametrize(
    "verification, difference, words",
    [
        (checked(nmse=2e-3), None, "NMSE 2.0e-03, expected at most 1e-04"),
        (checked(nmse=float("nan")), None, "NMSE nan"),
        (checked(), 2, "leaves the reference's at token 2"),
        (checked(leads=(-2.0, 0.05, -2.0)), 1, "token 1 of the text another token leads by 0.0500"),
    ],
)
def test_wrong_computation_is_an_error(verification, difference, words):
    """A difference that rounding does not explain is an error with the figure."""
    with pytest.raises(ToolError, match="computed wrongly") as caught:
        pipeline.judge_story(verification, difference)
    assert words in caught.value.message


def test_clean_deletes_source_and_build_only(work):
    """The downloaded archive and the models stay."""
    for name in ("downloads", "models", "llama-build-native", f"llama.cpp-{pipeline.llama_source.read_pin().version}"):
        (work / name).mkdir(parents=True)
    pipeline.clean(pipeline.BuildChoice())
    assert sorted(path.name for path in work.iterdir()) == ["downloads", "locks", "models"]
