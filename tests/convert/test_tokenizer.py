"""The vocabulary against sentencepiece itself, and the files around it."""

import json

import pytest
import sentencepiece
from gguf import TokenType

from tmac.convert.tokenizer import read_vocabulary

CONFIG = {"bos_token_id": 1, "eos_token_id": [2, 7]}


@pytest.fixture
def settings(folder):
    """settings(**changes) edits tokenizer_config.json and returns the vocabulary of 1030 tokens."""

    def edit(**changes):
        path = folder.path / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return read_vocabulary(folder.path, CONFIG, 1030)

    return edit


def test_pieces_scores_and_types(demo):
    """Every piece equals sentencepiece's; bytes, control and unknown pieces have their types."""
    vocabulary = read_vocabulary(demo, CONFIG, 1024)
    model = sentencepiece.SentencePieceProcessor(model_file=str(demo / "tokenizer.model"))
    assert vocabulary.texts == [model.IdToPiece(i).encode() for i in range(1024)]
    assert vocabulary.scores == [model.GetScore(i) for i in range(1024)]
    assert vocabulary.types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert vocabulary.types.count(TokenType.BYTE) == 256
    assert vocabulary.special_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert vocabulary.add_flags == {"bos": True, "eos": False}
    assert vocabulary.chat_template is None


def test_padding_up_to_the_embedding(demo):
    vocabulary = read_vocabulary(demo, CONFIG, 1026)
    assert vocabulary.texts[1024:] == [b"[PAD1024]", b"[PAD1025]"]
    assert vocabulary.types[1024:] == [TokenType.UNUSED] * 2


def test_added_tokens(folder, settings):
    """added_tokens.json and added_tokens_decoder fill rows; ids beyond the embedding are left out and said."""
    (folder.path / "added_tokens.json").write_text(json.dumps({"<tool>": 1024}))
    vocabulary = settings(
        added_tokens_decoder={
            "1": {"content": "<s>", "special": True},
            "1025": {"content": "<|end|>", "special": True},
            "5000": {"content": "<far>", "special": True},
        },
        eos_token={"content": "<|end|>"},
    )
    assert vocabulary.texts[1024:1027] == [b"<tool>", b"<|end|>", b"[PAD1026]"]
    assert vocabulary.types[1024:1027] == [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED]
    assert vocabulary.types[1] == TokenType.CONTROL and vocabulary.scores[1] == 0.0
    assert vocabulary.special_ids["eos"] == 1025
    assert "5000" in vocabulary.notes[0] and "<far>" in vocabulary.notes[0]


def test_special_ids_without_texts(settings):
    """With no text for it, the id comes from config.json, the first of a list."""
    assert settings(eos_token=None, bos_token=None).special_ids == {"bos": 1, "eos": 2, "unk": 0}


def test_chat_templates(folder, settings):
    """A list gives its default; a file of its own comes first."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert settings(chat_template=named).chat_template == "D"
    assert settings(chat_template="C").chat_template == "C"
    (folder.path / "chat_template.jinja").write_text("J")
    assert settings(chat_template="C").chat_template == "J"


def test_missing_tokenizer(folder, refused):
    """None at all, and only tokenizer.json, have different messages."""
    (folder.path / "tokenizer.model").unlink()
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1024), "tokenizer.model is missing", "copy it")
    (folder.path / "tokenizer.json").write_text("{}")
    words = ("tokenizer.json alone", "byte-level BPE", "tokenizer.model")
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1024), *words)


def test_too_many_pieces(demo, refused):
    refused(lambda: read_vocabulary(demo, CONFIG, 1000), "tokenizer.model", "1024 pieces", "1 to 1000", "vocab_size")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:9000], lambda data: b"\xff" * 40])
def test_damaged_model(folder, refused, damage):
    """Empty, cut off, and not a model at all."""
    path = folder.path / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1024), "tokenizer.model", "not a SentencePiece model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"added_tokens_decoder": [1]}, ["added_tokens_decoder", "object"]),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, ["added token 'x'"]),
        ({"added_tokens_decoder": {"3": {"content": 5}}}, ["added token 3 is 5"]),
        ({"added_tokens_decoder": {"3": {"content": "\ud800"}}}, ["not valid Unicode"]),
        ({"chat_template": 5}, ["chat_template is a int"]),
        ({"chat_template": "\udfff"}, ["not valid Unicode"]),
    ],
)
def test_damaged_settings(settings, refused, changes, words):
    refused(lambda: settings(**changes), "tokenizer_config.json", *words)
