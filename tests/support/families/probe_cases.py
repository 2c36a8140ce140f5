"""A program for the interpreter that has torch: what probes find out of transformations, as JSON on stdout.

PYTHONPATH has the folders of the probes, of llama.cpp's converter and of its gguf package.
"""

from __future__ import annotations

import json
import resource

import capture
import torch
from conversion.base import LazyTorchTensor
from probes import PROBE, NoRearrangement, Probe, rearrangement

HEADS, DIM = 4, 6


def tensor(name: str, *shape: int) -> LazyTorchTensor:
    node = LazyTorchTensor(meta=LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, shape), func=lambda: None)
    setattr(node, PROBE, Probe(name, shape, True, lambda: None))
    return node


def told(node, scaled: bool = False) -> object:
    """What is found out, with short lists of numbers, or the words of the refusal."""
    try:
        matrices = list(rearrangement(node, LazyTorchTensor, scaled=scaled))
    except NoRearrangement as problem:
        return str(problem).split(" (")[0]
    return [
        {
            "runs": [[probe.name, index, rows.tolist()[:40]] for probe, index, rows in matrix.runs],
            "columns": None if matrix.columns is None else matrix.columns.tolist(),
            "transposed": matrix.transposed,
            **({} if matrix.factors is None else {"factors": matrix.factors.tolist()}),
        }
        for matrix in matrices
    ]


def pairs(w):
    return w.reshape(HEADS, 2, DIM // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def columns_changed(w):
    w[:, :4] *= 2
    return w


def main() -> None:
    w, v, experts = tensor("w", 24, 8), tensor("v", 8, 8), tensor("e", 3, 4, 8)
    parts = w.split([8, 16], dim=0)
    large = tensor("large", 1 << 17, 1 << 15)
    many = torch.stack([tensor(f"x{i}", 4096, 4096) for i in range(128)])
    reordered = large.reshape(64, 2, -1, large.shape[1]).swapaxes(1, 2).reshape(large.shape)
    across = large.reshape(large.shape[0], 64, 2, -1).permute(0, 2, 1, 3).contiguous().reshape(large.shape)
    cases = {
        "as it is": w,
        "pairs of rows": pairs(w),
        "second part": parts[1],
        "joined": torch.cat([w, v]),
        "stacked": torch.stack([v, tensor("u", 8, 8)]),
        "columns": v[:, torch.arange(7, -1, -1)],
        "transposed": w.T,
        "slices of three dimensions": experts[:, ::2],
        "slices transposed": experts.transpose(1, 2),
        "half of a head transposed": w.reshape(2, 12, 8)[:, :4].transpose(1, 2),
        "one more": w + 1,
        "twice": w * 2,
        "single weight twice": tensor("s", 1, 1) * 2,
        "positive": w.abs(),
        "without negatives": torch.relu(w),
        "bounded": w.clamp(min=0),
        "bounded by fp16": w.clamp(-65504, 65504),
        "rounded": w.round(),
        "negative": -w,
        "product": w @ v,
        "sum of two": w + w,
        "repeated": torch.cat([v, v]),
        "columns left out": v[:, :4],
        "padded": torch.nn.functional.pad(v, (0, 0, 0, 8)),
        "mixed": v.reshape(4, 16),
    }
    found = {name: told(node) for name, node in cases.items()}
    capture.keep_assignments()
    changed = tensor("w", 24, 8) * 4
    changed[:8] *= 0.75
    changed[8:16, :] *= 0.3
    first = tensor("w", 24, 8)
    kept = first[:8]
    first[:8] = first[16:]
    factors = {
        "as it is": w,
        "twice": w * 2,
        "a third": w / 3,
        "rows by other factors": changed,
        "pairs of rows, half": pairs(w) * 0.5,
        "transposed, twice": w.T * 2,
        "what was taken before a change": kept,
        "one more": (w + 1) * 2,
        "negative": w * -2,
        "by nothing": w * 0,
        "by its largest": w * w.max(),
        "square": w * w,
        "sum of two": w + w,
        "columns by other factors": columns_changed(tensor("w", 24, 8) * 1),
        "rows over others": first,
    }
    found |= {f"factor: {name}": told(node, scaled=True) for name, node in factors.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = [len(list(rearrangement(node, LazyTorchTensor))) for node in (reordered, across, many)]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"cases": found, "large": big, "kilobytes": used}))


if __name__ == "__main__":
    # As where the probes are made otherwise: torch gives some calls on as a whole there.
    with torch.inference_mode():
        main()
