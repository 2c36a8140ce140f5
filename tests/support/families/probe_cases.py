"""A program for the interpreter that has torch: what probes find out of transformations, as JSON on stdout.

PYTHONPATH has the folders of the probes, of llama.cpp's converter and of its gguf package. The only argument is a
folder for files.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import capture
import torch
from conversion.base import LazyTorchTensor
from probes import FIRST, LAST, MAX_RUNS, PROBE, NoRearrangement, Probe, compute, rearrangement

HEADS, DIM = 4, 6


def tensor(name: str, *shape: int, read=lambda: None) -> LazyTorchTensor:
    node = LazyTorchTensor(meta=LazyTorchTensor.meta_with_dtype_and_shape(torch.float32, shape), func=lambda: None)
    setattr(node, PROBE, Probe(name, shape, True, read))
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


def in_turns(rows: int) -> LazyTorchTensor:
    """The rows of two matrices in turns: as many runs as there are rows."""
    matrices = [tensor(name, rows // 2, 8) for name in ("v", "u")]
    return torch.stack(matrices, dim=1).reshape(rows, 8)


def columns_changed(w):
    w[:, :4] *= 2
    return w


def number_assigned(name: str = "w", read=lambda: None) -> LazyTorchTensor:
    w = tensor(name, 24, 8, read=read)
    w[:8] = 3
    w[8:16] *= 2
    return w


def values_assigned() -> list[list[float]]:
    """Some of the values of one that numbers and products were assigned to."""
    node = number_assigned(read=lambda: torch.arange(24.0 * 8).reshape(24, 8))
    return compute(node, LazyTorchTensor, lambda probe: probe.read())[6:20:6, :3].tolist()


def scales(folder: Path) -> dict[str, list[list[float]]]:
    """Those of a matrix of 6 x 4 in blocks of 2 x 2: there are as many blocks as rows."""
    found = {}
    for shape in ((), (1,), (6,), (6, 1), (3, 2)):
        values = torch.arange(torch.Size(shape).numel(), dtype=torch.float32) + 1
        file = folder / "scales.bin"
        values.numpy().tofile(file)
        place = [str(file), "F32", list(shape), 0, 4 * values.numel()]
        found[str(shape)] = capture.scales_of(place, [6, 4], 2).tolist()
    return found


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
        "two in turns": in_turns(4),
        "two in turns, too many pieces": in_turns(MAX_RUNS + 2),
        "too many rows": tensor("m", LAST - FIRST + 1, 8),
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
        "number assigned": number_assigned(),
    }
    found |= {f"factor: {name}": told(node, scaled=True) for name, node in factors.items()}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = [len(list(rearrangement(node, LazyTorchTensor))) for node in (reordered, across, many)]
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    (most,) = rearrangement(tensor("m", LAST - FIRST, 1), LazyTorchTensor)
    (turns,) = rearrangement(in_turns(MAX_RUNS), LazyTorchTensor)
    more = {"assigned": values_assigned(), "scales": scales(Path(sys.argv[1]))}
    more |= {"rows": len(most.runs[0][2]), "pieces": len(turns.runs)}
    print(json.dumps({"cases": found, "large": big, "kilobytes": used, **more}))


if __name__ == "__main__":
    # As where the probes are made otherwise: torch gives some calls on as a whole there.
    with torch.inference_mode():
        main()
