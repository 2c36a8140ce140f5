"""What a user may choose of the types in the file: the names, their meaning and the defaults. The only list of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGMLQuantizationType

from ...common.format import BITS, SYMMETRIC, TYPES, ZEROS, parse_type
from ..errors import ConvertError
from ..quantize.imatrix import Imatrix
from ..quantize.quantizer import Quantizer

# Of the embedding and of the output head, where the checkpoint has them in floats.
DEFAULT_TYPE = "q8_0"
EMBEDDING_TYPES = {
    "q8_0": GGMLQuantizationType.Q8_0,
    "f16": GGMLQuantizationType.F16,
    "q4_0": GGMLQuantizationType.Q4_0,
}
# A head that is quantized freshly to a T-MAC type.
TMAC_HEAD, TMAC_HEAD_TYPE = "tmac_w4", parse_type("w4g32")
HEAD_TYPES = (*EMBEDDING_TYPES, TMAC_HEAD)
# What linear layers can be quantized to freshly: the grids that the search knows.
QUANTIZE_TYPES = {
    kind.name: kind for kind in TYPES if kind.group and kind.grid in (SYMMETRIC, ZEROS) and kind.bits in BITS
}


@dataclass(frozen=True)
class Options:
    """One of EMBEDDING_TYPES, one of HEAD_TYPES, and what quantizes linear layers and the head, None: nothing does.

    asked_embedding: the same as `embedding`, None if it is the default because the user said nothing.
    """

    embedding: str = DEFAULT_TYPE
    head: str = DEFAULT_TYPE
    quantizer: Quantizer | None = None
    head_quantizer: Quantizer | None = None
    asked_embedding: str | None = None

    @classmethod
    def of(cls, embedding: str | None, head: str, quantize: str | None, imatrix: Path | str | None) -> Options:
        """From the words of the user. Raises ConvertError for an unknown word or a damaged importance matrix."""
        asked, embedding = embedding, DEFAULT_TYPE if embedding is None else embedding
        known = (("embedding", embedding, EMBEDDING_TYPES), ("head", head, HEAD_TYPES))
        for option, value, types in (*known, ("quantize", quantize, (None, *QUANTIZE_TYPES))):
            if value not in types:
                choice = ", ".join(filter(None, types))
                raise ConvertError(f"{option} type {value!r} is unknown", f"choose one of: {choice}")
        if imatrix is not None and quantize is None and head != TMAC_HEAD:
            raise ConvertError(
                f"the importance matrix {imatrix} is given, but nothing is to be quantized",
                f"give --quantize or --head {TMAC_HEAD} too",
            )
        matrix = None if imatrix is None else Imatrix(Path(imatrix))
        return cls(
            embedding,
            head,
            None if quantize is None else Quantizer(QUANTIZE_TYPES[quantize], matrix),
            Quantizer(TMAC_HEAD_TYPE, matrix) if head == TMAC_HEAD else None,
            asked,
        )

    def without_quantizer(self) -> Options:
        """The same, but linear layers stay as they are."""
        return replace(self, quantizer=None)

    def check_for_gguf(self) -> None:
        """Raises ConvertError for a choice that would have no effect on a GGUF."""
        if self.asked_embedding and self.quantizer is None:
            raise ConvertError(
                f"embedding type {self.asked_embedding!r}: a GGUF keeps the type of its embedding, expected none",
                "leave it out, or quantize the other weights too: --quantize TYPE",
            )
        if self.head not in (DEFAULT_TYPE, TMAC_HEAD):
            raise ConvertError(
                f"head type {self.head!r}: a GGUF keeps the type of its head, expected none",
                f"leave it out; --head {TMAC_HEAD} quantizes the head freshly",
            )

    def notes(self) -> list[str]:
        """What the quantizers did. Call it when all tensors are written."""
        return [note for quantizer in (self.quantizer, self.head_quantizer) if quantizer for note in quantizer.notes()]
