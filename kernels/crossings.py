"""From how many tokens on dispatch prefers each GEMM kernel.

Measured, but for arm64, for AVX-VNNI (estimated from its speed beside AVX2's) and for AMX with ternary types (set when
int8 was its rival): `tmac bench gemm` prints these rows for a CPU, those of exact_int8 with --forms.

(instruction set, form) -> the least number of tokens for 1, 2, 3 and 4 bits and ternary types. 0: the kernel is never
the fastest, so it runs only when forced by name; or there is none, as of `tables` for ternary types and of `trits` for
the others.
"""

# For more tokens than this the choice no longer changes.
MOST_TOKENS_TO_CROSS = 64

# Of ternary types; the columns before are those of 1 to 4 bits.
TERNARY_COLUMN = 4
LEAST_TOKENS: dict[tuple[str, str], tuple[int, int, int, int, int]] = {
    ("amx", "bf16"): (16, 10, 12, 10, 16),
    ("amx", "exact_int8"): (2, 2, 2, 2, 2),
    ("avx512_vbmi", "tables"): (2, 2, 2, 2, 0),
    ("avx512_vbmi", "trits"): (0, 0, 0, 0, 2),
    ("avx512_vbmi", "int8"): (0, 0, 24, 12, 0),
    ("avx512_vbmi", "exact_int8"): (2, 2, 2, 2, 2),
    ("avx512", "tables"): (2, 2, 2, 2, 0),
    ("avx512", "trits"): (0, 0, 0, 0, 2),
    ("avx512", "int8"): (0, 0, 6, 4, 0),
    ("avx512", "exact_int8"): (2, 2, 2, 2, 2),
    ("avx_vnni", "int8"): (0, 64, 8, 2, 64),
    ("avx_vnni", "exact_int8"): (2, 2, 2, 2, 2),
    ("avx2", "int8"): (0, 0, 12, 3, 0),
    ("avx2", "tables"): (2, 2, 2, 2, 0),
    ("avx2", "trits"): (0, 0, 0, 0, 2),
    ("avx2", "exact_int8"): (2, 2, 2, 2, 2),
    # arm64: not measured; derived from the estimates in kernels/arm64.md; ternary types are not estimated
    ("neon_i8mm", "int8"): (0, 8, 4, 2, 2),
    ("neon_i8mm", "exact_int8"): (2, 2, 2, 2, 2),
    ("neon_dotprod", "int8"): (0, 32, 4, 2, 2),
    ("neon_dotprod", "exact_int8"): (2, 2, 2, 2, 2),
    ("neon", "int8"): (0, 0, 4, 2, 0),
    ("neon", "exact_int8"): (2, 2, 2, 2, 2),
    ("neon", "tables"): (2, 2, 2, 0, 0),
    ("neon", "trits"): (0, 0, 0, 0, 2),
    ("scalar", "tables"): (2, 2, 2, 2, 0),
    ("scalar", "trits"): (0, 0, 0, 0, 2),
    ("scalar", "int8"): (0, 0, 0, 0, 0),
    ("scalar", "exact_int8"): (2, 2, 2, 2, 2),
}

# The same of types whose prompts are not looked up in tables: 5 and 6 bits, and scales of two levels. Set, not
# measured: there is no other kernel for several tokens, and AMX has the crossing of 2 and 4 bits.
LEAST_TOKENS_WITHOUT_TABLES: dict[tuple[str, str], int] = {
    ("amx", "bf16"): 10,
    ("avx512_vbmi", "int8"): 2,
    ("avx512", "int8"): 2,
    ("avx_vnni", "int8"): 2,
    ("avx2", "int8"): 2,
    ("neon_i8mm", "int8"): 2,
    ("neon_dotprod", "int8"): 2,
    ("neon", "int8"): 2,
    ("scalar", "int8"): 2,
}

# A form that is the fastest only on some CPUs of an instruction set, and the feature that these CPUs have, as
# `__builtin_cpu_supports` or `__builtin_cpu_is` names it. Intel's CPUs look up 64 bytes per cycle, AMD's Zen 5 128.
# Kernels before the present ones made 3- and 4-bit prompts faster with int8 on a Zen 5 as well (docs/benchmarks.md);
# the rule waits for a measurement of the present ones there.
SERVES_ONLY_ON: dict[tuple[str, str], str] = {("avx512_vbmi", "int8"): "intel"}
