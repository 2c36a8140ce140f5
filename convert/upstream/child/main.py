"""Runs llama.cpp's own converter on a checkpoint, and writes what it makes of it, without the quantized weights.

A program for the interpreter that has torch and transformers; it imports nothing of T-MAC. The checkpoint's own code
is never run, and the network never used. In: the file `request.json` in the folder that is its only argument

    source          the tree of llama.cpp
    folder          the checkpoint
    tensors         by name [file, dtype, shape, first byte, bytes], in order: those that the converter may read; floats
                    of 8 bits have the same of their scales (for all, by row, or by block) behind it
    block           rows, and columns, of a block of these
    quantized       by name of a weight [rows, columns]: it has no values here
    keeps_settings  whether the converter may see quantization_config
    name            the model's name, or empty
    pre             the pre-tokenizer, for a tokenizer that llama.cpp's table does not have; or null

Out, in the same folder: `metadata.gguf` (no tensors); `values.bin`; `arrays.bin` (int64, or float64 for factors, to
which `answer.json` refers by [first, count]); and `answer.json`

    architecture  its name
    outputs       in order: name, shape, type (ggml's name), and either
                  data      [first byte, bytes] in values.bin, F32 unless the type is of another form; or
                  matrices  in order: runs [[source, its matrix, rows], ...], columns, transposed, factors (probes.py)
                  refused   why it cannot be had of quantized weights
    unused        the names of tensors that no output is made of

or, instead of all of these, `error.json` with the kind (see kind_of) and the text of what went wrong.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text("utf-8"))
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[variable] = "1"
    # The tree's own gguf package goes before any other.
    sys.path[1:1] = [request["source"], str(Path(request["source"]) / "gguf-py")]
    try:
        import capture

        answer = capture.run(request, folder)
    except KeyboardInterrupt:
        raise
    # Some classes of the converter end the program.
    except BaseException as problem:
        traceback.print_exc()
        found: dict[str, Any] = {"kind": kind_of(problem), "text": str(problem)}
        (folder / "error.json").write_text(json.dumps(found), "utf-8")
        raise SystemExit(1) from problem
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


def kind_of(problem: BaseException) -> str:
    """The name of its class, or of what it is about where several classes, or other problems too, say it."""
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "DiskFull"
    # torch has no class for this.
    if isinstance(problem, RuntimeError) and "DefaultCPUAllocator" in str(problem):
        return "MemoryError"
    return type(problem).__name__


if __name__ == "__main__":
    main()
