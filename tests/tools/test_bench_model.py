"""`tmac bench model` with a fake llama-bench: order, pairing, medians and refusals."""

import json
import sys

import pytest
from pytest import approx

from tmac.common import cpu, process
from tmac.common.cpu import machine
from tmac.common.errors import TmacError
from tmac.kernels.catalog import kernels_for
from tmac.kernels.isa import Isa
from tmac.kernels.spec import KernelSpec
from tmac.tools import cli, pipeline
from tmac.tools.bench import model_benchmark, model_command
from tmac.tools.bench.model_benchmark import ModelBenchmark
from tmac.tools.bench.model_run import Sample
from tmac.tools.bench.random_model import parse_any_type
from tmac.tools.bench.shapes import SHAPES, Shape
from tmac.tools.errors import ToolError

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
W2, W4, Q2_K, TQ2_0, Q4_0 = map(parse_any_type, ("w2g128", "w4g128", "q2_k", "tq2_0", "q4_0"))


def make_plan(*types, threads=(1,), decode=8, prompts=(), batches=(), rounds=1, **options):
    return ModelBenchmark(TINY, 1, 32, types, threads, decode, prompts, batches, rounds, 1, **options)


def measure(build, plan):
    plan.check()
    return model_benchmark.measure(build, plan, lambda line: None)


def test_types_alternate_within_a_round(fake_bench):
    """Every round runs each type once before the next number of threads, phase or round."""
    build, calls = fake_bench(*range(1, 17))
    measure(build, make_plan(W2, Q2_K, threads=(1, 2), prompts=(4,), rounds=2))
    seen = [(model.split("-")[3], *arguments[:6]) for model, arguments, *_ in calls()]
    one_round = [
        (name, "-n", decode, "-p", prompt, "-t", threads)
        for decode, prompt in (("8", "0"), ("0", "4"))
        for threads in ("1", "2")
        for name in ("w2g128", "q2_k")
    ]
    assert seen == one_round * 2
    assert {tuple(arguments[6:]) for _, arguments, *_ in calls()} == {("-r", "1", "-o", "json", "--progress")}


def test_ratios_are_paired_and_medians_taken(fake_bench):
    """Rounds 10:5, 30:10, 20:20 are ratios 2, 3, 1 with median 2; against the third type they are 10, 1, 2.5."""
    build, _ = fake_bench(10, 5, 1, 30, 10, 30, 20, 20, 8)
    ours, theirs, third = measure(build, make_plan(W2, Q2_K, TQ2_0, rounds=3))
    assert (ours.tokens_per_s, theirs.tokens_per_s, third.tokens_per_s) == approx((20, 10, 8))
    assert ours.ratios == approx({"Q2_K": 2.0, "TQ2_0": 2.5}) and theirs.ratios == third.ratios == {}
    assert [sample.tokens_per_s for sample in ours.samples] == approx([10, 30, 20])


def test_median_of_ratios_is_not_the_ratio_of_medians():
    """By hand: 4:1, 2:2, 9:3 are 4, 1, 3 and so 3, while the medians 4 and 2 would make 2."""
    ours, theirs = ([Sample(speed, 0, 1) for speed in speeds] for speeds in ((4, 2, 9), (1, 2, 3)))
    assert model_benchmark.paired_ratio(ours, theirs) == 3


def test_sizes_are_compared_with_the_smallest_the_one_before_and_the_fastest_stock_type(fake_bench):
    """Prompts of 2 and 8: ours 10 and 8 tokens/s, Q4_0 5 and 4, TQ2_0 4 and 16, so the fastest stock type differs by
    size. In the longer prompt, ours takes 1.25 times as long per token.
    """
    build, _ = fake_bench(10, 5, 4, 8, 4, 16)
    results = measure(build, make_plan(W2, Q4_0, TQ2_0, decode=0, prompts=(2, 8)))
    short, long = (result for result in results if result.is_tmac)
    assert (short.tokens, short.sequences, long.tokens, long.sequences) == (2, 1, 8, 1)
    assert short.fastest_stock == approx({"Q4_0": 2}) and long.fastest_stock == approx({"TQ2_0": 0.5})
    assert (short.gain, short.slowdown, short.rises) == (1, None, False)
    assert (long.gain, long.slowdown, long.rises) == (approx(0.8), approx(1.25), True)
    assert [(result.gain, result.fastest_stock) for result in results if result.type == "TQ2_0"][1] == (approx(4), {})


@pytest.mark.parametrize(
    "ratios, expected",
    [
        ([1.5], True),
        ([1.015], False),
        ([1.03], True),
        ([0.5, 0.6, 0.5], False),
        ([1.05, 1.04, 1.06], True),  # deviation 0.01
        ([1.05, 0.95, 1.15], False),  # deviation 0.1
        ([1.05, 3.0, 1.05], True),  # one outlier does not hide a rise
    ],
)
def test_a_rise_is_more_than_the_rounds_differ(ratios, expected):
    assert model_benchmark.rises(ratios) == expected


def test_batches_of_one_type_share_a_process(fake_bench):
    """Types take turns within a round. Tokens/s are those of all sequences together; there is no bandwidth."""
    build, calls = fake_bench(1, 2, 3, 6, 1, 2, 5, 8)
    results = measure(build, make_plan(W2, Q2_K, decode=0, batches=(1, 4), rounds=2))
    assert [model.split("-")[3] for model, *_ in calls()] == ["w2g128", "q2_k"] * 2
    assert [(r.type, r.phase, r.sequences, r.tokens_per_s) for r in results] == [
        ("w2g128", "batch", 1, approx(1)),
        ("w2g128", "batch", 4, approx(2)),
        ("Q2_K", "batch", 1, approx(4)),
        ("Q2_K", "batch", 4, approx(7)),
    ]
    _, ours, _, theirs = results
    assert ours.ratios == ours.fastest_stock == approx({"Q2_K": (2 / 6 + 2 / 8) / 2}) and ours.gain == approx(2)
    assert theirs.gain == approx((6 / 3 + 8 / 5) / 2) and ours.gb_per_s is ours.cpu_s_per_token is None
    assert ours.kernels == ["tmac_gemv_w2g128_tables_scalar"]


def test_against_compares_every_type_with_one(fake_bench):
    build, _ = fake_bench(10, 5, 4)
    results = measure(build, make_plan(W2, Q2_K, Q4_0, against=Q4_0))
    assert [result.ratios for result in results] == [approx({"Q4_0": 2.5}), approx({"Q4_0": 1.25}), {}]


def test_bandwidth_is_that_of_the_bytes_a_token_reads(fake_bench):
    """One layer of 2 bits and an fp16 scale for 128 columns, the head, three norms; the embedding is not read."""
    build, _ = fake_bench(1000, 1000)
    decode, prompt = measure(build, make_plan(W2, prompts=(4,)))
    layers = sum(rows * cols for rows, cols in TINY.linear_layers) * 34 // 128
    head = 32 * 256 // 32 * 34
    assert decode.gb_per_s == approx(1000 * (layers + head + 3 * 256 * 4) / 1e9, rel=1e-12)
    assert prompt.gb_per_s is None and decode.model_bytes == layers + 2 * head + 3 * 256 * 4
    assert decode.kernels == ["tmac_gemv_w2g128_tables_scalar"]


def test_cpu_time_is_that_between_start_and_result(fake_bench, monkeypatch):
    """The clock is read when the counted run starts and when its result appears: 16 s for 8 tokens, 12 for 4."""
    clock = iter([5, 21, 100, 112])
    monkeypatch.setattr(process, "cpu_seconds", lambda pid: next(clock))
    build, _ = fake_bench(1, 1, pause=0.3)
    decode, prompt = measure(build, make_plan(W2, prompts=(4,)))
    assert (decode.cpu_s_per_token, prompt.cpu_s_per_token) == (2, 3)


def test_cpu_time_may_be_unknown(fake_bench, monkeypatch):
    """If the system does not report it, it is left out, and the rest is measured."""
    monkeypatch.setattr(process, "cpu_seconds", lambda pid: None)
    build, _ = fake_bench(7, 8)
    (result,) = measure(build, make_plan(W2, rounds=2))
    assert result.cpu_s_per_token is None and result.tokens_per_s == approx(7.5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the CPU time of a child that runs")
def test_cpu_time_of_a_child_is_counted(fake_bench):
    """A run that computes has a CPU time above zero."""
    build, _ = fake_bench(1, additions=10_000_000)
    (result,) = measure(build, make_plan(Q2_K))
    assert result.cpu_s_per_token > 0


@pytest.mark.parametrize(
    "options, forced_attention",
    [
        ({}, None),
        ({"kernel": "scalar"}, "scalar"),
        ({"kernel": "tmac_gemv_w2g128_tables_scalar"}, None),
        ({"precision": "exact"}, None),
    ],
)
def test_only_what_was_asked_for_is_forced(fake_bench, monkeypatch, options, forced_attention):
    """Variables of the shell are not passed on, because the report would not show them. An instruction set is that of
    the attention, too.
    """
    monkeypatch.setenv("TMAC_KERNEL", "avx2")
    monkeypatch.setenv("TMAC_PRECISION", "fast")
    monkeypatch.setenv("TMAC_ATTENTION", "stock")
    build, calls = fake_bench(1)
    plan = make_plan(W2, **options)
    report = model_benchmark.report(plan, measure(build, plan))
    ((_, _, kernel, precision, attention),) = calls()
    assert (kernel, precision, attention) == (options.get("kernel"), options.get("precision"), forced_attention)
    assert (report["forced_kernel"], report["precision"]) == (kernel, precision)


def test_repacked_type_beside_llama_cpp_s_own(fake_bench, monkeypatch):
    """The same file twice: each run says who shall compute it, and the one is compared with the other."""
    monkeypatch.setenv("TMAC_REPACK", "all")
    build, calls = fake_bench(8, 4)
    own, ours = measure(build, make_plan(Q2_K, parse_any_type("q2_k@tmac")))
    assert (own.kernels, len(ours.kernels)) == ([], 1)
    assert len({model for model, *_ in calls()}) == 1 and set(ours.ratios) == {"Q2_K"} and own.ratios == {}


def test_type_that_llama_cpp_does_not_repack(fake_bench):
    """It is a type beside the same one repacked: T-MAC's are compared with both, the faster of them is the fastest."""
    build, calls = fake_bench(8, 2, 4, 8, 2, 4)
    plan = make_plan(W2, Q2_K, parse_any_type("q2_k@no-repack"), decode=0, prompts=(4,), batches=(1,))
    ours, *_ = measure(build, plan)
    assert ours.ratios == approx({"Q2_K": 4, "Q2_K@no-repack": 2})
    assert ours.fastest_stock == approx({"Q2_K@no-repack": 2})
    said = [(model.split("-")[3], "--repack" in line, "--no-repack" in line) for model, line, *_ in calls()]
    repacked = [("w2g128", False, False), ("q2_k", False, False)]
    assert said == [*repacked, ("q2_k", True, False), *repacked, ("q2_k", False, True)]


def test_silence_about_the_kernel_is_an_error(fake_bench):
    """A llama-bench that does not name the kernel that ran is not one of our builds."""
    build, _ = fake_bench(1, line="tmac: 7 x tmac_w2g128 by no kernel")
    with pytest.raises(ToolError, match="did not say which kernel computed w2g128"):
        measure(build, make_plan(W2))


def test_failing_llama_bench_is_shown(fake_bench):
    """Its last lines and its log are in the error."""
    build, _ = fake_bench()
    build.binary("llama-bench").write_text("#!/bin/sh\necho the reason >&2; exit 1\n")
    with pytest.raises(TmacError, match="llama-bench ended with exit code 1\n  the reason\n  full output: .*bench.log"):
        measure(build, make_plan(W2))


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--types", "w2g128,foo"], "'foo' is no weight type"),
        (["--types", "w2g128", "--against", "q2_k"], "--against Q2_K is not among the types measured"),
        (["--types", "w2g128", "--shape", "bitnet-3b"], "bitnet-3b has a matrix of 3200 x 8640"),
        (["-n", "0"], "there is nothing to measure"),
        (["--batch", "1,257"], "--batch 257: llama.cpp decodes at most 256 sequences"),
        (["--layers", "513"], "--layers 513: llama.cpp has at most 512"),
        (["--kernel", "nope"], "--kernel 'nope' is no kernel or instruction set"),
        (["--types", "q4_0", "--kernel", "scalar"], "--kernel scalar serves none of the types measured"),
        (["--plot", "picture.txt"], "picture.txt: the name says no picture format"),
        (["--markdown", "nowhere/table.md"], "nowhere is not a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_build(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    assert cli.main(["bench", "model", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {words}") and said.out == ""


def test_type_without_a_kernel_is_refused(monkeypatch):
    """No kernel for this machine, or none of the forced instruction set."""
    rows = [kernel for kernel in kernels_for(machine()) if kernel.type == W2 and kernel.isa.name == "scalar"]
    monkeypatch.setattr(model_benchmark, "kernels_for", lambda machine: rows)
    with pytest.raises(ToolError, match=f"no kernel on {machine()} serves single tokens of w4g128"):
        make_plan(W2, W4).check()
    with pytest.raises(ToolError, match="no kernel of scalar serves single tokens of w4g128"):
        make_plan(W2, W4, kernel="scalar").check()


@pytest.fixture
def tiles(monkeypatch):
    """An instruction set that has only GEMM kernels, and only of one type, beside the plain-C kernels."""
    isa = Isa("tiles", machine(), "scalar", gemm_forms=("int8",))
    rows = [KernelSpec(W2, isa, "gemm", "int8"), *(row for row in kernels_for(machine()) if row.isa.name == "scalar")]
    monkeypatch.setattr(model_benchmark, "kernels_for", lambda machine: rows)
    monkeypatch.setattr(model_benchmark, "least_tokens", lambda kernel: 2 if kernel.method == "gemm" else 1)


def test_a_set_for_several_tokens_leaves_single_ones_to_others(tiles):
    """It has no GEMV kernels, but must have GEMM kernels for all types or for none."""
    make_plan(W2, Q2_K, prompts=(1, 8), kernel="tiles").check()
    make_plan(W2, decode=0, batches=(1,), kernel="tiles", precision="fast").check()
    make_plan(W2, W4, prompts=(8,), kernel="tmac_gemm_w2g128_int8_tiles").check()
    with pytest.raises(ToolError, match="no kernel of tiles serves several tokens at once of w4g128 with rounded prec"):
        make_plan(W2, W4, prompts=(8,), kernel="tiles").check()
    with pytest.raises(ToolError, match="tiles serves none of the types measured with exact precision"):
        make_plan(W2, prompts=(8,), kernel="tiles", precision="exact").check()


@pytest.mark.parametrize(
    "kernel, decode, words, hint",
    [
        ("tiles", 8, "tiles serves several tokens at once, which is not measured", "give --prompt or --batch"),
        ("tmac_gemm_w2g128_int8_tiles", 8, "serves several tokens at once, which is not", "give --prompt or --batch"),
        ("tmac_gemv_w2g128_tables_scalar", 0, "serves single tokens, which is not measured", "give -n"),
    ],
)
def test_a_kernel_that_would_not_be_measured_is_refused(tiles, kernel, decode, words, hint):
    with pytest.raises(ToolError, match=words) as caught:
        make_plan(W2, decode=decode, prompts=() if decode else (8,), kernel=kernel).check()
    assert caught.value.hint == hint


def test_kernel_of_another_cpu_is_refused(monkeypatch):
    isa = next(kernel.isa for kernel in kernels_for(machine()) if kernel.isa.features and kernel.isa.forms("gemv"))
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"fpu"}))
    with pytest.raises(ToolError, match=f"--kernel {isa.name}: this CPU lacks {isa.features[0]}"):
        make_plan(W2, kernel=isa.name).check()


@pytest.mark.parametrize("option", ["--markdown", "--plot"])
def test_files_are_kept_unless_forced(monkeypatch, tmp_path, capsys, option):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    (tmp_path / "mine.png").write_text("mine")
    assert cli.main(["bench", "model", option, str(tmp_path / "mine.png")]) == 1
    assert "mine.png exists\nhint: " in capsys.readouterr().err and (tmp_path / "mine.png").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-t", "0"],
        ["-t", "1,x"],
        ["--rounds", "0"],
        ["--layers", "-1"],
        ["--prompt", "0,4"],
        ["--batch", "x"],
        ["--shape", "gpt-5"],
        ["--seed", "-1"],
    ],
)
def test_wrong_numbers_are_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "model", *arguments])
    assert ended.value.code == 2 and "error: argument" in capsys.readouterr().err


def test_default_types_have_kernels_and_rivals():
    """For each number of bits in the catalog: groups of 128, then llama.cpp's nearest type."""
    types = list(map(parse_any_type, model_command.DEFAULT_MODEL_TYPES.split(",")))
    served = {kernel.type.bits for kernel in kernels_for(machine()) if kernel.type.group == 128}
    assert [kind.bits for kind in types[: len(served)]] == sorted(served)
    assert [kind.name for kind in types[len(served) :]] == [
        name for b in sorted(served) for name in model_command.RIVALS[b]
    ]


def test_command_prints_and_writes_what_is_asked(fake_bench, monkeypatch, tmp_path, capsys):
    """The table or JSON on stdout, the same table in a file, a picture; and a picture again from the JSON."""
    build, _ = fake_bench(*range(1, 9))
    monkeypatch.setattr(pipeline, "build_llama", lambda: build)
    monkeypatch.setitem(SHAPES, "llama-2-7b", TINY)
    line = ["bench", "model", "--types", "w2g128,q2_k,q2_k", "--layers", "1", "-t", "2,1,2", "--rounds", "1", "--force"]
    files = ["--markdown", str(tmp_path / "t.md"), "--plot", str(tmp_path / "p.png")]
    assert cli.main([*line, *files]) == 0
    table = capsys.readouterr().out
    assert table.startswith("# tiny shape, 1 layer, vocabulary 1024") and (tmp_path / "t.md").read_text() == table
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*line, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(r["threads"], r["type"], round(r["tokens_per_s"], 6)) for r in report["results"]] == [
        (1, "w2g128", 5),
        (1, "Q2_K", 6),
        (2, "w2g128", 7),
        (2, "Q2_K", 8),
    ]
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert cli.main(["bench", "plot", str(tmp_path / "r.json"), "-o", str(tmp_path / "q.png")]) == 0
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")
