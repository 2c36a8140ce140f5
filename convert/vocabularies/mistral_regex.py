"""The flag by which transformers splits texts otherwise than the tokenizer.json says: `fix_mistral_regex`.

Mistral's tokenizers of 2024 and 2025 were published with Llama 3's expression instead of their own. transformers mends
that when the flag is set, under the conditions here.
Source: PreTrainedTokenizerFast._patch_mistral_regex of transformers 5, for a local folder.
"""

from __future__ import annotations

import re
from typing import Any

FLAG = "fix_mistral_regex"
_MODELS = ("mistral", "mistral3", "voxtral", "ministral", "pixtral")
# The major version, and whether it is one before the first release of that.
_VERSION = re.compile(r"(\d{1,9})\.(0[.0]*(?:dev|a|b|rc))?")
# The version of transformers from which on what it saved is taken to be right.
_RIGHT = 5


def mends_mistral_regex(settings: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether transformers replaces the expression, by tokenizer_config.json and config.json."""
    if settings.get(FLAG) is not True:
        return False
    version = _VERSION.match(str(config.get("transformers_version") or ""))
    if version and (int(version[1]), not version[2]) >= (_RIGHT, True):
        return False
    return config.get("model_type") in (None, *_MODELS)
