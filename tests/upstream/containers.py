"""GGUF itself, limits of llama.cpp, names of split files, and importance matrices."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

import gguf

from support.llama_tree import LlamaTree, evaluate
from upstream import ours
from upstream.fact import Fact, differences
from upstream.linear_names import listed_names

GGML_H, GGUF_H, GGUF_CPP, HPARAMS_H, CPARAMS_H = (
    "ggml/include/ggml.h",
    "ggml/include/gguf.h",
    "ggml/src/gguf.cpp",
    "src/llama-hparams.h",
    "src/llama-cparams.h",
)
LLAMA_CPP, ARCH_CPP, LLAMA_H = "src/llama.cpp", "src/llama-arch.cpp", "include/llama.h"
GGUF_SPLIT, IMATRIX, IMATRIX_LOADER = (
    "tools/gguf-split/gguf-split.cpp",
    "tools/imatrix/imatrix.cpp",
    "common/imatrix-loader.cpp",
)
# The order in which the loader reads an entry of the older format.
OLD_IMATRIX = ["n_entries", "len", "name_as_vec", "ncall", "nval", "e.sums"]


def check_limits(llama: LlamaTree) -> Iterator[str]:
    copied = {
        (HPARAMS_H, "LLAMA_MAX_LAYERS"): ours.decoder.MAX_LAYERS,
        (HPARAMS_H, "LLAMA_MAX_EXPERTS"): ours.experts.MAX_EXPERTS,
        (CPARAMS_H, "LLAMA_MAX_SEQ"): ours.model_run.MAX_SEQUENCES,
        (GGML_H, "GGML_MAX_DIMS"): ours.gguf_header.MAX_DIMENSIONS,
    }
    theirs = {name: evaluate(llama.macro(path, name), {}) for path, name in copied}
    yield from differences("limit", theirs, {name: value for (_, name), value in copied.items()})
    room = evaluate(llama.macro(GGML_H, "GGML_MAX_NAME"), {})
    for name in sorted(listed_names()):
        longest = f"{name.replace('%d', str(ours.decoder.MAX_LAYERS - 1))}.weight".replace(".weight.weight", ".weight")
        for written in (
            longest,
            longest.replace(".weight", ours.tmac_format.ORDER_SUFFIX),
            longest.replace(".weight", ours.tmac_format.SCALE_SUFFIX),
        ):
            if len(written) >= room:
                yield f"llama.cpp's names have at most {room - 1} characters; {written} has {len(written)}"


def check_container(llama: LlamaTree) -> Iterator[str]:
    macros = llama.macros(GGUF_H)
    if int(macros["GGUF_VERSION"]) != max(ours.gguf_header.VERSIONS):
        yield f"llama.cpp writes GGUF version {macros['GGUF_VERSION']}; we read {ours.gguf_header.VERSIONS}"
    refused = [int(version) for version in re.findall(r"ctx->version == (\d+)", llama.code(GGUF_CPP))]
    if sorted(refused) != list(range(min(ours.gguf_header.VERSIONS))):
        yield f"llama.cpp refuses GGUF versions {refused}; we read {ours.gguf_header.VERSIONS}"
    alignment = int(macros["GGUF_DEFAULT_ALIGNMENT"])
    if alignment != gguf.GGUF_DEFAULT_ALIGNMENT:
        yield f"llama.cpp's usual alignment is {alignment}; the gguf package's {gguf.GGUF_DEFAULT_ALIGNMENT}"
    version = int(llama.macro(GGML_H, "GGML_QNT_VERSION"))
    if version != ours.container.QUANTIZATION_VERSION:
        yield f"llama.cpp's quantization version is {version}; we write {ours.container.QUANTIZATION_VERSION}"
    numbers = {f"GGUF_TYPE_{kind.name}": int(kind) for kind in gguf.GGUFValueType}
    yield from differences(
        "type of metadata",
        {n: v for n, v in llama.enum(GGUF_H, "gguf_type").items() if n != "GGUF_TYPE_COUNT"},
        numbers,
    )
    widths = {"int8_t": 1, "int16_t": 2, "int32_t": 4, "int64_t": 8, "float": 4, "double": 8}
    sizes = {key: re.fullmatch(r"sizeof\(u?(\w+)\)", value) for key, value in llama.table(GGUF_CPP, "GGUF_TYPE_SIZE")}
    theirs = {key: widths[size[1]] for key, size in sizes.items() if size}
    copied = {f"GGUF_TYPE_{kind.name}": struct.calcsize(form) for kind, form in ours.gguf_header._SCALARS.items()}
    yield from differences("bytes of the metadata type", theirs, copied)


def check_scaling_types(llama: LlamaTree) -> Iterable[str]:
    """What a number of rope.scaling.type means is text in a GGUF, by llama.cpp's own table."""
    texts = llama.texts_of("src/llama-model.cpp", "LLAMA_ROPE_SCALING_TYPES")
    theirs = {key.removeprefix("LLAMA_ROPE_SCALING_TYPE_"): text for key, text in texts.items()}
    return differences("kind of RoPE scaling", theirs, {kind.name: kind.value for kind in gguf.RopeScalingType})


def check_splits(llama: LlamaTree) -> Iterator[str]:
    form = re.search(r'SPLIT_PATH_FORMAT = "([^"]+)"', llama.function(LLAMA_CPP, "llama_split_path"))
    name = form[1] % ("dir/model", 2, 11) if form else "nothing"
    found = ours.gguf_model.SPLIT_NAME.fullmatch(name)
    if not found or (found["stem"], found["number"], found["count"]) != ("dir/model", "00002", "00011"):
        yield f"llama.cpp names the second of eleven files {name}; we look for {ours.gguf_model.SPLIT_NAME.pattern}"
    keys = [key for name, key in llama.texts_of(ARCH_CPP, "LLM_KV_NAMES").items() if name.startswith("LLM_KV_SPLIT_")]
    if not keys or not all(key.startswith(ours.gguf_model.SPLIT_KEYS) for key in keys):
        yield f"llama.cpp's keys of a split model are {keys}; ours begin with {ours.gguf_model.SPLIT_KEYS}"
    body = llama.function(GGUF_SPLIT, "split_str_to_n_bytes")
    for unit, factor in re.findall(
        r"str\.back\(\) == '(\w)'\) \{.*?n_bytes = \(size_t\)n \* ([\d *]+);", body, re.DOTALL
    ):
        theirs, copied = evaluate(factor, {}), ours.arguments.byte_size(f"1{unit}")
        if theirs != copied:
            yield f"llama.cpp's --split-max-size 1{unit} is {theirs} bytes; ours {copied}"


def check_imatrix(llama: LlamaTree) -> Iterator[str]:
    code = llama.code(IMATRIX)
    for suffix, variable in ((ours.imatrix._SUMS, "in_sum2"), (ours.imatrix._COUNTS, "counts")):
        if not re.search(rf'ggml_format_name\({variable}\s*, "%s{re.escape(suffix)}"', code):
            yield f"llama-imatrix no longer writes tensors named {suffix}"
        if not re.search(rf"\* {variable}\s*= ggml_new_tensor_2d\(ctx, GGML_TYPE_F32,", code):
            yield f"llama-imatrix no longer writes {suffix} as float32 with one row for each matrix"
    if f'gguf_set_val_str(ctx_gguf, "{ours.imatrix._TYPE_KEY}", "{ours.imatrix._TYPE}")' not in code:
        yield f"llama-imatrix no longer writes {ours.imatrix._TYPE_KEY} = {ours.imatrix._TYPE}"
    body = llama.function(IMATRIX_LOADER, "common_imatrix_load_legacy")
    read = re.findall(r"in\.read\(\(char \*\) &?([\w.]+?)(?:\.data\(\))?,", body)
    if read[: len(OLD_IMATRIX)] != OLD_IMATRIX:
        yield f"llama.cpp reads the older format of importance matrices in the order {read}; we in {OLD_IMATRIX}"


FACTS = [
    Fact(
        "limits",
        [ours.architectures, ours.gguf_header, ours.model_run],
        f"{HPARAMS_H}, {CPARAMS_H}, {GGML_H}",
        check_limits,
        (
            (HPARAMS_H, "#define LLAMA_MAX_LAYERS  512", "#define LLAMA_MAX_LAYERS  1024"),
            (HPARAMS_H, "#define LLAMA_MAX_EXPERTS 1024", "#define LLAMA_MAX_EXPERTS 512"),
            (CPARAMS_H, "#define LLAMA_MAX_SEQ 256", "#define LLAMA_MAX_SEQ 64"),
            (GGML_H, "#define GGML_MAX_DIMS           4", "#define GGML_MAX_DIMS 5"),
            (GGML_H, "define GGML_MAX_NAME        64", "define GGML_MAX_NAME 32"),
        ),
    ),
    Fact(
        "GGUF",
        [ours.gguf_header, ours.container],
        f"{GGUF_H}, {GGUF_CPP}, {GGML_H}",
        check_container,
        (
            (GGUF_H, "#define GGUF_VERSION 3", "#define GGUF_VERSION 4"),
            (GGUF_CPP, "ctx->version == 1", "ctx->version == 2"),
            (GGUF_H, "#define GGUF_DEFAULT_ALIGNMENT 32", "#define GGUF_DEFAULT_ALIGNMENT 64"),
            (GGML_H, "#define GGML_QNT_VERSION        2", "#define GGML_QNT_VERSION 3"),
            (GGUF_H, "GGUF_TYPE_FLOAT64 = 12", "GGUF_TYPE_FLOAT64 = 13"),
            (GGUF_CPP, "{GGUF_TYPE_BOOL,    sizeof(int8_t)}", "{GGUF_TYPE_BOOL, sizeof(int32_t)}"),
        ),
    ),
    Fact(
        "kinds of RoPE scaling",
        [ours.decoder],
        "src/llama-model.cpp",
        check_scaling_types,
        (("src/llama-model.cpp", '"yarn"', '"yarn2"'),),
    ),
    Fact(
        "split models",
        [ours.gguf_model, ours.arguments],
        f"{LLAMA_CPP}, {ARCH_CPP}, {GGUF_SPLIT}",
        check_splits,
        (
            (LLAMA_CPP, "%s-%05d-of-%05d.gguf", "%s-%04d-of-%04d.gguf"),
            (ARCH_CPP, '"split.count"', '"shard.count"'),
            (GGUF_SPLIT, "(size_t)n * 1000 * 1000;", "(size_t)n * 1024 * 1024;"),
        ),
    ),
    Fact(
        "importance matrices",
        [ours.imatrix],
        f"{IMATRIX}, {IMATRIX_LOADER}",
        check_imatrix,
        (
            (IMATRIX, '"%s.in_sum2"', '"%s.sums"'),
            (
                IMATRIX,
                "counts  = ggml_new_tensor_2d(ctx, GGML_TYPE_F32",
                "counts  = ggml_new_tensor_2d(ctx, GGML_TYPE_I32",
            ),
            (IMATRIX, '"general.type", "imatrix"', '"general.type", "importance"'),
            (IMATRIX_LOADER, "in.read((char *) &ncall, sizeof(ncall));", ""),
        ),
    ),
]
