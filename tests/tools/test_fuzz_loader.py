"""What fuzzing of llama.cpp's loader makes of libFuzzer's output. tests/e2e has the loader itself."""

import re
from dataclasses import replace

import pytest

from tmac.common.errors import TmacError
from tmac.tools.fuzz import command, loader
from tmac.tools.fuzz.loader import Crash, Findings

FRAMES = """==1== ERROR: {title}
    #0 0x55d1 in __asan_memcpy (/w/build/llama-build-fuzz/bin/fuzz-tmac-loader+0x1)
    #1 0x55d2 in abort stdlib/abort.c:79:7
    #2 0x55d3 in ggml_abort /w/build/llama.cpp-0.3.36/ggml/src/ggml.c:262:5
    #3 0x55d4 in {function} {file}
    #4 0x55d5 in LLVMFuzzerTestOneInput /w/build/llama.cpp-0.3.36/tests/fuzz-tmac-loader.cpp:66:5
SUMMARY: AddressSanitizer: heap-buffer-overflow {file} in {function}
"""


def report(function, file, before=""):
    return before + FRAMES.format(title="AddressSanitizer", function=function, file=file)


@pytest.mark.parametrize(
    "function, file, is_ours",
    [
        ("tmac_check_order(ggml_tensor const*)", "ggml/src/ggml-cpu/tmac/tmac-order.h:70:9", True),
        ("(anonymous namespace)::reader::add", "src/tmac-rotations.cpp:200:5", True),
        ("llama_model_loader::llama_model_loader(gguf_context*)", "src/llama-model-loader.cpp:600:1", False),
    ],
)
def test_the_innermost_function_of_the_tree_tells_whose_a_crash_is(function, file, is_ours):
    where, kind, ours = loader.place_of(report(function, f"/w/build/llama.cpp-0.3.36/{file}"))
    assert ours == is_ours and kind == "heap-buffer-overflow"
    assert re.sub(r":\d+$", "", file) in where


def test_what_ours_has_called_is_ours():
    """llama.cpp's function may have had a wrong argument. The harness has our name, and does not count."""
    tree = "/w/build/llama.cpp-0.3.36/"
    inner = report("ggml_nbytes", tree + "ggml/src/ggml.c:1270:9")
    assert not loader.place_of(inner)[2]
    caller = f"    #4 0x55d5 in tmac_add_order {tree}ggml/src/ggml-cpu/tmac/tmac-order.h:59:9\n    #4"
    where, _, is_ours = loader.place_of(inner.replace("    #4", caller))
    assert is_ours and where == "ggml_nbytes (ggml/src/ggml.c:1270)"


def test_a_crash_that_does_not_happen_again_counts_as_ours(tmp_path, program):
    (crash,) = loader.classified(program("harness", "exit 0"), [tmp_path / "crash-1", tmp_path / "crash-2"])
    assert crash.is_ours and crash.count == 2 and "not happen again" in crash.kind


def test_what_is_missing_is_said_before_the_first_stage(monkeypatch):
    ran = []

    def missing():
        raise TmacError("clang++ is not installed")

    readers = command.Stage(lambda minutes, seed: ran.append(minutes), lambda: None)
    monkeypatch.setattr(command, "STAGES", (readers, replace(readers, require=missing)))
    with pytest.raises(TmacError, match="clang.. is not installed"):
        command.run(["--fuzz", "1"])
    assert not ran


@pytest.mark.parametrize("name, script, words", [(None, "", "is not installed"), ("clang++", "exit 1", "libFuzzer")])
def test_clang_without_libfuzzer_is_named(program, monkeypatch, tmp_path, name, script, words):
    monkeypatch.setattr(loader.llama_build, "require_tools", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    if name:
        for each, text in (("clang", "exit 0"), (name, script)):
            program(each, text)
    with pytest.raises(TmacError, match=words):
        loader.require()


def test_an_assertion_is_named_by_its_text():
    text = report("f", "/w/build/llama.cpp-0.3.36/src/llama.cpp:1:1", "/w/src/llama.cpp:1: GGML_ASSERT(n > 0) failed\n")
    assert loader.place_of(text)[1] == "GGML_ASSERT(n > 0) failed"


def test_a_stack_without_names_counts_as_ours():
    """A crash that nobody can place must not pass for llama.cpp's."""
    assert loader.place_of("SUMMARY: AddressSanitizer: SEGV (/x+0x1)")[2]


def test_findings_name_the_file(tmp_path):
    crash = Crash("f (src/llama.cpp:1)", "SEGV", 3, True, tmp_path / "crash-1")
    found = Findings(100, 20, (crash,))
    assert found.ours == (crash,) and str(tmp_path / "crash-1") in found.render() and "100 files" in found.render()


def test_words_are_in_libfuzzers_syntax():
    lines = loader.dictionary().splitlines()
    assert all(re.fullmatch(r'"([\x20-\x21\x23-\x5b\x5d-\x7e]|\\x[0-9a-f]{2})+"', line) for line in lines)
    assert '"\\x20\\x02\\x00\\x00"' in lines
