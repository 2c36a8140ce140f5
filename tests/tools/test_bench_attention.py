"""`tmac bench attention` with a fake program: what it is asked, pairing of rounds, table, report and refusals."""

import json
import subprocess
from types import SimpleNamespace

import pytest

from tmac.tools import cli, pipeline
from tmac.tools.bench import attention, attention_command
from tmac.tools.bench.attention import AttentionBenchmark, Heads, Operation
from tmac.tools.bench.context import CACHE_TYPES

F16, Q8_0 = CACHE_TYPES["f16"], CACHE_TYPES["q8_0"]
HEADS = Heads(8, 2, 64)
OPERATIONS = (Operation(HEADS, F16, 256, 1), Operation(HEADS, Q8_0, 256, 4))
BENCHMARK = AttentionBenchmark(OPERATIONS, threads=2, megabytes=300, seconds=0.5, rounds=3, kernel="avx2")


class FakeProgram:
    """Answers each operation with the next of `times` and 65536 bytes; remembers what it was asked."""

    def __init__(self, times):
        self.times, self.asked = iter(times), []
        self.code, self.said = 0, b""

    def __call__(self, command, env, stdin):
        lines = stdin.decode().splitlines()
        self.asked.append((list(map(str, command[1:])), env["TMAC_ATTENTION"], lines))
        out = "".join(f"{next(self.times)} 65536\n" for _ in lines)
        return subprocess.CompletedProcess(command, self.code, out.encode(), self.said)


@pytest.fixture
def program(monkeypatch, tmp_path):
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    monkeypatch.setattr(attention, "_compile", lambda build, source, program: None)

    def answering(times):
        fake = FakeProgram(times)
        monkeypatch.setattr(attention, "process", SimpleNamespace(capture=fake))
        return fake

    return answering


# By round: T-MAC's two operations, llama.cpp's two with flash attention, and the one that it serves without.
TIMES = [10, 20, 30, 50, 15, 20, 20, 20, 60, 40, 5, 10, 20, 80, 10]


def test_attention_changes_fastest_and_is_asked_for(program):
    fake = program(TIMES)
    attention.measure(None, None, BENCHMARK, lambda line: None)
    flash = ["flash f16 64 8 2 256 1", "flash q8_0 64 8 2 256 4"]
    arguments = ["2", "300", "0.5"]
    of_round = [
        (arguments, "avx2", flash),
        (arguments, "stock", flash),
        (arguments, "stock", ["products f16 64 8 2 256 1"]),
    ]
    assert fake.asked == of_round * 3


def test_ratios_are_of_a_round_and_medians_are_told(program):
    program(TIMES)
    first, second = attention.measure(None, None, BENCHMARK, lambda line: None)
    # 30/10, 20/20, 20/5 and 15/10, 40/20, 10/5.
    assert (first.microseconds, first.ratios) == (10, {"stock-fa": 3, "stock-no-fa": 2})
    # 50/20, 60/20, 80/10; quantized V is not served without flash attention.
    assert (second.microseconds, second.ratios) == (20, {"stock-fa": 3})
    assert first.gigabytes_per_s == pytest.approx(65536 / 10e-6 / 1e9)


def test_table_and_report(program):
    program(TIMES)
    timings = attention.measure(None, None, BENCHMARK, lambda line: None)
    rows = [
        list(map(str.strip, line.split("|")[1:-1]))
        for line in attention_command.render(BENCHMARK, timings).splitlines()
    ]
    assert ["8x2x64", "f16", "1", "256", "10", "6.6", "3.00", "2.00"] in rows
    assert ["8x2x64", "q8_0", "4", "256", "20", "3.3", "3.00", "-"] in rows
    said = json.loads(json.dumps(attention_command.report(BENCHMARK, timings)))
    assert said["results"][0]["ratios"] == {"stock-fa": 3, "stock-no-fa": 2}
    assert (said["results"][1]["cache"], said["results"][1]["heads"]) == ("q8_0", {"query": 8, "kv": 2, "width": 64})


def test_program_that_fails_is_an_error(program):
    fake = program(TIMES)
    fake.code, fake.said = 1, b"no attention kernel is called 'avx3'"
    with pytest.raises(Exception, match="timing tmac ended with exit code 1\nno attention kernel is called 'avx3'"):
        attention.measure(None, None, BENCHMARK, lambda line: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "32x8"], "expected query heads x KV heads x width"),
        (["--heads", "9x2x64"], "2 KV heads cannot be shared by 9 query heads"),
        (["--heads", "9x3x80", "--cache", "q8_0"], "T-MAC's attention with a q8_0 cache takes multiples of 32"),
        (["--heads", "9x3x72"], "T-MAC's attention with a f16 cache takes multiples of 16"),
        (["--cache", "q9"], "q9"),
        (["--queries", "0"], "must be at least 1"),
    ],
)
def test_refused_before_anything_is_built(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "build_llama", lambda: pytest.fail("nothing is to be built"))
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(cli.main(["bench", "attention", *arguments]))
    assert ended.value.code
    assert message in capsys.readouterr().err


def test_a_build_without_libraries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(attention, "work_folder", lambda: tmp_path)
    with pytest.raises(Exception, match="libraries of a native build on Linux"):
        attention.measure(SimpleNamespace(folder=tmp_path), tmp_path, BENCHMARK, lambda line: None)
