"""Configuring and compiling, with fake programs that only record their arguments."""

import json
import os
import re
import sys

import pytest

from tmac.common import platforms
from tmac.common.errors import TmacError
from tmac.common.platforms import Platform
from tmac.tools import pipeline
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import ready as llama_ready

# Stands for cmake: records its arguments, and creates the files that the real one would.
CMAKE = """
echo "$@" >> "{calls}"
if [ "$1" = -S ]; then mkdir -p "$4"; touch "$4/CMakeCache.txt"; exit 0; fi
mkdir -p "$2/bin"
for name in {targets}; do touch "$2/bin/$name"; done
"""


@pytest.fixture
def tools(tmp_path, program, monkeypatch):
    """Fake compilers, make and cmake; returns the list of cmake's calls so far."""
    for variable in llama_build.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for name in ("cc", "c++", "make"):
        program(name, "exit 0")
    calls = tmp_path / "calls"
    calls.write_text("")
    cmake = program("cmake", CMAKE.format(calls=calls, targets=" ".join(llama_build.TARGETS)))
    monkeypatch.setattr(llama_build, "find_cmake", lambda: cmake)
    return lambda: calls.read_text().splitlines()


def build(tmp_path, **options):
    source = tmp_path / "source"
    source.mkdir(exist_ok=True)
    folder = llama_build.build_folder(options.get("portable", False))
    return llama_build.compile_tree(source, folder, **options)


def test_build_returns_every_binary(tmp_path, work, tools):
    """All targets are asked for and found in the work folder."""
    made = build(tmp_path, jobs=3)
    assert made.folder == work / "llama-build-native" and made.is_complete()
    configure, compile_ = tools()
    assert "-DGGML_NATIVE=ON" in configure
    assert compile_.endswith("-j 3") and "llama-completion" in compile_


def test_second_build_does_not_configure(tmp_path, tools):
    """With unchanged arguments and compilers, cmake only compiles."""
    build(tmp_path)
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "--build"]


def test_other_compiler_configures_anew_in_an_empty_folder(tmp_path, tools, program, monkeypatch):
    """Objects of two compilers are never mixed."""
    old = build(tmp_path).folder / "old"
    old.touch()
    program("other-cc", "exit 0")
    monkeypatch.setenv("CC", "other-cc")
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "-S", "--build"]
    assert not old.exists()


@pytest.mark.parametrize("change", ["features", "CFLAGS", "CXX", "cmake"])
def test_other_facts_configure_anew(tmp_path, tools, program, monkeypatch, change):
    """Another CPU on a shared disk, other flags or compiler arguments, another cmake: no old object is used."""
    build(tmp_path)
    if change == "features":
        monkeypatch.setattr(llama_build.cpu, "features", lambda: frozenset({"other"}))
    elif change == "cmake":
        os.utime(llama_build.find_cmake(), (1, 1))
    else:
        monkeypatch.setenv(change, "c++ -m64" if change == "CXX" else "-O1")
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "-S", "--build"]


def test_run_keeps_what_was_configured(tmp_path, tools, program, monkeypatch):
    """With `keeps`, neither variables nor another compiler count; a CPU of another kind, or a damaged stamp, does."""
    folder = build(tmp_path).folder
    program("other-cc", "exit 0")
    monkeypatch.setenv("CC", "other-cc")
    monkeypatch.setenv("CFLAGS", "-O0")
    build(tmp_path, keeps=True)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "--build"]
    (folder / llama_build.STAMP).write_bytes(b"{\xff")
    build(tmp_path, keeps=True)
    monkeypatch.setattr(llama_build.cpu, "features", lambda: frozenset({"other"}))
    build(tmp_path, keeps=True)
    assert [call.split()[0] for call in tools()][3:] == ["-S", "--build", "-S", "--build"]


def test_stamp_says_with_what_it_was_configured(tmp_path, tools, program, monkeypatch):
    """A run that has to configure anew takes today's compiler and flags, and says so: the next build keeps those."""
    folder = build(tmp_path).folder
    program("other-cc", "exit 0")
    monkeypatch.setenv("CC", "other-cc")
    monkeypatch.setenv("CFLAGS", "-O0")
    monkeypatch.setattr(llama_build.cpu, "features", lambda: frozenset({"other"}))
    build(tmp_path, keeps=True)
    found = json.loads((folder / llama_build.STAMP).read_text())
    assert found["environment"]["CFLAGS"] == "-O0" and "other-cc" in found["compilers"][0]
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "-S", "--build", "--build"]


def test_ready_until_something_changes(tmp_path, work, tools, monkeypatch):
    """A patch, tuning, crossings, another CPU, a missing program, a compilation that began: then it is looked at."""
    made = build(tmp_path)
    monkeypatch.setattr(llama_ready, "ROOT", tmp_path / "root")
    patch = tmp_path / "root" / "patches" / "1.patch"
    patch.parent.mkdir(parents=True)
    patch.touch()

    def ready():
        return llama_ready.is_ready(made, portable=False)

    assert not ready()
    llama_ready.mark(made.folder, llama_ready.state(portable=False))
    assert ready()
    with monkeypatch.context() as other:
        other.setattr(llama_ready.cpu, "features", lambda: frozenset({"other"}))
        assert not ready()
    patch.write_text("x")
    assert not ready()
    llama_ready.mark(made.folder, llama_ready.state(portable=False))
    for file in ("tuning.json", "crossings.json"):
        (work / file).touch()
        assert not ready()
        llama_ready.mark(made.folder, llama_ready.state(portable=False))
    (made.folder / llama_build.UNFINISHED).touch()
    assert not ready()
    (made.folder / llama_build.UNFINISHED).unlink()
    assert ready()
    made.binary("llama-server").unlink()
    assert not ready()


def test_what_changes_during_a_build_is_not_in_it(tmp_path, work, tools, monkeypatch):
    """The next run looks at the build again."""
    monkeypatch.setattr(llama_ready, "ROOT", tmp_path / "root")
    (tmp_path / "root" / "patches").mkdir(parents=True)
    (tmp_path / "source").mkdir()
    monkeypatch.setattr(pipeline, "patched_source", lambda choice: tmp_path / "source")
    monkeypatch.setattr(pipeline.llama_page, "place", lambda *given: None)
    made = pipeline.build_llama()
    assert llama_ready.is_ready(made, portable=False)
    (tmp_path / "root" / "patches" / "1.patch").touch()
    monkeypatch.setattr(pipeline, "patched_source", lambda choice: _edited(tmp_path))
    assert not llama_ready.is_ready(pipeline.build_llama(), portable=False)


def _edited(tmp_path):
    """What patches a tree, and is overtaken by an edit."""
    (tmp_path / "root" / "patches" / "1.patch").write_text("later")
    return tmp_path / "source"


def test_portable_build_does_not_depend_on_the_cpu(tmp_path, tools, monkeypatch):
    """It is for any CPU, so a shared one is not compiled again for each."""
    build(tmp_path, portable=True)
    monkeypatch.setattr(llama_build.cpu, "features", lambda: frozenset({"other"}))
    build(tmp_path, portable=True)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "--build"]


def test_output_of_make_and_ninja_is_progress():
    for lines in ([f"[{n:3d}%] Building" for n in range(101)], [f"[{3 * n}/300] Building" for n in range(101)]):
        assert list(map(llama_build.percent_of, lines)) == list(range(101))
    assert not any(map(llama_build.percent_of, ["a warning", "[draft] of nothing", ""]))


def test_damaged_stamp_configures_anew(tmp_path, tools):
    """A truncated stamp does not count."""
    (build(tmp_path).folder / llama_build.STAMP).write_bytes(b"{\xff")
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "-S", "--build"]


@pytest.mark.parametrize("cut_off", ["compiling", "regenerating"])
def test_a_build_that_was_cut_off_is_configured_again(tmp_path, tools, cut_off):
    """make and ninja run cmake by themselves, so that what was made last may be their own files. All else is kept."""
    folder = build(tmp_path).folder
    old, last = folder / "old.o", folder / ("CMakeCache.txt" if cut_off == "regenerating" else "new.o")
    for path in (old, folder / llama_build.STAMP):
        path.touch()
        os.utime(path, (1, 1))
    (folder / llama_build.UNFINISHED).touch()
    last.write_text("half")
    os.utime(last)
    build(tmp_path)
    assert [call.split()[0] for call in tools()] == ["-S", "--build", "-S", "--build"]
    assert old.exists() and (last.read_text() == "" if cut_off == "regenerating" else not last.exists())
    assert not (folder / llama_build.UNFINISHED).exists()
    build(tmp_path)
    assert len(tools()) == 5


def test_failed_configuration_is_tried_again(tmp_path, tools, program):
    """A failed cmake leaves no stamp."""
    program("cmake", "exit 1")
    with pytest.raises(TmacError, match="cmake ended with exit code 1"):
        build(tmp_path)
    assert not (llama_build.build_folder() / llama_build.STAMP).exists()


def test_some_variants_have_their_own_folder_and_are_asked_for(tmp_path, work, tools):
    folder = llama_build.build_folder(portable=True, variants=("x64", "haswell"))
    assert folder == work / "llama-build-portable-x64-haswell"
    (tmp_path / "source").mkdir()
    llama_build.compile_tree(tmp_path / "source", folder, portable=True, variants=("x64", "haswell"))
    assert "-DGGML_CPU_VARIANTS=x64;haswell" in tools()[0]


def test_another_platform_has_its_own_folder_compilers_and_libraries(tmp_path, work, tools, program, monkeypatch):
    """Whatever CC says: that is this machine's compiler."""
    there = Platform("linux-z80", "z80", "z80-linux-gnu", "qemu-z80", "g++-z80-linux-gnu")
    folder = llama_build.build_folder(portable=True, platform=there)
    assert folder == work / "llama-build-portable-linux-z80"
    assert llama_build.build_folder(portable=True, platform=platforms.own()) == work / "llama-build-portable"
    monkeypatch.setenv("CC", "cc")
    for name in ("gcc", "g++"):
        with pytest.raises(TmacError, match=rf"z80-linux-gnu-{re.escape(name)} is not installed"):
            llama_build.require_tools(there)
        compiler = program(f"z80-linux-gnu-{name}", "exit 0")
    llama_build.require_tools(there)
    with monkeypatch.context() as shell:
        shell.setenv("CFLAGS", "-march=native")
        llama_build.require_tools()
        with pytest.raises(TmacError, match="CFLAGS=-march=native would reach the compiler for linux-z80"):
            llama_build.require_tools(there)
    (tmp_path / "source").mkdir()
    llama_build.compile_tree(tmp_path / "source", folder, portable=True, platform=there)
    for option in (
        "-DCMAKE_SYSTEM_PROCESSOR=z80",
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_FIND_ROOT_PATH=/usr/z80-linux-gnu",
        "-DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY",
    ):
        assert option in tools()[0].split()


def test_portable_build_has_its_own_folder_and_options(tmp_path, work, tools):
    """A build for other CPUs leaves the native one alone."""
    assert build(tmp_path, portable=True).folder == work / "llama-build-portable"
    assert "-DGGML_CPU_ALL_VARIANTS=ON" in tools()[0] and "-DGGML_NATIVE=OFF" in tools()[0]


def test_own_source_has_its_own_folder(tmp_path):
    """Building another llama.cpp keeps the build of the pinned one."""
    assert llama_build.build_folder() != llama_build.build_folder(llama_src=tmp_path)


@pytest.mark.parametrize("missing", ["cc", "c++", "make"])
def test_missing_tool_names_the_package(tmp_path, tools, monkeypatch, missing):
    """Without a compiler or make nothing is started, and the hint says what to install on Debian and macOS."""
    folder = tmp_path / "programs"
    (folder / missing).unlink()
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(TmacError) as caught:
        build(tmp_path)
    assert "build-essential" in caught.value.hint and "xcode-select --install" in caught.value.hint
    assert tools() == []


def test_failed_build_shows_the_compiler_error_and_the_log(tmp_path, work, tools, program):
    """The last lines and the log's path are in the error."""
    program("cmake", 'if [ "$1" = -S ]; then mkdir -p "$4"; exit 0; fi; echo "a.c:1: error: no such type"; exit 2')
    with pytest.raises(TmacError) as caught:
        build(tmp_path)
    assert "a.c:1: error: no such type" in caught.value.message
    assert str(work / "logs" / "build.log") in caught.value.message


def test_build_that_makes_no_binary_is_a_failure(tmp_path, tools, program):
    """An exit code of zero is not enough."""
    program("cmake", '[ "$1" = -S ] && mkdir -p "$4"; exit 0')
    with pytest.raises(TmacError, match="llama-cli"):
        build(tmp_path)


@pytest.mark.parametrize("name", ['a"b', "a;b", "a\\b", "a[b", "a|b", "a\nb", "a:b"])
def test_work_folder_that_cmake_cannot_build_in(tmp_path, tools, monkeypatch, name):
    """Refused with the reason before anything is downloaded. make, not Ninja, cannot have a colon."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / name))
    monkeypatch.setattr(llama_build, "has_ninja", lambda: False)
    with pytest.raises(TmacError, match="in its path, with which CMake cannot build"):
        llama_build.require_tools()
    monkeypatch.setattr(llama_build, "has_ninja", lambda: True)
    if ":" in name:
        llama_build.require_tools()


@pytest.mark.parametrize("name", ["a b", "a'b", "a$b", "a&b", "a(b)", "\u00e9", "a#b", "a%b", "a*b", "a~b"])
def test_work_folders_that_it_can_build_in(tmp_path, tools, monkeypatch, name):
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / name))
    llama_build.require_tools()


@pytest.mark.skipif(sys.platform != "linux", reason="symbols are left out on Linux")
def test_portable_build_keeps_linker_flags_of_the_user(tmp_path, tools, monkeypatch):
    """CMake takes LDFLAGS for CMAKE_EXE_LINKER_FLAGS and its like, unless these are given; those of a release come
    after them.
    """
    monkeypatch.setenv("LDFLAGS", "-Wl,--as-needed")
    build(tmp_path, portable=True)
    assert "-DCMAKE_EXE_LINKER_FLAGS_RELEASE=-s" in tools()[0] and "LINKER_FLAGS=" not in tools()[0]
