"""The folders of the two bundled checkpoints, by the type that their layers become, and the text for perplexity."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = {"w2g64z": REPOSITORY / "convert" / "demo", "w4g128": REPOSITORY / "tests" / "data" / "stories-w4g128"}
VALIDATION_TEXT = REPOSITORY / "tests" / "data" / "valid.txt"
