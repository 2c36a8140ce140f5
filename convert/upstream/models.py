"""Which architectures llama.cpp's converter knows, without its tree: by the names in `architectures` of config.json."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..architectures import known_names
from ..errors import ConvertError
from ..readers.native import TOOL_FILE, native_reader
from ..sources.checkpoint import Checkpoint

# One name a line, as in TEXT_MODEL_MAP of the pinned tree's conversion/__init__.py, which tests/upstream compares.
LIST = Path(__file__).with_name("models.txt")
# Files that its converter reads beside those that T-MAC reads.
FILES = (
    TOOL_FILE,
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "processor_config.json",
    "rwkv_vocab_v20230424.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "tokenizer.jsonl",
    "tokenizer.model.v3",
    "vocab.json",
    "vocab.txt",
)
# Vocabularies that have the model's name, such as qwen.tiktoken.
NAMED_FILES = "*.tiktoken"
# There, the whole model's name goes before that of its text part (get_model_architecture in conversion/base.py).
WHOLE = (
    "StepVLForConditionalGeneration",
    "Sarashina2VisionForCausalLM",
    "Exaone4_5_ForConditionalGeneration",
    "Step3p7ForConditionalGeneration",
    "KimiK3ForConditionalGeneration",
)


@cache
def known_to_upstream() -> frozenset[str]:
    return frozenset(LIST.read_text("utf-8").split())


def name_of(config: dict[str, Any]) -> str | None:
    """The name by which the converter goes; None if the configuration has none."""
    found = config.get("architectures")
    whole = found[0] if isinstance(found, list) and found else None
    text = config.get("text_config")
    inner = text.get("architectures") if isinstance(text, dict) else None
    name = inner[0] if whole not in WHOLE and isinstance(inner, list) and inner else whole
    return name if isinstance(name, str) else None


def goes_upstream(checkpoint: Checkpoint, preferred: bool = False) -> bool:
    """Whether llama.cpp's own converter has the checkpoint's family, or reads its quantization, and T-MAC does not."""
    needed = not known_names(checkpoint.config) or native_reader(checkpoint) is not None
    return (needed or preferred) and name_of(checkpoint.config) in known_to_upstream()


def require_known(checkpoint: Checkpoint) -> None:
    """Raises ConvertError for a family that llama.cpp's own converter does not have."""
    name = name_of(checkpoint.config)
    if name not in known_to_upstream():
        raise ConvertError(
            f"{checkpoint.config_file}: llama.cpp's own converter has no architecture {name!r}, expected one that "
            "it has for --upstream",
            "leave out --upstream",
        )
