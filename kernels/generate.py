"""Spec + template + instruction set -> C text. Pure and deterministic: the same catalog gives the same bytes anywhere.

Comes in: the catalog and the C files of `c/`. Goes out: a folder of C sources that compiles on its own, with the
sub-folders of `c/`; for CMake, the list of these sources with their flags; and the rows for ggml's table of types.
It does not compile.

A template is a C file that uses macros which it does not define. A generated file defines these macros, includes the
template, and defines one function per kernel that calls the template's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .attention import AttentionKernel, attention_kernels_for
from .catalog import KERNELS, isas_for, kernels_for
from .catalog_source import (
    attention_declaration,
    catalog_header,
    catalog_source,
    delta_net_declarations,
    ggml_types_source,
    kernel_declaration,
    measured_source,
    prepared_by,
    rotation_declaration,
    structs_header,
)
from .crossings import Crossings
from .delta_net import DeltaNetKernel, delta_net_kernels_for
from .format_source import banner, format_header
from .forms import FORMS, PREPARED, ROUNDED, gemv_form
from .isa import ARCHITECTURES, Isa
from .repack import repack_isas_for
from .repack_source import functions, tables_source
from .rotation import RotationKernel, rotation_kernels_for
from .spec import KernelSpec
from .tuning import DEFAULTS, TERNARY, Tuning, codes_name

C_FOLDER = Path(__file__).parent / "c"
# C files in this folder are compiled as they are. Those in the other folders are templates.
INTERFACE = "interface"

# Whether a multiply-add is fused must not depend on the compiler: all kernels return the same bits.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno")
# Path in the generated tree -> (text, the file's own compiler flags).
Sources = dict[str, tuple[str, tuple[str, ...]]]


def render(template: str, parameters: Mapping[str, object], functions: Iterable[str] = ()) -> str:
    """C text: the macros that a template needs, an include of the template, and the functions that call it."""
    defines = "".join(f"#define {name} {value}\n" for name, value in parameters.items())
    return banner(template) + defines + f'#include "{template}"\n' + "".join(functions)


@dataclass(frozen=True)
class KernelFile:
    """A C file: the kernels of a bit width, instruction set, method and form. They differ in group and zero-points.

    Ternary types have files of their own.
    """

    bits: int
    isa: Isa
    method: str
    form: str
    ternary: bool = False

    @classmethod
    def of(cls, kernel: KernelSpec) -> KernelFile:
        return cls(kernel.type.bits, kernel.isa, kernel.method, kernel.form, kernel.type.ternary)

    @classmethod
    def tuned(cls, codes: int | str, isa: Isa, form: str | None = None) -> KernelFile:
        """The GEMV file of one of tuning.CODES; by default the rounded one, which the tuner times."""
        ternary = codes == TERNARY
        return cls(2 if ternary else int(codes), isa, "gemv", form or gemv_form(ROUNDED, ternary), ternary)

    @property
    def codes(self) -> int | str:
        """Which of tuning.CODES its kernels have."""
        return TERNARY if self.ternary else self.bits

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        return tuple(k for k in KERNELS if KernelFile.of(k) == self)

    @property
    def precision(self) -> str:
        return FORMS[self.form].precision

    @property
    def name(self) -> str:
        """Its path in the generated tree."""
        return f"{self.method}/tmac_{self.method}_{codes_name(self.codes)}_{self.form}_{self.isa.name}.c"

    @property
    def template(self) -> str:
        """A path below c/. GEMV kernels of all precisions share one, because they differ only in how they add."""
        kind = f"{PREPARED[FORMS[self.form].prepared].kind}_" if self.method == "gemm" or self.ternary else ""
        return f"{self.method}/{kind}{self.isa.name}.c"


def kernel_source(file: KernelFile, tuning: Tuning = DEFAULTS, kernels: Iterable[KernelSpec] | None = None) -> str:
    """The C text of one file of kernels, or of some of its `kernels`."""
    tuned = {} if file.method == "gemm" else tuning.parameters(file.isa, file.codes)
    trits = {"TRITS": 1} if file.ternary else {}
    parameters = {"BITS": file.bits, **trits, "PRECISION": f"TMAC_{file.precision.upper()}", **tuned}
    return render(file.template, parameters, map(kernel_function, file.kernels if kernels is None else kernels))


def kernel_function(kernel: KernelSpec) -> str:
    """The C text of a kernel: a call of the template's function with the constants of its type."""
    what = "y" if kernel.method == "gemv" else "y, tokens"
    arguments = f"{kernel.type.group}, TMAC_GRID_{kernel.type.grid.upper()}, w, x, {what}, first_tile, last_tile"
    return f"\n{kernel_declaration(kernel)} {{\n    {kernel.method}({arguments});\n}}\n"


def prepare_sources(isa: Isa) -> dict[str, str]:
    """C file -> text: the functions that prepare activations for the kernels of an instruction set."""
    by_kind: dict[str, dict[str, str]] = {}
    for prepared in prepared_by(isa):
        by_kind.setdefault(prepared.kind, {})[f"PREPARE_{prepared.name.upper()}"] = isa.prepare_symbol(prepared.name)
    # Each instruction set has its own templates for tables. The other kinds have one, which compilers vectorize.
    return {
        f"activations/tmac_{kind}_{isa.prepared_by}.c": render(
            f"activations/{f'{kind}_{isa.prepared_by}' if kind in ('tables', 'trits') else kind}.c", symbols
        )
        for kind, symbols in by_kind.items()
    }


def attention_source(kernel: AttentionKernel) -> str:
    """The C text of an attention kernel."""
    body = "    attend(a, plan, item, shared, scratch);"
    return render(f"attention/{kernel.isa.name}.c", {}, [f"\n{attention_declaration(kernel)} {{\n{body}\n}}\n"])


def delta_net_source(kernel: DeltaNetKernel) -> str:
    """The C text of the kernel of delta nets."""
    functions = [
        f"\n{text} {{\n    {what}(of, first, last);\n}}\n" for what, text in delta_net_declarations(kernel).items()
    ]
    return render(f"delta_net/{kernel.isa.name}.c", {}, functions)


def rotation_source(kernel: RotationKernel) -> str:
    """The C text of a rotation kernel."""
    body = "    transform(x, before, after, scale, size, y);"
    return render(f"rotation/{kernel.isa.name}.c", {}, [f"\n{rotation_declaration(kernel)} {{\n{body}\n}}\n"])


def repack_sources(machine: str) -> Sources:
    """The C files that repack llama.cpp's own types. They need none of the others."""
    return {
        f"repack/tmac_repack_{isa.name}.c": (render(f"repack/{isa.name}.c", {}, functions(isa)), isa.flags)
        for isa in repack_isas_for(machine)
    }


def sources(machine: str, tuning: Tuning = DEFAULTS, measured: Crossings | None = None) -> Sources:
    """All C files that are compiled for an architecture; "any": those compiled for every architecture.

    `measured`: the crossings of the machine that they are compiled for, if they are compiled for one.
    """
    tables = {"catalog.c": catalog_source(), "measured.c": measured_source(measured), "repackers.c": tables_source()}
    files: Sources = {f"{INTERFACE}/{name}": (text, ()) for name, text in tables.items()}
    files |= {name: (text, ()) for name, text in _texts(f"{INTERFACE}/*.c").items()}
    # Instruction sets may share these files. The flags of the last one count, because it asks least of a CPU.
    for isa in isas_for(machine):
        files |= {name: (text, isa.flags) for name, text in prepare_sources(isa).items()}
    for file in dict.fromkeys(KernelFile.of(kernel) for kernel in kernels_for(machine)):
        files[file.name] = (kernel_source(file, tuning), file.isa.flags)
    for kernel in attention_kernels_for(machine):
        files[kernel.file] = (attention_source(kernel), kernel.isa.flags)
    for kernel in delta_net_kernels_for(machine):
        files[kernel.file] = (delta_net_source(kernel), kernel.isa.flags)
    for kernel in rotation_kernels_for(machine):
        files[kernel.file] = (rotation_source(kernel), kernel.isa.flags)
    return files | repack_sources(machine)


def headers() -> dict[str, str]:
    """Path -> text of all headers and templates that the sources and the plugin in ggml include."""
    templates = {name: text for name, text in _texts("*/*.c").items() if not name.startswith(f"{INTERFACE}/")}
    return (
        templates
        | _texts("*/*.h")
        | {
            f"{INTERFACE}/catalog.h": catalog_header(),
            f"{INTERFACE}/tmac_format.h": format_header(),
            f"{INTERFACE}/tmac_structs.h": structs_header(),
            "ggml_types.inc": ggml_types_source(),
        }
    )


def _texts(pattern: str) -> dict[str, str]:
    """Path below `c/` -> text, of the files that match."""
    paths = sorted(C_FOLDER.glob(pattern))
    return {path.relative_to(C_FOLDER).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def cmake_source() -> str:
    """sources.cmake: the sources of each architecture and their flags, for the plugin in llama.cpp."""
    lines = [
        "# Generated by tmac.kernels.generate; edits are lost.",
        f"set(TMAC_COMMON_FLAGS {' '.join(COMMON_FLAGS)})",
    ]
    for machine in (*ARCHITECTURES, "any"):
        files = sources(machine)
        lines += [f"set(TMAC_SOURCES_{machine}", *(f"    {name}" for name in files), ")"]
        lines += [
            f'set_source_files_properties(${{TMAC_KERNELS}}/{name} PROPERTIES COMPILE_OPTIONS "{";".join(flags)}")'
            for name, (_, flags) in files.items()
            if flags
        ]
    return "\n".join(lines) + "\n"


def write_tree(
    folder: Path,
    machines: tuple[str, ...] = (*ARCHITECTURES, "any"),
    tuning: Tuning = DEFAULTS,
    measured: Crossings | None = None,
) -> list[Path]:
    """Writes all files for `machines` into `folder`. Returns the paths whose text changed."""
    texts = headers() | {"sources.cmake": cmake_source()}
    for machine in machines:
        texts |= {name: text for name, (text, _) in sources(machine, tuning, measured).items()}
    changed = []
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != text.encode():
            path.write_bytes(text.encode())
            changed.append(path)
    return changed
