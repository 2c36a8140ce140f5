"""From how many tokens on each GEMM kernel serves: measured by `tmac bench gemm`, which prints this table anew.

(instruction set, form) -> the number for 1, 2, 3 and 4 bits; 0: never the fastest, so that only its name calls it.
"""

# Beyond so many tokens nothing changes any more.
MOST_TOKENS_TO_CROSS = 64

LEAST_TOKENS: dict[tuple[str, str], tuple[int, int, int, int]] = {
    ("amx", "bf16"): (64, 24, 16, 12),
    ("amx", "exact_int8"): (2, 2, 2, 2),
    ("avx512_vbmi", "tables"): (2, 2, 2, 2),
    ("avx512_vbmi", "int8"): (0, 0, 0, 0),
    ("avx512_vbmi", "exact_int8"): (2, 2, 2, 2),
    ("avx512", "tables"): (2, 2, 2, 2),
    ("avx512", "int8"): (0, 0, 6, 4),
    ("avx512", "exact_int8"): (2, 2, 2, 2),
    ("avx2", "int8"): (0, 0, 12, 3),
    ("avx2", "tables"): (2, 2, 2, 2),
    ("avx2", "exact_int8"): (2, 2, 2, 2),
    ("scalar", "tables"): (2, 2, 2, 2),
    ("scalar", "int8"): (0, 0, 0, 0),
    ("scalar", "exact_int8"): (2, 2, 2, 2),
}
