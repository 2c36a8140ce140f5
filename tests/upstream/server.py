"""llama-server: its safe settings, what it says when it listens, and where its page is built and looked for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from support.llama_tree import LlamaTree, strings
from upstream import ours
from upstream.fact import Fact
from upstream.programs import ARG_CPP, common_options, formatted

HTTP, SERVER, ASSETS, SVELTE = (
    "tools/server/server-http.cpp",
    "tools/server/server.cpp",
    "scripts/ui-assets.cmake",
    "tools/ui/svelte.config.js",
)


def check_settings(llama: LlamaTree) -> Iterator[str]:
    known, serving = common_options(llama), ours.serving
    for name, variable in (
        (serving.KEY, serving.KEY_VARIABLE),
        (serving.KEY_FILE, serving.KEY_FILE_VARIABLE),
        (serving.ORIGINS, serving.ORIGINS_VARIABLE),
    ):
        if not any(f'set_env("{variable}")' in code for _, _, code in known.get(name, ())):
            yield f"llama-server no longer takes {variable} for {name}"
    if f'params.cors_origins == "{serving.LOCAL_PAGES}"' not in llama.code(HTTP):
        yield f"llama-server gives {serving.ORIGINS} {serving.LOCAL_PAGES} another meaning"


def check_address(llama: LlamaTree) -> Iterator[str]:
    said = [text for text in strings(llama.code(SERVER)) if "listening" in text]
    found = [ours.serving.LISTENING.search(formatted(text, "http://127.0.0.1:1").removesuffix("\\n")) for text in said]
    if [match and match[1] for match in found] != ["http://127.0.0.1:1"]:
        yield f"llama-server says its address as {said}; we look for {ours.serving.LISTENING.pattern}"


def check_page(llama: LlamaTree) -> Iterator[str]:
    place = ours.page.PLACE.relative_to(ours.page.SOURCES).as_posix()
    if f'set(SRC_DIST_DIR "${{UI_SOURCE_DIR}}/{place}")' not in llama.raw(ASSETS):
        yield f"CMake no longer looks for a built page in {ours.page.PLACE}"
    if not re.search(r"process\.env\.LLAMA_UI_OUT_DIR \?\?", llama.raw(SVELTE)):
        yield "the page's build no longer writes to LLAMA_UI_OUT_DIR"


FACTS = [
    Fact(
        "settings of the server",
        [ours.serving],
        f"{ARG_CPP}, {HTTP}",
        check_settings,
        (
            (ARG_CPP, 'set_env("LLAMA_API_KEY")', 'set_env("LLAMA_KEY")'),
            (ARG_CPP, 'set_env("LLAMA_ARG_CORS_ORIGINS")', 'set_env("LLAMA_ARG_ORIGINS")'),
            (HTTP, 'params.cors_origins == "localhost"', 'params.cors_origins == "local"'),
        ),
    ),
    Fact(
        "address of the server",
        [ours.serving],
        SERVER,
        check_address,
        ((SERVER, '"listening on %s\\n"', '"listening at %s\\n"'),),
    ),
    Fact(
        "page of the server",
        [ours.page],
        f"{ASSETS}, {SVELTE}",
        check_page,
        (
            (ASSETS, '"${UI_SOURCE_DIR}/dist"', '"${UI_SOURCE_DIR}/build"'),
            (SVELTE, "process.env.LLAMA_UI_OUT_DIR ??", "process.env.OUT_DIR ??"),
        ),
    ),
]
