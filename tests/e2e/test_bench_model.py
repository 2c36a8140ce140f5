"""`tmac bench model` through the real llama-bench: every type's random file is loaded and run; no speed is judged."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from support.checkpoints import CHECKPOINTS
from tmac.common import process
from tmac.common.cpu import machine
from tmac.convert import pipeline as convert_pipeline
from tmac.kernels import repack
from tmac.kernels.catalog import kernels_for
from tmac.tools import cli, pipeline
from tmac.tools.bench import model_benchmark, random_model
from tmac.tools.bench.model_benchmark import ModelBenchmark
from tmac.tools.bench.shapes import SHAPES, DeltaNets, Shape
from tmac.tools.bench.stock_types import BENCH_TYPES
from tmac.tools.llama.verify import all_logits

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
HYBRID = Shape("tiny-hybrid", 256, 512, 4, 1, 64, 4, DeltaNets(2, 4, 64, 4, 4))
SERVED = list(dict.fromkeys(kernel.type for kernel in kernels_for(machine())))


@pytest.fixture(autouse=True)
def work(build, tmp_path, monkeypatch):
    """Models and logs of these tests go where they are deleted; the build stays where it is. As in the benchmark,
    llama.cpp computes its own types: random blocks of TQ2_0 have codes that no ternary type has.
    """
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    monkeypatch.setenv(repack.VARIABLE, repack.STOCK)


def plan(*types, shape=TINY, **options):
    sizes = {"decode_tokens": 4, "prompt_sizes": (4,), "batch_sizes": ()}
    return ModelBenchmark(shape, 1, 32, types, (1, 2), **sizes, rounds=1, seed=1, **options)


@pytest.mark.parametrize("kind", [*SERVED, *BENCH_TYPES.values()], ids=lambda kind: kind.name)
def test_random_model_of_every_type_runs(build, kind, tmp_path):
    """It is loaded and computed. llama-bench counts the bytes that we count; T-MAC's types run by their kernels."""
    (model,) = random_model.ensure(plan(kind).recipes())
    out, lines = bytearray(), []
    command = [build.binary("llama-bench"), "-m", model.path, "-n", "2", "-p", "2", "-r", "1", "-t", "2", "-o", "json"]
    process.stream(command, env={"TMAC_LOG": "1"}, log=tmp_path / "log", on_output=out.extend, on_line=lines.append)
    assert [test["model_size"] for test in json.loads(out)] == [model.nbytes] * 2
    named = any(f"7 x tmac_{kind.name} by tmac_gemv_{kind.name}_" in line for line in lines)
    assert named == (kind in SERVED)


@pytest.mark.parametrize("kind", [SERVED[0], BENCH_TYPES["tq2_0"]], ids=lambda kind: kind.name)
def test_hybrid_model_runs(build, kind):
    """llama.cpp finds all tensors of its qwen35 in the shapes that it expects, and none that it does not know."""
    hybrid = replace(plan(kind, shape=HYBRID), layers=4)
    hybrid.check()
    assert all(result.tokens_per_s > 0 for result in model_benchmark.measure(build, hybrid, lambda line: None))


def test_shape_with_odd_heads_runs(build):
    """BitNet-3B's heads of 100 columns, one layer of the real size."""
    bits = next(kind for kind in SERVED if kind.group == 64)
    odd = plan(bits, shape=SHAPES["bitnet-3b"])
    odd.check()
    assert all(result.tokens_per_s > 0 for result in model_benchmark.measure(build, odd, lambda line: None))


@pytest.mark.parametrize("kind", [*SERVED, *BENCH_TYPES.values()], ids=lambda kind: kind.name)
def test_random_weights_compute_finite_logits(build, kind, tmp_path):
    """llama-bench would not report NaNs. So a model with a vocabulary gets layers of random bytes: its logits are
    finite.
    """
    model = tmp_path / "model.gguf"
    original = convert_pipeline.write_gguf

    def with_random_layers(path, architecture, metadata, tensors, **options):
        return original(path, architecture, metadata, [randomized(tensor, kind) for tensor in tensors], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_pipeline, "write_gguf", with_random_layers)
        convert_pipeline.convert(CHECKPOINTS["w2g64z"], model, progress=False, log=lambda line: None)
    _, logits = all_logits(build, model, "One morning, Mia went to the forest")
    assert np.isfinite(logits).all() and logits.std() > 0


def randomized(tensor, kind):
    if tensor.type_name != "tmac_w2g64z":
        return tensor
    rows, columns = tensor.shape
    nbytes = rows * columns // kind.block_weights * kind.block_bytes
    load = partial(random_model.random_matrix, kind, rows, columns, (1,))
    return replace(tensor, type_id=kind.id, type_name=kind.name, nbytes=nbytes, load=load)


def test_command(build, monkeypatch, capsys):
    """All phases, a forced kernel, ratios of both types; the JSON holds all of it."""
    monkeypatch.setitem(SHAPES, "llama-2-7b", TINY)
    monkeypatch.setattr(pipeline, "build_llama", lambda: build)
    line = "bench model --layers 1 --vocabulary 32 -n 4 --prompt 1,4 --batch 1,2 --rounds 1 -t 1,2 --json"
    assert cli.main([*line.split(), "--types", "w2g128,q2_k,tq2_0", "--kernel", "scalar"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["results"]) == 5 * 2 * 3 and report["forced_kernel"] == "scalar"
    for result in report["results"]:
        assert bool(result["kernels"]) == result["is_tmac"] and all(k.endswith("_scalar") for k in result["kernels"])
        assert set(result["ratios"]) == ({"Q2_K", "TQ2_0"} if result["is_tmac"] else set())
