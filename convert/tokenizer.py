"""The tokenizer of a checkpoint folder -> the vocabulary of a GGUF.

Comes in: tokenizer.json or tokenizer.model, and what lies beside them. Goes out: tokens, types, scores or merges,
special ids, chat template. Here: which file is the source, and the special tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from .errors import ConvertError
from .sources.checkpoint import read_json
from .vocabularies.added_tokens import ADDED_FILE, add_tokens
from .vocabularies.bpe_vocab import is_byte_level, read_byte_level
from .vocabularies.chat_template import TEMPLATE_FILE, TEMPLATE_JSON, read_chat_templates
from .vocabularies.mistral_regex import mends_mistral_regex
from .vocabularies.post_processor import added_ends
from .vocabularies.sentencepiece_json import read_sentencepiece_json, space_notes
from .vocabularies.sentencepiece_vocab import read_sentencepiece
from .vocabularies.tokenizer_json import TokenizerJson
from .vocabularies.vocabulary import Vocabulary

MODEL_FILE = "tokenizer.model"
JSON_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
GENERATION_FILE = "generation_config.json"
# All that is read here, for fetch.py.
TOKENIZER_FILES = (
    MODEL_FILE,
    JSON_FILE,
    CONFIG_FILE,
    ADDED_FILE,
    SPECIAL_FILE,
    GENERATION_FILE,
    TEMPLATE_FILE,
    TEMPLATE_JSON,
)

SPECIAL_TOKENS = ("bos", "eos", "unk", "sep", "pad")
# Token texts at which llama.cpp ends a text by itself (llama_vocab::impl::load).
_KNOWN_ENDS = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "[e~[",
}
# Classes of transformers for which add_bos_token and add_eos_token count, not tokenizer.json's post_processor.
_FLAGS_RULE = ("Llama", "CodeLlama", "Gemma", "Cohere")


@dataclass
class _Settings:
    """The JSON files beside the tokenizer, {} for those that are not there; `tokenizer` is None if not there."""

    tokenizer: TokenizerJson | None
    settings: dict[str, Any]
    special: dict[str, Any]
    generation: dict[str, Any]
    config: dict[str, Any]

    def token_text(self, kind: str) -> str | None:
        """The text of the bos, eos, ... token."""
        for values in (self.settings, self.special):
            if text := _text(values.get(f"{kind}_token")):
                return text
        return None

    def special_texts(self) -> list[str]:
        """The texts of all tokens that these files name as special."""
        texts = [self.token_text(kind) for kind in (*SPECIAL_TOKENS, "cls", "mask")]
        for values in (self.settings, self.special):
            more = values.get("additional_special_tokens")
            texts += [_text(entry) for entry in more] if isinstance(more, list) else []
        return [text for text in texts if text]


def read_vocabulary(folder: Path, config: dict[str, Any], size: int) -> Vocabulary:
    """The vocabulary of the checkpoint in `folder`, padded with unused tokens to `size` (the rows of the embedding).

    Raises ConvertError when there is no tokenizer, when its files are damaged or do not fit the weights, or when
    llama.cpp would split texts otherwise.
    """
    json_file = folder / JSON_FILE
    read = {name: _optional(folder / name) for name in (CONFIG_FILE, SPECIAL_FILE, GENERATION_FILE)}
    tokenizer = TokenizerJson(json_file) if json_file.is_file() else None
    # Models that also see images say some of it of their text part.
    text = config.get("text_config")
    config = {**text, **config} if isinstance(text, dict) else config
    if tokenizer and mends_mistral_regex(read[CONFIG_FILE], config):
        tokenizer.take_words_of_tekken()
    files = _Settings(tokenizer, read[CONFIG_FILE], read[SPECIAL_FILE], read[GENERATION_FILE], config)
    vocabulary = _read_tokens(folder, tokenizer, size)
    settings_file = folder / CONFIG_FILE
    add_tokens(vocabulary, folder, tokenizer, settings_file, files.settings, files.special_texts())
    _set_special_ids(vocabulary, files)
    _set_added_ends(vocabulary, files)
    if isinstance(prefix := files.settings.get("add_prefix_space"), bool) and vocabulary.merges is None:
        vocabulary.add_space_prefix = prefix
    vocabulary.chat_templates = read_chat_templates(folder, settings_file, files.settings)
    if tokenizer and tokenizer.is_mended:
        vocabulary.notes.append(f"fix_mistral_regex in {CONFIG_FILE}: texts are split as transformers then splits them")
    vocabulary.check(folder)
    return vocabulary


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _read_tokens(folder: Path, tokenizer: TokenizerJson | None, size: int) -> Vocabulary:
    """A byte-level tokenizer.json is the source even beside a tokenizer.model, which then is of another format."""
    if tokenizer and is_byte_level(tokenizer):
        return read_byte_level(tokenizer, size)
    if (folder / MODEL_FILE).is_file():
        vocabulary = read_sentencepiece(folder / MODEL_FILE, size)
        vocabulary.notes += space_notes(tokenizer) if tokenizer else []
        return vocabulary
    if tokenizer:
        return read_sentencepiece_json(tokenizer, size)
    raise ConvertError(
        f"{folder / JSON_FILE} is missing, and {MODEL_FILE} too",
        "the checkpoint has no tokenizer; copy it from the original model",
    )


def _set_special_ids(vocabulary: Vocabulary, files: _Settings) -> None:
    """By the token's text, else by its number in config.json or generation_config.json (the first of a list)."""
    for kind in SPECIAL_TOKENS:
        text = files.token_text(kind)
        token = vocabulary.id_of(text) if text else None
        for values in (files.config, files.generation):
            if token is None:
                token = next(iter(_ids(vocabulary, values.get(f"{kind}_token_id"))), None)
        if token is not None:
            vocabulary.special_ids[kind] = token
    _set_other_ends(vocabulary, files)


def _set_other_ends(vocabulary: Vocabulary, files: _Settings) -> None:
    """Tokens that end a text besides eos, and that llama.cpp does not know by their texts, become eot and eom."""
    listed = [_ids(vocabulary, values.get("eos_token_id")) for values in (files.generation, files.config)]
    others = [
        token
        for token in dict.fromkeys(chain.from_iterable(listed))
        if token != vocabulary.special_ids.get("eos") and vocabulary.texts[token].decode() not in _KNOWN_ENDS
    ]
    vocabulary.special_ids.update(zip(("eot", "eom"), others))
    for token in others[2:]:
        text = vocabulary.texts[token].decode()
        vocabulary.notes.append(f"token {token} {text!r} ends a text for transformers; llama.cpp does not stop there")


def _set_added_ends(vocabulary: Vocabulary, files: _Settings) -> None:
    """Whether bos and eos are put around a text, as the tokenizer of transformers does."""
    name = files.settings.get("tokenizer_class")
    flags_rule = isinstance(name, str) and name.startswith(_FLAGS_RULE)
    ends = added_ends(files.tokenizer) if files.tokenizer else {}
    for kind in ("bos", "eos"):
        flag, texts = files.settings.get(f"add_{kind}_token"), ends.get(kind)
        if isinstance(flag, bool) and (flags_rule or not texts):
            vocabulary.add_flags[kind] = flag
        elif texts:
            vocabulary.add_flags[kind] = _can_add(vocabulary, files.tokenizer, kind, texts)
        elif files.tokenizer:
            vocabulary.add_flags[kind] = False
        if vocabulary.add_flags.get(kind) and kind not in vocabulary.special_ids:
            raise ConvertError(
                f"{CONFIG_FILE}: add_{kind}_token is true, but {kind}_token is none of the tokens, expected one",
                f"name it as {kind}_token in {CONFIG_FILE}",
            )


def _can_add(vocabulary: Vocabulary, tokenizer: TokenizerJson, kind: str, texts: list[str]) -> bool:
    """Whether llama.cpp can put the first of these tokens at this end; at the front it becomes the bos token.

    Notes what differs: llama.cpp puts one token at each end.
    """
    token = vocabulary.id_of(texts[0])
    if token is None:
        raise tokenizer.damaged(f"post_processor adds {texts[0]!r}, which is none of the tokens")
    if kind == "bos":
        vocabulary.special_ids["bos"] = token
    added = vocabulary.special_ids.get(kind) == token
    if not added or len(texts) > 1:
        kept = texts[0] if added else "nothing"
        text = "".join(texts)
        vocabulary.notes.append(f"the original tokenizer adds {text!r} ({kind}) to every text, llama.cpp {kept!r}")
    return added


def _text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _ids(vocabulary: Vocabulary, value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [token for token in values if type(token) is int and 0 <= token < len(vocabulary.texts)]
