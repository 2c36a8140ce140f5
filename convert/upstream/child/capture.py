"""llama.cpp's converter, with the places where tensors come in and go out exchanged. See main.py for the formats."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import conversion
import gguf
import numpy as np
import torch
import transformers
from conversion import base
from probes import PROBE, Matrix, NoRearrangement, Probe, assigned, compute, rearrangement, sources

Lazy, LazyArray = base.LazyTorchTensor, gguf.LazyNumpyTensor
TORCH = "_tmac_torch"
# What upstream's converter leaves in this type need not have another one (F32): T-MAC may choose.
FREE = gguf.LlamaFileType.MOSTLY_F16
FLOATS = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
QUANTIZATION = "quantization_config"
LAYER_KINDS = ("layer_types", "layers_block_type")
# By model_type: kinds of layers in transformers 5, and how the converter spells them.
FORMER_KINDS = {"granitemoehybrid": {"linear_attention": "mamba", "full_attention": "attention"}}
# Keys with which transformers is asked to run code.
REMOTE = "trust_remote_code"


class UnknownPreTokenizer(Exception):
    """The converter's table has no such pre-tokenizer."""


class ReadsValues(Exception):
    """The converter wants to see the values of a quantized weight. The text is its name."""


class NeedsCode(Exception):
    """The checkpoint can only be read by code that it brings along."""


def run(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    refuse_code()
    know_pre_tokenizer(request["pre"])
    keep_assignments()
    index = Index(request)
    recorder = Recorder(folder)
    written = json.loads((Path(request["folder"]) / "config.json").read_text("utf-8"))
    hparams = as_written(base.ModelBase.load_hparams(Path(request["folder"]), False), written)
    if not request["keeps_settings"]:
        for place in (hparams, hparams.get("text_config")):
            if isinstance(place, dict):
                place.pop(QUANTIZATION, None)
    name = base.get_model_architecture(hparams, base.ModelType.TEXT)
    model_class = conversion.get_model_class(name)
    if model_class.supports_mtp_export and not has_drafts(hparams, request["tensors"]):
        model_class.no_mtp = True
    with torch.inference_mode(), index, recorder:
        model = model_class(
            Path(request["folder"]),
            FREE,
            folder / "metadata.gguf",
            hparams=hparams,
            model_name=request["name"] or None,
        )
        # Some classes only choose another one.
        model = getattr(model, "impl", model)
        # Nothing may depend on the name of the folder, or on a page of text in it.
        model.dir_model_card = folder / "model"
        model.prepare_tensors()
        model.prepare_metadata(vocab_only=False)
        writer = model.gguf_writer
        writer.tensors = [{}]
        writer.write_header_to_file(path=folder / "metadata.gguf")
        writer.write_kv_data_to_file()
        writer.close()
    return {
        "architecture": gguf.MODEL_ARCH_NAMES[model.model_arch],
        "outputs": recorder.outputs,
        "unused": [name for name in request["tensors"] if name not in recorder.used | index.read],
    }


def as_written(hparams: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """The configuration as the converter expects it, of what transformers makes of it and what config.json says.

    transformers leaves out keys that its classes have no use for any more, and spells kinds of layers anew.
    """
    merged = {**written, **hparams}
    for key in LAYER_KINDS:
        if written.get(key) is not None:
            merged[key] = written[key]
    former = FORMER_KINDS.get(merged.get("model_type"), {})
    if isinstance(merged.get("layer_types"), list):
        merged["layer_types"] = [former.get(kind, kind) for kind in merged["layer_types"]]
    if isinstance(written.get("text_config"), dict) and isinstance(hparams.get("text_config"), dict):
        merged["text_config"] = as_written(hparams["text_config"], written["text_config"])
    return merged


def has_drafts(hparams: dict[str, Any], names: Iterable[str]) -> bool:
    """Whether there are blocks that draft tokens ahead (MTP); quantized copies often lack those that are promised."""
    text = {**hparams, **(hparams.get("text_config") or {})}
    layers = next(
        (text[key] for key in ("num_hidden_layers", "n_layers", "num_layers", "n_layer") if key in text), None
    )
    found = (re.search(r"(?:^|\.)(?:(mtp|nextn)[._]|layers\.(\d+)\.)", name) for name in names)
    return any(match and (match[1] or (layers is not None and int(match[2]) >= layers)) for match in found)


def refuse_code() -> None:
    """The checkpoint's code is not run, whatever the converter asks for."""
    for auto in (transformers.AutoConfig, transformers.AutoTokenizer):
        original = auto.from_pretrained

        def from_pretrained(*args, original=original, **kwargs):
            kwargs[REMOTE] = False
            try:
                return original(*args, **kwargs)
            except ValueError as problem:
                raise (NeedsCode(str(problem)) if REMOTE in str(problem) else problem) from problem

        auto.from_pretrained = from_pretrained


def know_pre_tokenizer(fallback: str | None) -> None:
    """What the converter's table does not have is `fallback`, or an error that says the hash."""
    table = base.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self, tokenizer) -> str:
        try:
            return table(self, tokenizer)
        except NotImplementedError as problem:
            if fallback is not None:
                return fallback
            raise UnknownPreTokenizer(hash_of(tokenizer, table)) from problem

    base.TextModel.get_vocab_base_pre = get_vocab_base_pre


def hash_of(tokenizer, table: Callable) -> str:
    """The hash under which the table would have the tokenizer: of the tokens of a text that is a constant of it."""
    text = max((text for text in table.__code__.co_consts if isinstance(text, str)), key=len)
    return sha256(str(tokenizer.encode(text)).encode()).hexdigest()


def keep_assignments() -> None:
    """`x[...] *= 2` on a lazy tensor is noted in it: the converter's own class computes it at once, of all values."""
    getitem = Lazy.__getitem__

    def as_it_is(tensor: Lazy) -> Lazy:
        """It, as it is before it is changed."""
        made = Lazy(meta=tensor._meta, data=tensor._data, args=tensor._args, kwargs=tensor._kwargs, func=tensor._func)
        if PROBE in vars(tensor):
            setattr(made, PROBE, vars(tensor)[PROBE])
        return made

    def setitem(tensor: Lazy, key: Any, value: Any) -> None:
        before = as_it_is(tensor)
        vars(tensor).pop(PROBE, None)
        tensor._data, tensor._args, tensor._kwargs, tensor._func = None, (before, key, value), {}, assigned

    Lazy.__getitem__ = lambda tensor, key: getitem(as_it_is(tensor), key)
    Lazy.__setitem__ = setitem
    # Their results are assigned; the values that they are made of have to stay.
    Lazy.__imul__ = Lazy.__mul__
    Lazy.__itruediv__ = Lazy.__truediv__


class Index:
    """The checkpoint's tensors for the converter: lazy, and quantized ones without values."""

    def __init__(self, request: dict[str, Any]):
        self.request = request
        # The names of those that were read, by the converter or for it.
        self.read: set[str] = set()
        self._original = base.ModelBase.index_tensors

    def __enter__(self) -> None:
        tensors, quantized = self.request["tensors"], self.request["quantized"]
        nodes = {name: self._node(name, name in quantized, *fields) for name, fields in tensors.items()}

        def index_tensors(model, remote_hf_model_id=None) -> dict[str, Callable]:
            items = (model.filter_tensors(item) for item in nodes.items())
            return dict(item for item in items if item)

        base.ModelBase.index_tensors = index_tensors

    def __exit__(self, *problem) -> None:
        base.ModelBase.index_tensors = self._original

    def _node(
        self, name: str, quantized: bool, file: str, dtype: str, shape: list[int], start: int, nbytes: int, *scale
    ) -> Callable[[], Lazy]:
        """Makes the lazy tensor, a new one each time: whoever computes it keeps its values in it."""
        stored = Lazy._dtype_str_map[dtype]
        # What the converter computes of float16 it would round to float16.
        kind = torch.float32 if stored is torch.float16 or scale else stored

        def read() -> torch.Tensor:
            if quantized:
                raise ReadsValues(name)
            self.read.add(name)
            values = stored_values(file, dtype, shape, start, nbytes).to(kind)
            return values * scales_of(scale[0], shape, self.request["block"]) if scale else values

        probe = Probe(name, tuple(shape), quantized, read)

        def make() -> Lazy:
            node = Lazy(meta=Lazy.meta_with_dtype_and_shape(kind, probe.shape), func=read)
            setattr(node, PROBE, probe)
            return node

        return make


def stored_values(file: str, dtype: str, shape: list[int], start: int, nbytes: int) -> torch.Tensor:
    data = np.fromfile(file, np.uint8, nbytes, offset=start)
    return torch.from_numpy(data).view(Lazy._dtype_str_map[dtype]).reshape(shape)


def scales_of(place: list[Any], shape: list[int], block: int) -> torch.Tensor:
    """float32 [rows or 1, columns or 1]. Their shape decides: there can be as many of blocks as of rows."""
    scales = stored_values(*place).float()
    if tuple(scales.shape) in ((), (1,), (shape[0],), (shape[0], 1)):
        return scales.reshape(-1, 1)
    return scales.repeat_interleave(block, 0)[: shape[0]].repeat_interleave(block, 1)[:, : shape[1]]


class Recorder:
    """What the converter gives to its writer: described and written to files instead of kept."""

    def __init__(self, folder: Path):
        self.outputs: list[dict[str, Any]] = []
        self.used: set[str] = set()
        self._values = (folder / "values.bin").open("wb")
        self._arrays = (folder / "arrays.bin").open("wb")
        self._count = 0
        self._stored: dict[bytes, list[int]] = {}

    def __enter__(self) -> None:
        def numpy(tensor: Lazy) -> LazyArray:
            made = original(tensor)
            setattr(made, TORCH, tensor)
            return made

        def add_tensor(writer, name, tensor, raw_shape=None, raw_dtype=None, tensor_endianess=None) -> None:
            shape = tensor.shape if raw_shape is None else raw_shape
            writer.add_tensor_info(name, shape, tensor.dtype, tensor.nbytes, raw_dtype=raw_dtype)
            info = writer.tensors[-1][name]
            self.record(name, tensor, info.dtype, info.shape)

        original = Lazy.numpy
        Lazy.numpy = numpy
        # Types are chosen, but nothing is rounded.
        gguf.quants.quantize = lambda data, kind: data
        gguf.GGUFWriter.add_tensor = add_tensor

    def __exit__(self, *problem) -> None:
        self._values.close()
        self._arrays.close()

    def record(self, name: str, tensor: Any, kind: gguf.GGMLQuantizationType, shape: tuple[int, ...]) -> None:
        output = {"name": name, "type": kind.name, "shape": [int(size) for size in shape]}
        self.outputs.append(output)
        if isinstance(tensor, gguf.LazyChunkedTensor):
            output["refused"] = "is written in pieces, as a table that no product reads"
            return
        lazy = (Lazy, LazyArray)
        found = list(sources(tensor, lazy).values())
        self.used.update(probe.name for probe in found)
        node = vars(tensor).get(TORCH) if isinstance(tensor, LazyArray) else None
        # One matrix, or one for each expert. What has more dimensions is small, and computed.
        is_matrix = node is not None and len(shape) in (2, 3) and tuple(node.shape) == tuple(shape)
        with suppress(NoRearrangement):
            if is_matrix:
                output["matrices"] = [self._described(matrix) for matrix in rearrangement(node, Lazy)]
                return
        quantized = next((probe.name for probe in found if probe.quantized), None)
        if quantized is not None:
            with suppress(NoRearrangement):
                if is_matrix:
                    scaled = rearrangement(node, Lazy, scaled=True)
                    output["matrices"] = [self._described(matrix) for matrix in scaled]
                    return
            output["refused"] = f"{self._why(node if is_matrix else None)} ({quantized})"
            return
        values = compute(tensor, lazy, lambda probe: probe.read())
        values = np.asarray(values)
        if np.issubdtype(values.dtype, np.floating) and kind is not gguf.GGMLQuantizationType.F64:
            values = values.astype(np.float32)
        start = self._values.tell()
        # Not by tofile, whose error does not say that the disk is full.
        self._values.write(np.ascontiguousarray(values).data)
        output["data"] = [start, values.nbytes]

    def _why(self, node: Any) -> str:
        try:
            list(rearrangement(node, Lazy, scaled=True) if node is not None else ())
        except NoRearrangement as problem:
            return str(problem)
        return "computes with its values"

    def _described(self, matrix: Matrix) -> dict[str, Any]:
        runs = [[probe.name, index, self._array(rows)] for probe, index, rows in matrix.runs]
        columns = None if matrix.columns is None else self._array(matrix.columns)
        factors = None if matrix.factors is None else self._array(matrix.factors.contiguous().view(torch.int64))
        return {"runs": runs, "columns": columns, "transposed": matrix.transposed, "factors": factors}

    def _array(self, numbers: torch.Tensor) -> list[int]:
        """Where the numbers are in arrays.bin; the same numbers are there once."""
        data = numbers.contiguous().numpy().astype("<i8").tobytes()
        key = sha256(data).digest()
        if key not in self._stored:
            self._arrays.write(data)
            self._stored[key] = [self._count, len(numbers)]
            self._count += len(numbers)
        return self._stored[key]


sys.setrecursionlimit(10_000)
