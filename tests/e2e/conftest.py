"""Shared fixtures: the build, made once and kept for later runs, and both checkpoints, converted once per session."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from support.checkpoints import CHECKPOINTS, REPOSITORY
from support.families.converting import PROGRAM
from tmac.common import lock
from tmac.common.paths import work_folder
from tmac.convert.pipeline import convert
from tmac.convert.upstream.answer import Upstream
from tmac.kernels.generate import write_tree
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import converter, page, ready
from tmac.tools.llama import patch as llama_patch
from tmac.tools.llama import source as llama_source
from tmac.tools.pipeline import BUILD_LOCK

# The versions of what the binding for Python brings, and is built with.
PINS = Path(__file__).with_name("binding-constraints.txt")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@pytest.fixture(scope="session")
def llama_tree():
    """The patched tree of the default build of this checkout, whatever the user built last."""
    with lock.held(BUILD_LOCK, "building llama.cpp"):
        tree = llama_source.obtain(None)
        llama_patch.prepare(tree, write_tree)
        # What the user built last may have the server's page.
        page.place(tree, None)
        return tree


@pytest.fixture(scope="session")
def build(llama_tree):
    with lock.held(BUILD_LOCK, "building llama.cpp"):
        folder = llama_build.build_folder()
        ready.unmark(folder)
        return llama_build.compile_tree(llama_tree, folder)


@pytest.fixture(scope="session")
def upstream(llama_tree):
    """llama.cpp's own converter, with torch and transformers, installed in the work folder once."""
    return Upstream(llama_tree, converter.interpreter() or converter.install(cpu_index()))


def cpu_index():
    """PyTorch's index of packages for CPUs: on Linux, PyPI's torch brings 4 GB for GPUs. Empty where it is not needed,
    where the user has set indices, and where it does not answer.
    """
    if sys.platform != "linux" or "PIP_EXTRA_INDEX_URL" in os.environ:
        return ""
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=10):
            return CPU_INDEX
    except OSError:
        return ""


@pytest.fixture(scope="session")
def binding_package():
    """The folder that the package of the pin's archive was installed into, once; nothing of llama.cpp is compiled."""
    pin = llama_source.read_pin()
    archive = llama_source.download(pin, work_folder() / "downloads")
    folder = work_folder() / f"binding-{pin.version}-{sys.version_info[0]}.{sys.version_info[1]}"
    if not (folder / "llama_cpp").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), str(archive)]
        # PIP_CONSTRAINT holds for what the package is built with, too.
        pins = {"PIP_CONSTRAINT": " ".join(file.as_uri() for file in (REPOSITORY / "constraints.txt", PINS))}
        environment = os.environ | pins | {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("*llama*.so"))
    return folder


@pytest.fixture(scope="session")
def compiled(llama_tree, build):
    """A function: compiles a program that only tests need, unless it is there as it should be, and gives its path."""

    def get(name):
        with lock.held(BUILD_LOCK, "building llama.cpp"):
            llama_build.compile_targets(llama_tree, build.folder, [name])
        return build.binary(name)

    return get


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """A function: name of a checkpoint and conversion options -> its GGUF, made once."""
    folder, made = tmp_path_factory.mktemp("models"), {}

    def get(name, **options):
        key = (name, *sorted(options.items()))
        if key not in made:
            made[key] = folder / f"{len(made)}-{name}.gguf"
            convert(CHECKPOINTS[name], made[key], progress=False, log=lambda line: None, **options)
        return made[key]

    return get


@pytest.fixture(scope="session", params=CHECKPOINTS)
def checkpoint(request):
    return request.param


@pytest.fixture(scope="session")
def reference(checkpoint):
    """The checkpoint's folder, which also holds the expected results."""
    return CHECKPOINTS[checkpoint]


@pytest.fixture(scope="session")
def small(tmp_path_factory, upstream):
    """Two folders by the names of their families: of the usual layers, and of experts as floats."""
    folder, names = tmp_path_factory.mktemp("small"), ("ArceeForCausalLM", "GptOssForCausalLM")
    command = [upstream.python, PROGRAM, folder, upstream.source, *names]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return {name: folder / name for name in names}


@pytest.fixture(scope="session")
def byte_level(small):
    """A checkpoint with a byte-level tokenizer."""
    return small["ArceeForCausalLM"] / "quantized"
