"""The server's page in headless Chromium: a person opens it, types, and reads an answer that grows.

It is built by npm (about two minutes), so the test runs where TMAC_TEST_PAGE is set, as CI does, and needs Debian's
chromium and chromium-driver. The screenshot is kept as build/page.png.
"""

import json
import os
import time

import pytest

from support import browser
from support.server import serving
from tmac.common import lock
from tmac.common.paths import work_folder
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import page
from tmac.tools.pipeline import BUILD_LOCK

QUESTION = "Tell me about a little dog"
# Every text that the answer had while it grew.
WATCH = """
window.seen = [];
new MutationObserver(() => {
    const text = document.querySelector("[aria-label='Assistant message with actions']")?.innerText;
    if (text && seen[seen.length - 1] !== text) seen.push(text);
}).observe(document.body, {subtree: true, childList: true, characterData: true});
"""

TOKENS = 200
# All that was seen, when the page has counted the last token: it counts, and says the speed, while the answer grows.
ENDED = f"return /\\b{TOKENS} tokens/.test(seen[seen.length - 1] ?? '') ? JSON.stringify(seen) : ''"

if not os.environ.get("TMAC_TEST_PAGE"):
    pytest.skip("TMAC_TEST_PAGE is not set: .ci/run sets it where Node.js is 20.19 or later", allow_module_level=True)


@pytest.fixture(scope="module")
def build_with_page(llama_tree, build):
    """The build, its server with the page; without it again for the other tests."""

    def compile_with(built):
        with lock.held(BUILD_LOCK, "building llama.cpp"):
            page.place(llama_tree, built)
            llama_build.compile_targets(llama_tree, build.folder, ["llama-server"])

    try:
        compile_with(page.build(llama_tree))
        yield build
    finally:
        compile_with(None)


def until(condition, what):
    for _ in range(300):
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"{what} did not come within a minute")


def test_person_chats_in_the_browser(build_with_page, converted, monkeypatch):
    """The small model by its slowest kernels: otherwise an answer is there at once."""
    assert not browser.obstacle(), browser.obstacle()
    monkeypatch.setenv("TMAC_KERNEL", "scalar")
    slow = ["-n", str(TOKENS), "--ignore-eos", "--temp", "0", "-t", "1", "-c", "512"]
    with serving(build_with_page, converted("w2g64z"), *slow) as server, browser.browsing() as chromium:
        chromium.open(server.url)
        until(lambda: chromium.run("return document.querySelector('textarea') !== null"), "the page")
        chromium.run(WATCH)
        chromium.type("textarea", QUESTION + "\ue007")
        seen = until(lambda: chromium.run(ENDED), "the end of an answer")
        chromium.screenshot(work_folder() / "page.png")
        assert QUESTION in chromium.run("return document.body.innerText")
    lengths = [len(text) for text in json.loads(seen) if "Processing" not in text]
    assert len(set(lengths)) > 5 and lengths[-1] > lengths[0] + 100, seen


def test_page_loads_without_a_key_and_asks_for_it(build_with_page, converted):
    """Its files are no secret; what it asks the model needs the key."""
    with serving(build_with_page, converted("w2g64z"), "--api-key", "k") as server, browser.browsing() as chromium:
        chromium.open(server.url)
        until(lambda: "api key" in chromium.run("return document.body.innerText").lower(), "the question for the key")
