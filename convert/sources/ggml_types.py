"""The tensor types that a GGUF of llama.cpp or of its forks may have: number, name and block size. The only such table.

The gguf package knows the types of mainline ggml; listed here are those that only newer versions of it know, and those
of forks. T-MAC's own types are in common/format.py; readers/ggml_blocks.py says which types convert to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType


@dataclass(frozen=True)
class GgmlType:
    """A type of ggml: `block` weights, along a row, are stored in `nbytes` bytes."""

    id: int
    name: str
    block: int
    nbytes: int


def _of_package(kind: GGMLQuantizationType) -> GgmlType:
    return GgmlType(int(kind), kind.name.lower(), *GGML_QUANT_SIZES[kind])


Q4_0, Q4_1, TQ1_0, TQ2_0 = map(
    _of_package,
    (
        GGMLQuantizationType.Q4_0,
        GGMLQuantizationType.Q4_1,
        GGMLQuantizationType.TQ1_0,
        GGMLQuantizationType.TQ2_0,
    ),
)
# Of ggml, but not yet of every gguf package that we run with.
Q1_0, Q2_0 = GgmlType(41, "q1_0", 128, 18), GgmlType(42, "q2_0", 64, 18)
# Of Prism's fork; mainline llama.cpp does not know them.
PQ2_0, PTQ1_0 = GgmlType(142, "pq2_0", 128, 34), GgmlType(143, "ptq1_0", 128, 28)
FORK_IDS = (PQ2_0.id, PTQ1_0.id)
# Prism's first files have blocks of this kind under the number of Q2_0.
EARLY_Q2_0 = GgmlType(Q2_0.id, "q2_0", PQ2_0.block, PQ2_0.nbytes)
# Of bitnet.cpp, under numbers that ggml does not use. (The number of its TL2 is MXFP4 in ggml.)
BITNET_NAMES = {36: "I2_S", 37: "I8_S", 38: "TL1"}

TYPES = {kind.id: kind for kind in (*map(_of_package, GGMLQuantizationType), Q1_0, Q2_0, PQ2_0, PTQ1_0)}
