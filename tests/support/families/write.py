"""A program for the interpreter that has torch and transformers: writes tiny checkpoints of families, and references.

    python write.py FOLDER LLAMA_SOURCE ARCHITECTURE...

For each architecture FOLDER has afterwards

    ARCHITECTURE/floats     the checkpoint as transformers saves it, but with float32 weights on a grid of 4 bits
    ARCHITECTURE/quantized  the same weights as GPTQ
    ARCHITECTURE.gguf       what llama.cpp's own converter makes of the floats
    ARCHITECTURE.txt        instead of what is missing: why
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import traceback
import zlib
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).parent))
from configs import BASE, FAMILIES, PIECES, SENTENCEPIECE, SENTENCEPIECES, VOCABULARY, Family

DEMO = Path(__file__).parents[3] / "convert" / "demo"
BITS, GROUP = 4, 32
# The words of Qwen2, which T-MAC knows by its structure; the tokens are too few for llama.cpp's table.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE = "qwen2"
SPECIAL = (
    *(
        "<|endoftext|>",
        "<|pad|>",
        "<unk>",
        "<|startoftext|>",
        "<|user|>",
        "<|assistant|>",
        "<|observation|>",
        "<|im_end|>",
    ),
    *("[gMASK]", "<sop>"),
)
TEXT = "One morning, Mia went to the forest with a small red kite. It was a sunny day and the sun was warm. "
# Parts of names of matrices that quantizers leave alone.
FLOATS = re.compile(r"norm|embed|router|conv|altup|wte|wpe|lm_head|\.mlp\.gate\.|\.visual\.|vision|multi_modal")


def tokenizer_files(folder: Path, kind: str) -> None:
    if kind == SENTENCEPIECE:
        for name in ("tokenizer.model", "tokenizer_config.json"):
            shutil.copy(DEMO / name, folder)
        return
    made = of_pieces() if kind == PIECES else of_bytes()
    assert made.get_vocab_size() == VOCABULARY
    saved = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=SPECIAL[0], eos_token=SPECIAL[0], pad_token=SPECIAL[1]
    )
    saved.save_pretrained(folder)


def of_bytes() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return trained(made, SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def of_pieces() -> Tokenizer:
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return trained(made, (*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))))


def trained(made: Tokenizer, special: tuple[str, ...], **options) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, min_frequency=1, special_tokens=list(special), show_progress=False, **options
    )
    made.train_from_iterator([TEXT * 3, Path(__file__).read_text()], trainer)
    return made


def model_of(name: str, family: Family):
    torch.manual_seed(zlib.crc32(name.encode()))
    model_class = getattr(transformers, name)
    config_class = model_class.config_class
    base = {**BASE, **({"vocab_size": SENTENCEPIECES} if family.tokenizer == SENTENCEPIECE else {})}
    if family.text is None:
        config = config_class(**{**base, **family.config})
    else:
        config = config_class(text_config={**base, **family.text}, vision_config=VISION, **family.config)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim >= 2:
                tensor.copy_(noise * (1.0 if "embed" in tensor_name else tensor.shape[-1] ** -0.5))
            else:
                tensor.add_(0.1 * noise)
    return model


VISION = {
    "depth": 1,
    "hidden_size": 32,
    "embed_dim": 32,
    "num_heads": 2,
    "intermediate_size": 32,
    "out_hidden_size": 64,
}


def quantized(weights: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of GPTQ (version 2), and the float32 weights that they are."""
    rows, columns = weights.shape
    groups = weights.reshape(rows, columns // GROUP, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    largest = (1 << BITS) - 1
    scales = ((high - low) / largest + 1e-6).astype(np.float16)
    zeros = np.clip(np.rint(-low / scales.astype(np.float32)), 0, largest).astype(np.int64)
    codes = np.clip(np.rint(groups / scales.astype(np.float32)[..., None]) + zeros[..., None], 0, largest)
    codes = codes.astype(np.int64)
    exact = (codes - zeros[..., None]) * scales.astype(np.float32)[..., None]
    tensors = {
        "qweight": packed(codes.reshape(rows, columns).T),
        "qzeros": np.ascontiguousarray(packed(zeros).T),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": (np.arange(columns) // GROUP).astype(np.int32),
    }
    return tensors, exact.reshape(rows, columns).astype(np.float32)


def packed(values: np.ndarray) -> np.ndarray:
    """[n, m] -> int32 [n * BITS / 32, m], along the first axis."""
    parts = values.astype(np.uint32).reshape(-1, 32 // BITS, values.shape[1])
    shifts = (np.arange(32 // BITS, dtype=np.uint32) * BITS)[None, :, None]
    # safetensors writes the memory as it is, in whatever order.
    return np.ascontiguousarray(np.bitwise_or.reduce(parts << shifts, axis=1)).view(np.int32)


def is_quantized(name: str, values: np.ndarray) -> bool:
    in_block = re.search(r"\.\d+\.", name) is not None
    fits = values.ndim == 2 and values.shape[0] % 32 == 0 and values.shape[1] % GROUP == 0
    return in_block and fits and name.endswith(".weight") and not FLOATS.search(name)


def write(name: str, folder: Path) -> None:
    family = FAMILIES[name]
    floats, packed_folder = folder / "floats", folder / "quantized"
    model_of(name, family).save_pretrained(floats)
    config = {**json.loads((floats / "config.json").read_text()), **family.besides}
    (floats / "config.json").write_text(json.dumps(config))
    tokenizer_files(floats, family.tokenizer)
    shutil.copytree(floats, packed_folder)
    tensors = load_file(floats / "model.safetensors")
    stored: dict[str, np.ndarray] = {}
    for tensor_name, values in list(tensors.items()):
        if is_quantized(tensor_name, values):
            parts, tensors[tensor_name] = quantized(values)
            stored.update({f"{tensor_name.removesuffix('.weight')}.{part}": value for part, value in parts.items()})
        else:
            stored[tensor_name] = values.astype(np.float16) if values.dtype == np.float32 else values
            tensors[tensor_name] = stored[tensor_name].astype(values.dtype)
    save_file(tensors, floats / "model.safetensors", {"format": "pt"})
    save_file(stored, packed_folder / "model.safetensors", {"format": "pt"})
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": BITS,
        "group_size": GROUP,
        "sym": False,
        "desc_act": False,
        "checkpoint_format": "gptq_v2",
    }
    (packed_folder / "config.json").write_text(json.dumps(config))


def reference(folder: Path, output: Path, family: Family) -> None:
    """llama.cpp's converter, as a user runs it, except for the pre-tokenizer that is not in its table."""
    import convert_hf_to_gguf
    from conversion import base

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: PRE
    base.AutoConfig = None if family.as_written else transformers.AutoConfig
    sys.argv = ["convert_hf_to_gguf.py", str(folder), "--outtype", "f32", "--outfile", str(output), *family.arguments]
    convert_hf_to_gguf.main()


def main() -> None:
    place, source, *names = sys.argv[1:]
    sys.path.insert(1, source)
    for name in names:
        try:
            write(name, Path(place) / name)
            reference(Path(place) / name / "floats", Path(place) / f"{name}.gguf", FAMILIES[name])
        except (Exception, SystemExit) as problem:
            traceback.print_exc()
            last = traceback.extract_tb(problem.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno}"
            (Path(place) / f"{name}.txt").write_text(f"{type(problem).__name__}: {problem} ({where})")


if __name__ == "__main__":
    main()
