"""Pictures: written in each format from each kind of results, or refused with a message."""

import argparse
import importlib.util
import json

import pytest

from tmac.convert.errors import ConvertError
from tmac.tools import cli
from tmac.tools.bench import panels, plot, plot_command
from tmac.tools.errors import ToolError


def result(name, bits, threads, speed, phase="decode", tokens=64, sequences=1):
    return {
        "type": name,
        "is_tmac": name.startswith("w"),
        "bits_per_weight": bits,
        "phase": phase,
        "tokens": tokens,
        "sequences": sequences,
        "threads": threads,
        "tokens_per_s": speed,
    }


REPORT = {
    "benchmark": "model",
    "cpu": "Some CPU",
    "shape": {"name": "llama-2-7b"},
    "layers": 8,
    "results": [
        result(name, bits, threads, speed * threads, phase)
        for phase in ("decode", "prompt")
        for threads in (1, 2)
        for name, bits, speed in (
            ("w1g128", 1.125, 140),
            ("w2g128", 2.125, 77),
            ("Q1_0", 1.125, 25),
            ("TQ2_0", 2.0625, 40),
            ("Q2_K", 2.625, 30),
            ("Q4_0", 4.5, 26),
            ("Q4_K", 4.5, 26.5),
            ("Q8_0", 8.5, 12),
        )
    ],
}
BY_SIZE = {
    **REPORT,
    "results": [
        result(name, bits, 2, speed * size**0.5, phase, *size_of_phase)
        for name, bits, speed in (("w2g128", 2.125, 77), ("Q2_K", 2.625, 30), ("Q8_0", 8.5, 12))
        for size in (1, 8, 512)
        for phase, size_of_phase in (("prompt", (size, 1)), ("batch", (16, size)))
    ],
}
DEPTHS = {
    **REPORT,
    "benchmark": "depth",
    "results": [
        {
            **result("w2g128", 2.125, threads, speed * threads / (1 + depth / 1000), phase),
            "depth": depth,
            "cache": cache,
            "attention": attention,
            "limit_tokens_per_s": 100 * threads / (1 + depth / 4000) if phase == "decode" else None,
        }
        for phase in ("decode", "prompt")
        for cache, attentions in (
            ("f16", {"tmac": 90, "stock-fa": 85, "stock-no-fa": 80}),
            ("q8_0", {"tmac": 95, "stock-fa": 80}),
        )
        for threads in (1, 2)
        for depth in (0, 512, 4096, 16384)
        for attention, speed in attentions.items()
        if (phase, cache) != ("prompt", "q8_0") or threads == 1
    ],
}
KERNEL_RESULTS = [
    {"kernel": f"tmac_gemv_{name}_{isa}", "isa": isa, "rows": 4096, "cols": 4096, "threads": threads, "ratio": 0.9}
    for name in ("w2g128", "w4g128")
    for isa in ("avx512_vbmi", "avx2")
    for threads in (1, 2)
]
KERNELS = {"benchmark": "kernels", "cpu": "Some CPU", "results": KERNEL_RESULTS}


@pytest.mark.parametrize(
    "data",
    [
        REPORT,
        BY_SIZE,
        DEPTHS,
        KERNELS,
        {**KERNELS, "results": KERNEL_RESULTS[:1]},
        {**REPORT, "results": REPORT["results"][:1]},
        {**DEPTHS, "results": DEPTHS["results"][:1]},
    ],
    ids=["model", "sizes", "depths", "kernels", "one kernel", "one result", "one depth"],
)
@pytest.mark.parametrize("suffix, start", [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_pictures_are_written(tmp_path, data, suffix, start):
    (tmp_path / "results.json").write_text(json.dumps(data))
    output = tmp_path / f"picture{suffix}"
    assert cli.main(["bench", "plot", str(tmp_path / "results.json"), "-o", str(output)]) == 0
    assert output.read_bytes().startswith(start)


def test_model_picture_names_cpu_types_and_threads(tmp_path):
    """The text of the SVG, which matplotlib writes as comments beside the outlines."""
    plot.draw(REPORT, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in (
        "llama-2-7b, 8 layers, llama-bench, Some CPU",
        "bits per weight",
        "threads",
        "T-MAC, 2 threads",
        "w2g128",
        "TQ2_0",
        "Q4_0, Q4_K",
    ):
        assert f"<!-- {words} -->" in text


def test_sizes_are_an_axis(tmp_path):
    """Prompts and batches of several sizes are labelled with their numbers; there is no axis of bits."""
    plot.draw(BY_SIZE, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in (
        "prompts, 2 threads",
        "tokens of the prompt",
        "batches, 2 threads",
        "sequences decoded at once",
        "512",
        "1000",
        "w2g128",
        "Q8_0",
    ):
        assert f"<!-- {words} -->" in text
    assert "bits per weight" not in text


def test_contexts_are_an_axis_that_shows_0(tmp_path):
    """A panel for each cache and number of threads, the limit where there is one."""
    plot.draw(DEPTHS, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in (
        "llama-2-7b, 8 layers, llama-bench, Some CPU",
        "w2g128: decode, f16 cache, 2 threads",
        "w2g128: decode, q8_0 cache, 1 thread",
        "w2g128: prompt of 64 tokens, f16 cache, 1 thread",
        "tokens in the context",
        "0",
        "16384",
        "stock-no-fa",
    ):
        assert f"<!-- {words} -->" in text
    assert text.count("<!-- memory limit -->") == 4 and text.count("<!-- stock-no-fa -->") == 4


def test_a_place_that_is_left_over_stays_empty():
    """Three drawings in two lines of two."""
    from matplotlib.figure import Figure

    figure, drawn = Figure(), []
    panels.fill(figure, "title", [drawn.append] * 3)
    assert figure.axes[:3] == drawn and [panel.axison for panel in figure.axes] == [True, True, True, False]


def test_results_from_before_there_were_batches_are_drawn(tmp_path):
    old = [{name: value for name, value in row.items() if name != "sequences"} for row in REPORT["results"]]
    (tmp_path / "old.json").write_text(json.dumps({**REPORT, "results": old}))
    plot.draw(plot.read(tmp_path / "old.json"), tmp_path / "p.svg")


def test_kernel_picture_names_cpu_and_threads(tmp_path):
    plot.draw(KERNELS, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    for words in ("Some CPU", "decode kernels, 2 threads", "avx512_vbmi"):
        assert f"<!-- {words} -->" in text


def test_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    """And no other file: the new picture is drawn in a file beside it."""

    def fail(self, file, **options):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    (tmp_path / "p.png").write_text("old")
    with pytest.raises(ConvertError, match="p.png: cannot be written: No space left"):
        plot.draw(REPORT, tmp_path / "p.png", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"] and (tmp_path / "p.png").read_text() == "old"


def test_labels_that_would_cover_each_other_are_merged():
    """Only those with equal bits and nearly equal speed."""
    points = [(2.0, 5.0, "a"), (4.5, 10.0, "b"), (4.5, 10.5, "c"), (4.5, 20.0, "d")]
    assert plot.merge_labels(points, 1.0) == [(2.0, 5.0, "a"), (4.5, 10.5, "b, c"), (4.5, 20.0, "d")]


def with_result(report, **values):
    """The report with its first result changed."""
    first, *others = report["results"]
    return {**report, "results": [{**first, **values}, *others]}


@pytest.mark.parametrize(
    "text, words",
    [
        ("text", "is not JSON"),
        ("[]", "holds no results"),
        ("[1]", "holds no results"),
        ('{"benchmark": "model"}', "holds no results"),
        ('[{"kernel": "x"}]', "holds no results"),
        ("3", "holds no results"),
        ('{"benchmark": []}', "no results of a benchmark: model, depth, kernels"),
        ('{"benchmark": "gemm", "results": [1]}', "no results of a benchmark: model, depth, kernels"),
        (json.dumps({**REPORT, "results": []}), "holds no results"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ToolError, match=words) as caught:
        plot.read(tmp_path / "x.json")
    assert "--json" in caught.value.hint


@pytest.mark.parametrize(
    "report",
    [
        {**REPORT, "results": [{}]},
        {**REPORT, "results": [3]},
        {**REPORT, "shape": []},
        {**KERNELS, "cpu": None},
        with_result(REPORT, tokens_per_s=None),
        with_result(REPORT, tokens_per_s=float("nan")),
        with_result(REPORT, phase="lunch"),
        with_result(BY_SIZE, phase="batch", sequences=0),
        with_result(REPORT, threads="2"),
        with_result(REPORT, is_tmac=True, type="w9"),
        with_result(KERNELS, kernel="gemv"),
        with_result(KERNELS, ratio="x"),
        with_result(DEPTHS, attention="guess"),
        with_result(DEPTHS, depth="far"),
        with_result(DEPTHS, limit_tokens_per_s=None),
    ],
    ids=range(15),
)
def test_damaged_results_are_no_bug(tmp_path, report):
    """Results that somebody edited end in a picture or in one sentence with a hint, and leave no half a picture."""
    (tmp_path / "x.json").write_text(json.dumps(report))
    arguments = argparse.Namespace(results=tmp_path / "x.json", output=tmp_path / "p.png", force=False)
    try:
        plot_command.main(arguments)
    except ToolError as refusal:
        assert "x.json is damaged" in refusal.message and "--json" in refusal.hint
        assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    else:
        assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_missing_matplotlib_has_its_hint(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match="matplotlib, which is not installed") as caught:
        plot.check(tmp_path / "p.png")
    assert caught.value.hint == "pip install 'tmac[plot]'"


def test_picture_is_kept_unless_forced(tmp_path, capsys):
    (tmp_path / "r.json").write_text(json.dumps(REPORT))
    (tmp_path / "p.png").write_text("mine")
    line = ["bench", "plot", str(tmp_path / "r.json"), "-o", str(tmp_path / "p.png")]
    assert cli.main(line) == 1 and "p.png exists" in capsys.readouterr().err
    assert cli.main([*line, "--force"]) == 0 and (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
