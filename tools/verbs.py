"""The verbs of `tmac`: for each its arguments, and a function that calls one function and prints what it returns.

What a verb needs is imported when it runs, so that help and errors come at once. `bench` and `kernels` define their
arguments themselves (bench/command.py, kernels_command.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tmac.common import console
from tmac.common.paths import checkout
from tmac.kernels.forms import PRECISIONS

from .arguments import add_json, add_rpc, byte_size, port, positive
from .errors import ToolError

MODEL_HELP = "a .gguf file, a checkpoint folder, or a hub repository org/name[:TYPE][@revision]"
OK, FAILED = 0, 1


@dataclass(frozen=True)
class Verb:
    """`work` gets the parsed arguments and may return an exit code; None: each part of the verb sets its own.

    help: what the verb does, in one line; configure: adds its arguments to a parser;
    takes_extra: whether arguments after `--` are passed on; passes_unknown: whether unknown arguments are, too.
    """

    work: Callable[[argparse.Namespace], int | None] | None
    help: str
    configure: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    takes_extra: bool = False
    passes_unknown: bool = False


def _add_types(parser: argparse.ArgumentParser) -> None:
    from tmac.convert.plan.options import DEFAULT_TYPE, EMBEDDING_TYPES, HEAD_TYPES

    for option, what, types in (
        ("--embedding", "token embedding", EMBEDDING_TYPES),
        ("--head", "output head", HEAD_TYPES),
    ):
        usage = f"type of the {what} (default: {DEFAULT_TYPE})"
        parser.add_argument(option, default=DEFAULT_TYPE, choices=tuple(types), help=usage)


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: llama.cpp's choice)")
    parser.add_argument("--kernel", metavar="NAME", help="force a kernel or instruction set of `tmac kernels list`")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="rounded: 8-bit tables; exact: int8 activations, exact tables; fast: rounding averages, loses quality "
        "(default: what the model was trained with, else rounded)",
    )
    add_rpc(parser)
    parser.epilog = "what follows -- goes to llama.cpp unchanged"


def demo(args: argparse.Namespace) -> None:
    from . import pipeline

    pipeline.demo()


def _configure_run(parser: argparse.ArgumentParser) -> None:
    _add_running(parser)
    parser.add_argument("-p", "--prompt", help="write one answer and end; without it, chat at the terminal")
    parser.add_argument(
        "-n",
        "--n-predict",
        type=int,
        metavar="N",
        help="tokens at most (default: until the model ends its answer; 256 for a model without chat template)",
    )
    parser.add_argument("--temp", type=float, metavar="T", help="temperature; 0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the sampling")


def run(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import run as llama_run

    llama_run.check_kernel(args.kernel)
    options = llama_run.Options(
        args.n_predict,
        args.threads,
        args.temp,
        args.seed,
        args.kernel,
        args.precision,
        _with_rpc(args),
    )
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=args.prompt is None)
    built = pipeline.build_llama()
    if args.prompt is None:
        llama_run.chat(built, model, options)
    else:
        llama_run.generate(built, model, args.prompt, options)


def _with_rpc(args: argparse.Namespace) -> list[str]:
    return [*(["--rpc", args.rpc] if args.rpc else []), *args.extra]


def _configure_fetch(parser: argparse.ArgumentParser) -> None:
    usage = "org/name[:TYPE][@revision]; TYPE chooses a GGUF, such as PTQ1_0"
    parser.add_argument("repo", metavar="REPO", help=usage)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: the hub client's cache)")


def fetch(args: argparse.Namespace) -> None:
    from tmac.convert.fetch import fetch as download

    print(download(args.repo, folder=args.output))


def _configure_convert(parser: argparse.ArgumentParser) -> None:
    from tmac.convert.plan.options import QUANTIZE_TYPES

    parser.add_argument("source", metavar="SRC", help=MODEL_HELP)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="default: the checkpoint's name + .gguf; for x.gguf, x-tmac.gguf",
    )
    _add_types(parser)
    parser.add_argument(
        "--quantize",
        choices=tuple(QUANTIZE_TYPES),
        metavar="TYPE",
        help=f"quantize linear weights freshly that have no low-bit type yet: {', '.join(QUANTIZE_TYPES)}",
    )
    parser.add_argument(
        "--imatrix",
        type=Path,
        metavar="FILE",
        help="llama-imatrix's file, by which --quantize and --head tmac_w4 weigh inputs",
    )
    parser.add_argument(
        "--split-max-size",
        type=byte_size,
        default=0,
        metavar="SIZE",
        help="write several files of at most SIZE bytes of tensors, for example 2G (default: one file)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")


def convert(args: argparse.Namespace) -> None:
    from tmac.convert import pipeline

    from .pipeline import repack

    report = pipeline.convert(
        args.source,
        args.output or Path(_output_name(args.source)),
        embedding=args.embedding,
        head=args.head,
        quantize=args.quantize,
        imatrix=args.imatrix,
        force=args.force,
        split_max_size=args.split_max_size,
        repack=repack,
        log=console.log,
    )
    print(report.render())


def _output_name(source: str) -> str:
    """The name of a conversion's output in the current folder, when the user gives none."""
    from tmac.convert.sources.gguf_model import is_gguf, model_name

    if is_gguf(source):
        return f"{model_name(Path(source))}-tmac.gguf"
    if Path(source).is_dir():
        return f"{Path(source).resolve().name}.gguf"
    # A colon, as in org/name:TYPE, is no part of a file's name on Windows.
    return f"{source.split('@')[0].split('/')[-1].replace(':', '-')}.gguf"


def _configure_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--portable", action="store_true", help="for any CPU of this architecture, not only this one")
    parser.add_argument("--llama-src", type=Path, metavar="DIR", help="another llama.cpp tree (a copy is built)")
    parser.add_argument("--ui", action="store_true", help="with the server's page to chat at, made by npm")
    parser.add_argument("--jobs", type=int, metavar="N", help="parallel compilations (default: one per core)")
    parser.add_argument("--clean", action="store_true", help="delete source and build first")


def build(args: argparse.Namespace) -> None:
    from . import pipeline

    choice = pipeline.BuildChoice(args.portable, str(args.llama_src.absolute()) if args.llama_src else None, args.ui)
    if args.clean:
        pipeline.clean(choice)
    print(pipeline.build_llama(choice, args.jobs).folder / "bin")


def _configure_kernels(parser: argparse.ArgumentParser) -> None:
    from . import kernels_command

    kernels_command.configure_parser(parser)


def _configure_serve(parser: argparse.ArgumentParser) -> None:
    from .llama import serving

    _add_running(parser)
    _add_address(parser, 8080)
    serving.add_arguments(parser)


def _add_address(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    usage = f"(default: {default}; 0: one that is free)" if default == 8080 else f"(default: {default})"
    parser.add_argument("--port", type=port, default=default, help=usage)


def serve(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import run as llama_run
    from .llama import serving

    llama_run.check_kernel(args.kernel)
    options = llama_run.Options(
        threads=args.threads,
        kernel=args.kernel,
        precision=args.precision,
        extra=[*serving.chosen(args), *_with_rpc(args)],
    )
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=False)
    llama_run.serve(pipeline.build_llama(), model, options, args.host, args.port)


def _configure_rpc_server(parser: argparse.ArgumentParser) -> None:
    _add_address(parser, 50052)
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads (default: half of the CPUs)")
    parser.add_argument("--cache", action="store_true", help="keep large tensors on disk, so that they are sent once")


def rpc_server(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import machines

    machines.serve_layers(pipeline.build_llama(), args.host, args.port, args.threads, args.cache)


def python_path(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import binding

    binding.check()
    if pipeline.last_choice().portable:
        raise ToolError("a portable build is loaded in two steps, for which a path is not enough", "import tmac.python")
    print(binding.folder(pipeline.build_llama()))


def _configure_bench(parser: argparse.ArgumentParser) -> None:
    from .bench import command

    command.configure_parser(parser)


def _configure_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE", help="a .gguf file, or a checkpoint folder")
    add_json(parser)


def inspect(args: argparse.Namespace) -> int:
    """Looking succeeds, but a checkpoint that would be refused ends as a conversion of it would."""
    from tmac.convert.inspect import inspect_checkpoint, inspect_gguf

    found = inspect_checkpoint(args.path) if args.path.is_dir() else inspect_gguf(args.path)
    tensors = [
        {"name": tensor.name, "type": tensor.type_name, "shape": tensor.shape, "bytes": tensor.nbytes}
        for tensor in found.tensors
    ]
    for tensor, kind in zip(tensors, found.becomes):
        tensor["becomes"] = kind
    refusals = [{"error": refusal.message, "hint": refusal.hint} for refusal in found.refusals]
    data = {"facts": dict(found.facts), "notes": found.notes, "refusals": refusals, "tensors": tensors}
    print(json.dumps(data, indent=1) if args.json else found.render())
    return FAILED if found.refusals else OK


def _configure_doctor(parser: argparse.ArgumentParser) -> None:
    add_json(parser)
    parser.add_argument("--speed", action="store_true", help="measure the CPU's peaks, and say what they allow")


def doctor(args: argparse.Namespace) -> int:
    from . import doctor as examination

    findings = examination.examine(args.speed)
    print(json.dumps(examination.as_data(findings), indent=1) if args.json else examination.render(findings))
    return FAILED if any(finding.state == examination.MISSING for finding in findings) else OK


def test(args: argparse.Namespace) -> None:
    from tmac.common import process

    folder = _checkout_for("the tests are")
    if any(argument.partition("=")[0] == "--fuzz" for argument in args.extra):
        from .fuzz import command

        command.run(args.extra)
        return
    if importlib.util.find_spec("pytest") is None:
        raise ToolError("pytest is not installed", f"cd {folder} && python3 -m tools test")
    process.run([sys.executable, "-m", "pytest", *args.extra], cwd=folder)


def _configure_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="change nothing; say what is not formatted")


def format_checkout(args: argparse.Namespace) -> int:
    from . import formatting

    folder = _checkout_for("formatting is")
    problems = formatting.check(folder) if args.check else formatting.write(folder)
    if problems:
        print(problems)
    return FAILED if problems else OK


def _checkout_for(what: str) -> Path:
    """The checkout that runs. Raises ToolError for an installed package."""
    folder = checkout()
    if folder is None:
        raise ToolError(f"{what} part of a checkout, and this is an installed package", "clone the repository")
    return folder


VERBS = {
    "demo": Verb(demo, "convert the bundled checkpoint, build llama.cpp, write a story"),
    "run": Verb(run, "generate text; converts and builds what is missing", _configure_run, takes_extra=True),
    "fetch": Verb(fetch, "download a checkpoint, only the files that conversion reads, or one GGUF", _configure_fetch),
    "convert": Verb(convert, "quantized checkpoint or GGUF to T-MAC GGUF", _configure_convert),
    "build": Verb(build, "llama.cpp: source, patch, kernels, compile", _configure_build),
    "kernels": Verb(None, "list, explain, generate or tune the lookup kernels", _configure_kernels),
    "serve": Verb(serve, "llama-server with an OpenAI-compatible API", _configure_serve, takes_extra=True),
    "rpc-server": Verb(
        rpc_server, "compute layers for `--rpc` of another machine, in a network that you trust", _configure_rpc_server
    ),
    "python-path": Verb(python_path, "the folder that llama-cpp-python finds as LLAMA_CPP_LIB_PATH"),
    "bench": Verb(None, "measure kernels and whole models, draw pictures of it", _configure_bench),
    "inspect": Verb(inspect, "what is in a GGUF file or a checkpoint folder", _configure_inspect),
    "doctor": Verb(doctor, "what this machine has, what is missing and how to get it", _configure_doctor),
    "test": Verb(
        test,
        "run all tests of the checkout, or --upstream, or --fuzz MINUTES; other arguments go to pytest",
        takes_extra=True,
        passes_unknown=True,
    ),
    "format": Verb(format_checkout, "format the Python and C of the checkout", _configure_format),
}
