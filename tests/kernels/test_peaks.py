"""The peaks that GEMM kernels are compared with: their loops as the compiler made them, and what they count."""

import re
import subprocess

import pytest

from tmac.common.compilers import find_c_compiler
from tmac.common.cpu import machine
from tmac.common.format import parse_type
from tmac.kernels import generate, native
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import KernelSpec
from tmac.tools import doctor
from tmac.tools.bench import limits, peaks
from tmac.tools.bench.limits import WEIGHTS, Limits

WITH_PEAKS = [isa for isa in ISAS if isa.name in peaks.LOOPS]
pytestmark = pytest.mark.skipif(machine() != "x86_64", reason="only instruction sets of x86-64 have peaks")


@pytest.mark.parametrize("isa", WITH_PEAKS, ids=lambda isa: isa.name)
def test_the_loops_spill_nothing(isa, tmp_path):
    """No sum is on the stack, and there is one multiplication for each: shares of a peak that spills could exceed 1."""
    files = generate.headers() | {name: text for name, (text, _) in (peaks.headers() | peaks.sources(isa)).items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    command = [*find_c_compiler(), *generate.COMMON_FLAGS, *isa.flags, "-fPIC", f"-I{tmp_path}", "-S", "-o", "-"]
    source = tmp_path / next(iter(peaks.sources(isa)))
    text = subprocess.run([*command, str(source)], capture_output=True, text=True, check=True).stdout
    loops = re.findall(r"# peak begin(.*?)# peak end", text, re.S)
    sums = {"int8": 20 if "avx512" in isa.name else 12, "tables": 20 if "avx512" in isa.name else 8}
    assert len(loops) == len(peaks.LOOPS[isa.name])
    for kind, loop in zip(peaks.LOOPS[isa.name], loops):
        assert not re.search(r"\(%r[sb]p\)", loop), loop
        assert len(re.findall("vpdpbusd|vpmaddubsw", loop)) == sums[kind]


def test_kernels_have_the_peak_of_their_width_and_kind(monkeypatch):
    """A lookup serves one bit, a multiplication all bits; other instruction sets have none."""
    if not native.library().runs_here("tmac_gemm_w2g128_int8_avx2"):
        pytest.skip("needs AVX2")
    avx2 = next(isa for isa in ISAS if isa.name == "avx2")
    of = {bits: KernelSpec(parse_type(f"w{bits}g128"), avx2, "gemm", "tables") for bits in (1, 4)}
    assert peaks.of_kernel(KernelSpec(parse_type("w4g128"), avx2, "gemm", "int8")) > 1e8
    monkeypatch.setattr(peaks, "measure", lambda *asked: 400e9)
    assert [peaks.of_kernel(of[bits]) for bits in (1, 4)] == [400e9, 100e9]
    scalar = [KernelSpec(parse_type("w4g128"), ISAS[-1], "gemm", form) for form in ISAS[-1].gemm_forms]
    assert [peaks.of_kernel(spec) for spec in scalar] == [0] * len(scalar)


def test_limits_by_hand(monkeypatch):
    """Two threads at the higher of 400 and 600 / bits; 2.125 bits a weight at 10 GB/s."""
    found = Limits({("avx2", "int8"): 400e9, ("avx2", "tables"): 600e9}, 10, 2)
    assert [found.prompt(bits) * WEIGHTS / 2e9 for bits in (1, 2)] == pytest.approx([600, 400])
    assert found.decoding(2) == pytest.approx(10e9 / (WEIGHTS * 2.125 / 8))
    monkeypatch.setattr(limits, "measure", lambda: found)
    said = {finding.name: finding.value for finding in doctor._speed()}
    assert said["peak avx2"] == "int8 400, look-ups 600 / bits: 1e9 multiply-adds/s of 1 thread"
    assert said["limit w2g128"] == "7B at most 6 tokens/s, prompts 124 by these peaks, 2 threads"
