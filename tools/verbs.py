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

from . import caches_command, running
from .arguments import add_json, byte_size, listed_port, port, positive
from .errors import ToolError
from .llama.options import PROGRAMS
from .running import MODEL_HELP

QUESTION = "Why is the sky blue?"
OK, FAILED = 0, 1


@dataclass(frozen=True)
class Verb:
    """`work` gets the parsed arguments and may return an exit code; None: each part of the verb sets its own.

    help: what the verb does, in one line; configure: adds its arguments to a parser;
    takes_extra: whether arguments after `--` are passed on; passes_unknown: whether unknown arguments are, too;
    programs: of llama.cpp, whose options are passed on as well.
    """

    work: Callable[[argparse.Namespace], int | None] | None
    help: str
    configure: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    takes_extra: bool = False
    passes_unknown: bool = False
    programs: tuple[str, ...] = ()


def _add_types(parser: argparse.ArgumentParser) -> None:
    from tmac.convert.plan.options import DEFAULT_TYPE, EMBEDDING_TYPES, HEAD_TYPES

    types, usage = tuple(EMBEDDING_TYPES), f"type of the token embedding (default: {DEFAULT_TYPE}; of a GGUF: as it is)"
    parser.add_argument("--embedding", choices=types, help=usage)
    types, usage = tuple(HEAD_TYPES), f"type of the output head (default: {DEFAULT_TYPE}; of a GGUF: as it is)"
    parser.add_argument("--head", default=DEFAULT_TYPE, choices=types, help=usage)


def _configure_demo(parser: argparse.ArgumentParser) -> None:
    usage = "let a small real model answer, which is downloaded once from the Python package index (93 MB)"
    parser.add_argument("--chat", nargs="?", const=QUESTION, metavar="QUESTION", help=f"{usage} (default: {QUESTION})")


def demo(args: argparse.Namespace) -> None:
    from . import pipeline

    if args.chat is None:
        pipeline.demo()
    else:
        pipeline.demo_chat(args.chat)


def _configure_run(parser: argparse.ArgumentParser) -> None:
    running.configure_run(parser)


def run(args: argparse.Namespace) -> None:
    running.run(args)


def _configure_fetch(parser: argparse.ArgumentParser) -> None:
    usage = "org/name[:TYPE][@revision], or its address; TYPE chooses a GGUF, such as PTQ1_0"
    parser.add_argument("repo", metavar="REPO", help=usage)
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: the hub client's cache)")


def fetch(args: argparse.Namespace) -> None:
    from tmac.convert.fetch import fetch as download

    from . import model_names

    print(download(model_names.of_address(args.repo), folder=args.output))


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
    parser.add_argument(
        "--upstream",
        action="store_true",
        help="arrange the model by llama.cpp's own converter, also where T-MAC has its family itself",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")


def convert(args: argparse.Namespace) -> None:
    from tmac.convert import pipeline

    from . import model_names
    from .pipeline import find_upstream, repack

    source = model_names.to_convert(args.source)
    report = pipeline.convert(
        source,
        args.output or Path(_output_name(source)),
        embedding=args.embedding,
        head=args.head,
        quantize=args.quantize,
        imatrix=args.imatrix,
        force=args.force,
        split_max_size=args.split_max_size,
        repack=repack,
        find_upstream=find_upstream,
        prefer_upstream=args.upstream,
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
    parser.add_argument(
        "--no-measure",
        action="store_true",
        help="neither time the kernels on this machine nor use what was measured: which of them serves follows from "
        "tables for kinds of CPUs; holds for the builds that other verbs make, until the next tmac build",
    )
    parser.add_argument(
        "--all-models",
        action="store_true",
        help="also install torch and transformers, for families that only llama.cpp's own converter has",
    )
    parser.add_argument("--packaged", action="store_true", help="build nothing: return to the binaries of the package")


def build(args: argparse.Namespace) -> None:
    from . import pipeline

    if args.packaged:
        print(pipeline.return_to_package())
        return
    source = str(args.llama_src.absolute()) if args.llama_src else None
    choice = pipeline.BuildChoice(args.portable, source, args.ui, measures=not args.no_measure)
    if args.clean:
        pipeline.clean(choice)
    if args.all_models:
        from .llama import converter

        converter.install()
    print(pipeline.build_llama(choice, args.jobs).folder / "bin")


def _configure_wheel(parser: argparse.ArgumentParser) -> None:
    from . import wheel_command

    wheel_command.configure_parser(parser)


def wheel(args: argparse.Namespace) -> None:
    from . import wheel_command

    print(wheel_command.make(_checkout_for("what wheels are made of is"), args))


def _configure_kernels(parser: argparse.ArgumentParser) -> None:
    from . import kernels_command

    kernels_command.configure_parser(parser)


def _configure_serve(parser: argparse.ArgumentParser) -> None:
    from .llama import serving

    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"{MODEL_HELP}; without it, all of `tmac list`")
    running.add_running(parser)
    parser.add_argument("-a", "--alias", metavar="NAME", help="what the API calls the model (default: MODEL's name)")
    _add_address(parser, 8080)
    serving.add_arguments(parser)
    running.add_cache_ram(parser)
    parser.add_argument("--systemd", action="store_true", help="print a unit of systemd that does this, and end")


def _add_address(parser: argparse.ArgumentParser, default: int, kind: Callable[[str], int] = port) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    usage = f"(default: {default}; 0: one that is free)" if kind is port else f"(default: {default})"
    parser.add_argument("--port", type=kind, default=default, help=usage)


def serve(args: argparse.Namespace) -> None:
    from .llama import run as llama_run
    from .llama import serving

    if args.systemd:
        from . import systemd

        print(systemd.unit(sys.argv[1:]), end="")
        return
    args.extra = [*serving.chosen(args), *args.extra]
    with running.served(args) as (built, models, options):
        llama_run.serve(built, models, options, args.host, args.port)


def _configure_rpc_server(parser: argparse.ArgumentParser) -> None:
    _add_address(parser, 50052, listed_port)
    parser.add_argument("-t", "--threads", type=positive, metavar="N", help="threads (default: half of the CPUs)")
    parser.add_argument("--cache", action="store_true", help="keep large tensors on disk, so that they are sent once")


def rpc_server(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import machines

    machines.serve_layers(pipeline.ready_llama(), args.host, args.port, args.threads, args.cache)


def python_path(args: argparse.Namespace) -> None:
    from . import pipeline
    from .llama import binding

    binding.check()
    print(binding.folder(pipeline.ready_llama()))


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

    findings = []
    for finding in examination.examine(args.speed):
        findings.append(finding)
        if not args.json:
            print(examination.render(finding), flush=True)
    if args.json:
        print(json.dumps(examination.as_data(findings), indent=1))
    return FAILED if any(finding.state == examination.MISSING for finding in findings) else OK


def _configure_completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.epilog = (
        "bash: tmac completion bash > ~/.local/share/bash-completion/completions/tmac; zsh: into a file _tmac of a "
        "folder of $fpath; fish: tmac completion fish > ~/.config/fish/completions/tmac.fish"
    )


def completion(args: argparse.Namespace) -> None:
    from . import cli, shells

    print(shells.script(cli.make_parser(whole=True), args.shell))


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
    "demo": Verb(demo, "convert the bundled checkpoint, build llama.cpp, write a story; or --chat", _configure_demo),
    "run": Verb(run, "generate text; converts and builds what is missing", _configure_run, True, False, PROGRAMS),
    "fetch": Verb(fetch, "download a checkpoint, only the files that conversion reads, or one GGUF", _configure_fetch),
    "convert": Verb(convert, "quantized checkpoint or GGUF to T-MAC GGUF", _configure_convert),
    "build": Verb(build, "llama.cpp: source, patch, kernels, compile", _configure_build),
    "wheel": Verb(wheel, "a package with binaries, for machines without a compiler", _configure_wheel),
    "kernels": Verb(None, "list, explain, generate or tune the lookup kernels", _configure_kernels),
    "serve": Verb(serve, "llama-server with an OpenAI-compatible API", _configure_serve, True, False, ("server",)),
    "rpc-server": Verb(
        rpc_server, "compute layers for `--rpc` of another machine, in a network that you trust", _configure_rpc_server
    ),
    "python-path": Verb(python_path, "the folder that llama-cpp-python finds as LLAMA_CPP_LIB_PATH"),
    "bench": Verb(None, "measure kernels and whole models, draw pictures of it", _configure_bench),
    "list": Verb(caches_command.list_models, "the models on this machine", caches_command.configure_list),
    "show": Verb(caches_command.show, "what made a model of the list, what is in it", caches_command.configure_show),
    "rm": Verb(caches_command.remove, "delete models of the list", caches_command.configure_rm),
    "inspect": Verb(inspect, "what is in a GGUF file or a checkpoint folder", _configure_inspect),
    "completion": Verb(completion, "a script that completes tmac's arguments in a shell", _configure_completion),
    "doctor": Verb(doctor, "what this machine has, what is missing and how to get it", _configure_doctor),
    "test": Verb(
        test,
        "run all tests of the checkout, or --upstream, --soak MINUTES, --fuzz MINUTES; other arguments go to pytest",
        takes_extra=True,
        passes_unknown=True,
    ),
    "format": Verb(format_checkout, "format the Python and C of the checkout", _configure_format),
}
