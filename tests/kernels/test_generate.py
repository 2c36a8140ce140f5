"""The generator: deterministic text, goldens that show a template's change as a C diff, lists that cannot drift."""

import re
from pathlib import Path

import pytest

from tmac.kernels import generate
from tmac.kernels.catalog import KERNELS, TABLE_GROUP, TYPES
from tmac.kernels.errors import KernelError
from tmac.kernels.isa import ISAS
from tmac.kernels.spec import FORMAT_TYPES, KernelSpec

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_TEXTS = {
    **{f"{name}.c": lambda name=name: generate.gemv_source(KernelSpec.parse(name))
       for name in ("tmac_gemv_w2g64z_scalar", "tmac_gemv_w2g64z_avx2", "tmac_gemv_w4g128_avx512_vbmi")},
    **{f"{isa.tables_symbol}.c": lambda isa=isa: generate.tables_source(isa) for isa in ISAS},
    "ggml_types.inc": generate.ggml_types_source,
}


@pytest.mark.parametrize("name", GOLDEN_TEXTS)
def test_generated_text_is_the_golden_text(name, request):
    text, path = GOLDEN_TEXTS[name](), GOLDEN / name
    if request.config.getoption("--update-golden"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "intended? then: tmac test tests/kernels --update-golden, and read the diff"


def test_second_write_changes_nothing(tmp_path):
    """So that a rebuild with nothing new compiles nothing."""
    assert generate.write_tree(tmp_path)
    assert generate.write_tree(tmp_path) == []
    (tmp_path / "catalog.c").write_text("edited")
    assert generate.write_tree(tmp_path) == [tmp_path / "catalog.c"]


def test_every_kernel_has_its_file_and_its_flags(tmp_path):
    """The CMake list names each kernel's file once per architecture, with the flags of its instruction set."""
    generate.write_tree(tmp_path)
    cmake = (tmp_path / "sources.cmake").read_text()
    for kernel in KERNELS:
        assert (tmp_path / f"{kernel.name}.c").exists()
        flags = re.search(rf'/{kernel.name}\.c PROPERTIES COMPILE_OPTIONS "([^"]*)"', cmake)
        assert (tuple(flags[1].split(";")) if flags else ()) == kernel.isa.flags


def test_a_name_without_value_is_an_error():
    with pytest.raises(KernelError, match=r"gemv_avx2\.c\.in: nothing gives \$\{type\} a value"):
        generate.render("gemv_avx2.c.in", {})


def test_table_group_is_the_same_in_c_and_python():
    header = generate.headers()["tmac.h"]
    assert re.search(r"#define TMAC_TABLE_GROUP (\d+)", header)[1] == str(TABLE_GROUP)


def test_ggml_knows_every_type_of_the_format():
    rows = re.findall(r'\[(0x\w+)\] = \{ \.type_name = "tmac_(\w+)"', generate.ggml_types_source())
    assert {(int(i, 16), name) for i, name in rows} == {(t.ggml_id, t.name) for t in FORMAT_TYPES}
    assert set(TYPES) <= set(FORMAT_TYPES)
