"""`tmac serve` with the real server: what a browser gets, who may ask, what the log never says, where it listens."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from support.server import serving

KEY = "sk-abcd"


def get(url, **headers):
    request = urllib.request.Request(url, headers={name.replace("_", "-"): value for name, value in headers.items()})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode(), answer.headers


@pytest.fixture(scope="module")
def model(converted):
    return converted("w2g64z")


def test_build_without_a_page_says_so_to_a_person(build, model):
    """A sentence in HTML with what to do, where llama.cpp's server has an error in JSON."""
    with serving(build, model) as server:
        for path in ("/", "/index.html"):
            text, headers = get(server.url + path)
            assert headers["Content-Type"].startswith("text/html") and "tmac build --ui" in text and "/v1" in text


@pytest.fixture
def served(build, model, monkeypatch):
    """`tmac serve` on a free port, as a user starts it: the process and all that it said until it listened."""
    code = (
        "import sys; from pathlib import Path; from tmac.tools.llama import build, serving; "
        "serving.serve(build.Build(Path(sys.argv[1])), sys.argv[2:4], sys.argv[4:], {}, '127.0.0.1', 0)"
    )
    started = []

    def start(*arguments):
        command = [sys.executable, "-c", code, build.folder, "-m", model, *arguments]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        started.append(process)
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.match(r"open (\S+) in a browser; programs use", line):
                return process, found[1], said
        raise AssertionError("".join(said))

    yield start
    for process in started:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_printed_address_is_the_one_that_listens(served):
    _, url, _ = served()
    assert '"ok"' in get(f"{url}/health")[0]


def test_pages_of_this_machine_alone_may_read_answers(served):
    _, url, _ = served()
    allowed = "Access-Control-Allow-Origin"
    assert get(f"{url}/v1/models", Origin="http://localhost:3000")[1][allowed] == "http://localhost:3000"
    assert get(f"{url}/v1/models", Origin="https://evil.example")[1][allowed] is None


def test_key_is_asked_for_and_never_said(served):
    """At the highest level of the log, also with a key so short that its last four letters are most of it."""
    process, url, said = served("--api-key", KEY, "-lv", "5")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{url}/v1/models")
    assert "data" in get(f"{url}/v1/models", Authorization=f"Bearer {KEY}")[0]
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[1]
    assert "llama-server" in said[0] and KEY[-4:] not in "".join(said) + rest


@pytest.mark.parametrize("request_under_way", ["whole", "stream", "page", "resumed"])
def test_one_signal_ends_a_server_at_work(build, model, monkeypatch, request_under_way):
    """Whatever its clients still wait for: an answer, a stream, one of the page, which goes on without a client."""
    monkeypatch.setenv("TMAC_KERNEL", "scalar")  # slow, so that the answer is not complete before the signal
    endless = {"prompt": "Once", "n_predict": -1, "ignore_eos": True, "stream": request_under_way != "whole"}
    named = {"X-Conversation-Id": "one"} if request_under_way in ("page", "resumed") else {}
    with serving(build, model, "-c", "512", "--context-shift", "-t", "1") as server:
        client = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
        client.request("POST", "/completion", json.dumps(endless), {"Content-Type": "application/json"} | named)
        if request_under_way != "whole":
            assert client.getresponse().readline().startswith(b"data: ")
        if request_under_way == "resumed":
            client.close()
            client.request("GET", "/v1/stream?conv_id=one&from=0")
            assert client.getresponse().readline().startswith(b"data: ")
        # A request is taken up some time after it was sent.
        last = time.monotonic() + 60
        while not any(slot["is_processing"] for slot in server.get("/slots")):
            assert time.monotonic() < last
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
