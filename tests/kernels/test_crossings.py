"""From how many tokens on a kernel serves: what follows from times, what is kept of it, and what C text says of it."""

import ast
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tmac.common.cpu import machine
from tmac.kernels import crossings_file, generate, native, tuning_file
from tmac.kernels.catalog import isas_for
from tmac.kernels.crossings import BY_INSTRUCTION_SET, COLUMNS, DEFAULT, Crossings, applied, rows_in_words
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import Isa
from tmac.kernels.tuning import Tuning, candidates
from tmac.tools import cli
from tmac.tools import crossings as command
from tmac.tools.bench import crossing, tuner
from tmac.tools.errors import ToolError

TOKENS = (2, 4, 8, 16)


@pytest.fixture
def found(monkeypatch):
    """What follows from times by tokens of an instruction set with two forms and a GEMV, below one without a GEMV."""
    top = Isa("amx", machine(), "avx512", gemv_forms=(), gemm_forms=("bf16",))
    middle = Isa("avx512_vbmi", machine(), "avx512", gemm_forms=("int8", "tables"))
    monkeypatch.setattr(crossing, "isas_for", lambda machine: (top, middle))

    def find(before=DEFAULT, **times):
        names = {
            "bf16": ("amx", "gemm", "bf16"),
            "int8": ("avx512_vbmi", "gemm", "int8"),
            "tables": ("avx512_vbmi", "gemm", "tables"),
            "gemv": ("avx512_vbmi", "gemv", "tables"),
        }
        least = crossing.crossings({names[name]: dict(zip(TOKENS, of)) for name, of in times.items()}, "w3", before)
        return {form: number for (_, form), number in least.items()}

    return find


def test_each_serves_where_it_is_the_fastest(found):
    """The GEMV for 2 tokens, tables for 4, int8 for 8, and the set above from 16 on."""
    least = found(gemv=(1, 9, 9, 9), tables=(2, 2, 9, 9), int8=(9, 9, 3, 9), bf16=(9, 9, 9, 4))
    assert least == {"bf16": 16, "int8": 8, "tables": 4}


def test_what_is_never_the_fastest_never_serves(found):
    """Also one that is faster only where the choice would have to go back and forth."""
    assert found(gemv=(9,) * 4, tables=(2, 2, 2, 2), int8=(3, 3, 3, 3), bf16=(4,) * 4)["int8"] == 0
    least = found(gemv=(9,) * 4, tables=(2, 2, 2, 2), int8=(1, 9, 9, 9), bf16=(9,) * 4)
    assert least == {"bf16": 0, "int8": 0, "tables": 2}


def test_noise_within_the_margin_changes_nothing(found):
    """What serves so far stays unless another is faster by more than the margin, and its number is not rounded to those
    that were timed.
    """
    before = Crossings("test", numbers={("avx512_vbmi", "int8"): {"w3": 7}, ("amx", "bf16"): {"w3": 0}})
    for noise in (0.97, 1.0, 1.03):
        times = {
            "gemv": (9,) * 4,
            "tables": (5, 5, 5 * noise, 5),
            "int8": (9, 5.1, 5, 5 * noise),
            "bf16": (5 * noise,) * 4,
        }
        assert found(before, **times) == {"bf16": 0, "int8": 7, "tables": 2}
    clear = {"gemv": (9,) * 4, "tables": (5, 5, 5, 5), "int8": (9, 4, 4, 4), "bf16": (9,) * 4}
    assert found(before, **clear)["int8"] == 4


@pytest.fixture
def small(monkeypatch):
    """Little is timed."""
    for name, value in {
        "SHAPE": (64, 512),
        "TOKENS": (2, 8),
        "ROUNDS": 1,
        "TOTAL_BYTES": 0,
        "LEAST_SECONDS": 0,
    }.items():
        monkeypatch.setattr(crossing, name, value)


def test_measured_here(small):
    """A table of this CPU, with a number for each kernel that could serve: those down to the first set with a GEMV."""
    library, percents = native.library(), []
    table = crossing.measure(library, DEFAULT, percents.append)
    here = [isa for isa in isas_for(machine()) if library.runs_isa(isa)]
    assert table.cpus == (library.cpu_name(),) and table.isa == here[0].name and percents[-1] == 100
    first = next(isa for isa in here if isa.gemv_forms)
    timed = here[: here.index(first) + 1]
    assert set(table.numbers) == {(isa.name, form) for isa in timed for form in isa.gemm_forms}
    for column in COLUMNS:
        assert any(column in row for row in table.numbers.values())
    assert library.crossings(table) is table and library.crossings() is not table


def test_measured_as_on_a_cpu_with_less(small, monkeypatch, capsys):
    """Nothing above an instruction set is timed, the rows of crossings.py are for it alone, and nothing is kept."""
    monkeypatch.setattr(crossings_file, "save", lambda table: pytest.fail("it is not of this machine"))
    monkeypatch.setattr(tuner, "untuned_library", lambda: native.library())
    *_, last = [isa for isa in isas_for(machine()) if isa.name != "scalar" and native.library().runs_isa(isa)]
    assert cli.main(["kernels", "tune", "--crossings", "--isa", last.name]) == 0
    said = capsys.readouterr().out.splitlines()
    # In the order of crossings.py, which need not be that of the forms' priority.
    printed = sorted(line.split("): (")[0] for line in said)
    assert printed == sorted(f'    ("{last.name}", "{form}"' for form in last.gemm_forms)
    for line in said:
        ((key, row),) = ast.literal_eval("{" + line.split("#")[0] + "}").items()
        assert len(row) == len(COLUMNS) and ("#" in line) == (row != BY_INSTRUCTION_SET[key])
    specs = crossing.candidates(native.library(), COLUMNS["w4"], "rounded", last)
    assert {spec.isa for spec in specs} == {last}
    monkeypatch.setattr(native.Library, "runs_isa", lambda library, isa: False)
    assert cli.main(["kernels", "tune", "--crossings", "--isa", last.name]) == 1
    assert f"this CPU has no {last.name}" in capsys.readouterr().err


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A table that was saved, on a machine with a known name and in a work folder of its own."""
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    monkeypatch.setattr(crossings_file, "host_key", lambda: "CPU | cc 1")
    table = Crossings(crossings_file.NAME, ("Maker 6 1",), "avx2", {("avx2", "int8"): {"w3": 6, "w4": 0}})
    crossings_file.save(table)
    return table


def test_what_was_measured_is_kept(kept, monkeypatch):
    """For this CPU and compiler, and while the kernels stay as they are."""
    assert crossings_file.measured() == kept
    with monkeypatch.context() as other:
        other.setattr(crossings_file, "host_key", lambda: "CPU | cc 2")
        assert crossings_file.measured() is None
    with monkeypatch.context() as other:
        other.setattr(crossings_file, "kernels_key", lambda: "other")
        assert crossings_file.measured() is None
    assert crossings_file.reset() and not crossings_file.reset() and not crossings_file.path().exists()


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"least_tokens": {"avx2 int8": {"w3": 65}}}, "expected 0, or 2 to 64, found 'avx2 int8': 'w3': 65"),
        ({"least_tokens": {"avx2 int8": {"w3": 1}}}, "found 'avx2 int8': 'w3': 1"),
        ({"least_tokens": {"avx2 int8": {"w3": True}}}, "found 'avx2 int8': 'w3': true"),
        ({"least_tokens": {"avx2 int8": {"w3": "8"}}}, "found 'avx2 int8': 'w3': \"8\""),
        ({"least_tokens": {"avx2 int8": {"w7": 2}}}, "w1, w2, w3, w4, t3, multiplied, found 'avx2 int8': 'w7': 2"),
        ({"least_tokens": {"avx2 int8": [2]}}, "an object as 'avx2 int8'"),
        ({"least_tokens": {"sse9 int8": {"w3": 2}}}, "found 'sse9 int8'"),
        ({"least_tokens": []}, "an object with least_tokens"),
        ({"cpu": 6}, "texts as cpu and isa"),
        ({"isa": None}, "texts as cpu and isa"),
        ({"isa": "sse9"}, "an instruction set as isa"),
        ("text", "an object with least_tokens"),
    ],
)
def test_a_file_that_was_edited_wrongly_is_told(kept, changes, words):
    (entry,) = json.loads(crossings_file.path().read_text()).values()
    entries = {"CPU | cc 1": {**entry, **changes} if isinstance(changes, dict) else changes}
    crossings_file.path().write_text(json.dumps(entries))
    with pytest.raises(KernelError) as problem:
        crossings_file.measured()
    assert (
        words in problem.value.message and "crossings.json" in problem.value.message and "delete" in problem.value.hint
    )


@pytest.mark.parametrize("least", [0, 2, 64])
def test_numbers_at_the_limits_are_accepted(kept, least):
    """0 (never), and 2 to 64."""
    crossings_file.save(replace(kept, numbers={("avx2", "int8"): {"w3": least}}))
    assert crossings_file.measured().least_tokens("avx2", "int8", "w3") == least


@pytest.mark.parametrize("text, words", [("{", "cannot be read"), ("[1]", "expected an object of JSON")])
def test_a_damaged_file_is_told(kept, text, words):
    crossings_file.path().write_text(text)
    with pytest.raises(KernelError, match=words):
        crossings_file.measured()


def test_numbers_in_words():
    """The lines of `tmac build` and `tmac kernels tune --crossings`: the columns that a form serves, or "never"."""
    numbers = {("amx", "bf16"): {"w1": 16, "w2": 0, "w3": 10}, ("avx2", "int8"): {"w1": 0}}
    assert list(rows_in_words(numbers)) == ["amx bf16: w1 from 16, w3 from 10", "avx2 int8: never"]


def test_a_cpu_without_a_name_is_not_every_cpu(kept):
    """On arm64 tmac_cpu_name is empty: the table is for CPUs without a name that have its instruction set."""
    nameless = replace(kept, cpus=("",))
    text = generate.sources(machine(), measured=nameless)["interface/measured.c"][0]
    assert f'{{ "{kept.name}", "", ' in " ".join(text.split()) and ", NULL," not in text
    assert applied("", ["avx2"], nameless) is nameless and applied("", ["scalar"], nameless) is DEFAULT


def test_tables_are_kept_by_instruction_set(monkeypatch):
    """A virtual machine of the same CPU model may lack some: it has an entry of its own. A system may list none."""
    monkeypatch.setattr(tuning_file, "host_key", lambda: "CPU | cc 1")
    first, *_, last = isas_for(machine())
    for lacking, expected in ((set(), first), ({last}, first), (set(isas_for(machine())) - {last}, last)):
        names = {isa.features for isa in lacking}
        monkeypatch.setattr(crossings_file.cpu, "features", lambda: frozenset({"some"}))
        monkeypatch.setattr(crossings_file.cpu, "lacking", lambda features, names=names: features in names)
        assert crossings_file.host_key() == f"CPU | cc 1 | {expected.name}"
    monkeypatch.setattr(crossings_file.cpu, "features", frozenset)
    assert crossings_file.host_key() == "CPU | cc 1"


def test_the_key_of_the_kernels(monkeypatch):
    """What is timed counts, its tuning too; what only describes it, and kernels for other work, do not."""
    before, headers = crossings_file.kernels_key(), generate.headers()

    def key_with(**changed):
        crossings_file._hash_of.cache_clear()
        with monkeypatch.context() as other:
            other.setattr(generate, "headers", lambda: headers | changed)
            return crossings_file.kernels_key()

    for name, counts in (
        ("gemm/frame.h", True),
        ("weights/groups.h", True),
        ("interface/catalog.h", False),
        ("attention/tile.h", False),
    ):
        assert (key_with(**{name: headers[name] + "\n"}) != before) is counts, name
    crossings_file._hash_of.cache_clear()
    isa = next((isa for isa in isas_for(machine()) if isa.parameters), None)
    if isa:
        name = next(iter(isa.parameters))
        value = next(v for v in candidates(isa)[name] if v != isa.parameters[name])
        kept = tuning_file.Kept(Tuning({(isa.name, 2): isa.parameters | {name: value}}))
        monkeypatch.setattr(tuning_file, "kept", lambda: kept)
        assert crossings_file.kernels_key() != before


def test_the_c_text_has_the_numbers(kept):
    """measured.c has one row for this CPU, or none; all else stays, so that little is compiled again."""
    name = "interface/measured.c"
    with_it, without = (generate.sources(machine(), measured=table) for table in (kept, None))
    assert {file for file in with_it if with_it[file] != without[file]} == {name}
    text, numbers = with_it[name][0], ", ".join(map(str, kept.in_order()))
    assert '"Maker 6 1"' in text and f"{{ {numbers} }}" in text and "tmac_measured_count = 1;" in text
    assert "tmac_measured_count = 0;" in without[name][0]


def test_c_finds_the_table_that_python_finds():
    """tmac_crossings_for: the one by which the plugin chooses."""
    library = native.library()
    row = native.ctypes.POINTER(native.CCrossings)
    library.c.tmac_crossings_for.restype = row
    features = native.ctypes.c_uint32(library.cpu_features())
    found = library.c.tmac_crossings_for(library.cpu_name().encode(), features).contents
    assert found.name.decode() == library.crossings().name
    numbers = native.ctypes.string_at(found.least_tokens, len(DEFAULT.in_order()))
    assert list(numbers) == library.crossings().in_order()
    assert library.c.tmac_crossings_for(b"Maker 1 2", features).contents.name.decode() == DEFAULT.name


def test_measured_once(kept, monkeypatch):
    """Not where something is kept, and not where it is not wanted."""
    monkeypatch.delenv(command.SKIP, raising=False)
    monkeypatch.setattr(command, "library_of", lambda build: pytest.fail("nothing is to be measured"))
    assert not command.measure_once(None)
    crossings_file.reset()
    monkeypatch.setenv(command.SKIP, "1")
    assert not command.measure_once(None)
    monkeypatch.delenv(command.SKIP)
    monkeypatch.setattr(command, "library_of", lambda build: SimpleNamespace(crossings=lambda: DEFAULT))
    monkeypatch.setattr(crossing, "measure", lambda library, before, progress, top: progress(100) or kept)
    assert command.measure_once(None) and crossings_file.measured() == kept


def test_a_library_that_cannot_be_timed_is_told(kept, monkeypatch, tmp_path):
    """It names the file, and how to build all the same."""
    crossings_file.reset()
    monkeypatch.delenv(command.SKIP)
    broken = tmp_path / "libtmac-kernels.so"
    broken.write_text("no library")
    with pytest.raises(ToolError, match="libtmac-kernels.so cannot be loaded") as problem:
        command.measure_once(SimpleNamespace(libraries=lambda: [broken]))
    assert "--no-measure" in problem.value.hint

    def fails(*given):
        raise OSError("no memory")

    monkeypatch.setattr(crossing, "measure", fails)
    with pytest.raises(ToolError, match="cannot be timed: no memory"):
        command.measure(SimpleNamespace(crossings=lambda: DEFAULT))


@pytest.mark.parametrize("per_row, rows", [(1e-6, 4096), (1e-5, 2432), (1e-3, 128)], ids=["fast", "slow", "slower"])
def test_slow_kernels_are_timed_with_fewer_rows(monkeypatch, per_row, rows):
    """So that a run lasts no longer than it may; the time is that of all rows."""
    library = native.library()
    specs = crossing.candidates(library, COLUMNS["w4"], "rounded", isas_for(machine())[0])
    monkeypatch.setattr(crossing, "TOTAL_BYTES", 0)
    monkeypatch.setattr(crossing, "time_prepare", lambda product, repeats: 0.5)
    monkeypatch.setattr(
        crossing,
        "time_products",
        lambda library, product, threads, count=1: count * per_row * product.y.shape[1],
    )
    assert crossing._rows(library, specs) == rows
    for (_, method, _), of in crossing.time(library, specs).items():
        for tokens, seconds in of.items():
            assert seconds == pytest.approx((4096 * per_row + 0.5) * (1 if method == "gemm" else tokens))
