"""Converting a checkpoint of a family by llama.cpp's own converter; the program that writes such checkpoints."""

from __future__ import annotations

from pathlib import Path

from tmac.convert.pipeline import convert
from tmac.convert.report import Report
from tmac.convert.upstream.answer import Upstream

PROGRAM = Path(__file__).with_name("write.py")


def converted(checkpoint: Path, upstream: Upstream, **options) -> tuple[Path, Report]:
    """The file, beside the checkpoint, and the report."""
    output = checkpoint.parent / "out.gguf"
    quiet = {"progress": False, "log": lambda line: None}
    return output, convert(checkpoint, output, find_upstream=lambda: upstream, **quiet, **options)
