"""Our modules that repeat facts of llama.cpp, each under one name: when code moves, this is the file to change."""

# ruff: noqa: F401
from tmac.common import compilers, paths, stock
from tmac.common import format as tmac_format
from tmac.convert import architectures, inputs, tokenizer
from tmac.convert import errors as convert_errors
from tmac.convert.architectures import bitnet, decoder, experts, gemma2, part, phi3, rope
from tmac.convert.plan import grid_types
from tmac.convert.quantize import imatrix
from tmac.convert.readers import ggml_blocks
from tmac.convert.settings import Settings
from tmac.convert.sources import ggml_types, gguf_header, gguf_model, linear_names
from tmac.convert.upstream import models as upstream_models
from tmac.convert.vocabularies import added_tokens, bpe, pretokenizers, vocabulary
from tmac.convert.write import container
from tmac.kernels import attention, generate
from tmac.tools import arguments
from tmac.tools.bench import accuracy, model_report, model_run, stock_types
from tmac.tools.bench import context as bench_context
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import context as llama_context
from tmac.tools.llama import draft as llama_draft
from tmac.tools.llama import drafted as llama_drafted
from tmac.tools.llama import options as llama_options
from tmac.tools.llama import page, serving, verify
from tmac.tools.llama import prompt as llama_prompt
from tmac.tools.llama import run as llama_run
from tmac.tools.llama import source as llama_source

CACHES_H = generate.C_FOLDER / "attention" / "caches.h"
