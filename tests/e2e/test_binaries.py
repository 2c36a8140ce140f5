"""llama.cpp's binaries on T-MAC files: they map them, serve them, and refuse what they cannot compute."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.checkpoints import CHECKPOINTS
from support.server import serving
from tmac.common import process
from tmac.common.errors import TmacError
from tmac.common.format import type_of
from tmac.convert import pipeline
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.llama import run as llama_run
from tmac.tools.pipeline import BuildChoice, last_choice

# What llama.cpp's AMX kernels take, by the names of the file's types.
REPACKED = {"q4_0", "q4_1", "q8_0", "q4_K", "q5_K", "q6_K", "iq4_xs"}


def complete(build, model, log, *arguments, env=None):
    command = [build.binary("llama-completion"), "-m", model, "-p", "One morning", "-n", "4", "-no-cnv", *arguments]
    process.run(command, env=env or {}, log=log)
    return log.read_text()


def test_weights_are_mapped_not_copied(build, converted, checkpoint, tmp_path):
    """Weights of T-MAC's types stay in the mapped file. llama.cpp repacks some of its own types for CPUs with AMX."""
    model = converted(checkpoint)
    log = complete(build, model, tmp_path / "log", "-lv", "5")
    buffers = dict(
        re.findall(r"load_tensors:\s+(\w+) model buffer size =\s+([\d.]+) MiB", log.split("print_info: file type")[-1])
    )
    tensors = read_gguf_header(model).tensors
    repacked = sum(tensor.nbytes for tensor in tensors if tensor.type_name in REPACKED) if "AMX" in buffers else 0
    assert set(buffers) == {"CPU_Mapped", *(["AMX"] if repacked else [])}
    assert float(buffers["CPU_Mapped"]) * 2**20 >= sum(tensor.nbytes for tensor in tensors) - repacked - 20000
    assert float(buffers.get("AMX", 0)) * 2**20 <= 1.2 * repacked


def test_server_answers_from_the_mapped_file(build, converted):
    """llama-server: the process maps the model file read-only, and completes a text."""
    model = converted("w2g64z")
    with serving(build, model) as server:
        if sys.platform == "linux":
            maps = Path(f"/proc/{server.process.pid}/maps").read_text().splitlines()
            maps = [line for line in maps if str(model) in line]
            assert maps and all(line.split()[1][1] != "w" for line in maps)
        # The float32 reference's words: a near tie may come later.
        expected = json.loads((CHECKPOINTS["w2g64z"] / "expected.json").read_text())
        answer = server.complete(expected["prompt"], 8)
        assert len(answer.split()) >= 3 and expected["greedy_text"].startswith(answer.strip())


def changed_copy(model, folder, at, value):
    """A copy of a file in which the bytes `value` stand at offset `at`."""
    data = bytearray(model.read_bytes())
    data[at : at + len(value)] = value
    copy = folder / "changed.gguf"
    copy.write_bytes(data)
    return copy


def test_newer_layout_is_refused_with_both_versions(build, converted, tmp_path):
    model, key = converted("w2g64z"), b"tmac.layout_version"
    newer = changed_copy(model, tmp_path, model.read_bytes().index(key) + len(key) + 4, (7).to_bytes(4, "little"))
    with pytest.raises(TmacError, match="layout version 7; this build reads version 1"):
        complete(build, newer, tmp_path / "log")


def test_unknown_kernel_stops_the_load(build, converted, tmp_path):
    with pytest.raises(TmacError, match="TMAC_KERNEL=nope: no kernel or instruction set has this name"):
        complete(build, converted("w2g64z"), tmp_path / "log", env={"TMAC_KERNEL": "nope"})


def test_embedding_in_a_tmac_type_is_refused_by_name(build, tmp_path):
    """Single rows cannot be read from row tiles. The loader names the tensor, its type and the operation."""
    model = write_with_tmac_embedding(tmp_path / "model.gguf")
    with pytest.raises(
        TmacError, match=r"tensor 'token_embd.weight' of type tmac_w4g32: the lookup kernels cannot serve GET_ROWS"
    ):
        complete(build, model, tmp_path / "log")


def write_with_tmac_embedding(output):
    kind = type_of(4, 32)
    original = pipeline.write_gguf

    def with_other_embedding(path, architecture, metadata, tensors, **options):
        tensors = [
            replace(
                tensor,
                type_id=kind.id,
                type_name=kind.ggml_name,
                nbytes=kind.nbytes(*tensor.shape),
                load=lambda n=kind.nbytes(*tensor.shape): np.zeros(n, np.uint8),
            )
            if tensor.name == "token_embd.weight"
            else tensor
            for tensor in tensors
        ]
        return original(path, architecture, metadata, tensors, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_gguf", with_other_embedding)
        pipeline.convert(CHECKPOINTS["w2g64z"], output, progress=False, log=lambda line: None)
    return output


def test_scales_that_are_not_finite_are_found(build, converted, tmp_path):
    """--check-tensors passes a sound file, and names what is wrong with one bad scale."""
    model = converted("w2g64z")
    complete(build, model, tmp_path / "log", "--check-tensors")
    tensor = next(t for t in read_gguf_header(model).tensors if t.name == "blk.0.attn_q.weight")
    scales_at = tensor.offset + tensor.shape[0] * tensor.shape[1] * 2 // 8
    broken = changed_copy(model, tmp_path, scales_at, b"\x00\x7e")
    with pytest.raises(TmacError, match="invalid data"):
        complete(build, broken, tmp_path / "log2", "--check-tensors")
    found = "scale 0 of matrix 0 of tensor 'blk.0.attn_q.weight' of type tmac_w2g64z is not finite"
    assert found in (tmp_path / "log2").read_text()


def test_copy_by_llama_quantize_is_the_same_model(build, converted, tmp_path):
    """`llama-quantize model out COPY` keeps our types: the copy can be loaded and writes the same text."""
    model, copy = converted("w4g128"), tmp_path / "copy.gguf"
    process.run([build.binary("llama-quantize"), "--allow-requantize", model, copy, "COPY"], log=tmp_path / "log")
    assert {t.type_name for t in read_gguf_header(copy).tensors} >= {"tmac_w4g128"}
    texts = [
        llama_run.generate(
            build, path, "One morning", llama_run.Options(n_predict=8, temperature=0), out=io.BytesIO()
        ).text
        for path in (model, copy)
    ]
    assert texts[0] == texts[1] != ""


def test_tmac_types_without_a_layout_version_are_refused(build, converted, tmp_path):
    data = converted("w2g64z").read_bytes().replace(b"tmac.layout_version", b"tmac.layout_verxion")
    nameless = tmp_path / "nameless.gguf"
    nameless.write_bytes(data)
    with pytest.raises(
        TmacError,
        match=r"tensor 'blk.0.attn_\w+.weight' has type tmac_w2g64z, but the file has no key tmac.layout_version",
    ):
        complete(build, nameless, tmp_path / "log")


def test_type_number_in_a_gap_is_refused(build, converted, tmp_path):
    """An id between ggml's last and our first, as a newer llama.cpp might have."""
    model, name = converted("w2g64z"), b"blk.0.attn_q.weight"
    data = model.read_bytes()
    at = data.index(name) + len(name) + 4 + 2 * 8
    assert int.from_bytes(data[at : at + 4], "little") == 0x223
    unknown = changed_copy(model, tmp_path, at, (43).to_bytes(4, "little"))
    with pytest.raises(TmacError, match="tensor 'blk.0.attn_q.weight' has type 43, which this build does not know"):
        complete(build, unknown, tmp_path / "log")


def test_requantizing_is_refused(build, converted, tmp_path):
    """There is no row-wise dequantizer; llama-quantize stops and names the type."""
    command = [build.binary("llama-quantize"), "--allow-requantize", converted("w2g64z"), tmp_path / "out.gguf", "Q4_0"]
    with pytest.raises(TmacError, match="type tmac_w2g64z unsupported for integer quantization"):
        process.run(command, log=tmp_path / "log")


def test_short_runs_lose_no_text(build, converted):
    """Programs wait for the log thread that prints: twelve runs of four tokens write the same complete text."""
    command = [
        build.binary("llama-completion"),
        "-m",
        converted("w2g64z"),
        "-p",
        "One morning",
        "-n",
        "4",
        "-no-cnv",
        "--temp",
        "0",
    ]
    outputs = {
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ).stdout.strip()
        for _ in range(12)
    }
    assert len(outputs) == 1 and len(outputs.pop()) > len("One morning")


def test_bench_names_the_file_type(build, converted, tmp_path):
    process.run(
        [build.binary("llama-bench"), "-m", converted("w2g64z"), "-p", "8", "-n", "8", "-r", "1", "-t", "1"],
        log=tmp_path / "log",
    )
    assert "tmac_w2g64z" in (tmp_path / "log").read_text()


def test_checkpoint_to_text_by_the_command_line(build, converted):
    """`tmac run FOLDER`: converts, runs, and stdout is the text alone; the kernel line is on stderr."""
    if replace(last_choice(), measures=True) != BuildChoice():
        pytest.skip("the last `tmac build` was of another kind, which `tmac run` would use")
    command = [
        sys.executable,
        "-m",
        "tmac.tools.cli",
        "run",
        str(CHECKPOINTS["w4g128"]),
        "-p",
        "One morning, Mia went to the forest",
        "-n",
        "8",
        "--temp",
        "0",
        "-v",
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    options = llama_run.Options(n_predict=8, temperature=0)
    expected = llama_run.generate(
        build, converted("w4g128"), "One morning, Mia went to the forest", options, out=io.BytesIO()
    ).text
    assert done.stdout.strip() == expected.strip() != ""
    assert re.search(r"tmac: 28 x tmac_w4g128 by tmac_gemv_w4g128_\w+", done.stderr)
