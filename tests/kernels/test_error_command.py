"""`tmac bench error`: its tables, its JSON and what it refuses. The errors themselves are tested in test_error.py."""

import json

import pytest

from tmac.common.format import TmacType
from tmac.kernels.native import library as load
from tmac.kernels.spec import KernelSpec
from tmac.tools import cli
from tmac.tools.bench import accuracy_command, gemv
from tmac.tools.bench.accuracy import Accuracy, FastSpeed, fast_speeds


@pytest.fixture
def speeds(monkeypatch):
    """Made-up times."""
    monkeypatch.setattr(
        accuracy_command,
        "fast_speeds",
        lambda types, *given: [
            FastSpeed(f"tmac_gemv_{t.name}_fast_tables_avx2", f"tmac_gemv_{t.name}_tables_avx512", 0.8, None, 1.5, None)
            for t in types
        ],
    )


def an_error(activations, rounded):
    nmse = {"q8_0": 3e-5, "q8_k": 5e-5, "int8": 8e-5, "rounded": rounded, "exact": 8e-5, "fast": 2e-4}
    return Accuracy(activations, "w2g64", nmse, dict.fromkeys(("rounded", "exact", "fast"), "k"))


def test_limits_are_told_with_their_figures():
    held = [an_error("normal", 6.5e-5), an_error("student t, 4 degrees", 2.9e-5)]
    assert accuracy_command.limits_line(held).startswith("limits hold: rounded at most 1.3 x Q8_K")
    broken = accuracy_command.limits_line([*held, an_error("normal", 6.6e-5), an_error("outliers", 3e-5)])
    assert broken.splitlines()[1:] == ["w2g64, normal: 1.320 x Q8_K", "w2g64, outliers: 1.000 x Q8_0"]


def test_command_prints_tables(speeds, capsys):
    """One row for each distribution and type; `fast` has its error beside its speed."""
    assert cli.main(["bench", "error", "--types", "w2g32,w2g64,w2t", "--shape", "64x512"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("| activations | weights | Q8_0 | Q8_K | int8 per token | rounded | exact | fast |")
    assert sum(line.startswith("| normal | w2") for line in lines) == 3
    assert [line.split(" | ")[0] for line in lines if "_fast_" in line] == [
        "| tmac_gemv_w2t_fast_tables_avx2",
        "| tmac_gemv_w2g64_fast_tables_avx2",
    ]
    assert any("| 0.80 | - | tmac_gemv_w2g64_tables_avx512 | 1.50 | - |" in line for line in lines)


def test_command_prints_json(speeds, capsys):
    assert cli.main(["bench", "error", "--types", "w4g32z", "--shape", "64x512", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows"], data["cols"], len(data["errors"]), len(data["fast"])) == (64, 512, 3, 1)
    known = {"q8_0", "q8_k", "int8", "rounded", "exact", "fast", "prompt int8"}
    assert known <= set(data["errors"][0]["nmse"]) <= known | {"prompt bf16"}
    assert data["limits_hold"] == all(error["holds"] for error in data["errors"])


@pytest.mark.parametrize("megabytes", [0, 1])
def test_fast_is_timed_against_its_own_instruction_set_and_what_serves(monkeypatch, megabytes):
    """Both ratios from cache, and from memory if asked for; the kernels are named."""
    monkeypatch.setattr(gemv, "LEAST_BYTES", 10_000)
    library, weight_type = load(), TmacType(2, 64)
    speeds = fast_speeds([weight_type], 64, 128, megabytes * 10_000, 1, lambda line: None)
    for speed in speeds:
        assert KernelSpec.parse(speed.kernel).precision == "fast" and library.runs_here(speed.kernel)
        assert speed.serving == library.select(weight_type)
        assert speed.in_cache > 0 and speed.in_cache_to_serving > 0
        assert (speed.in_memory is None) == (speed.in_memory_to_serving is None) == (not megabytes)
    assert len({speed.kernel for speed in speeds}) == len(speeds) > 0


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--types", "w9"], 2, "'w9' is not a T-MAC weight type"),
        (["--shape", "64"], 2, "'64' is no shape; expected MxK"),
        (["--shape", "64x96", "--types", "w2g64"], 1, "64 x 96 cannot be compared with Q8_K"),
        (["--shape", "3200000000x25600"], 1, "no memory for a matrix of 3200000000 x 25600"),
    ],
)
def test_what_cannot_be_is_refused(speeds, capsys, arguments, code, words):
    try:
        ended = cli.main(["bench", "error", *arguments])
    except SystemExit as stopped:
        ended = stopped.code
    assert ended == code and words in capsys.readouterr().err
