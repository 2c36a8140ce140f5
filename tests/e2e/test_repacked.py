"""Stock files as they are: weights that the plugin repacks when it loads them compute the bits of the converted file,
in every way to load and to use them that llama.cpp has; and what it cannot do is said.
"""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from support.adapters import write_adapter
from support.comparison import nmse
from support.expert_models import ADAPTED, ARCHITECTURE, LAYERS, expert_model
from support.float_twin import F32, in_floats
from support.served import runs_here, served_by
from support.stock import random_blocks
from support.tiny_models import logits
from tmac.common import process
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.common.format import TYPES_BY_NAME, parse_type
from tmac.common.stock import STOCK_TYPES
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.write.tensors import OutputTensor
from tmac.kernels import repack
from tmac.kernels.catalog import isas_for
from tmac.tools.bench.random_model import Recipe, parse_any_type, write
from tmac.tools.bench.shapes import SHAPES

# What llama-quantize calls them: all weights in one type.
QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K", "TQ2_0")
MIXED = "Q4_K_M"
# Matrices of attention and tensors of experts in all layers.
WEIGHTS = 7 * LAYERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stock")


@pytest.fixture(scope="module")
def floats(folder):
    """A model with experts, whose matrices have 512 x 256 or 256 x 512 weights; all columns are multiples of 256."""
    return expert_model(TYPES_BY_NAME["w4g128"], feed_forward=512).write(folder / "floats.gguf", as_floats=True)


@pytest.fixture(scope="module")
def stock(build, floats, folder):
    """A function: the model in a type of llama.cpp; with `tied`, its head is the embedding."""

    def get(name, *options):
        path = folder / f"{name}{len(options)}.gguf"
        if not path.exists():
            pure = () if name == MIXED else ("--pure", "--token-embedding-type", "f32", "--output-tensor-type", "f32")
            command = [build.binary("llama-quantize"), *(options or pure), floats, path, name]
            process.run(command, log=path.with_suffix(".log"))
        return path

    return get


@pytest.fixture(scope="module")
def mixed(build, stock):
    """A file in several types, and its logits."""
    return stock(MIXED), logits(build, stock(MIXED))


def converted(path):
    out = path.with_suffix(".tmac.gguf")
    convert(path, out, progress=False, force=True, log=lambda line: None)
    return out


def run(build, model, *options, log, **env):
    command = [build.binary("llama-completion"), "-m", model, "-p", "One morning", "-n", "2", "-no-cnv", *options]
    process.run(command, env={"TMAC_LOG": "1", **env}, log=log)
    return log.read_text(errors="replace")


@pytest.mark.parametrize("name", QUANTIZED)
def test_bits_are_those_of_the_converted_file(build, stock, tmp_path, name):
    """Attention and experts; a prompt at once and token by token. And they are near what the weights mean."""
    path, ours = stock(name), converted(stock(name))
    stored = {tensor.type_name for tensor in read_gguf_header(ours).tensors} - {"f32"}
    assert len(stored) == 1 and stored.pop().startswith("tmac_")
    expected = logits(build, in_floats(ours, tmp_path / "twin.gguf", F32))
    for ubatch in ("512", "1"):
        found = logits(build, path, "-ub", ubatch, "-t", "2")
        assert np.array_equal(found, logits(build, ours, "-ub", ubatch, "-t", "2"))
        assert nmse(found, expected) < 1e-3


@pytest.mark.parametrize(
    ("name", "into_scales"),
    # Of w4g32m the last minimum; of the others a second fp16 number of the second scale block.
    [("Q4_1", -2), ("Q6_K", 576 + 2), ("Q2_K", 640 + 64 + 2), ("Q4_K_S", 640 + 64 + 2)],
)
def test_check_tensors_knows_where_scales_lie(build, stock, tmp_path, name, into_scales):
    """A sound file passes, whatever its levels; one fp16 number that is not finite is found, behind levels too."""
    ours = converted(stock(name))
    run(build, ours, "--check-tensors", log=tmp_path / "log")
    tensor = next(t for t in read_gguf_header(ours).tensors if t.name == "blk.0.attn_q.weight")
    kind, (rows, columns) = parse_type(tensor.type_name.removeprefix("tmac_")), tensor.shape
    begin = tensor.offset + rows * columns * kind.bits // 8
    end = tensor.offset + kind.nbytes(rows, columns)
    data = bytearray(ours.read_bytes())
    at = (end if into_scales < 0 else begin) + into_scales
    data[at : at + 2] = b"\x00\x7c"
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with pytest.raises(TmacError, match="invalid data"):
        run(build, broken, "--check-tensors", log=tmp_path / "log2")
    assert "of tensor 'blk.0.attn_q.weight'" in (tmp_path / "log2").read_text(errors="replace")


def test_line_says_which_kernels_serve(build, stock, tmp_path):
    said = run(build, stock("Q4_K_S"), log=tmp_path / "log")
    assert f"tmac: {WEIGHTS} x q4_K by tmac_gemv_w4g32km_" in said


@pytest.mark.parametrize("how", ["--no-repack", "variable"])
def test_left_to_llama_cpp(build, stock, tmp_path, how):
    """Neither a line nor a buffer of ours."""
    options, env = (("--no-repack",), {}) if how == "--no-repack" else ((), {repack.VARIABLE: repack.STOCK})
    said = run(build, stock("Q4_K_S"), "-lv", "5", *options, log=tmp_path / "log", **env)
    assert "q4_K by" not in said and "CPU_TMAC model buffer" not in said and "MUL_MAT" not in said


def test_other_value_of_the_variable_stops_the_load(build, stock, tmp_path):
    with pytest.raises(TmacError, match="TMAC_REPACK=some: expected all or stock"):
        run(build, stock("Q4_K_S"), log=tmp_path / "log", TMAC_REPACK="some")


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_precision_that_a_type_lacks_leaves_it_to_llama_cpp(build, stock, tmp_path, precision):
    """k-quants have no exact kernels, Q4_0 has all. Where a type has none of `fast`, those of `rounded` serve."""
    said = run(build, stock("Q4_K_S"), log=tmp_path / "k-quant", TMAC_PRECISION=precision)
    by = f"tmac: {WEIGHTS} x q4_K by tmac_gemv_w4g32km_"
    assert (by in said) == (precision == "fast") and ("q4_K by" in said) == (precision == "fast")
    said = run(build, stock("Q4_0"), log=tmp_path / "q4_0", TMAC_PRECISION=precision)
    assert f"tmac: {WEIGHTS} x q4_0 by {served_by(parse_type('w4g32'), precision=precision)}" in said


def test_unknown_precision_stops_the_load(build, stock, tmp_path):
    with pytest.raises(TmacError, match="TMAC_PRECISION=sloppy: expected rounded, exact or fast .--no-repack leaves"):
        run(build, stock("Q4_K_S"), log=tmp_path / "log", TMAC_PRECISION="sloppy")


def test_unknown_kernel_stops_the_load(build, stock, tmp_path):
    with pytest.raises(TmacError, match="TMAC_KERNEL=nope: no kernel or instruction set has this name"):
        run(build, stock("Q4_K_S"), log=tmp_path / "log", TMAC_KERNEL="nope")


WAYS = {
    "not mapped": ("--load-mode", "none"),
    "overridden": ("--override-tensor", r"blk\.0\.=CPU"),
    "checked": ("--check-tensors",),
    "read directly": ("--load-mode", "dio"),
    "locked": ("--load-mode", "mmap+mlock"),
    "one thread": ("-t", "1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_load(build, mixed, way):
    path, expected = mixed
    assert np.array_equal(logits(build, path, *WAYS[way]), expected)


def test_split_files(build, mixed, tmp_path):
    path, expected = mixed
    command = [build.binary("llama-gguf-split"), "--split", "--split-max-tensors", "9", path, tmp_path / "part"]
    process.run(command, log=tmp_path / "log")
    assert np.array_equal(logits(build, min(tmp_path.glob("part-*.gguf"))), expected)


def test_cache_in_another_type(build, mixed, tmp_path):
    """8-bit keys beside repacked weights."""
    path, expected = mixed
    assert nmse(logits(build, path, "-ctk", "q8_0"), expected) < 1e-2


def test_adapter_on_repacked_weights(build, mixed, tmp_path):
    """LoRA multiplies the same activations beside the product, and is no small change here."""
    path, without = mixed
    adapter = write_adapter(tmp_path / "adapter.gguf", ARCHITECTURE, ADAPTED)
    found = logits(build, path, "--lora", adapter)
    expected = logits(build, path, "--lora", adapter, "--no-repack")
    assert nmse(found, expected) < 1e-2 < nmse(found, without)


def test_tied_embedding_is_read_by_row_and_multiplied(build, stock, floats, tmp_path):
    """Gemma's and SmolLM's head is the embedding: a copy is repacked, rows come from the mapped file."""
    tied = expert_model(TYPES_BY_NAME["w4g128"], feed_forward=256)
    del tied.arrays["output.weight"]
    source = tied.write(tmp_path / "floats.gguf", as_floats=True)
    path = tmp_path / "tied.gguf"
    process.run([build.binary("llama-quantize"), "--pure", source, path, "Q6_K"], log=tmp_path / "log")
    assert f"{WEIGHTS + 1} x q6_K by tmac_gemv_w6g16k_" in run(build, path, log=tmp_path / "said")
    found = logits(build, path)
    twin = in_floats(converted(path), tmp_path / "twin.gguf", F32)
    assert nmse(found, logits(build, twin)) < 1e-3


def test_importance_matrix_and_perplexity(build, mixed, tmp_path):
    """llama-imatrix looks at the products' operands, llama-perplexity computes many sequences."""
    text = tmp_path / "text"
    text.write_text("One morning, Mia went to the forest. " * 60)
    for program, options in (("llama-imatrix", ("-o", tmp_path / "imatrix.gguf")), ("llama-perplexity", ())):
        command = [build.binary(program), "-m", mixed[0], "-f", text, "-c", "64", "--chunks", "2", *options]
        log = tmp_path / f"{program}.log"
        process.run(command, env={"TMAC_LOG": "1"}, log=log)
        assert re.search(r"\d x q4_K by tmac_gemv_", log.read_text(errors="replace"))
    names = [tensor.name for tensor in read_gguf_header(tmp_path / "imatrix.gguf").tensors]
    assert sum(name.endswith("in_sum2") for name in names) >= WEIGHTS


def test_saving_is_refused_by_name(build, compiled, mixed, tmp_path):
    """The bytes of a repacked weight are gone. A file that is there stays as it is."""
    words = "it was repacked when it was loaded, so its bytes cannot be read; load the model with --no-repack"
    target = tmp_path / "saved.gguf"
    target.write_text("of another program")
    with pytest.raises(TmacError, match=words):
        process.run([compiled("test-tmac"), "save", mixed[0], target], log=tmp_path / "log")
    assert target.read_text() == "of another program"


def test_program_sets_the_weights(compiled, mixed, tmp_path):
    """A model of a file's header, whose weights a program fills with zeros."""
    process.run([compiled("test-tmac"), "set", mixed[0]], env={"GGML_NO_BACKTRACE": "1"}, log=tmp_path / "log")


def test_weight_that_the_layout_lacks_stops_the_load(build, tmp_path):
    """The fourth code of TQ2_0, which no quantizer writes."""
    name, shape = "blk.0.attn_q.weight", (256, 256)
    data = random_blocks(35, shape)
    data[5] |= 0b11
    (stored,) = (kind for kind in STOCK_TYPES if kind.name == "tq2_0")
    odd = OutputTensor(name, shape, stored.id, stored.name, data.size, lambda: data)
    path = expert_model(TYPES_BY_NAME["w4g128"]).write(
        tmp_path / "odd.gguf", as_floats=True, change=lambda tensors: [odd if t.name == name else t for t in tensors]
    )
    words = f"tensor '{name}' of type tq2_0: it has a weight that no weight of type tmac_t3g256 equals; load the model"
    with pytest.raises(TmacError, match=re.escape(words)):
        run(build, path, log=tmp_path / "log")
    run(build, path, "--no-repack", log=tmp_path / "log")


@pytest.mark.parametrize("isa", isas_for(machine()), ids=lambda isa: isa.name)
def test_every_instruction_set_serves_when_forced(build, mixed, tmp_path, monkeypatch, isa):
    """Those without GEMV kernels leave single tokens to the usual ones."""
    if not runs_here(isa):
        pytest.skip(f"this CPU lacks {isa.name}")
    path, expected = mixed
    monkeypatch.setenv("TMAC_KERNEL", isa.name)
    said = run(build, path, log=tmp_path / "log")
    for name, target in (("q4_K", "w4g32km"), ("q6_K", "w6g16k")):
        assert f" x {name} by {served_by(parse_type(target), isa.name)}" in said
    for ubatch in ("512", "1"):
        assert nmse(logits(build, path, "-ub", ubatch), expected) < 1e-3


def test_what_the_layout_cannot_have_stays_with_llama_cpp(build, tmp_path):
    """Experts with 144 rows, and 8-bit weights, beside weights that are repacked."""
    model = expert_model(TYPES_BY_NAME["w4g128"], feed_forward=144, down_kind=TYPES_BY_NAME["w2t"])
    source = model.write(tmp_path / "floats.gguf", as_floats=True)
    path = tmp_path / "stock.gguf"
    overrides = ("attn_q=q8_0", "attn_k=q8_0", "attn_v=q8_0", "attn_output=q5_k")
    options = [word for override in overrides for word in ("--tensor-type", override)]
    ends = ("--token-embedding-type", "f32", "--output-tensor-type", "f32")
    process.run([build.binary("llama-quantize"), *options, *ends, source, path, "Q4_K_S"], log=tmp_path / "log")
    types = {t.name.removeprefix("blk.0."): t.type_name for t in read_gguf_header(path).tensors}
    assert (types["ffn_up_exps.weight"], types["attn_q.weight"]) == ("q4_k", "q8_0")
    said = run(build, path, log=tmp_path / "said")
    assert f"tmac: {LAYERS} x q5_K by " in said and "q4_K by" not in said and "q8_0 by" not in said
    assert nmse(logits(build, path), logits(build, path, "--no-repack")) < 1e-2


@pytest.fixture(scope="module")
def large(folder):
    """Two layers of a large model, whose matrices are shared among threads."""
    shape = next(iter(SHAPES.values()))
    path = folder / "large.gguf"
    write(Recipe(shape, 2, 512, parse_any_type("q4_0"), 1), path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound the address space")
def test_system_without_more_threads(compiled, large, tmp_path):
    """The stack of a thread is larger than all memory that the process may have: the thread that loads does all."""
    command = shlex.join([str(compiled("test-tmac")), "set", str(large)])
    limits = "ulimit -S -s 64000000 && ulimit -S -v 16000000"
    process.run(["sh", "-c", f"{limits} && exec {command}"], log=tmp_path / "log")


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not say how much memory a process had")
def test_memory_is_the_model_once(build, large):
    """The peak with repacked weights exceeds that of the mapped file by little: mapped pages are given back."""

    def peak(*options):
        command = [build.binary("llama-bench"), "-m", large, "-p", "1", "-n", "0", "-r", "1", "--no-warmup", *options]
        child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        assert status == 0
        return used.ru_maxrss * 1024

    size = large.stat().st_size
    once, mapped = peak(), peak("--repack", "0")
    print(f"file {size / 1e6:.0f} MB, repacked {once / 1e6:.0f} MB, mapped {mapped / 1e6:.0f} MB")
    assert once < mapped + 0.3 * size
