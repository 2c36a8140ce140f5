"""The command `tmac`: verbs only. Each reads its arguments, calls one function and prints what that returns.

Exit codes: 0 done, 1 the work failed, 2 wrong arguments, 130 interrupted, 143 terminated. Results go to stdout, all
else to stderr.
What a verb needs is imported when it runs, so that help and errors come at once.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tmac.common.errors import TmacError
from tmac.kernels.forms import PRECISIONS

from . import console
from .errors import ToolError
from .paths import checkout, log_file
from .process import Terminated

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
MODEL_HELP = "a .gguf file, a checkpoint folder, or a hub repository org/name[@revision]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code. What a user can cause never ends in a traceback."""
    _open_closed_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, extra = _split_at_dashes(arguments)
    parser = make_parser(own[0] if own else "")
    if not arguments:
        parser.print_help(sys.stderr)
        return USAGE
    args, unknown = parser.parse_known_args(own)
    if unknown and args.work is not test:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if extra and not args.takes_extra:
        parser.error(f"{args.verb} takes nothing after --")
    args.extra = unknown + extra
    with _sigterm_interrupts():
        return _run_verb(args)


def _run_verb(args: argparse.Namespace) -> int:
    try:
        return args.work(args) or OK
    except TmacError as problem:
        console.error(problem.message, problem.hint)
        return FAILED
    except BrokenPipeError:
        # The reader of stdout has gone (`tmac inspect | head`): nothing is left to say, nor anyone to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as problem:
        console.error(str(problem), "check the path, the permissions and the free disk space")
        return FAILED
    except Terminated:
        console.log("terminated")
        return TERMINATED
    except KeyboardInterrupt:
        console.log("interrupted")
        return INTERRUPTED
    except Exception as problem:
        _report_bug(problem)
        return FAILED


def _open_closed_streams() -> None:
    """`tmac ... <&-`: Python has None for a stream that was closed; from here on it is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Within it SIGTERM is what Ctrl-C is: everything is left through its clean-up."""

    def terminate(number, frame):
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _report_bug(problem: Exception) -> None:
    """One sentence, and the traceback where it can be sent from; on stderr with TMAC_DEBUG or without a log."""
    text = "".join(traceback.format_exception(problem))
    try:
        log = log_file("bug")
        log.write_text(text, "utf-8", "backslashreplace")
        hint = f"please report it with {log}"
    except (OSError, ToolError):
        hint = "please report it with the traceback above"
    if os.environ.get("TMAC_DEBUG") or hint.endswith("above"):
        console.log(text.rstrip())
    console.error(f"this is a bug in tmac: {type(problem).__name__}: {problem}", hint)


def _split_at_dashes(arguments: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def make_parser(chosen: str = "") -> argparse.ArgumentParser:
    """All verbs and their arguments; those of `bench`, `convert` and `kernels`, which others define, only when chosen."""
    parser = argparse.ArgumentParser(
        prog="tmac",
        description="Low-bit LLM inference on CPUs by table look-up.",
        epilog="exit codes: 0 done, 1 the work failed, 2 wrong arguments, 130 interrupted, 143 terminated",
    )
    parser.add_argument("--version", action="version", version=f"tmac {importlib.metadata.version('tmac')}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, work, text: str, takes_extra: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(work=work, takes_extra=takes_extra)
        return sub

    verb("demo", demo, "convert the bundled checkpoint, build llama.cpp, write a story")
    _configure_run(verb("run", run, "generate text; converts and builds what is missing", takes_extra=True))
    _configure_fetch(verb("fetch", fetch, "download a checkpoint: only the files that conversion reads"))
    conversion = verb("convert", convert, "quantized checkpoint or GGUF to T-MAC GGUF")
    if chosen == "convert":
        _configure_convert(conversion)
    _configure_build(verb("build", build, "llama.cpp: source, patch, kernels, compile"))
    catalog = verb("kernels", kernels, "list, explain, generate or tune the look-up kernels")
    if chosen == "kernels":
        _configure_kernels(catalog)
    _configure_serve(verb("serve", serve, "llama-server with an OpenAI-compatible API", takes_extra=True))
    benchmarks = verb("bench", bench, "measure kernels and whole models, draw pictures of it")
    if chosen == "bench":
        _configure_bench(benchmarks)
    _configure_inspect(verb("inspect", inspect, "what is in a GGUF file or a checkpoint folder"))
    _add_json(verb("doctor", doctor, "what this machine has, what is missing and how to get it"))
    verb("test", test, "run all tests of the checkout; other arguments go to pytest", takes_extra=True)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


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
    from . import llama_run, pipeline

    llama_run.check_kernel(args.kernel)
    options = llama_run.Options(
        args.n_predict,
        args.threads,
        args.temp,
        args.seed,
        args.kernel,
        args.precision,
        args.extra,
    )
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=args.prompt is None)
    built = pipeline.build_llama()
    if args.prompt is None:
        llama_run.chat(built, model, options)
    else:
        llama_run.generate(built, model, args.prompt, options)


def _configure_fetch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="org/name or org/name@revision")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder (default: the hub client's cache)")


def fetch(args: argparse.Namespace) -> None:
    from tmac.convert.fetch import fetch as download

    print(download(args.repo, folder=args.output))


def _configure_convert(parser: argparse.ArgumentParser) -> None:
    from tmac.convert.plan.options import QUANTIZE_TYPES

    from .arguments import byte_size

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
        "--imatrix", type=Path, metavar="FILE", help="llama-imatrix's file, by which --quantize weighs inputs"
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

    report = pipeline.convert(
        args.source,
        args.output or Path(_output_name(args.source)),
        embedding=args.embedding,
        head=args.head,
        quantize=args.quantize,
        imatrix=args.imatrix,
        force=args.force,
        split_max_size=args.split_max_size,
        log=console.log,
    )
    print(report.render())


def _output_name(source: str) -> str:
    """For the current folder."""
    from tmac.convert.sources.gguf_model import is_gguf, model_name

    if is_gguf(source):
        return f"{model_name(Path(source))}-tmac.gguf"
    return f"{Path(source).resolve().name if Path(source).is_dir() else source.split('@')[0].split('/')[-1]}.gguf"


def _configure_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--portable", action="store_true", help="for any CPU of this architecture, not only this one")
    parser.add_argument("--llama-src", type=Path, metavar="DIR", help="another llama.cpp tree (a copy is built)")
    parser.add_argument("--jobs", type=int, metavar="N", help="parallel compilations (default: one per core)")
    parser.add_argument("--clean", action="store_true", help="delete source and build first")


def build(args: argparse.Namespace) -> None:
    from . import pipeline

    choice = pipeline.BuildChoice(args.portable, str(args.llama_src.absolute()) if args.llama_src else None)
    if args.clean:
        pipeline.clean(choice)
    print(pipeline.build_llama(choice, args.jobs).folder / "bin")


def _configure_kernels(parser: argparse.ArgumentParser) -> None:
    from . import kernel_verbs

    kernel_verbs.configure_parser(parser)


def kernels(args: argparse.Namespace) -> None:
    raise AssertionError("argparse requires a part")


def _configure_serve(parser: argparse.ArgumentParser) -> None:
    _add_running(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="(default: 8080)")


def serve(args: argparse.Namespace) -> None:
    from . import llama_run, pipeline

    llama_run.check_kernel(args.kernel)
    options = llama_run.Options(
        threads=args.threads,
        kernel=args.kernel,
        precision=args.precision,
        extra=args.extra,
    )
    model = pipeline.ensure_model(args.model)
    llama_run.check(model, chat=False)
    llama_run.serve(pipeline.build_llama(), model, options, args.host, args.port)


def _configure_bench(parser: argparse.ArgumentParser) -> None:
    from . import bench as measuring

    measuring.configure_parser(parser)


def bench(args: argparse.Namespace) -> int | None:
    from . import bench as measuring

    return measuring.main(args)


def _configure_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="FILE", help="a .gguf file, or a checkpoint folder")
    _add_json(parser)


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


def doctor(args: argparse.Namespace) -> int:
    from . import doctor as examination

    findings = examination.examine()
    print(json.dumps(examination.as_data(findings), indent=1) if args.json else examination.render(findings))
    return FAILED if any(finding.state == examination.MISSING for finding in findings) else OK


def test(args: argparse.Namespace) -> None:
    from . import process

    folder = checkout()
    if folder is None:
        raise ToolError("the tests are part of a checkout, and this is an installed package", "clone the repository")
    if importlib.util.find_spec("pytest") is None:
        raise ToolError("pytest is not installed", f"cd {folder} && python3 -m tools test")
    process.run([sys.executable, "-m", "pytest", *args.extra], cwd=folder)


if __name__ == "__main__":
    sys.exit(main())
