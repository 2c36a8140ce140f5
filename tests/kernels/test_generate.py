"""The generator: its text is deterministic, goldens show what a change of a template does to the C, and lists agree."""

import ctypes
import re
from pathlib import Path

import pytest

from tmac.common.compilers import find_c_compiler
from tmac.common.cpu import machine
from tmac.common.format import END_TYPE_ID, FILE_TYPE, TYPES
from tmac.kernels import generate
from tmac.kernels.attention import ATTENTION_KERNELS, attention_kernels_for
from tmac.kernels.catalog import KERNELS, isas_for
from tmac.kernels.compile import build, build_library, compile_into
from tmac.kernels.delta_net import DELTA_NET_KERNELS, delta_net_kernels_for
from tmac.kernels.errors import KernelError
from tmac.kernels.forms import PREPARED
from tmac.kernels.interface import STRUCTS
from tmac.kernels.isa import ISAS
from tmac.kernels.rotation import ROTATION_KERNELS, rotation_kernels_for

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_TEXTS = {
    **{
        file.name: lambda file=file: generate.kernel_source(file)
        for file in dict.fromkeys(generate.KernelFile.of(k) for k in KERNELS)
        if file.bits == 2 and file.precision == "rounded"
    },
    **{name: lambda text=text: text for isa in ISAS for name, text in generate.prepare_sources(isa).items()},
    **{kernel.file: lambda kernel=kernel: generate.attention_source(kernel) for kernel in ATTENTION_KERNELS},
    **{kernel.file: lambda kernel=kernel: generate.delta_net_source(kernel) for kernel in DELTA_NET_KERNELS},
    **{kernel.file: lambda kernel=kernel: generate.rotation_source(kernel) for kernel in ROTATION_KERNELS},
    **{name: lambda text=text: text for name, (text, _) in generate.repack_sources("x86_64").items()},
    "ggml_types.inc": generate.ggml_types_source,
}


@pytest.mark.parametrize("name", GOLDEN_TEXTS)
def test_generated_text_is_the_golden_text(name, request):
    text, path = GOLDEN_TEXTS[name](), GOLDEN / Path(name).name
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, (
        "intended? then: tmac test tests/kernels --update-golden, and read the diff"
    )


def test_second_write_changes_nothing(tmp_path):
    """A rebuild without changes compiles nothing."""
    assert generate.write_tree(tmp_path)
    assert generate.write_tree(tmp_path) == []
    (tmp_path / "interface" / "catalog.c").write_text("edited")
    assert generate.write_tree(tmp_path) == [tmp_path / "interface" / "catalog.c"]


def test_every_kernel_has_its_file_and_its_flags(tmp_path):
    """The CMake list names each kernel's file once per architecture, with the flags of its instruction set.

    `any` are the kernels that are compiled for every architecture.
    """
    generate.write_tree(tmp_path)
    cmake = (tmp_path / "sources.cmake").read_text()
    lists = {name: files.split() for name, files in re.findall(r"^set\(TMAC_SOURCES_(\w+)\n([^)]*)\)", cmake, re.M)}
    for architecture, files in lists.items():
        expected = {generate.KernelFile.of(k).name for k in KERNELS if k.isa.machine in (architecture, "any")}
        expected |= {kernel.file for kernel in attention_kernels_for(architecture)}
        expected |= {kernel.file for kernel in delta_net_kernels_for(architecture)}
        expected |= {kernel.file for kernel in rotation_kernels_for(architecture)}
        kinds = ("tmac_gem", "tmac_attention", "tmac_delta_net", "tmac_rotate")
        assert sorted(f for f in files if any(kind in f for kind in kinds)) == sorted(expected)
        interface = {f"interface/{name}.c" for name in ("attention", "catalog", "delta_net", "dispatch", "rotation")}
        assert interface | {"activations/tmac_tables_scalar.c"} <= set(files)
        assert all((tmp_path / f).exists() for f in files)
    own = [(kernel, generate.KernelFile.of(kernel).name) for kernel in KERNELS]
    catalog = (*ATTENTION_KERNELS, *DELTA_NET_KERNELS, *ROTATION_KERNELS)
    for kernel, file in own + [(kernel, kernel.file) for kernel in catalog]:
        assert f"\nvoid {kernel.name}(" in (tmp_path / file).read_text()
        flags = re.search(rf'/{file} PROPERTIES COMPILE_OPTIONS "([^"]*)"', cmake)
        assert (tuple(flags[1].split(";")) if flags else ()) == kernel.isa.flags


@pytest.mark.parametrize(
    "isa, template, missing, sentence",
    [
        (isa, f"{folder}/{name}.c", missing, sentence)
        for isa in isas_for(machine())
        for folder, name, missing, sentence in (
            *(("gemv", isa.name, name, f"define {name}") for name in ("BITS", "PRECISION") if isa.gemv_forms),
            *(("gemv", isa.name, name, rf"gemv/\S+: define .*\b{name}\b") for name in isa.parameters),
            *(
                (
                    "gemm",
                    f"{PREPARED[form].kind}_{isa.name}",
                    "BITS",
                    "weights/planes.h: define BITS before including",
                )
                for form in isa.gemm_forms
            ),
            (
                "activations",
                f"tables_{isa.prepared_by}",
                "PREPARE_TABLES",
                "activations/tables.h: define PREPARE_TABLES and",
            ),
            ("activations", "int8", "PREPARE_EXACT_INT8", "activations/int8.c: define .*PREPARE_EXACT_INT8 before"),
            ("activations", "bf16", "PREPARE_BF16", "activations/bf16.c: define PREPARE_BF16 before"),
        )
    ],
)
def test_a_missing_parameter_is_a_sentence_of_the_compiler(isa, template, missing, sentence, tmp_path):
    prepared = {f"PREPARE_{form.upper()}": f"prepare_{form}" for form in PREPARED}
    parameters = {
        "BITS": 2,
        "PRECISION": "TMAC_EXACT",
        **(isa.parameters if template.startswith("gemv/") else {}),
        **prepared,
    }
    del parameters[missing]
    sources = {"lacking.c": (generate.render(template, parameters), isa.flags)}
    with pytest.raises(KernelError, match=sentence):
        compile_into(find_c_compiler(), ("-Wfatal-errors",), ("-shared",), sources, tmp_path / "library.so")


@pytest.mark.parametrize(
    "header, before, sentence",
    [
        ("caches", "", "include a vocabulary"),
        ("exponential", "", "include a vocabulary"),
        ("stream", "#define STREAM_ROWS 1", r"define STREAM_ROWS and V_VECTORS\(rows\) before"),
        ("tile", "#define TILE_ROWS 4", "define TILE_ROWS and TILE_VECTORS before"),
    ],
)
def test_what_a_header_of_attention_lacks_is_a_sentence_of_the_compiler(header, before, sentence, tmp_path):
    sources = {"lacking.c": (f'{before}\n#include "attention/{header}.h"\n', ())}
    with pytest.raises(KernelError, match=f"attention/{header}.h: {sentence}"):
        compile_into(find_c_compiler(), ("-Wfatal-errors",), ("-shared",), sources, tmp_path / "library.so")


def test_constants_and_enumerations_of_the_header_by_hand():
    """The values that kernels rely on; C arrays are in the order of these enumerations."""
    header = generate.headers()["interface/tmac_format.h"]
    for name, value in (("TABLE_GROUP", 32), ("TABLE_BLOCK", 128), ("TILE_ROWS", 32), ("LAYOUT_VERSION", 1)):
        assert re.search(rf"#define TMAC_{name} (\d+)", header)[1] == str(value)
    enums = {
        "tmac_precision": ("ROUNDED", "EXACT", "FAST"),
        "tmac_form": ("TABLES", "EXACT_TABLES", "TRITS", "EXACT_TRITS", "INT8", "EXACT_INT8", "BF16"),
        "tmac_grid": ("GRID_SYMMETRIC", "GRID_ZEROS", "GRID_MINIMA", "GRID_LEVELS", "GRID_LEVELS_MINIMA"),
        "tmac_input": ("F32", "F16", "I8"),
        "tmac_cache_type": ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL"),
    }
    for enum, names in enums.items():
        body = re.search(rf"enum {enum} {{(.*?)}};", header, re.S)[1]
        assert re.findall(r"\bTMAC_(?:CACHE_)?(\w+)", body) == list(names)


def test_structures_are_the_same_in_c_and_ctypes():
    """Sizes and field offsets are those that the compiler uses."""
    checks = [
        f'_Static_assert(offsetof(struct {s.name}, {field.name}) == {getattr(s.as_ctypes(), field.name).offset}, "");'
        for s in STRUCTS
        for field in s.fields
    ]
    checks += [f'_Static_assert(sizeof(struct {s.name}) == {ctypes.sizeof(s.as_ctypes())}, "");' for s in STRUCTS]
    text = "\n".join(['#include "interface/tmac.h"', *checks, "int tmac_checked = 1;"])
    build_library({"checks.c": (text, ())})


def test_kernels_compile_without_warnings():
    build(extra_flags=("-Wall", "-Wextra", "-Wmissing-prototypes", "-Werror"))


def test_patch_has_the_numbers_of_the_format():
    """The patch sizes ggml's tables, which are indexed by type, at the end of the format's ids. And the file type."""
    patch = (Path(__file__).parents[2] / "patches" / "llama.cpp" / "0001-tmac-hooks.patch").read_text()
    assert (
        int(re.search(r"^\+ +GGML_TYPE_COUNT += (0x\w+),", patch, re.M)[1], 16)
        == END_TYPE_ID
        > max(t.id for t in TYPES)
    )
    assert int(re.search(r"^\+ +LLAMA_FTYPE_MOSTLY_TMAC += (\d+),", patch, re.M)[1]) == FILE_TYPE


def test_ggml_knows_every_type_of_the_format():
    rows = re.findall(r'\[(0x\w+)\] = \{ \.type_name = "tmac_(\w+)"', generate.ggml_types_source())
    assert {(int(i, 16), name) for i, name in rows} == {(t.id, t.name) for t in TYPES}
