"""`tmac bench model --depth` with a fake llama-bench: order, environment, pairing, the limit, tables and refusals."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from pytest import approx

from tmac.tools import cli, pipeline
from tmac.tools.bench import depth_benchmark, depth_report, model_command, random_model
from tmac.tools.bench.context import ATTENTIONS, CACHE_TYPES, Context, cache_bytes, parse_cache_types
from tmac.tools.bench.depth_benchmark import DepthBenchmark, DepthResult
from tmac.tools.bench.depth_plot import LOOKS
from tmac.tools.bench.model_benchmark import ModelBenchmark
from tmac.tools.bench.model_run import Sample
from tmac.tools.bench.random_model import parse_any_type
from tmac.tools.bench.shapes import SHAPES, DeltaNets, Shape
from tmac.tools.errors import ToolError

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
W2, Q2_K = map(parse_any_type, ("w2g128", "q2_k"))
# Of one layer of TINY, by hand: K and V of 2 heads of 64 values with 2 bytes each.
F16_BYTES_PER_TOKEN = 2 * 2 * 64 * 2
MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def reads(monkeypatch):
    """Reading takes no time: a megabyte, in seconds of each round that a test appends, else in 1 ms. The way of reading
    in the middle is the fastest.
    """
    seconds = []

    def time_reads(memory, threads, passes):
        taken = seconds.pop(0) if seconds else 0.001
        return [2 * taken, taken, 3 * taken]

    monkeypatch.setattr(depth_benchmark, "memory_to_read", lambda: np.zeros(MEGABYTE, np.uint8))
    monkeypatch.setattr(depth_benchmark, "time_reads", time_reads)
    return seconds


def make_plan(*types, depths=(64,), caches="f16", threads=(1,), decode=8, prompts=(), rounds=1, **options):
    batches, against = options.pop("batches", ()), options.pop("against", None)
    model = ModelBenchmark(
        TINY, 1, 32, types or (W2,), threads, decode, prompts, batches, rounds, 1, against=against, **options
    )
    return DepthBenchmark(model, depths, parse_cache_types(caches))


def measure(build, plan, said=None):
    plan.check()
    return depth_benchmark.measure(build, plan, (said if said is not None else []).append)


def test_attentions_alternate_within_a_round(fake_bench):
    """The attention changes fastest, then the depth, the cache, the type; nothing else of the arguments differs."""
    build, calls = fake_bench(*range(1, 100))
    measure(build, make_plan(W2, Q2_K, depths=(0, 64), caches="f16,bf16", rounds=2))
    seen = [(model.split("-")[3], *arguments[6:14], variable) for model, arguments, _, _, variable in calls()]
    one_round = [
        (name, "-d", depth, "-fa", flash, "-ctk", cache, "-ctv", cache, variable)
        for name in ("w2g128", "q2_k")
        for cache in ("f16", "bf16")
        for depth in ("0", "64")
        for flash, variable in (("on", None), ("on", "stock"), ("off", "stock"))
    ]
    assert seen == one_round * 2
    ends = {(*arguments[:6], *arguments[14:]) for _, arguments, *_ in calls()}
    assert ends == {("-n", "8", "-p", "0", "-t", "1", "-r", "1", "-o", "json", "--progress")}


def test_a_cache_is_filled_once_for_all_threads_and_sizes(fake_bench):
    """One process, the most threads first. Speeds go to the tests by what llama-bench says of each."""
    build, calls = fake_bench(*range(1, 100))
    results = measure(build, make_plan(threads=(1, 2), prompts=(4, 16)))
    assert [arguments[:6] for _, arguments, *_ in calls()] == [["-n", "8", "-p", "4,16", "-t", "2,1"]] * 3
    ours = {(r.threads, r.phase, r.tokens): r.tokens_per_s for r in results if r.attention == "tmac"}
    assert ours == {
        (1, "decode", 8): approx(6),
        (1, "prompt", 4): approx(4),
        (1, "prompt", 16): approx(5),
        (2, "decode", 8): approx(3),
        (2, "prompt", 4): approx(1),
        (2, "prompt", 16): approx(2),
    }


def test_nothing_is_repeated_after_a_context(fake_bench):
    """A prompt of 4 tokens in 0.04 s is not measured again for longer, as it would be without a context."""
    build, calls = fake_bench(100, 100, 100, sample_seconds=1)
    measure(build, make_plan(decode=0, prompts=(4,)))
    assert len(calls()) == 3


def test_commands_that_differ_by_the_variable_are_both_said(fake_bench, capsys):
    build, _ = fake_bench(*range(1, 7))
    measure(build, make_plan(rounds=2))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("+ ")]
    assert ["TMAC_ATTENTION=stock" in line for line in said] == [False, True, True]


def test_a_shells_own_attention_is_not_measured(fake_bench, monkeypatch):
    monkeypatch.setenv("TMAC_ATTENTION", "stock")
    build, calls = fake_bench(1, 2, 3)
    measure(build, make_plan())
    assert [variable for *_, variable in calls()] == [None, "stock", "stock"]


def test_forced_instruction_set_is_that_of_our_attention_only(fake_bench):
    build, calls = fake_bench(1, 2, 3)
    measure(build, make_plan(kernel="scalar"))
    assert [variable for *_, variable in calls()] == ["scalar", "stock", "stock"]


def test_ratios_are_paired_and_the_better_is_the_one_of_the_better_median(fake_bench):
    """By hand, with and without flash attention: 10:5, 30:10, 20:20 have the median 2; 10:8, 30:6, 20:40 have 1.25.
    Their medians are 10 and 8, so flash attention is the better one, although it is so in one round of three.
    """
    build, _ = fake_bench(10, 5, 8, 30, 10, 6, 20, 20, 40)
    ours, flash, plain = measure(build, make_plan(rounds=3))
    assert [result.attention for result in (ours, flash, plain)] == ["tmac", "stock-fa", "stock-no-fa"]
    assert (ours.tokens_per_s, flash.tokens_per_s, plain.tokens_per_s) == approx((20, 10, 8))
    assert ours.ratios == approx({"stock-fa": 2, "stock-no-fa": 1.25}) and ours.fastest_stock == approx({"stock-fa": 2})
    assert flash.ratios == plain.ratios == flash.fastest_stock == plain.fastest_stock == {}


def test_ratios_are_of_the_same_depth_and_type(fake_bench):
    build, _ = fake_bench(8, 4, 2, 9, 3, 1, 80, 40, 20, 90, 30, 10)
    results = measure(build, make_plan(W2, Q2_K, depths=(0, 64)))
    ours = [(result.type, result.depth, result.ratios) for result in results if result.ratios]
    assert ours == [
        ("w2g128", 0, approx({"stock-fa": 2, "stock-no-fa": 4})),
        ("w2g128", 64, approx({"stock-fa": 3, "stock-no-fa": 9})),
        ("Q2_K", 0, approx({"stock-fa": 2, "stock-no-fa": 4})),
        ("Q2_K", 64, approx({"stock-fa": 3, "stock-no-fa": 9})),
    ]


def test_share_of_the_limit_by_hand(fake_bench, reads):
    """A token reads the layer's 2 bits and an fp16 scale for 128 columns, the head, three norms, and 64 tokens' cache.

    Reading a megabyte takes 1, 2 and 4 ms in the three rounds; each attention has a time of its own.
    """
    build, _ = fake_bench(1000, 1, 1, 900, 1, 1, 400, 1, 1)
    reads += [0.001, 9, 9, 0.002, 9, 9, 0.004, 9, 9]
    ours, *_ = measure(build, make_plan(rounds=3))
    weights = sum(rows * cols for rows, cols in TINY.linear_layers) * 34 // 128 + 32 * 256 // 32 * 34 + 3 * 256 * 4
    nbytes = weights + 64 * F16_BYTES_PER_TOKEN
    assert (ours.kv_bytes, ours.bytes_per_token) == (64 * F16_BYTES_PER_TOKEN, nbytes)
    # 1000 of 1e9, 900 of 5e8, 400 of 2.5e8 bytes a second: shares as 1, 1.8 and 1.6.
    assert ours.share_of_limit == approx(1.6 * 1000 * nbytes / 1e9)
    assert ours.read_gb_per_s == approx(0.5) and ours.limit_tokens_per_s == approx(5e8 / nbytes)


def test_a_hybrid_model_reads_and_writes_its_states(fake_bench):
    """Four layers: three have 4 states of 64 x 64 and 3 inputs of 512 channels, one has a cache of 64 values twice."""
    build, _ = fake_bench(1, 2, 3)
    hybrid = Shape("tiny-hybrid", 256, 512, 4, 1, 64, 4, DeltaNets(2, 4, 64, 4, 4))
    plan = make_plan()
    plan = replace(plan, model=replace(plan.model, shape=hybrid, layers=4))
    ours, *_ = measure(build, plan)
    (model,) = random_model.ensure(plan.model.recipes())
    states = 3 * 4 * (4 * 64 * 64 + 3 * 512)
    assert ours.kv_bytes == 64 * 2 * 64 * 2
    assert ours.bytes_per_token == model.nbytes_per_token + ours.kv_bytes + 2 * states


def test_each_number_of_threads_has_its_own_limit(fake_bench, reads):
    build, _ = fake_bench(*range(1, 7))
    reads += [0.001, 0.0005] * 3
    results = measure(build, make_plan(threads=(1, 2)))
    assert [result.threads for result in results] == [1, 1, 1, 2, 2, 2]
    assert [result.read_gb_per_s for result in results] == approx([1, 1, 1, 2, 2, 2])


def test_a_share_above_1_is_shown(fake_bench):
    """Nothing hides that more bytes were read than the memory gives: then the limit is wrong."""
    build, _ = fake_bench(1e6, 1, 1)
    plan = make_plan()
    results = measure(build, plan)
    assert results[0].share_of_limit > 100
    text = depth_report.render(depth_benchmark.report(plan, results))
    assert "**Above the limit, which is wrong there** (does a cache hold it all?): w2g128: decode, f16 cache, " in text
    assert ", 1 thread, context 64, tmac.\n" in text + "\n"


def test_a_prompt_has_no_limit(fake_bench):
    build, _ = fake_bench(1, 2, 3)
    results = measure(build, make_plan(decode=0, prompts=(16,)))
    assert {(result.limit_tokens_per_s, result.share_of_limit) for result in results} == {(None, None)}
    assert results[0].ratios == approx({"stock-fa": 1 / 2, "stock-no-fa": 1 / 3})


@pytest.mark.parametrize(
    "name, bits", [("f16", 16), ("bf16", 16), ("q8_0", 8.5), ("q5_1", 6), ("q5_0", 5.5), ("q4_1", 5), ("q4_0", 4.5)]
)
def test_bytes_of_a_cache(name, bits):
    """Llama-2-7B by hand: 32 heads of 128 values, K and V, 32 layers."""
    context = Context(4096, CACHE_TYPES[name], ATTENTIONS[0])
    assert cache_bytes(SHAPES["llama-2-7b"], 32, context) == 2 * 32 * 128 * 32 * 4096 * bits / 8


def test_a_hybrid_model_has_a_cache_in_every_fourth_layer_only():
    """Bonsai 2 by hand: 4 heads of 256 values, K and V, 2 of 8 layers."""
    context = Context(4096, CACHE_TYPES["f16"], ATTENTIONS[0])
    assert cache_bytes(SHAPES["bonsai-2-27b"], 8, context) == 2 * 4 * 256 * 2 * 4096 * 2


def test_a_quantized_cache_has_no_attention_without_flash(fake_bench):
    """The combination is left out, and that is said at the start and in the report."""
    build, calls = fake_bench(4, 2, 1, 8, 4)
    said, plan = [], make_plan(caches="f16,q8_0")
    results = measure(build, plan, said)
    assert [(arguments[11], arguments[9]) for _, arguments, *_ in calls()] == [
        ("f16", "on"),
        ("f16", "on"),
        ("f16", "off"),
        ("q8_0", "on"),
        ("q8_0", "on"),
    ]
    assert results[3].ratios == results[3].fastest_stock == approx({"stock-fa": 2})
    sentence = "Left out: stock-no-fa with a q8_0 cache; llama.cpp quantizes V with flash attention only."
    report = depth_benchmark.report(plan, results)
    assert said[0] == sentence and report["left_out"] == [sentence] and sentence in depth_report.render(report)


def test_kernels_of_attention_are_named(fake_bench):
    """Those of T-MAC's weights and of its attention, where it ran."""
    build, _ = fake_bench(1, 2, 3)
    ours, *stock = measure(build, make_plan())
    assert ours.kernels == ["tmac_gemv_w2g128_tables_scalar", "tmac_attention_scalar"]
    assert [result.kernels for result in stock] == [["tmac_gemv_w2g128_tables_scalar"]] * 2


@pytest.mark.parametrize(
    "line, found, hint",
    [
        ("nothing of interest", "no line said who computed the attention", "tmac build --clean"),
        (
            "tmac: attention by llama.cpp, because our kernels lack heads of this width (K f16 x 64, V f16 x 64)",
            "the attention was computed by llama.cpp, because our kernels lack heads of this width (K f16 x 64, ",
            "give another --cache or --shape",
        ),
    ],
)
def test_an_attention_that_is_not_tmacs_is_an_error(fake_bench, line, found, hint):
    build, _ = fake_bench(1, attention=line)
    words = (
        re.escape(f"llama-bench, after 64 tokens (f16 cache, tmac): {found}") + ".* expected a kernel tmac_attention"
    )
    with pytest.raises(ToolError, match=words) as caught:
        measure(build, make_plan())
    assert caught.value.hint == hint


def test_tmacs_attention_in_place_of_stock_is_an_error(fake_bench):
    """A plugin that does not take the variable would be compared with itself."""
    build, _ = fake_bench(1, 1, always=True)
    words = r"\(f16 cache, stock-fa\): the attention was computed by tmac_attention_scalar .*, expected llama.cpp"
    with pytest.raises(ToolError, match=words) as caught:
        measure(build, make_plan())
    assert caught.value.hint == "tmac build --clean"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--depth", "0", "--batch", "4"], "--depth with --batch: llama-batched-bench fills no cache"),
        (["--depth", "0", "--types", "w2g128,q2_k", "--against", "q2_k"], "--depth compares attentions, but --against"),
        (["--depth", "0", "-n", "0"], "there is nothing to measure"),
        (["--depth", "0", "-t", "257"], "-t 257: reading is timed with at most 256 threads"),
        (["--depth", "0", "--cache", "f16,q9"], "no cache of llama-bench has the type 'q9'"),
        (["--cache", "f16"], "--cache f16 is measured with --depth only"),
        (
            ["--depth", "0", "--cache", "q8_0", "--shape", "bitnet-3b", "--types", "w2g64"],
            "--cache q8_0: bitnet-3b has heads of 100 values, expected a multiple of 32",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_build(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    assert cli.main(["bench", "model", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {words}") and "\nhint: " in said.err and said.out == ""


@pytest.mark.parametrize("depths", ["-1", "x", "1,", ""])
def test_wrong_depths_are_wrong_usage(depths, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "model", f"--depth={depths}"])
    assert ended.value.code == 2 and "argument --depth" in capsys.readouterr().err


def test_command_prints_and_draws(fake_bench, monkeypatch, tmp_path, capsys):
    """With its own defaults: one type, 32 tokens, an f16 cache. A table, a picture, and a picture from the JSON."""
    build, calls = fake_bench(*range(1, 13))
    monkeypatch.setattr(pipeline, "build_llama", lambda: build)
    monkeypatch.setitem(SHAPES, "llama-2-7b", TINY)
    line = ["bench", "model", "--depth", "64,0,64", "-t", "1", "--rounds", "1", "--force"]
    assert cli.main([*line, "--plot", str(tmp_path / "p.png")]) == 0
    table = capsys.readouterr().out
    assert "## w2g128: decode, f16 cache, 1 thread\n\n| context | tmac | stock-fa |" in table
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert {arguments[1] for _, arguments, *_ in calls()} == {str(model_command.DEFAULT_DEPTH_TOKENS)}
    assert cli.main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "depth" and [
        (r["depth"], r["cache"], r["attention"], round(r["tokens_per_s"], 6)) for r in report["results"]
    ] == [(depth, "f16", name, speed) for (depth, name), speed in zip(PLACES, range(7, 13))]
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert cli.main(["bench", "plot", str(tmp_path / "r.json"), "-o", str(tmp_path / "q.png")]) == 0
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")


PLACES = [(depth, attention.name) for depth in (0, 64) for attention in ATTENTIONS]


def test_every_attention_has_a_look():
    assert list(LOOKS) == [attention.name for attention in ATTENTIONS]


def shown(attention, depth, speed, **changes):
    """A result of w2g128 with one thread."""
    values = dict.fromkeys(DepthResult.__dataclass_fields__) | {
        "type": "w2g128",
        "phase": "decode",
        "tokens": 32,
        "threads": 1,
        "depth": depth,
        "cache": "f16",
        "attention": attention,
        "tokens_per_s": speed,
        "limit_tokens_per_s": 100.04,
        "share_of_limit": speed / 100,
        "kernels": ["tmac_gemv_w2g128_tables_avx2"] + (["tmac_attention_avx2"] if attention == "tmac" else []),
        "ratios": {},
        "fastest_stock": {},
        "samples": [Sample(speed, None, 1)],
    }
    return asdict(replace(DepthResult(**values), **changes))


def tables_of(*results, left_out=()):
    report = {
        "cpu": "Some CPU",
        "instruction_sets": ["avx2", "scalar"],
        "compiler": "c++ 12",
        "forced_kernel": None,
        "precision": None,
        "shape": asdict(SHAPES["llama-2-7b"]),
        "layers": 8,
        "vocabulary": 1024,
        "rounds": 5,
        "left_out": list(left_out),
        "results": results,
    }
    return depth_report.render(report)


def test_decode_table_by_hand():
    text = tables_of(
        shown("tmac", 0, 85.04, fastest_stock={"stock-fa": 1.016}),
        shown("stock-fa", 0, 84),
        shown("stock-no-fa", 0, 80),
        shown("tmac", 4096, 38, limit_tokens_per_s=44.4, share_of_limit=0.855, fastest_stock={"stock-no-fa": 2.504}),
        shown("stock-fa", 4096, 7.44),
        shown("stock-no-fa", 4096, 15.2),
    )
    assert text.startswith("""\
# llama-2-7b shape, 8 layers, vocabulary 1024, random weights

Some CPU; instruction sets with kernels: avx2, scalar; c++ 12; 1 thread; 5 rounds.

## w2g128: decode, f16 cache, 1 thread

| context | tmac | stock-fa | stock-no-fa | limit | share of limit | times as fast      |
| ------: | ---: | -------: | ----------: | ----: | -------------: | :----------------- |
|       0 | 85.0 |     84.0 |        80.0 | 100.0 |           0.85 | 1.02 x stock-fa    |
|    4096 | 38.0 |      7.4 |        15.2 |  44.4 |           0.85 | 2.50 x stock-no-fa |

## Kernels

- w2g128: tmac_gemv_w2g128_tables_avx2, tmac_attention_avx2

Tokens/s after a context""")
    assert "\n\nLimit: tokens/s if each token read" in text and "Above the limit" not in text


def test_prompt_table_by_hand():
    """A table for each size, cache and number of threads; a quantized cache has one column less."""
    limits = {"limit_tokens_per_s": None, "share_of_limit": None}
    text = tables_of(
        shown("tmac", 64, 400, phase="prompt", tokens=512, **limits, fastest_stock={"stock-fa": 2}),
        shown("stock-fa", 64, 200, phase="prompt", tokens=512, **limits),
        shown("tmac", 64, 300, phase="prompt", tokens=512, cache="q8_0", **limits, fastest_stock={"stock-fa": 3}),
        shown("stock-fa", 64, 100, phase="prompt", tokens=512, cache="q8_0", **limits),
        left_out=["Left out: this."],
    )
    assert (
        """
## w2g128: prompt of 512 tokens, f16 cache, 1 thread

| context |  tmac | stock-fa | times as fast   |
| ------: | ----: | -------: | :-------------- |
|      64 | 400.0 |    200.0 | 2.00 x stock-fa |

## w2g128: prompt of 512 tokens, q8_0 cache, 1 thread

| context |  tmac | stock-fa | times as fast   |
| ------: | ----: | -------: | :-------------- |
|      64 | 300.0 |    100.0 | 3.00 x stock-fa |
"""
        in text
    )
    assert "Left out: this." in text and "Limit: " not in text
