"""What a conversion says at its end, and the totals that it shares with inspect."""

from pathlib import Path

import pytest

from tmac.convert.report import Report, human_size, total_by_type


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1_864_000, "1.86 MB"), (27e9, "27.00 GB"), (2e12, "2000.00 GB")],
)
def test_sizes_for_people(nbytes, text):
    assert human_size(int(nbytes)) == text


@pytest.mark.parametrize(
    ("count", "files"), [(1, "0.gguf"), (2, "0.gguf and 1 more file"), (3, "0.gguf and 2 more files")]
)
def test_the_files_of_a_result(count, files):
    report = Report(tuple(Path(f"{i}.gguf") for i in range(count)), "gguf q4_0", [], 1500)
    assert report.render().splitlines()[-1] == f"{files}: 1.50 kB, from gguf q4_0"


def test_totals_of_types():
    """The largest first; those of one size by name."""
    totals = total_by_type([("b", 80, 10), ("c", 8, 9), ("a", 80, 19), ("c", 16, 10), ("d", 2, 100)])
    assert [(total.type_name, total.tensors, total.weights, total.nbytes) for total in totals] == [
        ("d", 1, 2, 100),
        ("a", 1, 80, 19),
        ("c", 2, 24, 19),
        ("b", 1, 80, 10),
    ]
    assert totals[1].bits_per_weight == 1.9
