"""llama.cpp's programs: what they are called, how they are built, their options, and what they say that we read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from support.llama_tree import LlamaTree, NotFound, enclosed, split, strings
from upstream import ours
from upstream.fact import Fact, new_and_gone

ARG_CPP, LOG_CPP, SAMPLING_CPP = "common/arg.cpp", "common/log.cpp", "common/sampling.cpp"
BENCH, BATCHED, COMPLETION, RESULTS = (
    "tools/llama-bench/llama-bench.cpp",
    "tools/batched-bench/batched-bench.cpp",
    "tools/completion/completion.cpp",
    "tools/results/results.cpp",
)
CONTEXT = "src/llama-context.cpp"
CMAKE = "CMakeLists.txt, ggml/CMakeLists.txt"
# Of cmake itself, not llama.cpp's.
CMAKE_OWN = ("CMAKE_", "BUILD_SHARED_LIBS")
AMX_H = "ggml/src/ggml-cpu/amx/common.h"
BUILD, MODEL = ours.llama_build.Build(Path("build")), Path("model.gguf")


def check_targets(llama: LlamaTree) -> Iterator[str]:
    made = {
        name
        for path in llama.paths("tools/*/CMakeLists.txt")
        for name in re.findall(r"set\(TARGET ([\w-]+)\)", llama.raw(path))
    }
    yield from (f"llama.cpp builds no {name} any more" for name in ours.llama_build.TARGETS if name not in made)


def check_cmake_options(llama: LlamaTree) -> Iterator[str]:
    known = set()
    for path in CMAKE.split(", "):
        known |= set(re.findall(r"^\s*option\(\s*(\w+)", llama.raw(path), re.MULTILINE))
    build = ours.llama_build
    for option in (*build.COMMON_OPTIONS, *build.NATIVE_OPTIONS, *build.PORTABLE_OPTIONS):
        name = option.removeprefix("-D").partition("=")[0]
        if name not in known and not name.startswith(CMAKE_OWN):
            yield f"llama.cpp has no build option {name} any more; we pass {option}"


def common_options(llama: LlamaTree) -> dict[str, list[tuple[set[str], set[str], str]]]:
    """Each option of common/arg.cpp: for which programs, not for which, and its code."""
    code, found = llama.code(ARG_CPP), {}
    for start in re.finditer(r"add_opt\(common_arg\(", code):
        option = enclosed(code, start.end() - len("(common_arg("))
        names = [part for part in split(enclosed(option, option.index("("))) if part.startswith("{")]
        examples, excludes = (
            set(re.findall(r"LLAMA_EXAMPLE_(\w+)", " ".join(re.findall(rf"set_{kind}\(\{{([^}}]*)\}}", option))))
            for kind in ("examples", "excludes")
        )
        for name in {text for part in names for text in strings(part)}:
            found.setdefault(name, []).append((examples or {"COMMON"}, excludes, option))
    if not found:
        raise NotFound(f"{ARG_CPP} has no options in add_opt(common_arg(...))")
    return found


def our_commands() -> Iterator[tuple[str, list[str]]]:
    """Every way in which we start a program: its name in LLAMA_EXAMPLE_..., and its arguments."""
    run, texts = ours.llama_run, ours.llama_prompt.PromptFiles(Path("prompt"), Path("system"))
    options = run.Options(n_predict=1, threads=1, temperature=0.0, seed=1, context=ours.llama_context.Context(1))
    for chat in (False, True):
        yield "COMPLETION", list(map(str, run.generation_command(BUILD, MODEL, texts, options, chat)[1:]))
    yield "COMPLETION", list(map(str, run.generation_command(BUILD, MODEL, texts, run.Options(), False)[1:]))
    yield "CLI", list(map(str, run.chat_command(BUILD, MODEL, texts, options)[1:]))
    for draft in ("ngram", "model.gguf"):
        drafting = replace(options, draft=ours.llama_draft.arguments(draft, Path))
        yield "SERVER", list(map(str, ours.llama_drafted.server_command(BUILD, MODEL, Path("socket"), drafting)[1:]))
    for models in (["-m", MODEL, "-a", "name"], ["--models-preset", "models.ini"]):
        yield "SERVER", list(map(str, ours.serving.server_command(BUILD, models, options.arguments(), "", 1)[1:]))
    yield "RESULTS", _arguments_in(ours.verify.all_logits)
    cases = [ours.model_run.Workload(ours.model_run.BATCH, 16, 1, None, sequences) for sequences in (1, 2)]
    yield "BENCH", ["-m", "", *ours.model_run.batch_arguments(cases, [1, 1])]


def _arguments_in(function) -> list[str]:
    """The options that a function's own code spells, for those that only make their command to run it."""
    return [
        text for text in function.__code__.co_consts if isinstance(text, str) and re.fullmatch(r"--?[a-z][\w-]*", text)
    ]


def check_common_options(llama: LlamaTree) -> Iterator[str]:
    known = common_options(llama)
    for program, arguments in our_commands():
        for name in (text for text in arguments if re.fullmatch(r"--?[a-z][\w-]*", text)):
            fitting = [
                option
                for examples, excludes, option in known.get(name, ())
                if program in examples or ("COMMON" in examples and program not in excludes)
            ]
            if not fitting:
                yield f"llama.cpp's {program.lower()} has no option {name} any more; we pass it"
    values = {
        "--output-format": ("BENCH", '"jsonl"', "batched_bench_output_jsonl = true"),
        "-lv": ("COMMON", '"', "common_log_set_verbosity_thold(value)"),
    }
    for name, (program, value, effect) in values.items():
        codes = [option for examples, _, option in known.get(name, ()) if program in examples]
        if not any(value in code and effect in code for code in codes):
            yield f"llama.cpp's {name} does something else now"
    levels = " ".join(text for _, _, option in known.get("-lv", ()) for text in strings(option))
    if "- 3: info" not in levels:
        yield "llama.cpp's -lv 3 is no longer the level `info`, at which speeds are said"


def check_list_of_options(llama: LlamaTree) -> Iterator[str]:
    """Names, and whether a value follows, of all that `tmac run` and `tmac serve` pass on unread."""
    theirs: dict[str, set[bool]] = {}
    for name, options in common_options(llama).items():
        for examples, excludes, option in options:
            used = {program.upper() for program in ours.llama_options.PROGRAMS} - excludes
            if "set_preset_only" not in option and ("COMMON" in examples or used & examples) and used:
                takes_value = (
                    re.search(r"\]\s*\(common_params &\s*\w*\s*,\s*(?:const std::string|int)\b", option) is not None
                )
                theirs.setdefault(name, set()).add(takes_value)
    listed = {name: bool(option.values) for name, option in ours.llama_options.known().items()}
    yield from new_and_gone("option", set(theirs), set(listed), ())
    for name in sorted(set(theirs) & set(listed)):
        if theirs[name] != {listed[name]}:
            yield f"{name} takes {'no ' if listed[name] else ''}value in llama.cpp; options.txt says otherwise"


def bench_workloads() -> list[ours.model_run.Workload]:
    """What one run of llama-bench measures after a context."""
    run, context = ours.model_run, ours.bench_context
    place = context.Context(512, context.CACHE_TYPES["f16"], context.ATTENTIONS[0])
    return [run.Workload(phase, 4, 1, None, context=place) for phase in (run.DECODE, run.PROMPT)]


def check_bench_options(llama: LlamaTree) -> Iterator[str]:
    code = llama.code(BENCH)
    arguments = ours.model_run.test_arguments(bench_workloads(), 1)
    passed = {"-m", *(text for text in arguments if re.fullmatch(r"--?[a-z]+", text))}
    yield from (
        f"llama-bench has no option {name} any more; we pass it"
        for name in sorted(passed)
        if f'arg == "{name}"' not in code
    )
    if 's == "json"' not in code:
        yield "llama-bench no longer knows the output format json"


def check_contexts(llama: LlamaTree) -> Iterator[str]:
    """Types of a cache, how flash attention is asked for and what it allows, and what fills a cache when."""
    theirs = set(strings(llama.function(BENCH, "ggml_type_from_name")))
    yield from new_and_gone("type of cache in llama-bench", theirs, ours.bench_context.CACHE_NAMES, ())
    for word, function in (("on", "is_truthy"), ("off", "is_falsey")):
        if word not in strings(llama.function(ARG_CPP, f"common_arg_utils::{function}")):
            yield f"llama.cpp's {function} no longer takes {word!r}; we pass it to -fa"
    code = llama.code(BENCH)
    order = [code.find(text) for text in ("depth run %d/%d", "cstate.depth = t.n_depth", "t_start = get_time_ns()")]
    if not -1 < order[0] < order[1] < order[2] < code.find("prompt run %d/%d", order[2]):
        yield "llama-bench no longer fills the cache, and keeps its state, before it starts its clock"
    loops = [code.find(f": params.{name})") for name in ("flash_attn", "n_threads", "n_depth")]
    if not -1 < loops[0] < loops[1] < loops[2]:
        yield "llama-bench no longer measures one number of threads after the other; we fill a cache with the first"
    missing = set(ours.model_run.TEST_FIELDS) - set(strings(llama.function(BENCH, "get_fields")))
    yield from (f"llama-bench's JSON has no {name} any more; we read it" for name in sorted(missing))
    said = {text for call in llama.calls(CONTEXT, "LLAMA_LOG_ERROR") for text in strings(call[0])}
    if not any("quantized V cache requires flash_attn" in text for text in said):
        yield "llama.cpp no longer says that a quantized V needs flash attention; we leave out the others"
    warned = {text for call in llama.calls(CONTEXT, "LLAMA_LOG_WARN") for text in strings(call[0])}
    if not any("n_ctx_seq (%u) > n_ctx_train (%u)" in text for text in warned):
        yield "llama.cpp no longer just warns of a context longer than the model says; random models say 2048"


def formatted(form: str, *texts: str) -> str:
    """A line that printf would make of a format, with `texts` for %s and numbers for the rest."""
    texts_left = list(texts)

    def value(spec: re.Match[str]) -> str:
        kind = spec[0][-1]
        return "%" if kind == "%" else texts_left.pop(0) if kind == "s" else spec[0].replace("z", "") % 7

    return re.sub(r"%[-\d.]*z?[sdufc%]", value, form)


def check_speeds(llama: LlamaTree) -> Iterator[str]:
    """The lines that the speeds are read from, at the end of llama-completion."""
    said = [line for line in strings(llama.function(SAMPLING_CPP, "common_perf_print")) if "per second" in line]
    found = [ours.llama_run.RATE.match(formatted(line, "common_perf_print")) for line in said]
    if [rate and (rate[1], float(rate[2])) for rate in found] != [("prompt eval", 7.0), ("eval", 7.0)]:
        yield f"llama.cpp says speeds as {said}; we look for {ours.llama_run.RATE.pattern}"


def check_log_prefix(llama: LlamaTree) -> Iterator[str]:
    code = llama.code(LOG_CPP)
    time = next((text for text in strings(code) if text.count("%0") == 3), None)
    level = re.search(r'case GGML_LOG_LEVEL_INFO:\s*fprintf\(fcur, "([^"]*)"', code)
    if not time or not level:
        raise NotFound(f"{LOG_CPP} writes no time and level in front of a line")
    prefix = formatted(time, "", "") + formatted(level[1], "", "")
    found = ours.llama_run.LOG_PREFIX.match(f"{prefix}tmac: a line")
    if not found or found[0] != prefix:
        yield f"llama.cpp begins lines with {prefix!r}; we take off {ours.llama_run.LOG_PREFIX.pattern}"


def check_end_of_text(llama: LlamaTree) -> Iterator[str]:
    ends = [text for call in llama.calls(COMPLETION, "LOG") for text in strings(call[0]) if "end of text" in text]
    if [end.rstrip("\n").encode() for end in ends] != [ours.llama_run.END_MARK]:
        yield f"llama-completion ends a text with {ends}; we take off {ours.llama_run.END_MARK}"


def check_bench_lines(llama: LlamaTree) -> Iterator[str]:
    """The signs of progress on stderr, and the fields of both programs' JSON."""
    code = llama.code(BENCH)
    lines = [text for text in strings(code) if re.search(r": (prompt|generation) run ", text)]
    found = [ours.model_run.START_LINE.search(formatted(line).replace("run 7/", "run 1/")) for line in lines]
    if sorted(match[1] for match in found if match) != ["generation", "prompt"]:
        yield f"llama-bench says {lines}; we look for {ours.model_run.START_LINE.pattern}"
    for line, loop in (("prompt run", "test_prompt("), ("generation run", "test_gen(")):
        said = code.find(f"{line} %d")
        if not said < code.find(loop, said) < said + 400:
            yield f"llama-bench no longer says `{line}` right before it starts the run"
    case = ours.model_run.Workload(ours.model_run.PROMPT, 4, 1, None)
    fields = '"n_gen": 0, "n_prompt": 4, "n_threads": 1, "n_depth": 0'
    json = [line for line in strings(code) if "samples_ns" in line]
    try:
        read = [
            ours.model_run.parse_tests(f"[{{{fields}, {formatted(line, '7').strip().rstrip(',')}}}]".encode(), [case])
            for line in json
        ]
    except Exception as problem:
        read = [problem]
    if not read or any(seconds != [[7e-9]] for seconds in read):
        yield f"llama-bench writes {json}; we read {read}"
    batches = "".join(next((call[0] for call in llama.calls(BATCHED, "LOG") if "t_tg" in call[0]), "").split())
    line = formatted("".join(strings(batches)), *["7"] * 9).strip()
    try:
        read = ours.model_run.parse_batches(
            line.encode(), [ours.model_run.Workload(ours.model_run.BATCH, 16, 1, None, 7)]
        )
    except Exception as problem:
        read = [problem]
    if read != [[7.0]]:
        yield f"llama-batched-bench writes {line}; we read {read}"


def check_results(llama: LlamaTree) -> Iterable[str]:
    code = llama.code(RESULTS)
    used = set(ours.verify.all_logits.__code__.co_consts) & {"tokens", "logits"}
    return [
        f"llama-results writes no tensor {name}"
        for name in sorted(used)
        if not re.search(rf'ggml_set_name\(t_\w+, "{name}"\)', code)
    ]


FACTS = [
    Fact(
        "programs that are built",
        [ours.llama_build],
        "tools/*/CMakeLists.txt",
        check_targets,
        (("tools/results/CMakeLists.txt", "set(TARGET llama-results)", "set(TARGET llama-check)"),),
    ),
    Fact(
        "build options",
        [ours.llama_build],
        CMAKE,
        check_cmake_options,
        (
            ("CMakeLists.txt", "option(LLAMA_BUILD_APP ", "option(LLAMA_APP "),
            ("ggml/CMakeLists.txt", "option(GGML_CPU_ALL_VARIANTS ", "option(GGML_ALL_VARIANTS "),
        ),
    ),
    Fact(
        "options of llama.cpp's programs",
        [ours.llama_run, ours.llama_draft, ours.llama_drafted, ours.model_run, ours.verify],
        ARG_CPP,
        check_common_options,
        (
            (ARG_CPP, '{"--no-display-prompt"}', '{"--hide-prompt"}'),
            (ARG_CPP, '{"-ntg"}', '{"-ngt"}'),
            (ARG_CPP, '{"--host"}', '{"--address"}'),
            (ARG_CPP, '{"-m", "--model"}', '{"--model"}'),
            (ARG_CPP, '" - 3: info\\n"', '" - 3: warning\\n"'),
            (ARG_CPP, 'value == "jsonl"', 'value == "lines"'),
        ),
    ),
    Fact(
        "options that are passed on",
        [ours.llama_options],
        ARG_CPP,
        check_list_of_options,
        (
            (ARG_CPP, '{"--top-k"}', '{"--best-k"}'),
            (
                ARG_CPP,
                "(common_params & params, int value) {\n            params.n_print",
                "(common_params & params) {\n            params.n_print",
            ),
        ),
    ),
    Fact(
        "options of llama-bench",
        [ours.model_run],
        BENCH,
        check_bench_options,
        (
            (BENCH, 'arg == "--progress"', 'arg == "--verbose-progress"'),
            (BENCH, 'arg == "-ctk"', 'arg == "-kt"'),
            (BENCH, 's == "json"', 's == "jsn"'),
        ),
    ),
    Fact(
        "contexts of llama-bench",
        [ours.bench_context, ours.model_run],
        f"{BENCH}, {ARG_CPP}, {CONTEXT}",
        check_contexts,
        (
            (BENCH, 's == "iq4_nl"', 's == "iq4"'),
            (BENCH, 's == "bf16"', 's == "f32"'),
            (ARG_CPP, 'value == "off"', 'value == "no"'),
            (BENCH, "cstate.depth = t.n_depth;", ""),
            (BENCH, "depth run %d/%d", "context run %d/%d"),
            (BENCH, "for (const auto & nt : params.n_threads)", "for (const auto & nt : numbers)"),
            (BENCH, '"n_depth",', '"depth",'),
            (CONTEXT, "quantized V cache requires flash_attn", "quantized V cache needs flash_attn"),
            (CONTEXT, "n_ctx_seq (%u) > n_ctx_train (%u)", "n_ctx_seq (%u) is above n_ctx_train (%u)"),
        ),
    ),
    Fact(
        "lines with speeds",
        [ours.llama_run],
        SAMPLING_CPP,
        check_speeds,
        (
            (SAMPLING_CPP, "%s: prompt eval time =", "%s: prompt time ="),
            (SAMPLING_CPP, "%8.2f tokens per second", "%8.2f t/s, per second"),
        ),
    ),
    Fact(
        "what begins a log line",
        [ours.llama_run],
        LOG_CPP,
        check_log_prefix,
        ((LOG_CPP, "%s%d.%02d.%03d.%03d%s ", "%s[%d:%02d.%03d.%03d]%s "), (LOG_CPP, '"%sI %s"', '"%sINFO %s"')),
    ),
    Fact(
        "what ends a text",
        [ours.llama_run],
        COMPLETION,
        check_end_of_text,
        ((COMPLETION, '" [end of text]\\n"', '" [the end of text]\\n"'),),
    ),
    Fact(
        "what benchmarks say",
        [ours.model_run],
        f"{BENCH}, {BATCHED}",
        check_bench_lines,
        (
            (BENCH, "generation run %d/%d", "generation %d/%d"),
            (BENCH, '\\"samples_ns\\"', '\\"samples_us\\"'),
            (BATCHED, '\\"t_tg\\": %f', '\\"time_tg\\": %f'),
            (BATCHED, '\\"pl\\": %d', '\\"batch\\": %d'),
        ),
    ),
    Fact(
        "tensors of llama-results",
        [ours.verify],
        RESULTS,
        check_results,
        ((RESULTS, 'ggml_set_name(t_logits, "logits")', 'ggml_set_name(t_logits, "scores")'),),
    ),
]
