"""Single runs of a fake llama-bench and llama-batched-bench: repetitions, kernels, refusals."""

import json
from pathlib import Path

import pytest
from pytest import approx

from tmac.tools.bench import model_run
from tmac.tools.bench.model_run import BATCH_TOKENS, Runner, Workload, batch_arguments, parse_batches, parse_tests
from tmac.tools.bench.random_model import parse_any_type
from tmac.tools.errors import ToolError

MODEL = Path("tiny-w2g128-seed1.gguf")
W2, Q2_K = map(parse_any_type, ("w2g128", "q2_k"))


def batches(*sizes):
    return [Workload("batch", BATCH_TOKENS, 1, W2, size) for size in sizes]


def prompt(tokens):
    return [Workload("prompt", tokens, 1, W2)]


@pytest.fixture
def runner(tmp_path):
    return lambda build: Runner(build, {}, tmp_path / "log")


def test_short_prompts_are_repeated_and_long_ones_are_not(fake_bench, runner):
    """4 tokens at 10 tokens/s take 0.4 s, so four prompts take 1.5 s or more; 4 at 2 tokens/s take two seconds."""
    build, calls = fake_bench(10, 10, 12.5, 2, sample_seconds=1)
    alternating = runner(build)
    (first,), _ = alternating.measure(MODEL, prompt(4))
    (second,), _ = alternating.measure(MODEL, prompt(4))
    assert (first.tokens_per_s, first.seconds) == approx((10, 1.6))
    assert (second.tokens_per_s, second.seconds) == approx((12.5, 1.28))
    ((long,), _) = runner(build).measure(MODEL, prompt(4))
    assert long.seconds == approx(2)
    assert [arguments[arguments.index("-r") + 1] for _, arguments, *_ in calls()] == ["1", "4", "4", "1"]


def test_a_first_time_that_was_slow_is_corrected(fake_bench, runner):
    """The first time is 0.8 s, but in a better moment two prompts take 0.2 s, so fifteen take 1.5 s."""
    build, calls = fake_bench(5, 40, 40, sample_seconds=1)
    (sample,), _ = runner(build).measure(MODEL, prompt(4))
    assert sample.seconds == approx(1.5)
    assert [arguments[arguments.index("-r") + 1] for _, arguments, *_ in calls()] == ["1", "2", "15"]


def test_a_decode_is_as_long_as_it_was_asked_for(fake_bench, runner):
    build, calls = fake_bench(1000, sample_seconds=1)
    runner(build).measure(MODEL, [Workload("decode", 8, 1, W2)])
    assert len(calls()) == 1


def test_short_batches_are_repeated_each_for_itself(fake_bench, runner):
    """16 tokens per sequence at 40 tokens/s: one takes 0.4 s, four take 1.6 s; repetitions count together."""
    build, calls = fake_bench(40, 40, 40, 80, 40, 80, 40, sample_seconds=1)
    (one, four), _ = runner(build).measure(MODEL, batches(1, 4))
    assert [arguments[arguments.index("-npl") + 1] for _, arguments, *_ in calls()] == ["1,4", "1,1,1,1,4"]
    assert (one.seconds, one.tokens_per_s, four.seconds) == approx((1.2, 64 / 1.2, 1.6))


def test_cpu_time_of_repetitions_is_that_of_all_their_tokens(fake_bench, runner, monkeypatch):
    """The clock is read at the start of four repetitions and at the result: 32 seconds for 16 tokens."""
    clock = iter([0, 1, 100, 132])
    monkeypatch.setattr(model_run.process, "cpu_seconds", lambda pid: next(clock))
    build, _ = fake_bench(10, 10, sample_seconds=1, pause=0.3)
    (sample,), _ = runner(build).measure(MODEL, prompt(4))
    assert sample.cpu_s_per_token == 2


def test_batches_have_a_cache_for_all_their_tokens():
    assert batch_arguments(batches(1, 8), [2, 1]) == (
        ["-npp", "4", "-ntg", "16", "-npl", "1,1,8", "-t", "1", "-c", "160", "--kv-unified", "--output-format", "jsonl"]
    )


@pytest.mark.parametrize(
    "line, expected",
    [
        ("tmac: 56 x tmac_w2g128 by tmac_gemv_w2g128_tables_avx2", ["tmac_gemv_w2g128_tables_avx2"]),
        (
            "tmac: 56 x tmac_w2g128 by tmac_gemv_w2g128_tables_avx512_vbmi, "
            "from 2 tokens tmac_gemm_w2g128_tables_avx512_vbmi, from 8 tokens tmac_gemm_w2g128_bf16_amx",
            ["tmac_gemv_w2g128_tables_avx512_vbmi", "tmac_gemm_w2g128_tables_avx512_vbmi", "tmac_gemm_w2g128_bf16_amx"],
        ),
        (
            "tmac: 2 x tmac_w2t by tmac_gemv_w2t_tables_scalar, from 2 tokens tmac_gemm_w2t_tables_scalar; "
            "1 x tmac_w1g32 by tmac_gemv_w1g32_tables_scalar",
            ["tmac_gemv_w2t_tables_scalar", "tmac_gemm_w2t_tables_scalar", "tmac_gemv_w1g32_tables_scalar"],
        ),
    ],
)
def test_all_kernels_of_a_line_are_collected(fake_bench, runner, line, expected):
    build, _ = fake_bench(1, line=line)
    assert runner(build).measure(MODEL, prompt(1))[1] == expected


def test_a_command_is_said_once(fake_bench, runner, capsys):
    """It is not printed again in the next round, but again with another number of repetitions."""
    build, _ = fake_bench(8, 8, 8, sample_seconds=1)
    twice = runner(build)
    for _ in range(2):
        twice.measure(MODEL, prompt(4))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("+ ")]
    assert [line.partition(" -r ")[2][0] for line in said] == ["1", "3"]


def made_test(times, n_gen=0, n_prompt=4, n_threads=1, n_depth=0):
    """The JSON of one test, as llama-bench writes it."""
    fields = {"n_gen": n_gen, "n_prompt": n_prompt, "n_threads": n_threads, "n_depth": n_depth}
    return f'{{{json.dumps(fields)[1:-1]}, "samples_ns": {times}}}'


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"{}",
        b"[]",
        b"[{}]",
        b"[{}, {}]",
        b"text",
        *(
            f"[{made_test(times)}]".encode()
            for times in ("null", "3", "[null]", "[0]", "[NaN]", "[Infinity]", '["1"]', "[true]")
        ),
        f"[{made_test('[1]', n_prompt=5)}]".encode(),
        f"[{made_test('[1]', n_depth=1)}]".encode(),
        f"[{made_test('[1]')}, {made_test('[1]')}]".encode(),
    ],
)
def test_other_output_of_llama_bench_is_an_error(output):
    """Also times of another test than the one that was asked for."""
    with pytest.raises(ToolError, match="llama-bench wrote something else than one test's JSON"):
        parse_tests(output, prompt(4))


@pytest.mark.parametrize(
    "output",
    [
        b"text",
        b"3",
        b"{}",
        b'{"pl": 1}',
        b'{"pl": 3, "t_tg": 1}',
        b'{"pl": 1, "t_tg": 0}',
        b'{"pl": [], "t_tg": 1}',
    ],
)
def test_other_output_of_llama_batched_bench_is_an_error(output):
    with pytest.raises(ToolError, match="llama-batched-bench wrote something else than lines of JSON"):
        parse_batches(output, batches(1, 2))


def test_missing_batches_are_an_error(fake_bench, runner):
    """llama-batched-bench silently leaves out batches that its cache has no room for."""
    build, _ = fake_bench(1, 1)
    program = build.binary("llama-batched-bench")
    program.write_text(program.read_text().replace('options["-npl"].split(",")', '["1"]'))
    with pytest.raises(ToolError, match="llama-batched-bench did not measure as often as it was asked to"):
        runner(build).measure(MODEL, batches(1, 2))


def test_layers_on_other_machines_name_their_kernels_there(fake_bench, tmp_path):
    """The program gets --rpc, need not name a kernel, and its own CPU time is not that of the work."""
    build, calls = fake_bench(1000, line="nothing")
    remote = Runner(build, {}, tmp_path / "log", "10.0.0.2:50052")
    (sample,), kernels = remote.measure(MODEL, [Workload("decode", 8, 1, W2)])
    arguments = calls()[0][1]
    assert arguments[arguments.index("--rpc") + 1] == "10.0.0.2:50052" and kernels == []
    assert sample.cpu_s_per_token is None
