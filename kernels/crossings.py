"""From how many tokens on dispatch prefers each GEMM kernel: by instruction set, by family of CPUs, or as measured.

Comes in: nothing. Goes out: `Crossings`, tables of numbers that C text is made of, and `applied`, which says which
table counts on a CPU: what was measured on it (crossings_file.py), else that of its family, else that of its
instruction sets.

A number belongs to an instruction set, a form and one of COLUMNS: the least number of tokens that the kernel serves.
0: the kernel is never the fastest, so it runs only when forced by name; or there is none, as of `tables` for ternary
types and of `trits` for the others. Where no GEMM kernel serves yet, the GEMV kernel takes the tokens one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..common.format import TmacType, parse_type
from .forms import has_table_gemm

# For more tokens than this the choice no longer changes.
MOST_TOKENS_TO_CROSS = 64

# What has numbers of its own, and the type that is timed for it: the widths and ternary types whose prompts can be
# looked up; and all that are only multiplied: 5 and 6 bits, and scales of two levels.
MULTIPLIED = "multiplied"
COLUMNS: dict[str, TmacType] = {
    "w1": parse_type("w1g128"),
    "w2": parse_type("w2g128"),
    "w3": parse_type("w3g128"),
    "w4": parse_type("w4g128"),
    "t3": parse_type("t3g128"),
    MULTIPLIED: parse_type("w4g32km"),
}


def column_of(kind: TmacType) -> str:
    """The one of COLUMNS that a type is in."""
    if not has_table_gemm(kind):
        return MULTIPLIED
    return "t3" if kind.ternary else f"w{kind.bits}"


# By instruction set: for CPUs of which nothing else is known. Measured on an Intel Xeon with AMX, each set as if none
# were above it (`tmac kernels tune --crossings --isa amx,avx512_vbmi,avx512,avx_vnni,avx2`; the median of three runs),
# with kernels that did not yet prefetch the next range's weights between products. Measured again after that change:
# the same but for two numbers that vary from run to run (avx512 exact_int8 w2, avx2 trits t3).
# But for arm64: estimated in kernels/arm64.md, ternary types and what is only multiplied not at all.
BY_INSTRUCTION_SET: dict[tuple[str, str], tuple[int, int, int, int, int, int]] = {
    ("amx", "bf16"): (24, 10, 16, 16, 12, 16),
    ("amx", "exact_int8"): (4, 2, 2, 2, 3, 0),
    ("avx512_vbmi", "int8"): (0, 0, 16, 6, 0, 2),
    ("avx512_vbmi", "tables"): (2, 2, 2, 2, 0, 0),
    ("avx512_vbmi", "trits"): (0, 0, 0, 0, 2, 0),
    ("avx512_vbmi", "exact_int8"): (6, 3, 2, 2, 3, 0),
    ("avx512", "int8"): (0, 0, 6, 3, 0, 2),
    ("avx512", "tables"): (3, 2, 2, 2, 0, 0),
    ("avx512", "trits"): (0, 0, 0, 0, 4, 0),
    ("avx512", "exact_int8"): (4, 2, 2, 2, 4, 0),
    ("avx_vnni", "int8"): (0, 64, 4, 2, 12, 2),
    ("avx_vnni", "exact_int8"): (4, 3, 3, 2, 3, 0),
    ("avx2", "int8"): (0, 0, 12, 3, 0, 2),
    ("avx2", "tables"): (2, 2, 2, 2, 0, 0),
    ("avx2", "trits"): (0, 0, 0, 0, 8, 0),
    ("avx2", "exact_int8"): (6, 3, 2, 2, 4, 0),
    ("neon_i8mm", "int8"): (0, 8, 4, 2, 2, 2),
    ("neon_i8mm", "exact_int8"): (2, 2, 2, 2, 2, 0),
    ("neon_dotprod", "int8"): (0, 32, 4, 2, 2, 2),
    ("neon_dotprod", "exact_int8"): (2, 2, 2, 2, 2, 0),
    ("neon", "int8"): (0, 0, 4, 2, 0, 2),
    ("neon", "exact_int8"): (2, 2, 2, 2, 2, 0),
    ("neon", "tables"): (2, 2, 2, 0, 0, 0),
    ("neon", "trits"): (0, 0, 0, 0, 2, 0),
    ("scalar", "tables"): (2, 2, 2, 2, 0, 0),
    ("scalar", "trits"): (0, 0, 0, 0, 2, 0),
    ("scalar", "int8"): (0, 0, 0, 0, 0, 2),
    ("scalar", "exact_int8"): (2, 2, 2, 2, 2, 0),
}


@dataclass(frozen=True)
class Crossings:
    """A table of numbers for some CPUs. What it does not say, BY_INSTRUCTION_SET says.

    name: for people; cpus: as tmac_cpu_name (c/interface/cpu_name.c) names them, none for all; isa: an instruction set
    that the CPU must have besides, because virtual machines may report the model of another CPU.
    numbers: (instruction set, form) -> column -> least number of tokens.
    """

    name: str
    cpus: tuple[str, ...] = ()
    isa: str | None = None
    numbers: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)

    def least_tokens(self, isa: str, form: str, column: str) -> int:
        own = self.numbers.get((isa, form), {}).get(column)
        return BY_INSTRUCTION_SET[isa, form][list(COLUMNS).index(column)] if own is None else own

    def in_order(self) -> list[int]:
        """The numbers as C has them, by NUMBERS."""
        return [self.least_tokens(*key) for key in NUMBERS]


# The place of each number in C's tables.
NUMBERS = tuple((isa, form, column) for isa, form in BY_INSTRUCTION_SET for column in COLUMNS)

DEFAULT = Crossings("instruction sets")
# CPUs that were measured, as `tmac kernels tune --crossings --json` prints them, where they differ. All other CPUs, of
# AMD too, get BY_INSTRUCTION_SET, which assumes that they compare as the Intel Xeon does with the same instructions.
FAMILIES = (
    # Numbers of its own it has none: BY_INSTRUCTION_SET was measured on it, so the row only lets `tmac doctor` say that
    # this CPU was. Its model is that of a CPU without AMX, which may differ.
    Crossings("Intel Xeon with AMX", ("GenuineIntel 6 167",), "amx"),
    # The median of three runs; all that is not here came out as by instruction set.
    Crossings(
        "AMD EPYC with Zen 5",
        ("AuthenticAMD 26 2",),
        "avx512_vbmi",
        {("avx512_vbmi", "int8"): {"w3": 24, "w4": 8}},
    ),
)


def applied(cpu: str, isas: Sequence[str], measured: Crossings | None = None) -> Crossings:
    """The table that counts on a CPU with these instruction sets, as tmac_crossings_for of dispatch.c finds it."""
    for table in (*([measured] if measured else []), *FAMILIES):
        if cpu in table.cpus and (table.isa is None or table.isa in isas):
            return table
    return DEFAULT


def rows_in_words(numbers: Mapping[tuple[str, str], Mapping[str, int]]) -> Iterable[str]:
    """A line for each form that serves, such as `amx bf16: w1 from 16, w2 from 10`."""
    for (isa, form), of_columns in numbers.items():
        serving = [f"{column} from {least}" for column, least in of_columns.items() if least]
        yield f"{isa} {form}: {', '.join(serving) or 'never'}"
