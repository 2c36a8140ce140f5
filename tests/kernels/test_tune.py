"""The tuner: what a search chooses, that wrong kernels are not timed, and where its results apply. No test asserts a
speed.
"""

import dataclasses
import json
import threading
import time

import pytest

from tmac.common import cpu
from tmac.common.cpu import machine
from tmac.common.format import BITS
from tmac.kernels import compile as compilation
from tmac.kernels import generate, native, tuning_file
from tmac.kernels.catalog import isas_for
from tmac.kernels.errors import KernelError
from tmac.kernels.forms import reads
from tmac.kernels.isa import ISAS
from tmac.kernels.tuning import DEFAULTS, TERNARY, Tuning, candidates
from tmac.tools.bench import gemv, loops, tuner
from tmac.tools.errors import ToolError

VALUES = {"STREAMS": (1, 2, 3), "PREFETCH": (0, 512, 1024)}
START = {"STREAMS": 2, "PREFETCH": 512}


class Imagined:
    """A workbench whose times are computed from the parameters, with the same jitter in every comparison."""

    def __init__(self, seconds, jitter=(0.0, 0.001, -0.001), wrong=()):
        self.seconds, self.jitter, self.wrong = seconds, jitter, wrong
        self.timed, self.verified = [], []

    def verify(self, several):
        for parameters in several:
            self.verified.append(dict(parameters))
            if parameters in self.wrong:
                raise KernelError(f"{tuner.words(parameters)} is wrong")

    def speed_ratios(self, one, other):
        assert dict(one) in self.verified and dict(other) in self.verified, "timed before it was verified"
        self.timed.append(dict(other))
        return [self.seconds(one) / self.seconds(other) * (1 + j) for j in self.jitter]


def found(seconds, **options):
    return tuner.search(START, VALUES, Imagined(seconds, **options), lambda line: None)


def test_the_fastest_is_chosen():
    chosen, gain, _ = found(lambda p: 1.0 if p["STREAMS"] == 3 else 1.5)
    assert chosen == {"STREAMS": 3, "PREFETCH": 512} and gain == pytest.approx(0.5)


def test_a_parameter_is_looked_at_again_after_another_changed():
    """One stream is better only with the long prefetch distance, which is tried later."""
    seconds = {(1, 1024): 1.0, (2, 1024): 1.5, (3, 1024): 1.6}
    chosen, gain, _ = found(lambda p: seconds.get((p["STREAMS"], p["PREFETCH"]), 2.0))
    assert chosen == {"STREAMS": 1, "PREFETCH": 1024} and gain == pytest.approx(1.0)


@pytest.mark.parametrize(
    "gain, jitter",
    [
        (0, (0, 0, 0)),
        (0.005, (0, 0, 0)),
        (0.05, (-0.1, 0, 0.1)),
        (-0.3, (0, 0, 0)),
    ],
)
def test_defaults_stay_where_nothing_gains_more_than_chance(gain, jitter):
    chosen, reported, noise = found(lambda p: 1 if p == START else 1 / (1 + gain), jitter=jitter)
    assert (chosen, reported) == (START, 0.0) and noise >= tuner.LEAST_GAIN


def test_luck_in_the_search_does_not_survive_a_fresh_comparison():
    class Lucky(Imagined):
        def speed_ratios(self, one, other):
            ratios = super().speed_ratios(one, other)
            is_first = self.timed.count(dict(other)) == 1 and other != START
            return [1.2 * ratio for ratio in ratios] if is_first else ratios

    assert tuner.search(START, VALUES, Lucky(lambda p: 1.0), lambda line: None)[:2] == (START, 0.0)


def test_a_wrong_candidate_ends_the_search_untimed():
    workbench = Imagined(lambda p: 1.0, wrong=[START | {"STREAMS": 3}])
    with pytest.raises(KernelError, match="STREAMS 3, PREFETCH 512 is wrong"):
        tuner.search(START, VALUES, workbench, lambda line: None)
    assert START | {"STREAMS": 3} not in workbench.timed


def test_what_counts_as_gain_grows_with_the_noise():
    assert tuner.chance_gain([1.0] * 9) == tuner.LEAST_GAIN
    assert tuner.chance_gain([0.9, 1.0, 1.1] * 3) > 0.1 > tuner.chance_gain([0.99, 1.0, 1.01] * 30)
    assert tuner.chance_gain([1.04] * 9) == pytest.approx(0.04)


def test_every_parameter_has_candidates_and_its_default_is_one():
    """A new parameter of isa.py needs candidates in tuning.py."""
    for isa in ISAS:
        for name, values in candidates(isa).items():
            assert len(values) > 1, f"{isa.name}: tuning.CANDIDATES has no values for {name}"
            assert isa.parameters[name] in values


@pytest.fixture
def isa():
    """The fastest instruction set of this CPU that has parameters."""
    for isa in isas_for(machine()):
        if isa.parameters and native.library().runs_here(f"tmac_gemv_w2g64_tables_{isa.name}"):
            return isa
    pytest.skip("this CPU runs no kernel with free parameters")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tuner, "SHAPE", (64, 128))
    monkeypatch.setattr(gemv, "LEAST_BYTES", 10_000)


def another(isa, name):
    return next(value for value in candidates(isa)[name] if value != isa.parameters[name])


@pytest.mark.parametrize("codes", [2, TERNARY])
def test_real_candidates_are_verified_and_timed(isa, small, monkeypatch, tmp_path, codes):
    """With every parameter changed, results are the same and there is a time; no candidate's library is kept."""
    workbench = tuner.KernelWorkbench(isa, codes, threads=2, total_bytes=0, rounds=3)
    loops._loops()  # the timing loops, which do stay, are compiled now
    monkeypatch.setattr(tuner, "cache_folder", lambda: tmp_path)
    other = isa.parameters | {name: another(isa, name) for name in isa.parameters}
    for form in (form for form in isa.gemv_forms if reads("gemv", form, tuner.timed_type(codes))):
        workbench.verify([isa.parameters, other], form)
    assert all(ratio > 0 for ratio in workbench.speed_ratios(isa.parameters, other))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["tables", "exact_tables"])
def test_a_wrong_kernel_is_named(isa, small, monkeypatch, form):
    """The C text of the kernels computes something else for one value of one parameter."""
    name = next(iter(isa.parameters))
    wrong, text_of = another(isa, name), generate.kernel_source
    tuned_file = generate.KernelFile(1, isa, "gemv", form)

    def edited(file, tuning=DEFAULTS):
        text, right = text_of(file, tuning), "last_tile);\n}"
        if file != tuned_file or tuning.parameters(isa, 1)[name] != wrong:
            return text
        return text.replace(right, right[:-1] + "    y[32 * first_tile] += 1;\n}")

    monkeypatch.setattr(generate, "kernel_source", edited)
    workbench = tuner.KernelWorkbench(isa, 1, threads=1, total_bytes=0, rounds=1)
    workbench.verify([isa.parameters], form)
    with pytest.raises(ToolError, match=rf"tmac_gemv_w1g32\w*_{isa.name} with .*{name} {wrong}\b.* is wrong"):
        workbench.verify([isa.parameters, isa.parameters | {name: wrong}], form)


def test_tuning_ends_in_a_result(isa, small, monkeypatch):
    """A complete search with made-up times: only one value of one parameter is faster."""
    name = next(iter(isa.parameters))
    fast = another(isa, name)
    monkeypatch.setattr(tuner, "candidates", lambda isa: {name: (isa.parameters[name], fast)})
    monkeypatch.setattr(
        tuner.KernelWorkbench,
        "speed_ratios",
        lambda self, one, other: [1 + 0.2 * ((other[name] == fast) - (one[name] == fast))] * 3,
    )
    result = tuner.tune(isa, 1, threads=1, total_bytes=0, rounds=3)
    assert result.found == isa.parameters | {name: fast} and result.gain == pytest.approx(0.2)
    assert json.loads(json.dumps(result.as_dict()))["chosen"] == result.chosen


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    monkeypatch.setattr(cpu, "model", lambda: "this CPU")
    monkeypatch.setattr(tuning_file, "compiler_name", lambda: "cc 1")
    monkeypatch.setattr(tuning_file, "isas_for", lambda machine: ISAS)
    return tmp_path


AVX2 = next(isa for isa in ISAS if isa.name == "avx2")


def entry(bits, **parameters):
    """A valid entry of the file for AVX2's present kernels."""
    return {"kernels": tuning_file.kernels_key(AVX2, bits), "parameters": parameters}


def test_what_is_kept_is_read_again(home):
    assert tuning_file.for_this_machine() == DEFAULTS
    tuning_file.save(AVX2, 2, {"STREAMS": 1, "PREFETCH": 2048})
    tuning_file.save(AVX2, 4, {"STREAMS": 3})
    both = {("avx2", 2): {"STREAMS": 1, "PREFETCH": 2048}, ("avx2", 4): {"STREAMS": 3}}
    assert tuning_file.for_this_machine() == Tuning(both)
    assert json.loads((home / "tuning.json").read_text()) == {
        "this CPU | cc 1": {"avx2": {"2": entry(2, STREAMS=1, PREFETCH=2048), "4": entry(4, STREAMS=3)}}
    }
    tuning_file.save(AVX2, 2, {})
    assert tuning_file.for_this_machine() == Tuning({("avx2", 4): {"STREAMS": 3}})
    assert tuning_file.reset() and not tuning_file.reset() and tuning_file.for_this_machine() == DEFAULTS
    assert [path.name for path in home.iterdir()] == ["locks"]


@pytest.mark.parametrize("module, name, value", [(cpu, "model", "that CPU"), (tuning_file, "compiler_name", "cc 2")])
def test_another_cpu_or_compiler_has_its_own(home, monkeypatch, module, name, value):
    tuning_file.save(AVX2, 2, {"STREAMS": 1})
    before = getattr(module, name)
    monkeypatch.setattr(module, name, lambda: value)
    assert tuning_file.for_this_machine() == DEFAULTS and not tuning_file.reset()
    tuning_file.save(AVX2, 2, {"STREAMS": 3})
    monkeypatch.setattr(module, name, before)
    assert tuning_file.for_this_machine() == Tuning({("avx2", 2): {"STREAMS": 1}})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"sse9": {}}, "'sse9' is no instruction set"),
        ({"avx2": {"5": {}}}, "avx2: 5: not a bit width; known: 1, 2, 3, 4"),
        ({"avx2": {"2": entry(2, SPEED=1)}}, "avx2: 2: 'SPEED' is no parameter of it; known: STREAMS"),
        ({"avx2": {"2": entry(2, STREAMS=99)}}, "avx2: 2: STREAMS is 99; possible: 1, 2"),
        ({"avx2": {"2": entry(2, STREAMS=True)}}, "STREAMS is true; possible"),
        ({"avx2": {"2": entry(2, STREAMS="2")}}, 'STREAMS is "2"; possible'),
        ({"avx2": {"2": 3}}, "avx2: 2: expected an object of JSON, found 3"),
        ({"avx2": []}, "avx2: expected an object"),
        ({"avx2": {"2": entry(2) | {"parameters": None}}}, "avx2: 2: expected an object of JSON, found null"),
        ([], "this CPU | cc 1: expected an object"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_file_and_key(home, wrong, words):
    """An error for the tuner; a warning for builds, which then use the defaults."""
    (home / "tuning.json").write_text(json.dumps({"this CPU | cc 1": wrong, "other CPU | cc 1": {"neon9": 5}}))
    with pytest.raises(KernelError) as caught:
        tuning_file.check_writable()
    lines = []
    assert tuning_file.for_this_machine(lines.append) == DEFAULTS
    assert lines == [f"warning: this tuning is not used: {caught.value.message} ({caught.value.hint})"]
    assert caught.value.message.startswith(f"{home / 'tuning.json'}: ") and words in caught.value.message
    assert "--reset" in caught.value.hint
    assert tuning_file.reset() and tuning_file.for_this_machine() == DEFAULTS


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]"])
def test_a_damaged_file_is_one_sentence(home, content):
    (home / "tuning.json").write_bytes(content)
    for use in (tuning_file.reset, tuning_file.check_writable, lambda: tuning_file.save(AVX2, 2, {})):
        with pytest.raises(KernelError, match="tuning.json"):
            use()
    lines = []
    assert tuning_file.for_this_machine(lines.append) == DEFAULTS and "tuning.json" in lines[0]
    assert (home / "tuning.json").read_bytes() == content


def test_one_wrong_entry_leaves_the_others(home, capsys):
    """The warning appears once, however often libraries are loaded."""
    tuning_file.save(AVX2, 2, {"STREAMS": 1})
    tuning_file.save(AVX2, 4, {"STREAMS": 99})
    for _ in range(2):
        assert tuning_file.for_this_machine() == Tuning({("avx2", 2): {"STREAMS": 1}})
    assert capsys.readouterr().err.count("warning: this tuning is not used") == 1


@pytest.mark.parametrize(
    "old",
    [{"kernels": "0" * 12, "parameters": {"SPEED": 1}}, {"STREAMS": 3}],
    ids=["other kernels", "of a version without the key"],
)
def test_tuning_of_other_kernels_does_not_count(home, old):
    """One line says so; a new search replaces the entry without a reset."""
    (home / "tuning.json").write_text(json.dumps({"this CPU | cc 1": {"avx2": {"2": old}}}))
    lines = []
    assert tuning_file.for_this_machine(lines.append) == DEFAULTS
    assert lines == [
        f"tuning of w2 avx2 in {home / 'tuning.json'} was found for other kernels and is not used; "
        "run `tmac kernels tune` again"
    ]
    tuning_file.check_writable()
    tuning_file.save(AVX2, 2, {"STREAMS": 3})
    assert tuning_file.for_this_machine(pytest.fail) == Tuning({("avx2", 2): {"STREAMS": 3}})


def test_key_follows_what_is_compiled(monkeypatch):
    """The key depends on template, included headers, defaults and flags, but not on other instruction sets."""
    key, headers = tuning_file.kernels_key(AVX2, 2), generate.headers()
    assert key != tuning_file.kernels_key(AVX2, 3)
    assert key != tuning_file.kernels_key(dataclasses.replace(AVX2, flags=("-O1",)), 2)
    streams = next(value for value in candidates(AVX2)["STREAMS"] if value != AVX2.parameters["STREAMS"])
    other = dataclasses.replace(AVX2, parameters=AVX2.parameters | {"STREAMS": streams})
    assert key != tuning_file.kernels_key(other, 2)
    for name, counts in {
        "gemv/walk.h": True,
        "interface/tmac.h": True,
        "interface/tmac_format.h": True,
        "interface/tmac_structs.h": True,
        "interface/catalog.h": False,
        "activations/exact_tables.h": False,
    }.items():
        monkeypatch.setattr(generate, "headers", lambda: headers | {name: headers[name] + "// new\n"})
        assert (tuning_file.kernels_key(AVX2, 2) != key) == counts, name


def test_tuners_do_not_lose_each_others_results(home, monkeypatch):
    """The second tuner reads the file only after the first has written it."""
    write = tuning_file._write
    monkeypatch.setattr(tuning_file, "_write", lambda data: (time.sleep(0.05), write(data)))
    savers = [threading.Thread(target=tuning_file.save, args=(AVX2, bits, {"STREAMS": 3})) for bits in BITS]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    assert set(tuning_file.for_this_machine().found) == {("avx2", bits) for bits in BITS}


@pytest.mark.parametrize(
    "codes, kernels",
    [
        (2, ("w2_exact_tables", "w2_fast_tables", "w2_tables")),
        (TERNARY, ("t3_exact_trits", "t3_trits")),
    ],
)
def test_tuned_numbers_are_in_the_generated_text(tmp_path, codes, kernels):
    """Only for the instruction set and the codes that they were found for."""
    generate.write_tree(tmp_path / "a")
    generate.write_tree(tmp_path / "b", tuning=Tuning({("avx2", codes): {"STREAMS": 3, "PREFETCH": 2048}}))
    a, b = ({p.relative_to(tmp_path / f).as_posix(): p.read_text() for p in (tmp_path / f).rglob("*.*")} for f in "ab")
    assert a.keys() == b.keys()
    differing = sorted(name for name in a if a[name] != b[name])
    assert differing == [f"gemv/tmac_gemv_{name}_avx2.c" for name in kernels]
    assert "#define STREAMS 3\n#define PREFETCH 2048\n" in b[differing[-1]]


def test_libraries_for_python_have_what_was_found(home, monkeypatch):
    """kernels.compile.build() compiles with the tuned parameters, unless given others."""
    built = []
    monkeypatch.setattr(compilation, "build_library", lambda sources, flags: built.append(sources))
    name, isa = next((f"gemv/tmac_gemv_w2_tables_{i.name}.c", i) for i in isas_for(machine()) if i.parameters)
    parameter = next(iter(isa.parameters))
    tuning_file.save(isa, 2, {parameter: another(isa, parameter)})
    compilation.build()
    compilation.build(tuning=DEFAULTS)
    assert f"#define {parameter} {another(isa, parameter)}\n" in built[0][name][0]
    assert f"#define {parameter} {isa.parameters[parameter]}\n" in built[1][name][0]
