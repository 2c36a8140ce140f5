"""Files that llama.cpp's own tools write of ours mean the same, what they cannot write is refused at once, and headers
that were changed behind our back are refused.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from support.adapters import write_adapter
from support.expert_models import ADAPTED, ARCHITECTURE, expert_model
from support.rotated_models import F32, PQ2_0, RotatedModel
from support.tiny_models import array_tensor, logits
from tmac.common import process, rotation
from tmac.common.errors import TmacError
from tmac.common.format import ACTIVATIONS_INT8, ACTIVATIONS_KEY, KEY_PREFIX, LAYOUT_VERSION_KEY, TYPES_BY_NAME, type_of
from tmac.convert.pipeline import convert
from tmac.convert.sources.gguf_header import read_gguf_header
from tmac.tools.fuzz.seeds import write_seeds


def with_orders(path):
    """Experts, orders, and weights that ask for exact kernels."""
    model = expert_model(TYPES_BY_NAME["w4g128"], has_orders=True)
    return replace(model, strings={ACTIVATIONS_KEY: ACTIVATIONS_INT8}).write(path)


def rotated(path):
    source = RotatedModel().write(path.with_suffix(".stock.gguf"), PQ2_0)
    convert(source, path, progress=False, log=lambda line: None)
    return path


def rotated_stock(path):
    """Rotated weights without a tensor of ours."""
    return RotatedModel().write(path, F32)


MODELS = {"orders": with_orders, "rotated": rotated, "rotated floats": rotated_stock}


@pytest.fixture(scope="module", params=MODELS)
def model(request, build, tmp_path_factory):
    """A file, and its logits."""
    path = MODELS[request.param](tmp_path_factory.mktemp("models") / "model.gguf")
    return path, logits(build, path)


def keys_of_ours(path):
    found = read_gguf_header(path).metadata
    return {key: value for key, value in found.items() if key.startswith((KEY_PREFIX, rotation.MAKER_PREFIX))}


def tensors_of(path):
    return {(tensor.name, tensor.type_name, tensor.shape) for tensor in read_gguf_header(path).tensors}


def require_same(build, copy, model):
    path, expected = model
    assert np.array_equal(logits(build, copy), expected)
    assert keys_of_ours(copy) == keys_of_ours(path) != {}


def test_split_and_merged(build, model, tmp_path):
    """Shards hold the keys in the first one only; merged again, they are one file."""
    process.run(
        [build.binary("llama-gguf-split"), "--split", "--split-max-tensors", "9", model[0], tmp_path / "part"],
        log=tmp_path / "log",
    )
    first, second, *_ = shards = sorted(tmp_path.glob("part-*.gguf"))
    assert len(shards) > 2 and LAYOUT_VERSION_KEY not in read_gguf_header(second).metadata
    require_same(build, first, model)
    process.run([build.binary("llama-gguf-split"), "--merge", first, tmp_path / "merged.gguf"], log=tmp_path / "log")
    require_same(build, tmp_path / "merged.gguf", model)


@pytest.fixture(scope="module")
def save(compiled):
    """A function: a program loads a model, and writes it by llama_model_save_to_file."""
    program = compiled("test-tmac")

    def run(model, saved):
        process.run([program, "save", model, saved], log=saved.with_suffix(".log"))
        return saved

    return run


OTHER_LOADERS = {
    "the adapter": ("llama-completion", "-p", "x", "-n", "1", "-no-cnv", "-m", "SOUND", "--lora"),
    "the encoder": ("llama-server", "--port", "0", "-m", "SOUND", "--mmproj"),
    "the metadata": ("test-tmac", "set"),
}


@pytest.mark.parametrize("loader", OTHER_LOADERS)
def test_loaders_that_read_less_refuse_more(build, save, tmp_path, loader):
    """Adapters, encoders of images, and models whose data a program sets: column orders and exact weights are refused
    there, because nothing would apply them. So are files without a layout version, and data that lie elsewhere.
    """
    plain = expert_model(TYPES_BY_NAME["w4g128"])
    sound = plain.write(tmp_path / "sound.gguf")

    def read(path):
        program, *options = OTHER_LOADERS[loader]
        words = [sound if option == "SOUND" else option for option in options]
        process.run([build.binary(program), *words, path], log=tmp_path / "log")

    def refused(path, words):
        name = f"{path}: " if loader == "the encoder" else f"{loader}: "
        with pytest.raises(TmacError, match=re.escape(words.replace("FILE: ", name))):
            read(path)

    ordered = expert_model(TYPES_BY_NAME["w4g128"], has_orders=True).write(tmp_path / "ordered.gguf")
    refused(ordered, "tmac: FILE: tensor 'blk.0.attn_q.order' is only read from the file of a language model")
    exact = replace(plain, strings={ACTIVATIONS_KEY: ACTIVATIONS_INT8}).write(tmp_path / "exact.gguf")
    refused(exact, f"tmac: FILE: key '{ACTIVATIONS_KEY}' is only read from the file of a language model")
    changed, longer = tmp_path / "changed.gguf", tmp_path / "longer.gguf"
    changed.write_bytes(sound.read_bytes().replace(LAYOUT_VERSION_KEY.encode(), LAYOUT_VERSION_KEY[::-1].encode()))
    refused(changed, f"but the file has no key {LAYOUT_VERSION_KEY}")
    longer.write_bytes(sound.read_bytes() + bytes(64))
    if loader == "the metadata":
        read(longer)
    else:
        refused(longer, "tmac: FILE: 64 bytes follow the last tensor, expected fewer than")


def test_saved_by_the_library(build, save, tmp_path):
    path = with_orders(tmp_path / "model.gguf")
    require_same(build, save(path, tmp_path / "saved.gguf"), (path, logits(build, path)))


def test_an_adapter_is_not_merged_into_our_types(compiled, tmp_path):
    """llama-export-lora, which we do not build, would need floats of them."""
    base = expert_model(TYPES_BY_NAME["w4g128"]).write(tmp_path / "base.gguf")
    command = [
        compiled("llama-export-lora"),
        "-m",
        base,
        "--lora",
        write_adapter(tmp_path / "adapter.gguf", ARCHITECTURE, ADAPTED),
    ]
    with pytest.raises(TmacError, match="exit code 1"):
        process.run([*command, "-o", tmp_path / "merged.gguf"], log=tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert re.search(r"tensor blk\.0\.attn_\w+\.weight of type tmac_w4g128 cannot be converted to floats", said), said
    assert "merge into the f16 model" in said


@pytest.mark.parametrize(
    "option",
    [
        ("--tensor-type", "attn_q=tmac_w2g64"),
        ("--token-embedding-type", "tmac_w2g64"),
        ("--output-tensor-type", "TMAC_W4G32Z"),
    ],
)
def test_quantizing_to_our_types_is_refused_at_once(build, tmp_path, option):
    path, out = expert_model(TYPES_BY_NAME["w4g128"]).write(tmp_path / "m.gguf", as_floats=True), tmp_path / "out.gguf"
    words = f"{option[1].split('=')[-1].lower()} is a type that this program cannot write; tmac convert --quantize can"
    with pytest.raises(TmacError, match=re.escape(words)):
        process.run([build.binary("llama-quantize"), *option, path, out, "Q8_0"], log=tmp_path / "log")
    assert not out.exists()


def forged(path, key, value, to):
    data = path.read_bytes()
    at = data.index(key) + len(key) + 4
    to.write_bytes(data[:at] + value.to_bytes(4, "little") + data[at + 4 :])
    return to


def test_small_alignment_is_refused(build, tmp_path):
    path = expert_model(TYPES_BY_NAME["w4g128"]).write(tmp_path / "model.gguf")
    changed = forged(path, b"general.alignment", 8, tmp_path / "forged.gguf")
    with pytest.raises(TmacError, match=re.escape(f"{changed}: general.alignment is 8, expected 64, or at least 32")):
        logits(build, changed)


def test_alignment_that_moves_the_data_is_refused(build, tmp_path):
    """With 32 for 64, the data seem to begin 32 bytes earlier in one of two files whose headers differ by 32 bytes."""
    outcomes = []
    for length in (1, 33):
        model = replace(expert_model(TYPES_BY_NAME["w4g128"]), strings={"general.comment": "x" * length})
        path = model.write(tmp_path / f"{length}.gguf")
        try:
            found = logits(build, forged(path, b"general.alignment", 32, tmp_path / "forged.gguf"))
            outcomes.append(np.array_equal(found, logits(build, path)) and "same")
        except TmacError as problem:
            outcomes.append(re.search(r"(\d+) bytes follow the last tensor, expected fewer than", str(problem))[0][3:])
    assert sorted(outcomes) == ["bytes follow the last tensor, expected fewer than", "same"]


def with_tmac_type(name, type_name, shape):
    """A change of a model's tensors: this one has zeros of a T-MAC type."""
    kind = TYPES_BY_NAME[type_name]
    zeros = np.zeros(kind.nbytes(*shape), np.uint8)
    made = replace(array_tensor(name, np.zeros(shape, np.float32)), type_id=kind.id, type_name=kind.name)
    made = replace(made, nbytes=zeros.size, load=lambda: zeros)
    return lambda tensors: [*(tensor for tensor in tensors if tensor.name != name), made]


@pytest.mark.parametrize(
    "name, shape, words",
    [
        ("rope_freqs.weight", (1, 32), "whose rows are a multiple of 32, found the shape [32, 1, 1, 1]"),
        ("blk.0.attn_norm.weight", (1, 256), "whose rows are a multiple of 32, found the shape [256, 1, 1, 1]"),
        ("blk.0.attn_k.weight", (48, 256), "whose rows are a multiple of 32, found the shape [256, 48, 1, 1]"),
        ("token_embd.weight", (1024, 256), "the lookup kernels cannot serve GET_ROWS, only a matrix product"),
    ],
)
def test_tensors_that_are_no_weights_of_products_are_refused(build, tmp_path, name, shape, words):
    """By their names, whatever llama.cpp would do with them; a rope_freqs of ours ended in an assertion."""
    path = expert_model(TYPES_BY_NAME["w4g128"]).write(
        tmp_path / "model.gguf", change=with_tmac_type(name, type_of(2, 32).name, shape)
    )
    with pytest.raises(TmacError, match=re.escape(f"tensor '{name}' of type tmac_w2g32: ") + ".*" + re.escape(words)):
        logits(build, path)


def test_files_that_fuzzing_begins_with_are_sound(save, tmp_path):
    """Only what the loader accepts leads mutations into all of it. Saved again they have every tensor and key of ours:
    among them are orders of experts, exact weights, and rotations.
    """
    for seed in write_seeds(tmp_path):
        saved = save(seed, tmp_path / "saved")
        assert tensors_of(saved) == tensors_of(seed)
        assert keys_of_ours(saved) == keys_of_ours(seed)
        save(saved, tmp_path / "again")
