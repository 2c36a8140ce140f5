"""Our modules that repeat facts of llama.cpp, each under one name: when code moves, this is the file to change."""

# ruff: noqa: F401
from tmac.common import compilers, paths
from tmac.common import format as tmac_format
from tmac.convert import architectures, gguf_header, imatrix, repack, tokenizer, writer
from tmac.convert import errors as convert_errors
from tmac.convert.architectures import bitnet, decoder, experts, gemma2, part, phi3, rope
from tmac.convert.gguf_in import block_types, linear_names
from tmac.convert.gguf_in import source as gguf_source
from tmac.convert.settings import Settings
from tmac.convert.vocabularies import added_tokens, bpe, pretokenizers, vocabulary
from tmac.tools import arguments
from tmac.tools.bench import accuracy, model_report, model_run, stock_types
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import run as llama_run
from tmac.tools.llama import source as llama_source
from tmac.tools.llama import verify
