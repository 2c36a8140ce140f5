"""The types that llama.cpp offers for its cache of K and V, which the attention kernels read."""

from __future__ import annotations

import re
from collections.abc import Iterable

from support.llama_tree import LlamaTree, NotFound, split
from upstream import ours
from upstream.block_types import COMMON_H, GGML_C, GGML_H, table_of_types, type_numbers
from upstream.fact import Fact, differences

ARG_CPP = "common/arg.cpp"


def check_types(llama: LlamaTree) -> Iterable[str]:
    offered = split(llama.block(ARG_CPP, r"\bkv_cache_types\s*=\s*\{"))
    numbers, table = type_numbers(llama), table_of_types(llama)
    theirs = {}
    for name in (entry.removeprefix("GGML_TYPE_").lower() for entry in offered):
        theirs[name] = (numbers[name], *table[numbers[name]][1:])
    copied = {kind.name: (kind.ggml_id, kind.block, kind.block_bytes) for kind in ours.attention.CACHE_TYPES}
    return differences("type of cache (number, values and bytes of a block)", theirs, copied)


def check_levels(llama: LlamaTree) -> Iterable[str]:
    found = re.search(r"GGML_TABLE_BEGIN\(int8_t, kvalues_iq4nl, 16\)(.*?)GGML_TABLE_END", llama.code(COMMON_H), re.S)
    if not found:
        raise NotFound(f"{COMMON_H} has no table kvalues_iq4nl of 16 int8_t")
    copied = re.search(r"\biq4_nl_levels\[16\] = \{(.*?)\}", ours.CACHES_H.read_text("utf-8"), re.S)
    theirs, our_levels = (dict(enumerate(map(int, split(text[1])))) for text in (found, copied))
    return differences("level of iq4_nl", theirs, our_levels)


FACTS = [
    Fact(
        "types of caches",
        [ours.attention],
        f"{ARG_CPP}, {GGML_H}, {GGML_C}, {COMMON_H}",
        check_types,
        (
            (ARG_CPP, "    GGML_TYPE_Q5_1,\n};", "    GGML_TYPE_Q5_1,\n    GGML_TYPE_Q6_K,\n};"),
            (ARG_CPP, "    GGML_TYPE_IQ4_NL,\n", ""),
            (GGML_H, "GGML_TYPE_BF16    = 30", "GGML_TYPE_BF16    = 31"),
            (COMMON_H, "#define QK8_0 32", "#define QK8_0 64"),
            (COMMON_H, "uint8_t qh[4];         // 5-th bit of quants", "uint8_t qh[8];         // 5-th bit of quants"),
        ),
    ),
    Fact(
        "levels of iq4_nl",
        [ours.CACHES_H],
        COMMON_H,
        check_levels,
        (
            (COMMON_H, "-127, -104, -83, -65, -49", "-127, -104, -82, -65, -49"),
            (COMMON_H, "kvalues_iq4nl, 16", "kvalues_iq4nl, 32"),
        ),
    ),
]
