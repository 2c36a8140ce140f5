"""What this machine is: names and features of CPUs, names of compilers, and how compilers are found."""

import pytest

from tmac.common import compilers, cpu
from tmac.common.errors import TmacError


@pytest.mark.parametrize(
    "text, features",
    [
        ("processor : 0\nmodel name : X\nflags\t\t: fpu avx2\n", {"fpu", "avx2"}),
        ("Features\t: fp asimd\n", {"fp", "asimd"}),
        ("", set()),
        (None, set()),
    ],
)
def test_features_are_the_system_s(tmp_path, monkeypatch, text, features):
    """x86 and Arm list them under other names; where nothing is listed there are none."""
    monkeypatch.setattr(cpu, "CPU_FILE", tmp_path / "cpuinfo")
    if text is not None:
        cpu.CPU_FILE.write_text(text)
    assert cpu.features() == features and "cores" in cpu.name()


@pytest.mark.parametrize(
    "text, missing",
    [
        ("flags : avx512f avx512_vnni\n", ["avx512vbmi", "dotprod", "i8mm"]),
        ("Features : asimd asimddp\n", ["avx512vnni", "avx512vbmi", "i8mm"]),
    ],
)
def test_lacking_knows_linux_s_names(tmp_path, monkeypatch, text, missing):
    monkeypatch.setattr(cpu, "CPU_FILE", tmp_path / "cpuinfo")
    cpu.CPU_FILE.write_text(text)
    assert cpu.lacking(["avx512vnni", "avx512vbmi", "dotprod", "i8mm"]) == missing


@pytest.mark.parametrize(
    "text, name",
    [
        (
            "processor : 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n" * 2,
            "AMD EPYC, cpu family 26, model 2",
        ),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
            "CPU implementer 0x41, CPU part 0xd05 0xd0b",
        ),
        ("model name\t:\nmodel name\t: Some CPU\nmodel\t:\n\ncpu family\t: 6\n", "Some CPU, cpu family 6"),
    ],
)
def test_cpu_has_a_name(tmp_path, monkeypatch, text, name):
    """Models of one name are told apart, and so are Arm's parts."""
    monkeypatch.setattr(cpu, "CPU_FILE", tmp_path / "cpuinfo")
    cpu.CPU_FILE.write_text(text)
    assert cpu.model() == name


@pytest.mark.parametrize(
    "macros, name",
    [
        ("#define __GNUC__ 12\n#define __GNUC_MINOR__ 2\n#define __GNUC_PATCHLEVEL__ 0\n", "gcc 12.2.0"),
        (
            "#define __GNUC__ 4\n#define __clang_major__ 17\n"
            "#define __clang_minor__ 0\n#define __clang_patchlevel__ 1\n",
            "clang 17.0.1",
        ),
        ("", "odd 3"),
    ],
)
def test_compiler_has_a_name(tmp_path, monkeypatch, macros, name):
    """By what it is, not by how it is called."""
    (tmp_path / "cc").write_text(f"#!/bin/sh\n[ $1 = --version ] && echo odd 3 && exit\ncat <<'X'\n{macros}X\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert compilers.compiler_name() == name


def test_a_compiler_keeps_its_arguments(tmp_path, monkeypatch):
    """Of CC and CXX; without them the first usual name on PATH."""
    for name in ("gcc", "clang", "clang++", "mine"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable, find, usual in (
        ("CC", compilers.find_c_compiler, ["gcc"]),
        ("CXX", compilers.find_cxx_compiler, ["clang++"]),
    ):
        monkeypatch.delenv(variable, raising=False)
        assert find() == usual
        monkeypatch.setenv(variable, "mine -m64 '-D A'")
        assert find() == ["mine", "-m64", "-D A"]


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "no C compiler was found (looked for cc, gcc, clang on PATH)"),
        ("no-such-cc -O1", "no C compiler was found (looked for no-such-cc, which CC names, on PATH)"),
        (" ", "CC is set, but blank"),
        ("cc 'x", "the variable CC cannot be read: No closing quotation"),
    ],
)
def test_a_compiler_that_is_not_there_is_told(tmp_path, monkeypatch, value, words):
    monkeypatch.setenv("PATH", str(tmp_path))
    if value is None:
        monkeypatch.delenv("CC", raising=False)
    else:
        monkeypatch.setenv("CC", value)
    with pytest.raises(TmacError) as caught:
        compilers.find_c_compiler()
    assert caught.value.message == words and caught.value.hint
