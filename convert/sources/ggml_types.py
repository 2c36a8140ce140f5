"""The tensor types that a GGUF of llama.cpp or of its forks may have: number, name and block size. The only such table.

The gguf package knows the types of mainline ggml; listed here are those that only newer versions of it know, and those
of forks. T-MAC's own types are in common/format.py; readers/ggml_blocks.py says which types convert to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ...common.stock import STOCK_TYPES


@dataclass(frozen=True)
class GgmlType:
    """A type of ggml: `block` weights, along a row, are stored in `nbytes` bytes."""

    id: int
    name: str
    block: int
    nbytes: int


def _of_package(kind: GGMLQuantizationType) -> GgmlType:
    return GgmlType(int(kind), kind.name.lower(), *GGML_QUANT_SIZES[kind])


Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, TQ1_0, TQ2_0 = map(
    _of_package,
    (
        GGMLQuantizationType.Q4_0,
        GGMLQuantizationType.Q4_1,
        GGMLQuantizationType.Q5_0,
        GGMLQuantizationType.Q5_1,
        GGMLQuantizationType.Q2_K,
        GGMLQuantizationType.Q3_K,
        GGMLQuantizationType.Q4_K,
        GGMLQuantizationType.Q5_K,
        GGMLQuantizationType.Q6_K,
        GGMLQuantizationType.TQ1_0,
        GGMLQuantizationType.TQ2_0,
    ),
)
# Of ggml, but not yet of every gguf package that we run with.
Q1_0, Q2_0 = (
    GgmlType(stock.id, stock.name, stock.block, stock.nbytes)
    for name in ("q1_0", "q2_0")
    for stock in STOCK_TYPES
    if stock.name == name
)
# Of Prism's fork; mainline llama.cpp does not know them.
PQ2_0, PTQ1_0 = GgmlType(142, "pq2_0", 128, 34), GgmlType(143, "ptq1_0", 128, 28)
FORK_IDS = (PQ2_0.id, PTQ1_0.id)
# Prism's first files have blocks of this kind under the number of Q2_0.
EARLY_Q2_0 = GgmlType(Q2_0.id, "q2_0", PQ2_0.block, PQ2_0.nbytes)
# Of bitnet.cpp, under numbers that ggml does not use. (The number of its TL2 is MXFP4 in ggml.)
BITNET_NAMES = {36: "I2_S", 37: "I8_S", 38: "TL1"}

# Of ik_llama.cpp: gguf-py/gguf/constants.py of its commit 00ded085, but for 142 and 143, which it has given up, and
# which are Prism's types today.
IK_NAMES = {
    **{97: "Q8_0_X4", 98: "Q8_1_X4", 99: "Q8_2_X4", 133: "Q6_0", 134: "IQ1_BN", 135: "IQ2_BN", 136: "Q8_K64"},
    **{137: "IQ2_K", 138: "IQ3_K", 139: "IQ4_K", 140: "IQ5_K", 141: "IQ6_K", 142: "IQ2_TN", 143: "IQ1_TN"},
    **{144: "IQ4_KS", 145: "IQ2_KS", 146: "IQ4_KSS", 147: "Q8_K16", 148: "Q8_K32", 149: "Q8_KR8", 150: "Q8_K128"},
    **{151: "Q8_KV", 152: "IQ5_KS", 153: "IQ2_KT", 154: "IQ3_KT", 155: "IQ4_KT", 156: "IQ3_KS", 157: "IQ2_KL"},
    **{158: "IQ1_KT", 202: "Q4_0_R8", 206: "Q5_0_R4", 208: "Q8_0_R8", 210: "Q2_K_R4", 211: "Q3_K_R4"},
    **{212: "Q4_K_R4", 213: "Q5_K_R4", 214: "Q6_K_R4", 216: "IQ2_XXS_R4", 217: "IQ2_XS_R4", 218: "IQ3_XXS_R4"},
    **{219: "IQ1_S_R4", 220: "IQ4_NL_R4", 221: "IQ3_S_R4", 222: "IQ2_S_R4", 223: "IQ4_XS_R8", 229: "IQ1_M_R4"},
    **{230: "BF16_R16", 233: "Q6_0_R4", 335: "IQ2_BN_R4", 337: "IQ2_K_R4", 338: "IQ3_K_R4", 339: "IQ4_K_R4"},
    **{340: "IQ5_K_R4", 344: "IQ4_KS_R4", 352: "IQ5_KS_R4", 398: "Q8_KV_R8", 399: "Q8_K_R8"},
}
_BITNET, _IK = "bitnet.cpp", "ik_llama.cpp"


def fork_name(type_id: int) -> tuple[str, str]:
    """The name of the type in a fork of llama.cpp that uses this number, and of the fork; empty if none is known."""
    if type_id in BITNET_NAMES:
        return BITNET_NAMES[type_id], _BITNET
    return (IK_NAMES[type_id], _IK) if type_id in IK_NAMES else ("", "")


TYPES = {kind.id: kind for kind in (*map(_of_package, GGMLQuantizationType), Q1_0, Q2_0, PQ2_0, PTQ1_0)}
