"""How many cycles the NEON kernels take on cores that are not at hand: static analysis by llvm-mca.

`python -m tmac.kernels.analyze` compiles the kernels of groups of 128 columns with TMAC_ANALYSIS, a macro by which
c/weights/planes.h marks regions in them. It prints kernels/arm64.md: the cycles of these regions.
Needs the cross compiler and llvm-mca 19 or later. Measures nothing.
"""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..common import platforms, process
from ..common.errors import TmacError
from ..common.format import BITS, TILE_ROWS, TmacType
from . import generate
from .errors import KernelError
from .forms import reads
from .isa import ISAS
from .spec import KernelSpec

GROUP = 128
ARM64_ISAS = {isa.name: isa for isa in ISAS if isa.machine == "arm64"}
NEON = ARM64_ISAS["neon"]
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

# GEMM: how often the region "multiply" of four tokens makes one token's part of a tile. Its rows may be half of a tile.
TOKENS = 4
PRODUCT_PARTS = {"tables": 1 / TOKENS, "int8": 2 / TOKENS}
# Times that the region "unpack" comes in 128 columns: two quads of a plane or of all planes.
UNPACK_TIMES = {"tables": lambda bits: 16 * bits, "int8": lambda bits: 16}


def find_program(names: tuple[str, ...], hint: str) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    raise KernelError(f"{names[0]} is not installed", hint)


def run(command: list[str]) -> str:
    done = process.capture(command)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-1000:]
        raise KernelError(f"{' '.join(command)} failed: {said}", "see the message above")
    return done.stdout.decode("utf-8", "replace")


def assembly(kernel: KernelSpec, folder: Path, flags: tuple[str, ...] = ()) -> str:
    """The assembly of a kernel in one piece, with the regions that its source marks."""
    generate.write_tree(folder, ("arm64",))
    file = generate.KernelFile.of(kernel)
    compiler = platforms.ARM64.c_compiler()
    own = (*generate.COMMON_FLAGS, *file.isa.flags, "-DTMAC_ANALYSIS", *flags)
    source, output = folder / "kernel.c", folder / "kernel.s"
    source.write_text(generate.kernel_source(file, kernels=[kernel]), encoding="utf-8")
    run([*compiler, *own, f"-I{folder}", "-S", str(source), "-o", str(output)])
    return re.search(rf"^{kernel.name}:$(.*?)^\s+\.size\s+{kernel.name},", output.read_text(), re.M | re.S)[1]


def region_of(text: str, name: str) -> str:
    """The first region of that name. Raises KernelError where it branches: llvm-mca takes it for straight code."""
    region = re.search(rf"LLVM-MCA-BEGIN {name}$(.*?)LLVM-MCA-END", text, re.M | re.S)[1]
    if branch := re.search(r"^\s+c?t?bn?z?[.a-z]*\s+.*\.L\d+$", region, re.M):
        raise KernelError(f"the region {name!r} branches: {branch[0].strip()}", "unroll that loop")
    return region


def cycles(region: str, model: str, mca: str, folder: Path) -> float:
    """Cycles of one pass through the region, in a long run of passes."""
    passes, source = 50, folder / "region.s"
    source.write_text(region)
    command = [mca, "-mtriple=aarch64", "-mattr=+dotprod,+i8mm", f"-mcpu={model}", f"-iterations={passes}", str(source)]
    return int(re.search(r"^Total Cycles: +(\d+)", run(command), re.M)[1]) / passes


def rows_of(mca: str, flags: tuple[str, ...] = ()) -> list[str]:
    """One line of the decode kernels' table per core and bit width."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder, streams = Path(name), NEON.parameters["STREAMS"]
        for bits in BITS:
            weight_type = TmacType(bits, GROUP)
            region = region_of(
                assembly(KernelSpec(weight_type, NEON, "gemv", "tables"), folder, (*UNROLL, *flags)), f"group {streams}"
            )
            plane_lines, group_bytes = streams * GROUP // 16 * bits, streams * TILE_ROWS * weight_type.block_bytes
            for core in CORES:
                taken = cycles(region, core.model, mca, folder)
                per_line, speed = taken / plane_lines, group_bytes / taken * core.gigahertz
                lines.append(f"| {core.name} | W{bits} | {per_line:.1f} | {128 / per_line:.1f} | {speed:.1f} |")
    return sorted(lines, key=lambda line: [core.name for core in CORES].index(line.split(" | ")[0][2:]))


def gemm_rows_of(mca: str) -> list[str]:
    """One line of the GEMM kernels' table per core, instruction set and form."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder, taken = Path(name), {}
        forms = (
            (isa, form)
            for isa in ARM64_ISAS.values()
            for form in isa.gemm_forms
            if reads("gemm", form, TmacType(BITS[0], GROUP))
        )
        for (isa, form), bits in itertools.product(forms, BITS):
            kind = form.removeprefix("exact_")
            kernel = KernelSpec(TmacType(bits, GROUP), isa, "gemm", form)
            product = region_of(assembly(kernel, folder, UNROLL), f"multiply {TOKENS}")
            once = region_of(assembly(kernel, folder), f"unpack {bits}")
            for core in (core for core in CORES if isa.name in core.isas):
                per_token = cycles(product, core.model, mca, folder) * PRODUCT_PARTS[kind]
                per_block = cycles(once, core.model, mca, folder) * UNPACK_TIMES[kind](bits)
                taken.setdefault((core.name, isa.name, form), []).append(f"{per_token:.0f} + {per_block:.0f} / N")
    for core in CORES:
        for (name, isa_name, form), cells in taken.items():
            if name == core.name:
                lines.append(f"| {name} | {isa_name} {form} | {' | '.join(cells)} |")
    return lines


DECODE_TEXT = """\
The loop is over groups of 128 columns, scales included, in the default precision. A plane line is 64 bytes: 32 rows
x 16 columns x 1 bit, 128 lookups. *Keeps pace* is the rate at which one core could consume weights; where its share
of the memory's bandwidth is less, memory is the limit. Clocks:
"""
GEMM_TEXT = """\
GEMM: cycles for 32 rows x 128 columns, per token, plus once for all N tokens the cycles that bring the codes into the
order in which they are used (tables: once for each 16 tokens; int8: for each 128). The numbers of tokens in
[crossings.py](crossings.py) come from here, until someone runs `tmac kernels tune --crossings --isa ...` on such a
core.
"""
TRUST_TEXT = """\
How far to trust it: LLVM has no models of Cortex-A72 and A76 and takes that of A57. Neoverse N1, the server sibling of
the A76 with the same pipelines, stands in for it. LLVM's Neoverse V1 starts one table lookup per cycle. Its Apple M1
is the much older Cyclone, with three vector units instead of four. No model has cache misses or prefetching.
"""


def report(mca: str) -> str:
    version = re.search(r"LLVM version (\S+)", run([mca, "--version"]))[1]
    compiler = run([*platforms.ARM64.c_compiler(), "--version"]).splitlines()[0]
    return "\n".join(
        [
            "# The NEON kernels on cores that were not at hand",
            "",
            "Static analysis, not a measurement: `python -m tmac.kernels.analyze > kernels/arm64.md`, by llvm-mca",
            f"{version} and {compiler}. It assumes that all data lie in the first-level cache.",
            "",
            DECODE_TEXT,
            *(f"- {core.name}, {core.gigahertz} GHz: {core.machine}" for core in CORES),
            "",
            "| core | bits | cycles per plane line | lookups per cycle | keeps pace up to, GB/s |",
            "|---|---|---|---|---|",
            *rows_of(mca),
            "",
            GEMM_TEXT,
            "| core | kernels | W1 | W2 | W3 | W4 |",
            "|---|---|---|---|---|---|",
            *gemm_rows_of(mca),
            "",
            TRUST_TEXT,
        ]
    )


def main() -> int:
    try:
        mca = find_program(("llvm-mca-19", "llvm-mca"), "Debian, Ubuntu: sudo apt install llvm-19")
        print(report(mca), end="")
    except TmacError as problem:
        print(f"error: {problem.message}\nhint: {problem.hint}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
