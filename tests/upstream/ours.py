"""Our modules that repeat facts of llama.cpp, each under one name: when code moves, this is the file to change."""

# ruff: noqa: F401
from tmac.common import format as tmac_format
from tmac.convert import architectures, gguf_header, imatrix, repack, tokenizer, writer
from tmac.convert import errors as convert_errors
from tmac.convert.architectures import bitnet, decoder, experts, gemma2, part, phi3, rope
from tmac.convert.gguf_in import block_types, linear_names
from tmac.convert.gguf_in import source as gguf_source
from tmac.convert.settings import Settings
from tmac.convert.vocabularies import added_tokens, bpe, pretokenizers, vocabulary
from tmac.kernels.bench import error as bench_error
from tmac.tools import (
    arguments,
    bench_report,
    bench_run,
    llama_build,
    llama_run,
    llama_source,
    paths,
    stock_types,
    verify,
)
