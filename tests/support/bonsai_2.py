"""Real data of the released Ternary-Bonsai-2-27B, and sha256 sums of what its maker's fork computes with them."""

from hashlib import sha256
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "fixtures" / "bonsai_2"
WIDTH, BLOCK = 5120, 1024
# [repeats, groups, head] of the delta nets' heads, and the width of ssm_out.
HEADS = 3, 16, 128
INNER = 6144
SUMS = {
    "input 5120": "10b1c1664d2abde052b3178d2adb878f3198d4fe2947679754d0cae339c97f17",
    "signs, then transform": "26047bea365d4e1f7247e83e675ddb202e966a4670cd9e57c12e42599c9f6dce",
    "transform, then signs": "8070c4f5ab15e3abcda917a95bde4a9065728fed3981284aa983727d1c72355c",
    "input 6144": "da8cb8e5d2cfd9e39b8bf955d9d035e85d2bc507df0ce0ad4cb0197937cc88ca",
    "permutation": "12779c3107bb198ce672c6cde1fb1bb6314906deefdc54289e028a7183db5c8c",
    "row": "877ba7888844bcd17e03244657f2332cc0b42bd35f5e764d3f0b7a08174d9c40",
}


def signs() -> np.ndarray:
    """float32 [5120] of +-1: those of the file for this width."""
    packed = np.frombuffer(bytes.fromhex((FOLDER / "sign-values-5120.hex").read_text()), np.uint8)
    return np.unpackbits(packed, bitorder="little").astype(np.float32) * 2 - 1


def row() -> np.ndarray:
    """uint8 [1120]: row 0 of blk.0.ffn_gate.weight, 40 blocks of PTQ1_0."""
    return np.frombuffer(bytes.fromhex((FOLDER / "blk.0.ffn_gate.weight-row-0.ptq1_0.hex").read_text()), np.uint8)


def activations(width: int) -> np.ndarray:
    """float32 [2, width] that the sums are of."""
    return np.random.default_rng(20260925 + width).standard_normal((2, width), dtype=np.float32)


def sum_of(values: np.ndarray) -> str:
    return sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()
