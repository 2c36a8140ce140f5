"""The vocabulary against sentencepiece itself, and the files around it."""

import io
import json
from contextlib import suppress
from dataclasses import replace

import pytest
import sentencepiece
from gguf import GGUFWriter, TokenType

from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.convert.tokenizer import read_vocabulary
from tmac.convert.vocabularies.sentencepiece_model import read_model_facts

CONFIG = {"bos_token_id": 1, "eos_token_id": [2]}


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
    assert vocabulary.chat_templates == {}


def test_padding_up_to_the_embedding(demo):
    vocabulary = read_vocabulary(demo, CONFIG, 1026)
    assert vocabulary.texts[1024:] == [b"[PAD1024]", b"[PAD1025]"]
    assert vocabulary.types[1024:] == [TokenType.UNUSED] * 2


def test_added_tokens(folder, settings):
    """added_tokens.json and added_tokens_decoder fill rows, also in place of a piece; ids beyond the embedding are left
    out with a note.
    """
    (folder.path / "added_tokens.json").write_text(json.dumps({"<tool>": 1024}))
    vocabulary = settings(
        added_tokens_decoder={
            "1": {"content": "<s>", "special": True},
            "5000": {"content": "<far>", "special": True},
            "1025": {"content": "<|end|>", "special": True},
            "1000": {"content": "<other>"},
            "2": {"content": "<over>", "special": True},
        },
        eos_token={"content": "<|end|>"},
    )
    assert vocabulary.texts[1024:1027] == [b"<tool>", b"<|end|>", b"[PAD1026]"]
    assert vocabulary.types[1024:1027] == [TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNUSED]
    assert vocabulary.types[1] == TokenType.CONTROL and vocabulary.scores[1] == 0.0
    assert vocabulary.texts[1000] == b"<other>" and vocabulary.types[1000] == TokenType.USER_DEFINED
    assert vocabulary.texts[2] == b"<over>" and vocabulary.types[2] == TokenType.CONTROL
    assert vocabulary.special_ids["eos"] == 1025
    assert "5000" in vocabulary.notes[0] and "<far>" in vocabulary.notes[0]


def test_special_ids_without_texts(folder, settings):
    """If no text is given, the id comes from config.json, or its text part; of a list, the first."""
    # Half a character is the text of no token, not even of that for what cannot be shown.
    vocabulary = settings(eos_token="\ud800", bos_token=None)
    assert vocabulary.special_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert vocabulary.types[vocabulary.texts.index(b"?")] == TokenType.NORMAL
    config = {"eos_token_id": 2, "text_config": {"bos_token_id": 1, "eos_token_id": 5, "pad_token_id": 0}}
    found = read_vocabulary(folder.path, config, 1030).special_ids
    assert found == {"bos": 1, "eos": 2, "unk": 0, "pad": 0}


def test_chat_templates(folder, settings):
    """All of a list, by name; a file of its own has priority, with the folder of others beside it."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert settings(chat_template=named).chat_templates == {"tool_use": "T", "default": "D"}
    for name, key in (("rag-2", "rag_2"), ("r", "r"), ("r" * 64, "r" * 64)):
        assert settings(chat_template=[{"name": name, "template": "R"}]).chat_templates == {key: "R"}
    assert settings(chat_template="C").chat_templates == {"default": "C"}
    (folder.path / "chat_template.json").write_text(json.dumps({"chat_template": "F"}))
    assert settings(chat_template="C").chat_templates == {"default": "F"}
    (folder.path / "chat_template.jinja").write_text("J")
    assert settings(chat_template="C").chat_templates == {"default": "J"}
    (folder.path / "additional_chat_templates").mkdir()
    (folder.path / "additional_chat_templates" / "tool_use.jinja").write_text("U")
    (folder.path / "additional_chat_templates" / "default.jinja").write_text("D")
    (folder.path / "additional_chat_templates" / "notes.txt").write_bytes(b"\xff")
    assert settings(chat_template="C").chat_templates == {"default": "J", "tool_use": "U"}


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"])
def test_templates_that_are_no_text(folder, settings, refused, name):
    (folder.path / "chat_template.jinja").write_text("J")
    (folder.path / "additional_chat_templates").mkdir()
    path = folder.path / name
    path.write_bytes(b"\xff")
    refused(settings, f"{name}: cannot be read as text")
    path.unlink()
    path.mkdir()
    refused(settings, f"{name}: cannot be read as text")


def test_missing_tokenizer(folder, refused):
    (folder.path / "tokenizer.model").unlink()
    words = ("tokenizer.json is missing", "tokenizer.model too", "copy it")
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1024), *words)


def test_added_tokens_that_only_tokenizer_json_lists(folder, settings):
    """tokenizer.json is read for these even beside a tokenizer.model. A token is special if either list says so, as in
    transformers.
    """
    (folder.path / "added_tokens.json").write_text(json.dumps({"<a>": 1024, "<b>": 1025, "<c>": 1026}))
    listed = [
        {"id": 1024, "content": "<a>", "special": True},
        {"id": 1025, "content": "<b>", "special": True},
        {"id": 1027, "content": "\u2581\u2581", "special": False},
    ]
    (folder.path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}, "added_tokens": listed}))
    vocabulary = settings(added_tokens_decoder={"1025": {"content": "<b>", "special": False}})
    assert vocabulary.texts[1024:1028] == [b"<a>", b"<b>", b"<c>", b"  "]
    kinds = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.USER_DEFINED]
    assert vocabulary.types[1024:1028] == kinds


def test_tokens_named_as_special_are_control_tokens(folder, settings):
    """If tokenizer_config.json or special_tokens_map.json names them, whatever their entry in the added tokens says."""
    names = ("<a>", "<b>", "<c>", "<d>", "<e>", "<f>")
    (folder.path / "added_tokens.json").write_text(json.dumps({name: 1024 + i for i, name in enumerate(names)}))
    more = ["<c>", {"content": "absent"}, 5, "\ud800", ""]
    special = {"pad_token": {"content": "<b>"}, "additional_special_tokens": more}
    (folder.path / "special_tokens_map.json").write_text(json.dumps(special))
    vocabulary = settings(pad_token=None, cls_token="<d>", mask_token={"content": "<e>"}, sep_token="<f>")
    assert vocabulary.types[1024:1030] == [TokenType.USER_DEFINED, *[TokenType.CONTROL] * 5]
    assert (vocabulary.special_ids["pad"], vocabulary.special_ids["sep"]) == (1025, 1029)
    assert vocabulary.types[0] == TokenType.UNKNOWN


def test_other_ends_of_a_text(folder, settings):
    """Tokens of the eos list whose text llama.cpp does not know become eot and eom; a note reports any others."""
    added = {"<|im_end|>": 1024, "<halt>": 1025, "<stop>": 1026, "<over>": 1027}
    (folder.path / "added_tokens.json").write_text(json.dumps(added))
    (folder.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 1024, 1025, True, 1030, -1]}))
    assert settings().special_ids == {"bos": 1, "eos": 2, "unk": 0, "eot": 1025}
    (folder.path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1027, 1026, 2, 1025]}))
    vocabulary = settings()
    assert (vocabulary.special_ids["eot"], vocabulary.special_ids["eom"]) == (1027, 1026)
    assert "1025 '<halt>'" in vocabulary.notes[0]
    vocabulary = settings(eos_token="<stop>")
    assert [vocabulary.special_ids[kind] for kind in ("eos", "eot", "eom")] == [1026, 1027, 1025]


def test_two_tokens_of_one_text_are_refused(folder, refused):
    """llama.cpp would stop at an assertion."""
    (folder.path / "added_tokens.json").write_text(json.dumps({"</s>": 1025}))
    words = ("tokens 2 and 1025 are both '</s>'", "every text once")
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1030), *words)


PHI3 = {"<unk>": 0, "<s>": 1, "</s>": 2, "<|endoftext|>": 1024, "<|user|>": 1025}


def phi3_tokens(**flags):
    keep = ("<unk>", "<s>", "<|endoftext|>")
    return {
        str(token): {"content": text, "special": True, "rstrip": text not in keep, **flags}
        for text, token in PHI3.items()
    }


@pytest.mark.parametrize(
    ("tokens", "name", "expected"),
    [
        (phi3_tokens(), "Phi-3-mini", "Phi-3-mini"),
        (phi3_tokens(), "phi3", "phi3"),
        ({token: entry for token, entry in phi3_tokens().items() if token != "1025"}, "Phi-3-mini", "Phi-3-mini"),
        ({token: entry for token, entry in phi3_tokens().items() if token != "1024"}, "Phi-3-mini", "phi_3-mini"),
        (phi3_tokens(), "", "(tokens of Phi-3)"),
        (phi3_tokens(), "mine", "mine (tokens of Phi-3)"),
        (phi3_tokens(rstrip=False), "Phi-3-mini", "phi_3-mini"),
        (phi3_tokens(rstrip=False), "Phi-4", "Phi-4"),
        ({}, "my-phi3", "my-phi_3"),
    ],
)
def test_name_by_which_llama_cpp_knows_phi3(settings, tokens, name, expected):
    """With it, special tokens take the spaces that follow, and llama.cpp stops if a token of Phi-3 is missing."""
    assert settings(added_tokens_decoder=tokens).name_for(name) == expected


def test_flags_of_added_tokens_that_llama_cpp_has_not(settings):
    """There is one note for each kind."""
    left, right = {"content": "<a>", "lstrip": True}, {"content": "<b>", "rstrip": True, "single_word": True}
    spaces, words = settings(added_tokens_decoder={"1024": left, "1025": right}).notes
    assert spaces.startswith("'<a>' takes the spaces") and "1 more" in spaces
    assert words.startswith("'<b>' is no token within a word")


def test_too_many_pieces(demo, refused):
    refused(lambda: read_vocabulary(demo, CONFIG, 1000), "tokenizer.model", "1024 pieces", "1 to 1000", "vocab_size")


def field(number, value):
    """One protobuf field; a number as a varint, bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_model_facts_by_hand():
    """Fields of all wire types. The last value of a field counts; absent fields have the format's defaults."""
    facts = read_model_facts(b"")
    assert (facts.model_type, facts.add_dummy_prefix, facts.piece_types) == (1, True, [])
    piece = field(1, b"ab") + varint(2 << 3 | 5) + bytes(4)
    data = field(1, piece) + field(1, piece + field(3, 4)) + field(2, field(3, 4) + field(3, 2) + field(20, 300))
    data += field(3, varint(9 << 3 | 1) + bytes(8) + field(3, 0)) + field(500, 1 << 63)
    facts = read_model_facts(data)
    assert (facts.model_type, facts.add_dummy_prefix, facts.piece_types) == (2, False, [1, 4])


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\x0a",
        b"\x0a\x05abc",
        b"\x0d\x00",
        b"\x09" + bytes(7),
        b"\x0b",
        b"\xff" * 11,
        field(1, 5),
        field(2, field(3, b"x")),
        field(1, b"\x0a\x7f"),
        b"\x0a" + b"\xff" * 9 + b"\x01",
    ],
)
def test_model_facts_of_damaged_bytes(data):
    """Truncated numbers and lengths, unknown wire types, lengths of 2**63, and values of the wrong kind."""
    with pytest.raises(ValueError, match="."):
        read_model_facts(data)


def test_every_cut_of_a_model_is_seen(demo):
    """A truncated model is read as a shorter one, or raises ValueError."""
    data = (demo / "tokenizer.model").read_bytes()
    for end in range(0, len(data), 97):
        with suppress(ValueError):
            assert len(read_model_facts(data[:end]).piece_types) <= 1024


@pytest.fixture
def trained(folder, tmp_path):
    """trained(**options) puts a freshly trained SentencePiece model into the folder."""

    def train(**options):
        words = ["the cat sat on the mat", "a dog and a cat", "on and on the dog sat", "<tool> mat"] * 20
        writer = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=writer,
            hard_vocab_limit=False,
            vocab_size=40,
            minloglevel=2,
            **options,
        )
        (folder.path / "tokenizer.model").write_bytes(writer.getvalue())
        return read_vocabulary(folder.path, CONFIG, 100)

    return train


@pytest.mark.parametrize("kind", ["unigram", "word", "char"])
def test_other_models_than_bpe_are_refused_by_name(trained, refused, kind):
    """llama.cpp's `llama` vocabulary merges pairs; of SentencePiece's types only BPE does so too."""
    refused(lambda: trained(model_type=kind), "tokenizer.model", f"of the {kind} type, expected bpe", "llama.cpp")


def test_user_defined_pieces_keep_their_type(trained):
    """A piece that the model matches as a whole does not become an ordinary piece."""
    vocabulary = trained(model_type="bpe", user_defined_symbols=["<tool>"])
    assert vocabulary.types[vocabulary.texts.index(b"<tool>")] == TokenType.USER_DEFINED
    assert vocabulary.types.count(TokenType.USER_DEFINED) == 1


def test_space_prefix_of_the_model(trained, settings):
    """The GGUF says whether the model adds a space. tokenizer_config.json has priority if it says so itself."""
    assert trained(model_type="bpe").add_space_prefix is None
    assert trained(model_type="bpe", add_dummy_prefix=False).add_space_prefix is False
    assert settings(add_prefix_space=True).add_space_prefix is True


@pytest.mark.parametrize("prefix", [True, False, None])
def test_space_prefix_reaches_the_file(settings, tmp_path, prefix):
    """llama.cpp splits the first word otherwise without it; what is not known is not written."""
    vocabulary = replace(settings(), add_space_prefix=prefix)
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    vocabulary.add_metadata(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = read_gguf_header(tmp_path / "x.gguf").metadata
    assert found.get("tokenizer.ggml.add_space_prefix") is prefix and len(found["tokenizer.ggml.tokens"]) == 1030
    assert list(found["tokenizer.ggml.scores"]) == vocabulary.scores


@pytest.mark.parametrize(
    ("kind", "words"), [(b"\x18\x06", "256 byte pieces"), (b"\x18\x03", "a piece has no known type")]
)
def test_pieces_of_an_unknown_type(folder, refused, kind, words):
    """Type 6 is a byte's, 3 a control token's, which sentencepiece does not miss; 7 means nothing to llama.cpp."""
    path = folder.path / "tokenizer.model"
    data = path.read_bytes()
    assert kind in data
    path.write_bytes(data.replace(kind, b"\x18\x07", 1))
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1030), "tokenizer.model: not a SentencePiece model", words)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:9000], lambda data: b"\xff" * 40])
def test_damaged_model(folder, refused, damage):
    """Empty, truncated, and not a model at all."""
    path = folder.path / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    refused(lambda: read_vocabulary(folder.path, CONFIG, 1024), "tokenizer.model", "not a SentencePiece model")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"added_tokens_decoder": [1]}, ["added_tokens_decoder", "object"]),
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, ["added token 'x'"]),
        # Digits to Python, but no number to it, and one that is too long for it.
        ({"added_tokens_decoder": {"\u00b2": {"content": "a"}}}, ["added token '\u00b2'"]),
        ({"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}, ["added token '999"]),
        ({"added_tokens_decoder": {"3": {"content": 5}}}, ["added token 3 is 5"]),
        ({"added_tokens_decoder": {"3": {"content": "\ud800"}}}, ["not valid Unicode"]),
        ({"chat_template": 5}, ["chat_template is a int"]),
        ({"chat_template": [{"name": "a", "template": 5}]}, ["chat_template is a int"]),
        *(({"chat_template": [{"name": name, "template": "a"}]}, ["texts by name"]) for name in (5, "", "a" * 65)),
        ({"chat_template": "\udfff"}, ["not valid Unicode"]),
    ],
)
def test_damaged_settings(settings, refused, changes, words):
    refused(lambda: settings(**changes), "tokenizer_config.json", *words)
