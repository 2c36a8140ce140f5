"""Spec + template + instruction set -> C text. Pure and deterministic: the same catalog gives the same bytes anywhere.

Comes in: the catalog, `templates/*.c.in` and `runtime/`. Goes out: a folder of C sources that compiles on its own, the
list of those sources with their flags for CMake, and the rows for ggml's table of types. Compiles nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .catalog import KERNELS, isas_for, kernels_for
from .catalog_source import (
    banner,
    catalog_header,
    catalog_source,
    format_header,
    ggml_types_source,
    kernel_declaration,
    prepared_by,
    structs_header,
)
from .errors import KernelError
from .forms import FORMS, PREPARED
from .isa import ARCHITECTURES, Isa
from .spec import KernelSpec
from .tuning import DEFAULTS, Tuning

TEMPLATES = Path(__file__).parent / "templates"
RUNTIME = Path(__file__).parent / "runtime"

# Fused and separate rounding must not depend on the compiler: every kernel gives the same bits.
COMMON_FLAGS = ("-std=gnu11", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno")
# C file name -> (text, its own compiler flags).
Sources = dict[str, tuple[str, tuple[str, ...]]]


def render(template: str, values: dict[str, object]) -> str:
    """The template's text with `${NAME}` replaced. Raises KernelError for a name that has no value."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")

    def value_of(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise KernelError(
                f"templates/{template}: nothing gives ${{{match[1]}}} a value", "add it to isa.py or generate.py"
            )
        return str(values[match[1]])

    return banner(f"templates/{template}") + re.sub(r"\$\{(\w+)\}", value_of, text)


@dataclass(frozen=True)
class KernelFile:
    """One C file: the kernels of a bit width, an instruction set, a method and a form; they differ in how scales are stored."""

    bits: int
    isa: Isa
    method: str
    form: str

    @classmethod
    def of(cls, kernel: KernelSpec) -> KernelFile:
        return cls(kernel.type.bits, kernel.isa, kernel.method, kernel.form)

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        return tuple(k for k in KERNELS if KernelFile.of(k) == self)

    @property
    def precision(self) -> str:
        return FORMS[self.form].precision

    @property
    def name(self) -> str:
        return f"tmac_{self.method}_w{self.bits}_{self.form}_{self.isa.name}.c"

    @property
    def template(self) -> str:
        kind = f"gemm_{PREPARED[FORMS[self.form].prepared].kind}" if self.method == "gemm" else "gemv"
        return f"{kind}_{self.isa.name}.c.in"


def kernel_source(file: KernelFile, tuning: Tuning = DEFAULTS) -> str:
    """C text of the kernels of one file."""
    values = {
        "BITS": file.bits,
        "PRECISION": f"TMAC_{file.precision.upper()}",
        "precision": file.precision,
        "FUNCTIONS": "\n".join(kernel_function(kernel) for kernel in file.kernels),
        **tuning.parameters(file.isa, file.bits),
    }
    return render(file.template, values)


def kernel_function(kernel: KernelSpec) -> str:
    """C text of a kernel: the template's function with its type's constants."""
    what = "y" if kernel.method == "gemv" else "y, tokens"
    arguments = f"{kernel.type.group}, {int(kernel.type.asymmetric)}, w, x, {what}, first_tile, last_tile"
    return f"\n{kernel_declaration(kernel)} {{\n    {kernel.method}({arguments});\n}}"


def prepare_sources(isa: Isa) -> dict[str, str]:
    """C file name -> text: what prepares activations for the kernels of an instruction set."""
    by_kind: dict[str, dict[str, str]] = {}
    for prepared in prepared_by(isa):
        by_kind.setdefault(prepared.kind, {})[prepared.name] = isa.prepare_symbol(prepared.name)
    # Tables are built by a template of each instruction set, the others by one that compilers vectorize.
    return {
        f"tmac_{kind}_{isa.prepare}.c": render(
            f"tables_{isa.prepare}.c.in" if kind == "tables" else f"{kind}.c.in", symbols
        )
        for kind, symbols in by_kind.items()
    }


def sources(machine: str, tuning: Tuning = DEFAULTS) -> Sources:
    """All that an architecture ("any": every one) compiles."""
    files: Sources = {"catalog.c": (catalog_source(), ())}
    files |= {path.name: (path.read_text(encoding="utf-8"), ()) for path in sorted(RUNTIME.glob("*.c"))}
    # Of instruction sets that share these the last one, which asks least of a CPU, compiles them.
    for isa in isas_for(machine):
        files |= {name: (text, isa.flags) for name, text in prepare_sources(isa).items()}
    for file in dict.fromkeys(KernelFile.of(kernel) for kernel in kernels_for(machine)):
        files[file.name] = (kernel_source(file, tuning), file.isa.flags)
    return files


def headers() -> dict[str, str]:
    """Header name -> text of what the sources and ggml's side of the seam include."""
    files = {path.name: path.read_text(encoding="utf-8") for path in sorted(RUNTIME.glob("*.h"))}
    return files | {
        "catalog.h": catalog_header(),
        "tmac_format.h": format_header(),
        "tmac_structs.h": structs_header(),
        "ggml_types.inc": ggml_types_source(),
    }


def cmake_source() -> str:
    """CMake lists of sources per architecture and their flags, for the plugin in llama.cpp."""
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
    folder: Path, machines: tuple[str, ...] = (*ARCHITECTURES, "any"), tuning: Tuning = DEFAULTS
) -> list[Path]:
    """Writes what `machines` compile into `folder` and returns the paths whose text changed."""
    texts = headers() | {"sources.cmake": cmake_source()}
    for machine in machines:
        texts |= {name: text for name, (text, _) in sources(machine, tuning).items()}
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name, text in texts.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != text.encode():
            path.write_bytes(text.encode())
            changed.append(path)
    return changed
