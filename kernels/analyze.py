"""How many cycles the NEON kernels take on cores that are not at hand: static analysis by llvm-mca.

`python -m tmac.kernels.analyze` compiles the loops over groups of 128 columns, data in the first-level cache, and
prints the Markdown of kernels/arm64.md. Needs the cross compiler and llvm-mca 19 or later. Measures nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..common.format import TmacType
from . import generate
from .errors import KernelError
from .isa import FORM_PRECISIONS, ISAS
from .worker import ARM64_COMPILER, ARM64_HINT

BITS, GROUP, TILE_ROWS = (1, 2, 3, 4), 128, 32
ARM64 = {isa.name: isa for isa in ISAS if isa.machine == "arm64"}
NEON = ARM64["neon"]
# llvm-mca takes a region for straight code: inner loops are unrolled.
UNROLL = ("--param", "max-completely-peeled-insns=100000", "--param", "max-completely-peel-times=64")


@dataclass(frozen=True)
class Core:
    name: str
    model: str  # llvm-mca's -mcpu
    gigahertz: float
    machine: str
    isas: tuple[str, ...]  # with GEMM kernels that it can run


CORES = (
    Core("Cortex-A72", "cortex-a72", 1.5, "Raspberry Pi 4", ("neon",)),
    Core("Cortex-A76", "neoverse-n1", 2.4, "Raspberry Pi 5", ("neon", "neon_dotprod")),
    Core("Neoverse N2", "neoverse-n2", 3.0, "phones' Cortex-A710", ("neon", "neon_dotprod", "neon_i8mm")),
    Core("Neoverse V1", "neoverse-v1", 2.6, "AWS Graviton3", ("neon", "neon_dotprod", "neon_i8mm")),
    Core("Apple M1", "apple-m1", 3.2, "performance core", ("neon", "neon_dotprod")),
)

# One group of each stream as walk.h does it; the operands of the last markers keep the results inside the region.
REGION = """
void tmac_region(const struct tmac_matrix * w, const struct tmac_activations * x, const uint8_t ** lines, float * y,
                 int64_t groups) {
    floats out[STREAMS][REGISTERS];
    for (int s = 0; s < STREAMS; s++) {
        for (int i = 0; i < REGISTERS; i++) {
            out[s][i] = broadcast(0);
        }
    }
    for (int64_t g = 0; g < groups; g++) {
        asm volatile("# LLVM-MCA-BEGIN" ::: "memory");
        floats part[STREAMS][REGISTERS];
        const float sum_x = sum_of(x->sum + 4 * g, 0, 4);
        for (int s = 0; s < STREAMS; s++) {
            for (int i = 0; i < REGISTERS; i++) {
                part[s][i] = broadcast(sum_factor(0) * sum_x);
            }
        }
        add_piece(STREAMS, lines, x, 4 * g, 4, part);
        for (int s = 0; s < STREAMS; s++) {
            for (int i = 0; i < REGISTERS; i++) {
                const int64_t at = (s * groups + g) * TMAC_TILE_ROWS + FLOATS * i;
                out[s][i] = finish_group(128, 0, part[s][i], sum_x, w, at, out[s][i]);
            }
            asm volatile("" : "+w"(out[s][0]), "+w"(out[s][1]), "+w"(out[s][2]), "+w"(out[s][3]), "+w"(out[s][4]),
                         "+w"(out[s][5]), "+w"(out[s][6]), "+w"(out[s][7]));
        }
        asm volatile("# LLVM-MCA-END" ::: "memory");
    }
    for (int s = 0; s < STREAMS; s++) {
        for (int i = 0; i < REGISTERS; i++) {
            store(y + s * TMAC_TILE_ROWS + FLOATS * i, out[s][i]);
        }
    }
}
"""

# A weight group of 128 columns for four tokens; how many times that gives a tile's part of one token.
PRODUCT_CALLS = {
    "tables": ("multiply_group(128, 0, 4, range, x, 4 * i, i, out);", 1 / 4),
    "int8": ("multiply_group(128, 0, 16, 4, range, x, 0, 4 * i, i, out);", 2 / 4),
}
# What is done once for all tokens of a block: two quads; how many times for 128 columns of a plane or of all planes.
ONCE_CALLS = {
    "tables": (
        "uint8x16_t index[4]; make_indices(vld1q_u8(lines), vld1q_u8(lines + 16), index);"
        "for (int j = 0; j < 4; j++) { vst1q_u8(codes + 16 * j, index[j]); } lines += 32; codes += 64;",
        lambda bits: 16 * bits,
    ),
    "int8": (
        "struct quads quads; unpack_quad(lines, quads.column[0]); unpack_quad(lines + 16, quads.column[1]);"
        "store_quads(&quads, codes); lines += 32; codes += 2 * QUAD_CODES;",
        lambda bits: 16,
    ),
}
GEMM_REGION = """
void tmac_region(const struct range * range, const struct tmac_activations * x, token_rows * out, const uint8_t * lines,
                 uint8_t * codes, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        asm volatile("# LLVM-MCA-BEGIN" ::: "memory");
        CALL
        asm volatile("# LLVM-MCA-END" ::: "memory");
    }
}
"""


def find_program(names: tuple[str, ...], hint: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise KernelError(f"{names[0]} is not installed", hint)


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"{' '.join(command)} failed: {done.stderr.strip()[-1000:]}", "see the message above")
    return done.stdout


def assembly(file: generate.KernelFile, region: str, folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """The assembly of a generated file and of a region after it."""
    generate.write_tree(folder, ("arm64",))
    source, output = folder / "region.c", folder / "region.s"
    source.write_text(generate.kernel_source(file) + region, encoding="utf-8")
    compiler = find_program(ARM64_COMPILER, ARM64_HINT)
    own = (*generate.COMMON_FLAGS, *file.isa.flags, *UNROLL, *flags)
    run([compiler, *own, f"-I{folder}", "-S", str(source), "-o", str(output)])
    return output


def _region(assembly_file: Path) -> str:
    return re.search(r"LLVM-MCA-BEGIN(.*?)LLVM-MCA-END", assembly_file.read_text(), re.S)[1]


def cycles(assembly_file: Path, model: str, mca: str) -> float:
    """Cycles of one pass through the region, in a long run of passes."""
    passes = 50
    if branch := re.search(r"^\s+c?t?bn?z?[.a-z]*\s+.*\.L\d+$", _region(assembly_file), re.M):
        raise KernelError(f"{assembly_file.name} branches in the region: {branch[0].strip()}", "unroll that loop")
    text = run(
        [
            mca,
            "-mtriple=aarch64",
            "-mattr=+dotprod,+i8mm",
            f"-mcpu={model}",
            f"-iterations={passes}",
            str(assembly_file),
        ]
    )
    return int(re.search(r"^Total Cycles: +(\d+)", text, re.M)[1]) / passes


def rows_of(mca: str, flags: tuple[str, ...] = ()) -> list[str]:
    """One line of the decode kernels' table per core and bit width."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for bits in BITS:
            file = assembly(generate.KernelFile(bits, "rounded", NEON), REGION, Path(folder), flags)
            streams = NEON.parameters["STREAMS"]
            plane_lines = streams * GROUP // 16 * bits
            group_bytes = streams * TILE_ROWS * TmacType(bits, GROUP, False).block_bytes
            for core in CORES:
                taken = cycles(file, core.model, mca)
                per_line, speed = taken / plane_lines, group_bytes / taken * core.gigahertz
                lines.append(f"| {core.name} | W{bits} | {per_line:.1f} | {128 / per_line:.1f} | {speed:.1f} |")
    return sorted(lines, key=lambda line: [core.name for core in CORES].index(line.split(" | ")[0][2:]))


def gemm_rows_of(mca: str) -> list[str]:
    """One line of the GEMM kernels' table per core, instruction set and form."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder, taken = Path(name), {}
        for isa in ARM64.values():
            for form, precision in ((form, FORM_PRECISIONS[form]) for form in isa.gemm_forms):
                kind = form.removeprefix("exact_")
                for bits in BITS:
                    file = generate.KernelFile(bits, precision, isa, form)
                    (product, part), (once, times) = PRODUCT_CALLS[kind], ONCE_CALLS[kind]
                    for call, factor in ((product, part), (once, times(bits))):
                        code = assembly(file, GEMM_REGION.replace("CALL", call), folder)
                        for core in (core for core in CORES if isa.name in core.isas):
                            cell = taken.setdefault((core.name, isa.name, form), [])
                            cell.append(f"{cycles(code, core.model, mca) * factor:.0f}")
    for core in CORES:
        for (name, isa_name, form), cells in taken.items():
            if name == core.name:
                pairs = " | ".join(f"{each} + {once} / N" for each, once in zip(cells[::2], cells[1::2]))
                lines.append(f"| {name} | {isa_name} {form} | {pairs} |")
    return lines


def report(mca: str) -> str:
    version = re.search(r"LLVM version (\S+)", run([mca, "--version"]))[1]
    compiler = run([find_program(ARM64_COMPILER, ARM64_HINT), "--version"]).splitlines()[0]
    clocks = [f"- {core.name}, {core.gigahertz} GHz: {core.machine}" for core in CORES]
    return "\n".join(
        [
            "# The NEON kernels on cores that were not at hand",
            "",
            "Static analysis, not a measurement: `python -m tmac.kernels.analyze > kernels/arm64.md`, by llvm-mca",
            f"{version} and {compiler}. It assumes that all data lie in the first-level cache.",
            "",
            "The loop is that over groups of 128 columns, scales included, default precision. A plane line is 64 bytes:",
            "32 rows x 16 columns x 1 bit, 128 look-ups. *Keeps pace* is the rate at which one core could consume weights;",
            "where its share of the memory's bandwidth is less, memory is the limit. Clocks:",
            "",
            *clocks,
            "",
            "| core | bits | cycles per plane line | look-ups per cycle | keeps pace up to, GB/s |",
            "|---|---|---|---|---|",
            *rows_of(mca),
            "",
            "GEMM: cycles for 32 rows x 128 columns and each token, and once for all N tokens (tables: for each 16 of them; int8:",
            "for each 128) to bring the codes into the order in which they are used. From these numbers come the numbers of",
            "tokens in [crossings.py](crossings.py), until someone runs `tmac bench gemm` on such a core.",
            "",
            "| core | kernels | W1 | W2 | W3 | W4 |",
            "|---|---|---|---|---|---|",
            *gemm_rows_of(mca),
            "",
            "How far to trust it: LLVM has no models of Cortex-A72 and A76 (it takes that of A57); for the A76, Neoverse N1, its",
            "server sibling with the same pipelines, stands in. Its Neoverse V1 starts one table look-up per cycle. Its Apple M1",
            "is the much older Cyclone, with three vector units instead of four. Cache misses and prefetching are in none.",
            "",
        ]
    )


def main() -> int:
    try:
        mca = find_program(("llvm-mca-19", "llvm-mca"), "Debian, Ubuntu: sudo apt install llvm-19")
        print(report(mca), end="")
    except KernelError as problem:
        print(f"error: {problem.message}\nhint: {problem.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
