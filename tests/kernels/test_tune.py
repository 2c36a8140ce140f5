"""The tuner: what a search chooses, that nothing wrong is timed, where what was found applies. None holds a speed."""

import dataclasses
import json
import threading
import time

import pytest

from tmac.kernels import bench, generate, host, native, tune, tuned
from tmac.kernels.bench import loops
from tmac.kernels.catalog import isas_for
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import ISAS, machine
from tmac.kernels.tuning import DEFAULTS, Tuning, candidates

VALUES = {"STREAMS": (1, 2, 3), "PREFETCH": (0, 512, 1024)}
START = {"STREAMS": 2, "PREFETCH": 512}


class Imagined:
    """A workbench whose times are a function of the parameters, with the same jitter in every comparison."""

    def __init__(self, seconds, jitter=(0.0, 0.001, -0.001), wrong=()):
        self.seconds, self.jitter, self.wrong = seconds, jitter, wrong
        self.timed, self.verified = [], []

    def verify(self, several):
        for parameters in several:
            self.verified.append(dict(parameters))
            if parameters in self.wrong:
                raise KernelError(f"{tune.words(parameters)} is wrong")

    def speed_ratios(self, one, other):
        assert dict(one) in self.verified and dict(other) in self.verified, "timed before it was verified"
        self.timed.append(dict(other))
        return [self.seconds(one) / self.seconds(other) * (1 + j) for j in self.jitter]


def found(seconds, **options):
    return tune.search(START, VALUES, Imagined(seconds, **options), lambda line: None)


def test_the_fastest_is_chosen():
    chosen, gain, _ = found(lambda p: 1.0 if p["STREAMS"] == 3 else 1.5)
    assert chosen == {"STREAMS": 3, "PREFETCH": 512} and gain == pytest.approx(0.5)


def test_a_parameter_is_looked_at_again_after_another_changed():
    """One stream is better only with the far prefetch, which comes later."""
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
    assert (chosen, reported) == (START, 0.0) and noise >= tune.LEAST_GAIN


def test_luck_in_the_search_does_not_survive_a_fresh_comparison():
    class Lucky(Imagined):
        def speed_ratios(self, one, other):
            ratios = super().speed_ratios(one, other)
            is_first = self.timed.count(dict(other)) == 1 and other != START
            return [1.2 * ratio for ratio in ratios] if is_first else ratios

    assert tune.search(START, VALUES, Lucky(lambda p: 1.0), lambda line: None)[:2] == (START, 0.0)


def test_a_wrong_candidate_ends_the_search_untimed():
    workbench = Imagined(lambda p: 1.0, wrong=[START | {"STREAMS": 3}])
    with pytest.raises(KernelError, match="STREAMS 3, PREFETCH 512 is wrong"):
        tune.search(START, VALUES, workbench, lambda line: None)
    assert START | {"STREAMS": 3} not in workbench.timed


def test_what_counts_as_gain_grows_with_the_noise():
    assert tune.chance_gain([1.0] * 9) == tune.LEAST_GAIN
    assert tune.chance_gain([0.9, 1.0, 1.1] * 3) > 0.1 > tune.chance_gain([0.99, 1.0, 1.01] * 30)
    assert tune.chance_gain([1.04] * 9) == pytest.approx(0.04)


def test_every_parameter_has_candidates_and_its_default_is_one():
    """A parameter that is new in isa.py needs its values in tuning.py."""
    for isa in ISAS:
        for name, values in candidates(isa).items():
            assert len(values) > 1, f"{isa.name}: tuning.CANDIDATES has no values for {name}"
            assert isa.parameters[name] in values


@pytest.fixture
def isa():
    """The fastest instruction set with parameters that this CPU has."""
    for isa in isas_for(machine()):
        if isa.parameters and native.library().runs_here(f"tmac_gemv_w2g64_tables_{isa.name}"):
            return isa
    pytest.skip("this CPU runs no kernel with free parameters")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(tune, "SHAPE", (64, 128))
    monkeypatch.setattr(bench, "LEAST_BYTES", 10_000)


def another(isa, name):
    return next(value for value in candidates(isa)[name] if value != isa.parameters[name])


def test_real_candidates_are_verified_and_timed(isa, small, monkeypatch, tmp_path):
    """Every parameter at another value computes the same, and there is a time for it; no candidate's library stays."""
    workbench = tune.KernelWorkbench(isa, 2, threads=2, total_bytes=0, rounds=3)
    loops.look_up_peak(1)  # the timing loops, which do stay, are compiled now
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    other = isa.parameters | {name: another(isa, name) for name in isa.parameters}
    for form in isa.gemv_forms:
        workbench.verify([isa.parameters, other], form)
    assert all(ratio > 0 for ratio in workbench.speed_ratios(isa.parameters, other))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["rounded", "exact"])
def test_a_wrong_kernel_is_named(isa, small, monkeypatch, precision):
    """C text of the kernels being tuned that computes something else under one value of one parameter."""
    name = next(iter(isa.parameters))
    wrong, text_of = another(isa, name), generate.kernel_source
    tuned_file = generate.KernelFile(1, precision, isa)

    def edited(file, tuning=DEFAULTS):
        text, right = text_of(file, tuning), "last_tile);\n}"
        if file != tuned_file or tuning.parameters(isa, 1)[name] != wrong:
            return text
        return text.replace(right, right[:-1] + "    y[32 * first_tile] += 1;\n}")

    monkeypatch.setattr(generate, "kernel_source", edited)
    workbench = tune.KernelWorkbench(isa, 1, threads=1, total_bytes=0, rounds=1)
    workbench.verify([isa.parameters], precision)
    with pytest.raises(KernelError, match=rf"tmac_gemv_w1g32\w*_{isa.name} with .*{name} {wrong}\b.* is wrong"):
        workbench.verify([isa.parameters, isa.parameters | {name: wrong}], precision)


def test_tuning_ends_in_a_result(isa, small, monkeypatch):
    """The whole way, with times made up: only one value of one parameter is faster."""
    name = next(iter(isa.parameters))
    fast = another(isa, name)
    monkeypatch.setattr(tune, "candidates", lambda isa: {name: (isa.parameters[name], fast)})
    monkeypatch.setattr(
        tune.KernelWorkbench,
        "speed_ratios",
        lambda self, one, other: [1 + 0.2 * ((other[name] == fast) - (one[name] == fast))] * 3,
    )
    result = tune.tune(isa, 1, threads=1, total_bytes=0, rounds=3)
    assert result.found == isa.parameters | {name: fast} and result.gain == pytest.approx(0.2)
    assert json.loads(json.dumps(result.as_dict()))["chosen"] == result.chosen


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "home_folder", lambda: tmp_path)
    monkeypatch.setattr(tuned, "cpu_model", lambda: "this CPU")
    monkeypatch.setattr(tuned, "compiler_name", lambda: "cc 1")
    monkeypatch.setattr(tuned, "isas_for", lambda machine: ISAS)
    return tmp_path


AVX2 = next(isa for isa in ISAS if isa.name == "avx2")


def entry(bits, **parameters):
    """What the file has for AVX2's kernels as they are."""
    return {"kernels": tuned.kernels_key(AVX2, bits), "parameters": parameters}


def test_what_is_kept_is_read_again(home):
    assert tuned.for_this_machine() == DEFAULTS
    tuned.save(AVX2, 2, {"STREAMS": 1, "PREFETCH": 2048})
    tuned.save(AVX2, 4, {"STREAMS": 3})
    both = {("avx2", 2): {"STREAMS": 1, "PREFETCH": 2048}, ("avx2", 4): {"STREAMS": 3}}
    assert tuned.for_this_machine() == Tuning(both)
    assert json.loads((home / "tuning.json").read_text()) == {
        "this CPU | cc 1": {"avx2": {"2": entry(2, STREAMS=1, PREFETCH=2048), "4": entry(4, STREAMS=3)}}
    }
    tuned.save(AVX2, 2, {})
    assert tuned.for_this_machine() == Tuning({("avx2", 4): {"STREAMS": 3}})
    assert tuned.reset() and not tuned.reset() and tuned.for_this_machine() == DEFAULTS
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name, value", [("cpu_model", "that CPU"), ("compiler_name", "cc 2")])
def test_another_cpu_or_compiler_has_its_own(home, monkeypatch, name, value):
    tuned.save(AVX2, 2, {"STREAMS": 1})
    before = getattr(tuned, name)
    monkeypatch.setattr(tuned, name, lambda: value)
    assert tuned.for_this_machine() == DEFAULTS and not tuned.reset()
    tuned.save(AVX2, 2, {"STREAMS": 3})
    monkeypatch.setattr(tuned, name, before)
    assert tuned.for_this_machine() == Tuning({("avx2", 2): {"STREAMS": 1}})


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
    """An error for the tuner; a warning for those who only want the speed, before the defaults."""
    (home / "tuning.json").write_text(json.dumps({"this CPU | cc 1": wrong, "other CPU | cc 1": {"neon9": 5}}))
    with pytest.raises(KernelError) as caught:
        tuned.check_writable()
    lines = []
    assert tuned.for_this_machine(lines.append) == DEFAULTS
    assert lines == [f"warning: this tuning is not used: {caught.value.message} ({caught.value.hint})"]
    assert caught.value.message.startswith(f"{home / 'tuning.json'}: ") and words in caught.value.message
    assert "--reset" in caught.value.hint
    assert tuned.reset() and tuned.for_this_machine() == DEFAULTS


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]"])
def test_a_damaged_file_is_one_sentence(home, content):
    (home / "tuning.json").write_bytes(content)
    for use in (tuned.reset, tuned.check_writable, lambda: tuned.save(AVX2, 2, {})):
        with pytest.raises(KernelError, match="tuning.json"):
            use()
    lines = []
    assert tuned.for_this_machine(lines.append) == DEFAULTS and "tuning.json" in lines[0]
    assert (home / "tuning.json").read_bytes() == content


def test_one_wrong_entry_leaves_the_others(home, capsys):
    """And is told once, however often libraries are looked for."""
    tuned.save(AVX2, 2, {"STREAMS": 1})
    tuned.save(AVX2, 4, {"STREAMS": 99})
    for _ in range(2):
        assert tuned.for_this_machine() == Tuning({("avx2", 2): {"STREAMS": 1}})
    assert capsys.readouterr().err.count("warning: this tuning is not used") == 1


@pytest.mark.parametrize(
    "old",
    [{"kernels": "0" * 12, "parameters": {"SPEED": 1}}, {"STREAMS": 3}],
    ids=["other kernels", "of a version without the key"],
)
def test_tuning_of_other_kernels_does_not_count(home, old):
    """One line says so; a new search replaces it without a reset."""
    (home / "tuning.json").write_text(json.dumps({"this CPU | cc 1": {"avx2": {"2": old}}}))
    lines = []
    assert tuned.for_this_machine(lines.append) == DEFAULTS
    assert lines == [
        f"tuning of w2 avx2 in {home / 'tuning.json'} is of other kernels and not used; run `tmac kernels tune` again"
    ]
    tuned.check_writable()
    tuned.save(AVX2, 2, {"STREAMS": 3})
    assert tuned.for_this_machine(pytest.fail) == Tuning({("avx2", 2): {"STREAMS": 3}})


def test_key_follows_what_is_compiled(monkeypatch):
    """Template, included headers, defaults and flags; but not what other instruction sets have."""
    key, headers = tuned.kernels_key(AVX2, 2), generate.headers()
    assert key != tuned.kernels_key(AVX2, 3)
    assert key != tuned.kernels_key(dataclasses.replace(AVX2, flags=("-O1",)), 2)
    streams = next(value for value in candidates(AVX2)["STREAMS"] if value != AVX2.parameters["STREAMS"])
    other = dataclasses.replace(AVX2, parameters=AVX2.parameters | {"STREAMS": streams})
    assert key != tuned.kernels_key(other, 2)
    for name, counts in {"walk.h": True, "tmac.h": True, "catalog.h": False, "exact_tables.h": False}.items():
        monkeypatch.setattr(generate, "headers", lambda: headers | {name: headers[name] + "// new\n"})
        assert (tuned.kernels_key(AVX2, 2) != key) == counts, name


def test_tuners_do_not_lose_each_others_results(home, monkeypatch):
    """The second reads the file only when the first has written it."""
    write = tuned._write
    monkeypatch.setattr(tuned, "_write", lambda data: (time.sleep(0.05), write(data)))
    savers = [threading.Thread(target=tuned.save, args=(AVX2, bits, {"STREAMS": 3})) for bits in tuned.BITS]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join()
    assert set(tuned.for_this_machine().found) == {("avx2", bits) for bits in tuned.BITS}


def test_tuned_numbers_are_in_the_generated_text(tmp_path):
    """Of the one instruction set and bit width that they were found for."""
    generate.write_tree(tmp_path / "a")
    generate.write_tree(tmp_path / "b", tuning=Tuning({("avx2", 2): {"STREAMS": 3, "PREFETCH": 2048}}))
    differing = [p.name for p in (tmp_path / "a").iterdir() if p.read_text() != (tmp_path / "b" / p.name).read_text()]
    assert sorted(differing) == [f"tmac_gemv_w2_{form}_avx2.c" for form in ("exact_tables", "fast_tables", "tables")]
    assert "STREAMS = 3, PREFETCH = 2048," in (tmp_path / "b" / "tmac_gemv_w2_tables_avx2.c").read_text()


def test_libraries_for_python_have_what_was_found(home, monkeypatch):
    """native.build() compiles the tuned text, unless told otherwise."""
    built = []
    monkeypatch.setattr(native, "build_library", lambda sources, flags: built.append(sources))
    name, isa = next((f"tmac_gemv_w2_tables_{i.name}.c", i) for i in isas_for(machine()) if i.parameters)
    parameter = next(iter(isa.parameters))
    tuned.save(isa, 2, {parameter: another(isa, parameter)})
    native.build()
    native.build(tuning=DEFAULTS)
    assert f"{parameter} = {another(isa, parameter)}" in built[0][name][0]
    assert f"{parameter} = {isa.parameters[parameter]}" in built[1][name][0]


@pytest.mark.parametrize(
    "text, name",
    [
        (
            "processor : 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n" * 2,
            "AMD EPYC, cpu family 26, model 2",
        ),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd05\n\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
            "CPU implementer 0x41, CPU part 0xd05 0xd0b",
        ),
        ("model name\t:\nmodel name\t: Some CPU\nmodel\t:\n\ncpu family\t: 6\n", "Some CPU, cpu family 6"),
    ],
)
def test_cpu_has_a_name(tmp_path, monkeypatch, text, name):
    """Models of one name are told apart, and so are Arm's parts."""
    monkeypatch.setattr(host, "CPU_FILE", tmp_path / "cpuinfo")
    host.CPU_FILE.write_text(text)
    assert host.cpu_model() == name


def test_home_is_asked_for_only_where_it_is_needed(tmp_path, monkeypatch):
    """A service without a home works with TMAC_HOME, and is told of it without."""

    def no_home(*given):
        raise RuntimeError

    monkeypatch.setattr(host.Path, "home", no_home)
    monkeypatch.setenv("TMAC_HOME", str(tmp_path))
    assert host.home_folder() == tmp_path
    monkeypatch.delenv("TMAC_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert host.home_folder() == tmp_path / "tmac"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(KernelError, match="the user's home folder is not known") as caught:
        host.home_folder()
    assert "TMAC_HOME" in caught.value.hint
    monkeypatch.setattr(host.Path, "expanduser", no_home)
    monkeypatch.setenv("TMAC_HOME", "~nobody")
    with pytest.raises(KernelError, match="TMAC_HOME=~nobody: the home folder"):
        host.home_folder()


@pytest.mark.parametrize(
    "macros, name",
    [
        ("#define __GNUC__ 12\n#define __GNUC_MINOR__ 2\n#define __GNUC_PATCHLEVEL__ 0\n", "gcc 12.2.0"),
        (
            "#define __GNUC__ 4\n#define __clang_major__ 17\n#define __clang_minor__ 0\n#define __clang_patchlevel__ 1\n",
            "clang 17.0.1",
        ),
        ("", "odd 3"),
    ],
)
def test_compiler_has_a_name(tmp_path, monkeypatch, macros, name):
    """By what it is, not by how it is called."""
    (tmp_path / "cc").write_text(f"#!/bin/sh\n[ $1 = --version ] && echo odd 3 && exit\ncat <<'X'\n{macros}X\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    assert host.compiler_name() == name
