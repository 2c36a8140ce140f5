"""The instruction sets that kernels are written for, fastest first: one row each, and nothing about them elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from .forms import GEMV_FORMS

# The architectures that have instruction sets of their own, and how C's preprocessor tells them.
ARCHITECTURES = {
    "x86_64": "defined(__x86_64__)",
    "arm64": "defined(__aarch64__) && defined(__AARCH64EL__)",
}


@dataclass(frozen=True)
class Isa:
    """`features`: what the CPU must have, in the names of `__builtin_cpu_supports`; `flags`: how its files are compiled.

    `prepare` names the instruction set whose functions prepare its activations. `gemv_forms` and `gemm_forms` are the forms
    of its kernels, GEMM in priority order (see crossings.py). `parameters` are what the GEMV template leaves free: they
    change speed, never results.
    """

    name: str
    machine: str
    prepare: str
    features: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    gemv_forms: tuple[str, ...] = GEMV_FORMS
    gemm_forms: tuple[str, ...] = ()
    parameters: dict[str, int] = field(default_factory=dict, hash=False)

    def forms(self, method: str) -> tuple[str, ...]:
        """The forms of its kernels of a method."""
        return {"gemv": self.gemv_forms, "gemm": self.gemm_forms}[method]

    def prepare_symbol(self, prepared: str) -> str:
        """The C function that prepares activations as `prepared`, a key of PREPARED."""
        return f"tmac_prepare_{prepared}_{self.prepare}"


_VBMI_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni")
_VBMI_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vbmi", "-mavx512vnni", "-mavx2", "-mfma", "-mf16c")

# Prefetch distances are bytes ahead in each stream; streams are row tiles walked together, far apart in memory. Measured on
# Zen 5. AVX-512: with two streams 3328 bytes are as good as 3840 or better, and 3 to 15 % better than what is further off;
# one stream loses 5 to 10 %. AVX2, which is limited by its shuffles too: one stream spills less and needs 8 KiB.
ISAS = (
    # Prompts only. The features of AMX are Linux's names: compilers cannot all be asked about them, and the kernel must grant
    # them (c/interface/amx.c). Every CPU with AMX has the others too.
    Isa(
        "amx",
        "x86_64",
        "avx512",
        (*_VBMI_FEATURES, "gfni", "avx512bf16", "amx_tile", "amx_int8", "amx_bf16"),
        (*_VBMI_FLAGS, "-mgfni", "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
        (),
        ("bf16", "exact_int8"),
    ),
    Isa(
        "avx512_vbmi",
        "x86_64",
        "avx512",
        _VBMI_FEATURES,
        _VBMI_FLAGS,
        ("tables", "exact_tables"),
        ("int8", "tables", "exact_int8"),
        {"STREAMS": 2, "PREFETCH": 3328, "SCALES_PREFETCH": 1024},
    ),
    Isa(
        "avx512",
        "x86_64",
        "avx512",
        ("avx512f", "avx512bw", "avx512vl"),
        ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        gemm_forms=("int8", "tables", "exact_int8"),
        parameters={"STREAMS": 2, "PREFETCH": 3328, "SCALES_PREFETCH": 1024},
    ),
    # Every CPU with AVX2 has F16C, which some compilers cannot be asked about.
    Isa(
        "avx2",
        "x86_64",
        "avx2",
        ("avx2", "fma"),
        ("-mavx2", "-mfma", "-mf16c"),
        gemm_forms=("int8", "tables", "exact_int8"),
        parameters={"STREAMS": 1, "PREFETCH": 8192, "SCALES_PREFETCH": 1024},
    ),
    # GEMM kernels only: decoding waits for memory, which dot products do not speed up.
    Isa(
        "neon_i8mm",
        "arm64",
        "neon",
        ("dotprod", "i8mm"),
        ("-march=armv8.2-a+dotprod+i8mm",),
        (),
        ("int8", "exact_int8"),
    ),
    Isa(
        "neon_dotprod",
        "arm64",
        "neon",
        ("dotprod",),
        ("-march=armv8.2-a+dotprod",),
        (),
        ("int8", "exact_int8"),
    ),
    # Part of every arm64 CPU. No arm64 machine was at hand. Two streams cost 0 to 3 % more cycles than one by llvm-mca (fast
    # at 1 bit: 13 %); that they hide latency as on x86-64 is assumed, and so are the distances: 1024 bytes are a quarter
    # of a microsecond at 4 GB/s.
    Isa(
        "neon",
        "arm64",
        "neon",
        gemm_forms=("int8", "exact_int8", "tables"),
        parameters={"STREAMS": 2, "PREFETCH": 1024, "SCALES_PREFETCH": 256},
    ),
    Isa("scalar", "any", "scalar", gemm_forms=("tables", "int8", "exact_int8")),
)
