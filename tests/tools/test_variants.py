"""Which of ggml's CPU backends a tree has for a platform, and which of them a compiler can make."""

import pytest

from tmac.common import console
from tmac.common.errors import TmacError
from tmac.common.platforms import Platform
from tmac.tools.llama import variants

LISTED = """
    if (GGML_SYSTEM_ARCH STREQUAL "x86")
        ggml_add_cpu_backend_variant(x64)
        ggml_add_cpu_backend_variant(haswell    SSE42 AVX)
    elseif(GGML_SYSTEM_ARCH STREQUAL "ARM")
        if (CMAKE_SYSTEM_NAME MATCHES "Linux")
            ggml_add_cpu_backend_variant(armv8.0_1)
            ggml_add_cpu_backend_variant(armv9.2_1  DOTPROD SME)
        elseif (CMAKE_SYSTEM_NAME MATCHES "Android")
            ggml_add_cpu_backend_variant(android_armv8.0_1)
        elseif (APPLE)
            ggml_add_cpu_backend_variant(apple_m1   DOTPROD)
        endif()
    elseif (GGML_SYSTEM_ARCH STREQUAL "PowerPC")
        if (CMAKE_SYSTEM_NAME MATCHES "Linux|AIX")
            ggml_add_cpu_backend_variant(power0)
"""
VERSION = {"": 12, "_MINOR": 2, "_PATCHLEVEL": 0}
X86, WINDOWS = Platform("linux-x86_64", "x86_64"), Platform("win-amd64", "x86_64")
ARM, APPLE = Platform("linux-aarch64", "arm64"), Platform("macosx-13.3-arm64", "arm64")


@pytest.fixture
def tree(tmp_path):
    (tmp_path / variants.LIST).parent.mkdir(parents=True)
    (tmp_path / variants.LIST).write_text(LISTED)
    return tmp_path


@pytest.fixture
def compiler(program, monkeypatch):
    """Stands for the C compiler, which knows SME's flag if `knows`."""

    def make(knows):
        refuse = "" if knows else 'case "$*" in *sme*) exit 1;; esac; '
        macros = "".join(f"echo '#define __GNUC{name}__ {value}'; " for name, value in VERSION.items())
        monkeypatch.setenv("CC", str(program("old-cc", refuse + macros)))
        monkeypatch.setattr(console, "_quiet", False)

    return make


@pytest.mark.parametrize(
    "platform, names",
    [
        (X86, ["x64", "haswell"]),
        (WINDOWS, ["x64", "haswell"]),
        (ARM, ["armv8.0_1", "armv9.2_1"]),
        (APPLE, ["apple_m1"]),
    ],
)
def test_backends_of_a_platform(tree, platform, names):
    """Those of its architecture and its system, and what they ask for."""
    found = variants.backends(tree, platform)
    assert list(found) == names and found.get("armv9.2_1", ("DOTPROD", "SME")) == ("DOTPROD", "SME")


def test_unknown_name_is_told_before_minutes_of_compiling(tree, compiler):
    """With the names that there are; those of another architecture are none."""
    compiler(knows=True)
    assert variants.choose(tree, X86, ["haswell"]) == ["haswell"]
    for name in ("haswel", "armv8.0_1"):
        with pytest.raises(TmacError, match=rf"no CPU backend '{name}'\nhint: one of: x64, haswell$"):
            variants.choose(tree, X86, ["x64", name])


def test_all_are_built_by_a_compiler_that_knows_them(tree, compiler):
    compiler(knows=True)
    assert variants.choose(tree, ARM, []) == []


def test_what_an_old_compiler_cannot_make(tree, compiler, capsys):
    """Left out of all, and said so; an error where it is asked for."""
    compiler(knows=False)
    assert variants.choose(tree, ARM, []) == ["armv8.0_1"]
    said = capsys.readouterr().err
    assert "gcc 12.2.0 cannot compile ggml's armv9.2_1 (gcc 14 or clang 17 can)" in said
    assert variants.choose(tree, ARM, ["armv8.0_1"]) == ["armv8.0_1"] and variants.choose(tree, X86, []) == []
    with pytest.raises(TmacError, match=r"cannot compile ggml's armv9.2_1\nhint: gcc 14 or clang 17 can"):
        variants.choose(tree, ARM, ["armv9.2_1"])
