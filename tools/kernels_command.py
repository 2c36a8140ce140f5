"""`tmac kernels`: what kernels there are, what a name says, their C sources, and the search for fast parameters."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tmac.common import console
from tmac.common.format import LEVELS, LEVELS_MINIMA, MINIMA, SYMMETRIC, ZEROS
from tmac.common.paths import work_folder
from tmac.kernels.attention import ATTENTION_KERNELS, CACHE_TYPES, AttentionKernel
from tmac.kernels.catalog import KERNELS, find, least_tokens
from tmac.kernels.delta_net import DELTA_NET_KERNELS, DeltaNetKernel
from tmac.kernels.forms import PRECISION_MEANINGS
from tmac.kernels.generate import write_tree
from tmac.kernels.isa import Isa
from tmac.kernels.rotation import ROTATION_KERNELS, RotationKernel
from tmac.kernels.spec import KernelSpec

from .arguments import add_json
from .bench import tune_command

GRID_MEANINGS = {
    SYMMETRIC: "no zero-points",
    ZEROS: "stored zero-points",
    MINIMA: "stored fp16 minima",
    LEVELS: "small integers times an fp16 number of 256 columns",
    LEVELS_MINIMA: "scales and minima are small integers times two fp16 numbers of 256 columns",
}


def configure_parser(parser: argparse.ArgumentParser) -> None:
    """The parts of the verb and their arguments."""
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    listing = parts.add_parser(
        "list",
        help="all kernels, the first that a CPU can run serves its type; then attention, delta nets, rotations",
    )
    listing.set_defaults(work=list_kernels)
    add_json(listing)
    explain = parts.add_parser("explain", help="what a kernel's name says")
    explain.set_defaults(work=explain_kernel)
    explain.add_argument("name", metavar="NAME")
    generate = parts.add_parser("generate", help="write the C sources")
    generate.set_defaults(work=generate_kernels)
    generate.add_argument("-o", "--output", type=Path, metavar="DIR", help="(default: kernels in the work folder)")
    search = parts.add_parser("tune", help="search the fastest parameters for this CPU")
    search.set_defaults(work=tune_command.main)
    tune_command.configure_parser(search)


def list_kernels(args: argparse.Namespace) -> None:
    rows = [
        {
            "name": k.name,
            "method": k.method,
            "type": k.type.name,
            "precision": k.precision,
            "form": k.form,
            "least_tokens": least_tokens(k),
            "isa": k.isa.name,
            "machine": k.isa.machine,
        }
        for k in KERNELS
    ]
    rows += [
        {
            "name": k.name,
            "method": "attention",
            "tiled_from_rows": k.isa.tiled_from_rows,
            "isa": k.isa.name,
            "machine": k.isa.machine,
        }
        for k in ATTENTION_KERNELS
    ]
    rows += [
        {"name": k.name, "method": "delta net", "isa": k.isa.name, "machine": k.isa.machine} for k in DELTA_NET_KERNELS
    ]
    rows += [
        {"name": k.name, "method": "rotation", "isa": k.isa.name, "machine": k.isa.machine} for k in ROTATION_KERNELS
    ]
    print(json.dumps(rows, indent=1) if args.json else "\n".join(row["name"] for row in rows))


def explain_kernel(args: argparse.Namespace) -> None:
    attention = {kernel.name: kernel for kernel in ATTENTION_KERNELS}
    delta_nets = {kernel.name: kernel for kernel in DELTA_NET_KERNELS}
    rotations = {kernel.name: kernel for kernel in ROTATION_KERNELS}
    if args.name in attention:
        _explain_attention(attention[args.name])
    elif args.name in delta_nets:
        _explain_delta_net(delta_nets[args.name])
    elif args.name in rotations:
        _explain_rotation(rotations[args.name])
    else:
        _explain_product(find(args.name))


def _explain_attention(kernel: AttentionKernel) -> None:
    many = kernel.isa.tiled_from_rows
    print(f"{kernel.name}: softmax(Q K^T) V of queries and a cache")
    print(f"caches       {', '.join(kind.name for kind in CACHE_TYPES)}")
    print(f"rows         queries * heads that share a KV head: below {many}, K and V are multiplied as they are read,")
    print(f"             from {many} on, blocks of K and V are unpacked once for all rows")
    print(_instructions(kernel.isa))


def _explain_delta_net(kernel: DeltaNetKernel) -> None:
    print(f"{kernel.name}: the recurrent part of hybrid models: S <- a S + beta (v - a S k) k^T, out = S q")
    print("states       float32, read and written once for all tokens of a prompt, in the cache where they can stay")
    print("convolution  of the last few tokens, before it")
    print(_instructions(kernel.isa))


def _explain_rotation(kernel: RotationKernel) -> None:
    print(f"{kernel.name}: signs and the Walsh-Hadamard transform of rows of activations")
    print("blocks       any power of two; float32, with the same bits on every instruction set")
    print(_instructions(kernel.isa))


def _explain_product(kernel: KernelSpec) -> None:
    weights = kernel.type
    scales = f"one scale per {weights.group} columns" if weights.group else "one scale per tensor"
    size = 8 * weights.block_bytes / weights.block_weights
    print(f"{kernel.name}: {_purpose(kernel)}")
    codes = "ternary codes, three in five bits" if weights.ternary else f"{weights.bits}-bit codes"
    print(f"weights      {codes}, {scales}, {GRID_MEANINGS[weights.grid]}")
    print(f"             {size:.4g} bits per weight, ggml type {weights.id:#x}")
    print(f"precision    {kernel.precision}: {PRECISION_MEANINGS[kernel.precision]}")
    print(f"activations  {kernel.form}: {kernel.prepared.meaning}")
    print(_instructions(kernel.isa))


def _instructions(isa: Isa) -> str:
    return f"instructions {isa.name}: {', '.join(isa.features) or 'portable C'} ({isa.machine})"


def _purpose(kernel: KernelSpec) -> str:
    if kernel.method == "gemv":
        return "matrix times one token"
    least = least_tokens(kernel)
    if not least:
        return "matrix times many tokens, only where it is asked for by name"
    return f"matrix times many tokens, from {least} on, or as measured on the CPU"


def generate_kernels(args: argparse.Namespace) -> None:
    folder = args.output or work_folder() / "kernels"
    console.log(f"{len(write_tree(folder))} files changed")
    print(folder)
