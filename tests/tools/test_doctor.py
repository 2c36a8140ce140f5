"""`tmac doctor`: what is missing, as soon as it is known, without making anything."""

import json

import pytest

from tmac.common.cpu import machine
from tmac.kernels.catalog import isas_for
from tmac.tools import cli, doctor


def test_doctor_tells_what_is_missing(monkeypatch, capsys):
    """Without a compiler doctor ends with 1, names the package, and still reports the rest."""
    monkeypatch.setenv("PATH", "")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    assert cli.main(["doctor", "--json"]) == 1
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["C compiler"]["state"] == "missing" and "build-essential" in findings["C compiler"]["hint"]
    assert findings["python"]["state"] == "ok" and findings["llama.cpp"]["state"] == "note"


def test_each_compiler_is_found_by_itself(monkeypatch, program, capsys):
    """With cc but no c++, doctor says so: one is there, the other is missing."""
    from tmac.tools import doctor

    monkeypatch.setattr(doctor, "_kernels", lambda: [])
    monkeypatch.setattr(doctor, "_bandwidth", lambda: doctor.Finding("reading memory", doctor.OK, ""))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(program("cc", "echo cc 1.0").parent))
    assert cli.main(["doctor", "--json"]) == 1
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["C compiler"]["state"] == "ok" and "cc 1.0" in findings["C compiler"]["value"]
    assert findings["C++ compiler"]["state"] == "missing" and "C++" in findings["C++ compiler"]["value"]


def test_doctor_prints_as_it_goes_and_compiles_no_kernels(monkeypatch, capsys, work):
    """Each finding is on stdout before the next is looked for; what the build has is not compiled again."""
    from tmac.kernels import compile as kernel_cache
    from tmac.tools import doctor

    seen = []
    monkeypatch.setattr(
        doctor, "_bandwidth", lambda: seen.append(capsys.readouterr().out) or doctor.Finding("x", "ok", "")
    )
    monkeypatch.setattr(kernel_cache, "compile_into", lambda *ignored: pytest.fail("nothing is to be compiled"))
    assert cli.main(["doctor"]) == 0
    assert "memory" in seen[0] and "llama.cpp" not in seen[0] and "llama.cpp" in capsys.readouterr().out


def test_doctor_works_where_nothing_can_be_written(monkeypatch, capsys, tmp_path):
    """A home that cannot be written to is a finding, not the end."""
    from tmac.tools import doctor

    (tmp_path / "home").mkdir(mode=0o555)
    monkeypatch.setenv("TMAC_HOME", str(tmp_path / "home" / "tmac"))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != tmp_path / "home")
    monkeypatch.setattr(doctor, "_bandwidth", lambda: doctor.Finding("x", "ok", ""))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "cannot be written to" in said and "TMAC_HOME" in said and "python" in said


def test_kernels_are_told_in_a_line_that_can_be_read():
    """Those that few serve by name, the best instruction set first, and the rest by number."""
    best, good, last = (isa.name for isa in [*isas_for(machine())[:2], isas_for(machine())[-1]])
    isas = [*[good] * 40, last, best, best]
    rows = [{"type": f"t{number}", "isa": isa} for number, isa in enumerate(isas)]
    assert doctor._by_isa(rows) == f"t41, t42 by {best}; t40 by {last}; the other 40 types by {good}"
    assert doctor._by_isa(rows[:40]) == f"all 40 types by {good}"
    assert doctor._by_isa(rows[40:42]) == f"t41 by {best}; t40 by {last}"
