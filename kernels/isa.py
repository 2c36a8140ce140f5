"""The instruction sets that kernels are written for, fastest first. All facts about one stand in its row here."""

from __future__ import annotations

from dataclasses import dataclass, field

from .forms import GEMV_FORMS, TRITS_GEMV_FORMS

# The architectures with instruction sets of their own, and the preprocessor condition of each.
ARCHITECTURES = {
    "x86_64": "defined(__x86_64__)",
    "arm64": "defined(__aarch64__) && defined(__AARCH64EL__)",
}


@dataclass(frozen=True)
class Isa:
    """An instruction set.

    machine      its architecture
    prepare      the instruction set whose functions prepare its activations
    features     what the CPU must have, as `__builtin_cpu_supports` names it
    flags        compiler flags of its files
    gemv_forms, gemm_forms  forms of its kernels; GEMM in priority order
    parameters   the free parameters of the GEMV template: they change speed, never results
    tiled_from_rows  number of rows from which on its attention kernel tiles (attention/attend.c); 0: it has none
    """

    name: str
    machine: str
    prepared_by: str
    features: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    gemv_forms: tuple[str, ...] = GEMV_FORMS
    gemm_forms: tuple[str, ...] = ()
    parameters: dict[str, int] = field(default_factory=dict, hash=False)
    tiled_from_rows: int = 0

    def forms(self, method: str) -> tuple[str, ...]:
        """The forms of its kernels for `method`, gemv or gemm."""
        return {"gemv": self.gemv_forms, "gemm": self.gemm_forms}[method]

    def prepare_symbol(self, prepared: str) -> str:
        """The C function that prepares activations as `prepared`, a key of PREPARED."""
        return f"tmac_prepare_{prepared}_{self.prepared_by}"


_VBMI_FEATURES = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni")
_VBMI_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vbmi", "-mavx512vnni", "-mavx2", "-mfma", "-mf16c")

# Streams are row tiles that one loop reads together, far apart in memory. A prefetch distance counts the bytes ahead in
# each stream. Measured on Zen 5. AVX-512 with two streams: 3328 bytes are at least as good as 3840 and 3 to 15 % better
# than larger distances; one stream loses 5 to 10 %. AVX2 is limited by its shuffles too: one stream spills fewer
# registers and needs 8 KiB.
ISAS = (
    # GEMM only. The AMX features have Linux's names: not every compiler can test for them, and Linux must permit their
    # use (c/interface/x86_features.c). Every CPU with AMX has the other features too.
    Isa(
        "amx",
        "x86_64",
        "avx512",
        (*_VBMI_FEATURES, "gfni", "avx512bf16", "amx_tile", "amx_int8", "amx_bf16"),
        (*_VBMI_FLAGS, "-mgfni", "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
        gemv_forms=(),
        gemm_forms=("bf16", "exact_int8"),
        tiled_from_rows=12,
    ),
    Isa(
        "avx512_vbmi",
        "x86_64",
        "avx512",
        _VBMI_FEATURES,
        _VBMI_FLAGS,
        gemv_forms=("tables", "exact_tables", *TRITS_GEMV_FORMS),
        gemm_forms=("int8", "tables", "trits", "exact_int8"),
        parameters={"STREAMS": 2, "PREFETCH": 3328, "SCALES_PREFETCH": 1024},
    ),
    Isa(
        "avx512",
        "x86_64",
        "avx512",
        ("avx512f", "avx512bw", "avx512vl"),
        ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"),
        gemm_forms=("int8", "tables", "trits", "exact_int8"),
        parameters={"STREAMS": 2, "PREFETCH": 3328, "SCALES_PREFETCH": 1024},
        tiled_from_rows=12,
    ),
    # GEMM only, 256 bits wide: Intel's laptops and desktops since 2021 have it without AVX-512. Decoding is limited by
    # memory, so it takes AVX2's kernels.
    Isa(
        "avx_vnni",
        "x86_64",
        "avx2",
        ("avx2", "fma", "avxvnni"),
        ("-mavx2", "-mfma", "-mf16c", "-mavxvnni"),
        gemv_forms=(),
        gemm_forms=("int8", "exact_int8"),
    ),
    # Every CPU with AVX2 has F16C. It is not listed, because some compilers cannot test for it.
    Isa(
        "avx2",
        "x86_64",
        "avx2",
        ("avx2", "fma"),
        ("-mavx2", "-mfma", "-mf16c"),
        gemm_forms=("int8", "tables", "trits", "exact_int8"),
        parameters={"STREAMS": 1, "PREFETCH": 8192, "SCALES_PREFETCH": 1024},
        tiled_from_rows=12,
    ),
    # GEMM only: decoding (GEMV) is limited by memory, which dot products do not speed up.
    Isa(
        "neon_i8mm",
        "arm64",
        "neon",
        ("dotprod", "i8mm"),
        ("-march=armv8.2-a+dotprod+i8mm",),
        gemv_forms=(),
        gemm_forms=("int8", "exact_int8"),
    ),
    Isa(
        "neon_dotprod",
        "arm64",
        "neon",
        ("dotprod",),
        ("-march=armv8.2-a+dotprod",),
        gemv_forms=(),
        gemm_forms=("int8", "exact_int8"),
    ),
    # Part of every arm64 CPU. Not measured, for lack of an arm64 machine. By llvm-mca two streams cost 0 to 3 % more
    # cycles than one (fast at 1 bit: 13 %). We assume that they hide latency as on x86-64. The distances are assumed,
    # too: 1024 bytes are a quarter of a microsecond at 4 GB/s.
    Isa(
        "neon",
        "arm64",
        "neon",
        gemm_forms=("int8", "exact_int8", "tables", "trits"),
        parameters={"STREAMS": 2, "PREFETCH": 1024, "SCALES_PREFETCH": 256},
        tiled_from_rows=12,
    ),
    Isa("scalar", "any", "scalar", gemm_forms=("tables", "trits", "int8", "exact_int8"), tiled_from_rows=12),
)
