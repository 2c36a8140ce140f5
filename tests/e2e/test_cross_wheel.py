"""The wheel of another architecture, made here by a cross compiler: what is in it is of that one, and runs under QEMU.

llama.cpp compiled anew takes many minutes of a core, more than one test may: this runs where TMAC_TEST_CROSS is set,
to a wheel of `tmac wheel --platform linux-aarch64` or to `make`, which makes one with two of ggml's CPU backends.
"""

import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from support.checkpoints import CHECKPOINTS, REPOSITORY
from tmac.common.platforms import ARM64
from tmac.tools import wheel, wheel_file
from tmac.tools.llama.build import TARGETS

VARIABLE = "TMAC_TEST_CROSS"
# For any CPU, and for those with dot products and fp16 arithmetic.
VARIANTS = ("armv8.0_1", "armv8.2_2")
# The newest Linux whose C library the binaries may ask for: Debian 12's.
NEWEST_GLIBC = 36
DEMO = CHECKPOINTS["w2g64z"]
# QEMU's CPU -> the kernels that serve long prompts there, and whether ggml's own backend has dot products.
EMULATED = {
    "cortex-a53": ("tables_neon", False),
    "cortex-a72": ("tables_neon", False),
    "neoverse-n1": ("int8_neon_dotprod", True),
    "max": ("int8_neon_i8mm", True),
}
# Opens every library given, as Python does.
OPENS = """
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char** names) {
    for (int i = 1; i < count; i++)
        if (!dlopen(names[i], RTLD_NOW)) return fprintf(stderr, "%s\\n", dlerror()), 1;
    return 0;
}
"""

if not os.environ.get(VARIABLE):
    pytest.skip(f"{VARIABLE} is not set: a wheel, or `make`, which takes some minutes", allow_module_level=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if os.environ[VARIABLE] != "make":
        return Path(os.environ[VARIABLE]).absolute()
    return wheel.make(REPOSITORY, tmp_path_factory.mktemp("dist"), VARIANTS, platform=ARM64)


@pytest.fixture(scope="module")
def binaries(made, tmp_path_factory):
    """The folder of binaries as an installer leaves it."""
    folder = tmp_path_factory.mktemp("installed")
    wheel_file.unpack(made, folder)
    with zipfile.ZipFile(made) as archive:
        for entry in archive.infolist():
            (folder / entry.filename).chmod(entry.external_attr >> 16)
    return folder / "tmac" / "binaries"


def emulated(cpu, *command, **variables):
    runner = [shutil.which(ARM64.emulator), "-L", ARM64.root, "-cpu", cpu]
    return subprocess.run(
        [*map(str, runner), *map(str, command)],
        env={"PATH": "", "LANG": "C.UTF-8"} | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_tag_is_of_an_old_enough_linux(made):
    tag = re.fullmatch(r"tmac-[\d.]+-py3-none-manylinux_2_(\d+)_aarch64\.whl", made.name)
    assert tag and int(tag[1]) <= NEWEST_GLIBC


def test_all_is_of_that_architecture_and_finds_its_libraries(binaries):
    """Also what Python loads, and OpenMP's library; run-time paths are relative."""
    from elftools.elf.elffile import ELFFile

    files = [
        *(binaries / "bin").iterdir(),
        *(binaries / "native").iterdir(),
        *(binaries.parents[1] / "tmac.libs").iterdir(),
    ]
    wanted = {*TARGETS, "libllama.so", "libtmac-kernels.so", *(f"libggml-cpu-{name}.so" for name in VARIANTS)}
    assert {path.name for path in files} >= wanted and any(path.name.startswith("libgomp") for path in files)
    for path in files:
        with path.open("rb") as opened:
            elf = ELFFile(opened)
            assert elf["e_machine"] == "EM_AARCH64", path
            tags = [(tag.entry.d_tag, tag) for tag in elf.get_section_by_name(".dynamic").iter_tags()]
        paths = [getattr(tag, kind[3:].lower()) for kind, tag in tags if kind in ("DT_RPATH", "DT_RUNPATH")]
        searched = {folder for path_list in paths for folder in path_list.split(":")}
        assert searched <= {"$ORIGIN", "$ORIGIN/../../../tmac.libs"}, path


def test_what_python_loads_can_be_loaded(binaries, tmp_path):
    """The libraries of `native` and of the kernels, by a program of that architecture."""
    (tmp_path / "opens.c").write_text(OPENS)
    # Python has the mathematical library loaded, too.
    command = [*ARM64.c_compiler(), tmp_path / "opens.c", "-o", tmp_path / "opens", "-Wl,--no-as-needed", "-ldl", "-lm"]
    subprocess.run(command, check=True)
    libraries = [
        *(binaries / "native").iterdir(),
        binaries / "bin" / "libtmac-kernels.so",
        binaries / "bin" / "libllama.so",
    ]
    done = emulated("cortex-a53", tmp_path / "opens", *libraries)
    assert done.returncode == 0 and len(libraries) > 3, done.stderr


@pytest.mark.parametrize("cpu", EMULATED)
def test_old_and_new_cpus(build, converted, binaries, cpu):
    """No illegal instruction, the kernels of that CPU, and the text of this machine."""
    assert shutil.which(ARM64.emulator), ARM64.hint
    expected = json.loads((DEMO / "expected.json").read_text())
    asked = ["-m", converted("w2g64z"), "-p", expected["prompt"], "-n", "12", "--temp", "0", "-t", "1", "-no-cnv"]
    asked += ["-lv", "5", "--no-display-prompt", "--simple-io"]
    here = subprocess.run(
        [build.binary("llama-completion"), *asked],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert here.returncode == 0, here.stderr[-2000:]
    there = emulated(cpu, binaries / "bin" / "llama-completion", *asked, TMAC_LOG="1")
    assert there.returncode == 0, there.stderr[-2000:]
    assert there.stdout == here.stdout != ""
    prompts, has_dotprod = EMULATED[cpu]
    served = next(line for line in there.stderr.splitlines() if line.startswith("tmac: 28 x tmac_w2g64z by "))
    assert "by tmac_gemv_w2g64z_tables_neon," in served and served.endswith(f" tmac_gemm_w2g64z_{prompts}")
    assert ("DOTPROD = 1" in there.stderr) is has_dotprod
