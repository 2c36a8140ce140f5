"""`tmac kernels tune`: what it saves and prints, and that builds use it. The search is tested in tests/kernels."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tmac.common import cpu
from tmac.common.cpu import machine
from tmac.kernels import crossings_file, tuning_file
from tmac.kernels.catalog import isas_for
from tmac.kernels.crossings import Crossings, applied
from tmac.kernels.tuning import candidates
from tmac.tools import cli, crossings, doctor, pipeline
from tmac.tools.bench import tune_command, tuner
from tmac.tools.bench.tuner import TuningResult

ISA = next((isa for isa in isas_for(machine()) if isa.parameters), None)
pytestmark = pytest.mark.skipif(ISA is None, reason="no instruction set of this architecture has free parameters")


@pytest.fixture
def host(monkeypatch):
    """A CPU and a compiler with known names."""
    monkeypatch.setattr(cpu, "model", lambda: "CPU")
    monkeypatch.setattr(tuning_file, "compiler_name", lambda: "cc 1")
    monkeypatch.setattr(tune_command, "measure_crossings", lambda: pytest.fail("nothing is to be measured"))


@pytest.fixture
def search(monkeypatch, host):
    """A fake tuner that finds another value of the first parameter for 2 bits, and nothing for other widths."""

    def tune(isa, bits, **options):
        return TuningResult(
            isa.name,
            bits,
            dict(isa.parameters),
            dict(isa.parameters) | (better() if bits == 2 else {}),
            0.05 * (bits == 2),
            0.012,
        )

    monkeypatch.setattr(tuner, "tune", tune)
    monkeypatch.setattr(tune_command, "measure_crossings", measure_crossings)


def measure_crossings():
    """A measurement that finds and keeps one number."""
    found = Crossings(crossings_file.NAME, ("Maker 6 1",), ISA.name, {(ISA.name, ISA.gemm_forms[0]): {"w3": 7}})
    crossings_file.save(found)
    return found


def better():
    name = next(iter(ISA.parameters))
    return {name: next(v for v in candidates(ISA)[name] if v != ISA.parameters[name])}


def test_tune_keeps_what_it_shows(work, search, capsys):
    """The table names gain and file, also if nothing was gained; --reset deletes the result."""
    ((name, value),) = better().items()
    assert cli.main(["kernels", "tune", "--bits", "2,4", "--isa", ISA.name]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"| {name} {value} | 5.0% |" in said and "| the defaults | no gain above 1.2%: defaults kept |" in said
    assert f"kept in {work / 'tuning.json'}" in said and "CPU | cc 1" in said
    assert set(tuning_file.for_this_machine().found) == {(ISA.name, 2)}
    assert cli.main(["kernels", "tune", "--reset"]) == 0
    assert "removed tuning of CPU | cc 1" in capsys.readouterr().err and not (work / "tuning.json").exists()


def test_crossings_alone(work, search, monkeypatch, capsys):
    """--crossings searches no parameters, shows and keeps the numbers; the next build for this machine has them."""
    monkeypatch.delenv(crossings.SKIP)
    monkeypatch.setattr(tuner, "tune", lambda *given, **options: pytest.fail("nothing is to be searched"))
    assert cli.main(["kernels", "tune", "--crossings"]) == 0
    assert f"{ISA.name} {ISA.gemm_forms[0]}: w3 from 7" in capsys.readouterr().out
    assert crossings_file.measured().least_tokens(ISA.name, ISA.gemm_forms[0], "w3") == 7
    assert "measured on this machine" in doctor._crossings().value
    assert cli.main(["kernels", "tune", "--crossings", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["crossings"]
    assert data["cpus"] == ["Maker 6 1"] and data["numbers"] == {f"{ISA.name} {ISA.gemm_forms[0]}": {"w3": 7}}
    assert cli.main(["kernels", "tune", "--reset"]) == 0 and crossings_file.measured() is None


def test_what_no_longer_gains_is_forgotten(work, search, capsys):
    """A second search starts from the defaults, and its result replaces the first."""
    tuning_file.save(ISA, 4, better())
    assert cli.main(["kernels", "tune", "--bits", "4", "--isa", ISA.name]) == 0
    assert "nothing to keep" in capsys.readouterr().out and not tuning_file.for_this_machine().found


def test_tune_prints_json(work, search, capsys):
    assert cli.main(["kernels", "tune", "--bits", "2", "--isa", ISA.name, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["host"] == "CPU | cc 1" and data["file"] == str(work / "tuning.json")
    assert data["results"][0]["chosen"] == ISA.parameters | better() and data["results"][0]["gain"] == 0.05


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        (["--bits", "9"], 1, "--bits 9: no such bit width"),
        (["--isa", "scalar"], 1, "scalar has no free parameters"),
        (["--isa", "sse9"], 2, "no instruction set is called 'sse9'"),
        (["--rounds", "0"], 2, "must be at least 1"),
        (["--crossings", "--bits", "2", "-t", "2"], 1, "--bits, --threads: of the search for parameters"),
        (["--crossings", "--isa", ISA and ISA.name, "--rounds", "3"], 1, "--rounds: of the search for parameters"),
    ],
)
def test_wrong_arguments_are_one_line(host, capsys, arguments, code, words):
    try:
        ended = cli.main(["kernels", "tune", *arguments])
    except SystemExit as stopped:
        ended = stopped.code
    assert ended == code and words in capsys.readouterr().err


def test_damaged_file_is_told_before_the_search(work, host, monkeypatch, capsys):
    """A search takes minutes, so it does not start if its result could not be saved."""
    work.mkdir()
    (work / "tuning.json").write_text("{")
    monkeypatch.setattr(tuner, "tune", lambda *given, **options: pytest.fail("nothing is to be searched"))
    assert cli.main(["kernels", "tune", "--isa", ISA.name]) == 1
    assert "tuning.json cannot be read" in capsys.readouterr().err


@pytest.fixture
def written(monkeypatch, tmp_path):
    """The C files that a build writes for the kernels, without building."""
    monkeypatch.setattr(pipeline.llama_build, "require_tools", lambda: None)
    monkeypatch.setattr(pipeline.llama_source, "obtain", lambda source: tmp_path)
    monkeypatch.setattr(pipeline.llama_patch, "prepare", lambda source, write_kernels: write_kernels(source))
    monkeypatch.setattr(pipeline.llama_build, "compile_tree", lambda source, folder, **options: None)

    def build(choice):
        pipeline.build_llama(choice)
        gemv = tmp_path / f"gemv/tmac_gemv_w2_tables_{ISA.name}.c"
        return gemv.read_text() + (tmp_path / "interface/measured.c").read_text()

    return build


def test_builds_for_this_machine_have_the_tuned_number(work, host, written):
    """Portable builds, which run elsewhere, have the default."""
    ((name, value),) = better().items()
    default = written(pipeline.BuildChoice())
    assert f"#define {name} {ISA.parameters[name]}\n" in default
    tuning_file.save(ISA, 2, better())
    assert f"#define {name} {value}\n" in written(pipeline.BuildChoice())


def test_builds_for_this_machine_have_what_was_measured(work, host, written, monkeypatch):
    """Unless it is not wanted: with --no-measure, with the variable, in portable builds."""
    default = written(pipeline.BuildChoice())
    measure_crossings()
    assert written(pipeline.BuildChoice()) == default
    monkeypatch.delenv(crossings.SKIP)
    assert '"Maker 6 1"' in written(pipeline.BuildChoice())
    assert written(pipeline.BuildChoice(measures=False)) == default
    assert written(pipeline.BuildChoice(portable=True)) == default


def test_doctor_says_measured_only_of_this_cpu(work, host, monkeypatch):
    """The kernels' own name of the CPU counts; and the hint says how this kind of binaries comes to it."""
    monkeypatch.delenv(crossings.SKIP)
    measure_crossings()
    for cpu_name, state in (("Maker 6 1", doctor.OK), ("Maker 6 2", doctor.NOTE)):

        def found_by(measured=None, cpu_name=cpu_name):
            return applied(cpu_name, [ISA.name], measured)

        library = SimpleNamespace(crossings=found_by, cpu_name=lambda cpu_name=cpu_name: cpu_name)
        monkeypatch.setattr(crossings, "library_of", lambda build, library=library: library)
        said = doctor._crossings()
        assert said.state == state and ("measured on this machine" in said.value) == (state == doctor.OK)
    for choice, words in (
        (pipeline.BuildChoice(portable=True), "for any CPU"),
        (pipeline.BuildChoice(measures=False), "--no-measure"),
        (pipeline.BuildChoice(), "kernels tune --crossings"),
    ):
        pipeline._remember(choice)
        assert words in doctor._crossings().hint


@pytest.mark.parametrize(
    "parameters, text, words",
    [
        ({"SPEED": 1}, None, "warning: this tuning is not used: "),
        ({}, "{", "warning: this tuning is not used: "),
        ({}, json.dumps({"CPU | cc 1": {ISA and ISA.name: {"2": {}}}}), "was found for other kernels"),
    ],
    ids=["wrong", "damaged", "outdated"],
)
def test_tuning_that_cannot_be_used_does_not_stop_a_build(work, host, written, capsys, parameters, text, words):
    """Builds for this machine warn and use the defaults. Portable builds use no tuning and do not warn."""
    default = written(pipeline.BuildChoice(portable=True))
    tuning_file.save(ISA, 2, parameters)
    if text:
        work.mkdir(exist_ok=True)
        (work / "tuning.json").write_text(text)
    assert written(pipeline.BuildChoice(portable=True)) == default and "tuning" not in capsys.readouterr().err
    assert written(pipeline.BuildChoice()) == default
    said = capsys.readouterr().err
    assert words in said and str(work / "tuning.json") in said


def test_doctor_shows_the_tuning(work, host):
    """None, in use, found for other kernels, or damaged."""
    assert doctor._tuning().state == doctor.OK and "none" in doctor._tuning().value
    tuning_file.save(ISA, 2, better())
    assert doctor._tuning().value == f"w2 {ISA.name}  {Path(work) / 'tuning.json'}"
    (work / "tuning.json").write_text(json.dumps({"CPU | cc 1": {ISA.name: {"2": better()}}}))
    assert doctor._tuning().state == doctor.NOTE and f"w2 {ISA.name} in " in doctor._tuning().value
    (work / "tuning.json").write_text("[]")
    assert doctor._tuning().state == doctor.MISSING and "tuning.json" in doctor._tuning().value
