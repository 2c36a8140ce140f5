"""`tmac bench model` with a llama-bench that only plays its part: order, pairing, medians, tables and refusals."""

import json
import sys
from dataclasses import asdict

import pytest
from tmac.kernels.bench.shapes import SHAPES, Shape
from tmac.kernels.catalog import kernels_for
from tmac.kernels.isa import machine
from tmac.tools import bench, bench_model, bench_report, cli, cpu, pipeline, process
from tmac.tools.bench_model import Plan, Result, Sample
from tmac.tools.errors import ToolError
from tmac.tools.llama_build import Build
from tmac.tools.random_model import parse_type

TINY = Shape("tiny", 256, 512, 4, 2, 64, 2)
W2, Q2_K, TQ2_0, Q4_0 = map(parse_type, ("w2g128", "q2_k", "tq2_0", "q4_0"))

# Speeds come from the file `speeds`, one for each run.
LLAMA_BENCH = """#!{python}
import json, os, sys, time
model, arguments = sys.argv[2], sys.argv[3:]
with open({calls!r}, "a") as file:
    file.write(json.dumps([os.path.basename(model), arguments, os.environ.get("TMAC_KERNEL"),
                           os.environ.get("TMAC_PRECISION")]) + "\\n")
if "-w2g128-" in model:
    print("tmac: 7 x tmac_w2g128 by tmac_gemv_w2g128_scalar", file=sys.stderr)
with open({speeds!r}, "r+") as file:
    first, *rest = file.read().split()
    file.seek(0); file.truncate(); file.write(" ".join(rest))
print("llama-bench: benchmark 1/1: warmup generation run", file=sys.stderr, flush=True)
print("llama-bench: benchmark 1/1: generation run 1/1", file=sys.stderr, flush=True)
time.sleep({pause})
sum(range({work}))
print(json.dumps([{{"avg_ts": float(first)}}]), flush=True)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a build whose llama-bench reports the given speeds; returns it and a function for the calls so far."""
    monkeypatch.setattr(cpu, "features", frozenset)

    def make(*speeds, work=0, pause=0):
        calls, queue = tmp_path / "calls", tmp_path / "speeds"
        calls.write_text("")
        queue.write_text(" ".join(map(str, speeds)))
        program = Build(tmp_path / "llama").binary("llama-bench")
        program.parent.mkdir(parents=True, exist_ok=True)
        places = {"python": sys.executable, "calls": str(calls), "speeds": str(queue)}
        program.write_text(LLAMA_BENCH.format(**places, work=work, pause=pause))
        program.chmod(0o755)
        return Build(tmp_path / "llama"), lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    return make


def make_plan(*types, threads=(1,), decode=8, prompt=0, rounds=1, **options):
    return Plan(TINY, 1, 32, types, threads, decode, prompt, rounds, 1, **options)


def measure(build, plan):
    plan.check()
    return bench_model.measure(build, plan, lambda line: None)


def test_types_alternate_within_a_round(fake):
    """Every round runs each type once before the next number of threads, phase or round."""
    build, calls = fake(*range(1, 17))
    measure(build, make_plan(W2, Q2_K, threads=(1, 2), prompt=4, rounds=2))
    seen = [(model.split("-")[3], *arguments[:6]) for model, arguments, *_ in calls()]
    one_round = [
        (name, "-n", decode, "-p", prompt, "-t", threads)
        for decode, prompt in (("8", "0"), ("0", "4")) for threads in ("1", "2") for name in ("w2g128", "q2_k")
    ]
    assert seen == one_round * 2
    assert {tuple(arguments[6:]) for _, arguments, *_ in calls()} == {("-r", "1", "-o", "json", "--progress")}


def test_ratios_are_paired_and_medians_taken(fake):
    """Rounds 10:5, 30:10, 20:20 are ratios 2, 3, 1 with median 2; against the third type they are 10, 1, 2.5."""
    build, _ = fake(10, 5, 1, 30, 10, 30, 20, 20, 8)
    ours, theirs, third = measure(build, make_plan(W2, Q2_K, TQ2_0, rounds=3))
    assert (ours.tokens_per_s, theirs.tokens_per_s, third.tokens_per_s) == (20, 10, 8)
    assert ours.ratios == {"Q2_K": 2.0, "TQ2_0": 2.5} and theirs.ratios == third.ratios == {}
    assert [sample.tokens_per_s for sample in ours.samples] == [10, 30, 20]


def test_median_of_ratios_is_not_the_ratio_of_medians():
    """By hand: 4:1, 2:2, 9:3 are 4, 1, 3 and so 3, while the medians 4 and 2 would make 2."""
    ours, theirs = ([Sample(speed, 0) for speed in speeds] for speeds in ((4, 2, 9), (1, 2, 3)))
    assert bench_model.paired_ratio(ours, theirs) == 3


def test_against_compares_every_type_with_one(fake):
    build, _ = fake(10, 5, 4)
    results = measure(build, make_plan(W2, Q2_K, Q4_0, against=Q4_0))
    assert [result.ratios for result in results] == [{"Q4_0": 2.5}, {"Q4_0": 1.25}, {}]


def test_bandwidth_is_that_of_the_bytes_a_token_reads(fake):
    """One layer of 2 bits and an fp16 scale for 128 columns, the head, three norms; the embedding is not read."""
    build, _ = fake(1000, 1000)
    decode, prompt = measure(build, make_plan(W2, prompt=4))
    layers = sum(rows * cols for rows, cols in TINY.linear_layers) * 34 // 128
    head = 32 * 256 // 32 * 34
    assert decode.gb_per_s == pytest.approx(1000 * (layers + head + 3 * 256 * 4) / 1e9, rel=1e-12)
    assert prompt.gb_per_s is None and decode.model_bytes == layers + 2 * head + 3 * 256 * 4
    assert decode.kernels == ["tmac_gemv_w2g128_scalar"]


def test_cpu_time_is_that_between_start_and_result(fake, monkeypatch):
    """The clock is read when the run that counts starts and when its result is there: 16 s for 8 tokens, 12 for 4."""
    clock = iter([5, 21, 100, 112])
    monkeypatch.setattr(process, "cpu_seconds", lambda pid: next(clock))
    build, _ = fake(1, 1, pause=0.3)
    decode, prompt = measure(build, make_plan(W2, prompt=4))
    assert (decode.cpu_s_per_token, prompt.cpu_s_per_token) == (2, 3)


def test_cpu_time_may_be_unknown(fake, monkeypatch):
    """Where the system does not tell it, there is none, and the rest is measured."""
    monkeypatch.setattr(process, "cpu_seconds", lambda pid: None)
    build, _ = fake(7, 8)
    (result,) = measure(build, make_plan(W2, rounds=2))
    assert result.cpu_s_per_token is None and result.tokens_per_s == 7.5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the CPU time of a child that runs")
def test_cpu_time_of_a_child_is_counted(fake):
    """A run that computes has a CPU time; no bound but zero."""
    build, _ = fake(1, work=10_000_000)
    (result,) = measure(build, make_plan(Q2_K))
    assert result.cpu_s_per_token > 0


@pytest.mark.parametrize("options", [{}, {"kernel": "scalar"}, {"precision": "exact"}])
def test_only_what_was_asked_for_is_forced(fake, monkeypatch, options):
    """And not what the shell happens to have set, which the report would not know of."""
    monkeypatch.setenv("TMAC_KERNEL", "avx2")
    monkeypatch.setenv("TMAC_PRECISION", "fast")
    build, calls = fake(1)
    plan = make_plan(W2, **options)
    report = bench_model.report(plan, measure(build, plan))
    (_, _, kernel, precision), = calls()
    assert (kernel, precision) == (options.get("kernel"), options.get("precision"))
    assert (report["forced_kernel"], report["precision"]) == (kernel, precision)


def test_silence_about_the_kernel_is_an_error(fake, monkeypatch):
    """A llama-bench that does not say which kernel ran is not one of ours."""
    build, _ = fake(1)
    program = build.binary("llama-bench")
    program.write_text(program.read_text().replace("tmac_w2g128 by", "w2g128 by"))
    with pytest.raises(ToolError, match="did not say which kernel computed w2g128"):
        measure(build, make_plan(W2))


@pytest.mark.parametrize("output", [b"", b"{}", b"[]", b"[{}]", b"[{}, {}]", b'[{"avg_ts": null}]', b"text"])
def test_other_output_is_an_error(output):
    with pytest.raises(ToolError, match="wrote something else than one test's JSON"):
        bench_model.parse_speed(output)


@pytest.mark.parametrize("speed", ["0", "NaN", "Infinity"])
def test_speed_that_is_none_is_an_error(speed):
    with pytest.raises(ToolError, match="llama-bench measured"):
        bench_model.parse_speed(f'[{{"avg_ts": {speed}}}]'.encode())


def test_failing_llama_bench_is_shown(fake):
    """Its last lines and its log are in the error."""
    build, _ = fake()
    build.binary("llama-bench").write_text("#!/bin/sh\necho the reason >&2; exit 1\n")
    with pytest.raises(ToolError, match="llama-bench ended with exit code 1\n  the reason\n  full output: .*bench.log"):
        measure(build, make_plan(W2))


@pytest.mark.parametrize("arguments, words", [
    (["--types", "w2g128,foo"], "'foo' is no weight type"),
    (["--types", "w2g128", "--against", "q2_k"], "--against Q2_K is not among the types measured"),
    (["--types", "w2g128", "--shape", "bitnet-3b"], "bitnet-3b has a matrix of 3200 x 8640"),
    (["-n", "0"], "there is nothing to measure"),
    (["--layers", "513"], "--layers 513: llama.cpp has at most 512"),
    (["--kernel", "nope"], "--kernel 'nope' is no kernel or instruction set"),
    (["--types", "q4_0", "--kernel", "scalar"], "--kernel scalar serves none of the types measured"),
    (["--plot", "picture.txt"], "picture.txt: the name says no picture format"),
    (["--markdown", "nowhere/table.md"], "nowhere is not a folder"),
])
def test_what_cannot_be_measured_is_refused_before_the_build(monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    assert cli.main(["bench", "model", *arguments]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {words}") and said.out == ""


def test_type_without_a_kernel_is_refused(monkeypatch):
    """On the machine as a whole, or of the instruction set that is forced."""
    rows = [kernel for kernel in kernels_for(machine()) if kernel.type == W2 and kernel.isa.name == "scalar"]
    monkeypatch.setattr(bench_model, "kernels_for", lambda machine: rows)
    w4 = parse_type("w4g128")
    with pytest.raises(ToolError, match=f"no kernel on {machine()} serves w4g128"):
        make_plan(W2, w4).check()
    with pytest.raises(ToolError, match="no kernel of scalar serves w4g128"):
        make_plan(W2, w4, kernel="scalar").check()


def test_kernel_of_another_cpu_is_refused(monkeypatch):
    isa = next(kernel.isa for kernel in kernels_for(machine()) if kernel.isa.features)
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"fpu"}))
    with pytest.raises(ToolError, match=f"--kernel {isa.name}: this CPU lacks {isa.features[0]}"):
        make_plan(W2, kernel=isa.name).check()


@pytest.mark.parametrize("option", ["--markdown", "--plot"])
def test_files_are_kept_unless_forced(monkeypatch, tmp_path, capsys, option):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    (tmp_path / "mine.png").write_text("mine")
    assert cli.main(["bench", "model", option, str(tmp_path / "mine.png")]) == 1
    assert "mine.png exists\nhint: " in capsys.readouterr().err and (tmp_path / "mine.png").read_text() == "mine"


@pytest.mark.parametrize("arguments", [
    ["-t", "0"], ["-t", "1,x"], ["--rounds", "0"], ["--layers", "-1"], ["--shape", "gpt-5"], ["--seed", "-1"],
])
def test_wrong_numbers_are_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "model", *arguments])
    assert ended.value.code == 2 and "error: argument" in capsys.readouterr().err


def test_default_types_have_kernels_and_rivals():
    """Of each number of bits that the catalog has: groups of 128, then what llama.cpp has nearest."""
    types = list(map(parse_type, bench.DEFAULT_MODEL_TYPES.split(",")))
    served = {kernel.type.bits for kernel in kernels_for(machine()) if kernel.type.group == 128}
    assert [kind.bits for kind in types[:len(served)]] == sorted(served)
    assert [kind.name for kind in types[len(served):]] == [name for b in sorted(served) for name in bench.RIVALS[b]]


def test_command_prints_and_writes_what_is_asked(fake, monkeypatch, tmp_path, capsys):
    """The table on stdout or JSON, the same table in a file, a picture; and a picture again from the JSON."""
    build, _ = fake(*range(1, 9))
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
    assert [(r["threads"], r["type"], r["tokens_per_s"]) for r in report["results"]] == [
        (1, "w2g128", 5), (1, "Q2_K", 6), (2, "w2g128", 7), (2, "Q2_K", 8)
    ]
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert cli.main(["bench", "plot", str(tmp_path / "r.json"), "-o", str(tmp_path / "q.png")]) == 0
    assert (tmp_path / "q.png").read_bytes().startswith(b"\x89PNG")


def test_table_by_hand():
    """Fixed numbers: rounding, alignment, both phases, and what is left empty."""
    samples = [Sample(1, 1)]
    results = [
        Result("w2g128", True, 2.125, 440_000_000, "decode", 64, 1, 77.06, 0.01291, 33.94, ["w2g128_avx2"],
               {"TQ2_0": 1.926, "Q2_K": 2.504}, samples),
        Result("TQ2_0", False, 2.0625, 426_600_000, "decode", 64, 1, 40.01, None, 17.05, [], {}, samples),
        Result("w2g128", True, 2.125, 440_000_000, "prompt", 128, 1, 413.0, 0.0048, None, ["w2g128_avx2"],
               {}, samples),
    ]
    report = {
        "cpu": "Some CPU", "instruction_sets": ["avx2", "scalar"], "compiler": "c++ 12",
        "forced_kernel": "avx2", "precision": "fast",
        "shape": asdict(SHAPES["llama-2-7b"]), "layers": 8, "vocabulary": 1024, "rounds": 5,
        "results": [asdict(result) for result in results],
    }
    assert bench_report.render(report).split("\n")[:-4] == """\
# llama-2-7b shape, 8 layers, vocabulary 1024, random weights

Some CPU; instruction sets with kernels: avx2, scalar; c++ 12; 1 thread; 5 rounds; forced: avx2; precision: fast.

## Decode, 64 tokens

| type   | bits/weight | model MB | threads | tok/s | GB/s | CPU-ms/token | times as fast             | kernel      |
| :----- | ----------: | -------: | ------: | ----: | ---: | -----------: | :------------------------ | :---------- |
| w2g128 |       2.125 |      440 |       1 |  77.1 | 33.9 |        12.91 | 1.93 x TQ2_0, 2.50 x Q2_K | w2g128_avx2 |
| TQ2_0  |       2.062 |      427 |       1 |  40.0 | 17.1 |              |                           | ggml        |

## Prompt of 128 tokens

| type   | bits/weight | model MB | threads | tok/s | GB/s | CPU-ms/token | times as fast | kernel      |
| :----- | ----------: | -------: | ------: | ----: | ---: | -----------: | :------------ | :---------- |
| w2g128 |       2.125 |      440 |       1 | 413.0 |      |         4.80 |               | w2g128_avx2 |
""".split("\n")[:-1]
