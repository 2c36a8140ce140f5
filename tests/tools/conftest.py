"""Every test here has its own work folder, no colours, no network and no compiler."""

import json
import stat
import sys

import pytest

from support.work_folders import work  # noqa: F401  a fixture
from tmac.common import cpu
from tmac.tools.bench import model_run
from tmac.tools.llama.build import Build

# Both programs note their arguments and take the next speed from the file `speeds`: the first for each test, the second
# for each batch. They name the kernel of T-MAC's model, and of one that the plugin shall repack. With flash attention
# and the plugin's own attention, the first names its kernel.
FAKE_BENCH = """#!{python}
import json, os, sys, time
program, model, arguments = os.path.basename(sys.argv[0]), sys.argv[2], sys.argv[3:]
options = dict(zip(arguments, arguments[1:]))
with open({calls!r}, "a") as file:
    file.write(json.dumps([os.path.basename(model), arguments, os.environ.get("TMAC_KERNEL"),
                           os.environ.get("TMAC_PRECISION"), os.environ.get("TMAC_ATTENTION")]) + "\\n")
if "-w2g128-" in model or os.environ.get("TMAC_REPACK") == "all":
    print({line!r}, file=sys.stderr)
def next_speed():
    with open({speeds!r}, "r+") as file:
        first, *rest = file.read().split()
        file.seek(0); file.truncate(); file.write(" ".join(rest))
    return float(first)
if program == "llama-batched-bench":
    for size in map(int, options["-npl"].split(",")):
        print(json.dumps({{"pl": size, "t_tg": size * int(options["-ntg"]) / next_speed()}}))
    print()
else:
    if options.get("-fa") == "on" and os.environ.get("TMAC_ATTENTION") != "stock" or {always}:
        print({attention!r}, file=sys.stderr)
    times, depth, tests = int(options["-r"]), int(options.get("-d", 0)), []
    sizes = [(0, int(size)) for size in options["-p"].split(",")]
    sizes += [(int(size), 0) for size in options["-n"].split(",")]
    for threads, (decode, prompt) in [(t, s) for t in options["-t"].split(",") for s in sizes if any(s)]:
        nanoseconds = round((decode + prompt) / next_speed() * 1e9)
        print("llama-bench: benchmark 1/1: warmup generation run", file=sys.stderr, flush=True)
        for number in range(1, times + 1):
            if depth:
                print(f"llama-bench: benchmark 1/1: depth run {{number}}/{{times}}", file=sys.stderr, flush=True)
            print(f"llama-bench: benchmark 1/1: generation run {{number}}/{{times}}", file=sys.stderr, flush=True)
        tests.append({{"n_gen": decode, "n_prompt": prompt, "n_threads": int(threads), "n_depth": depth,
                      "samples_ns": [nanoseconds] * times}})
    time.sleep({pause})
    sum(range({work}))
    print(json.dumps(tests), flush=True)
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a shell script that is found on PATH by its name; PATH holds nothing but these and the system's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    def make(name, text):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


@pytest.fixture
def fake_bench(tmp_path, monkeypatch):
    """Makes a build whose llama-bench and llama-batched-bench report the given speeds. Returns it, and a function for
    the calls so far. No measurement counts as too short, unless `sample_seconds` are given.
    """
    monkeypatch.setattr(cpu, "features", frozenset)

    def make(
        *speeds,
        additions=0,
        pause=0,
        sample_seconds=0,
        line="tmac: 7 x tmac_w2g128 by tmac_gemv_w2g128_tables_scalar",
        attention="tmac: attention by tmac_attention_scalar (K f16 x 64, V f16 x 64)",
        always=False,
    ):
        monkeypatch.setattr(model_run, "SAMPLE_SECONDS", sample_seconds)
        calls, queue = tmp_path / "calls", tmp_path / "speeds"
        calls.write_text("")
        queue.write_text(" ".join(map(str, speeds)))
        places = {"python": sys.executable, "calls": str(calls), "speeds": str(queue)}
        says = {"line": line, "attention": attention, "always": always}
        build = Build(tmp_path / "llama")
        for program in map(build.binary, ("llama-bench", "llama-batched-bench")):
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(FAKE_BENCH.format(**places, **says, work=additions, pause=pause))
            program.chmod(0o755)
        return build, lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    return make
