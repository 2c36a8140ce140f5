"""`tmac serve` under eight clients that stream, cancel and come back: half a minute of it, or as long as
`tmac test --soak MINUTES` says.
"""

import sys
import time
from pathlib import Path

import pytest

from support import soak
from support.server import served
from tmac.tools.llama import ready as llama_ready

CLIENTS = 8
SECONDS = 15
# Between two requests of a client, at most.
THINKS = {"short": 0.3, "long": 1.0}
# After the first part of the time the server takes no more memory but for what fragments, and what threads of their own
# that many requests at once need keep.
WARM, GROWTH_KIB = 0.3, 4096
# Two tokens that are as likely as that are a matter of rounding.
NEAR_TIE = 0.1
# What makes an answer independent of the other clients: sums without rounding, whatever kernel the number of tokens
# chooses; a cache of its own, in which the order of positions is that of the text; and a prompt that is computed as a
# whole.
ALONE = ("--precision", "exact", "-np", str(CLIENTS), "--no-kv-unified", "--no-cache-prompt")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def resident_kib(pid):
    """Of the program that tmac started, and of no other."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    for line in Path(f"/proc/{children[0]}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"{children[0]} has no memory")


@pytest.mark.parametrize("setting", ["default", "alone"])
def test_clients_stream_cancel_and_come_back(build, converted, request, setting):
    """No request fails, memory stays flat, no slot stays busy, and every answer is that of a single client: with the
    settings that make it independent of others exactly, by default up to tokens that are equally likely.
    """
    llama_ready.mark(build.folder, llama_ready.state(portable=False))
    minutes = request.config.getoption("--soak")
    seconds, thinks = (minutes * 60, THINKS["long"]) if minutes is not None else (SECONDS, THINKS["short"])
    options = ("-t", "1", "--ctx-size", "4096", "--slots", *(ALONE if setting == "alone" else ()))
    with served(converted("w2g64z"), *options) as server:
        references = {prompt: soak.reference(server.url, prompt) for prompt in soak.PROMPTS}
        tally, start = soak.Tally(), time.monotonic()
        clients = [
            soak.Client(number, server.url, references, tally, start + seconds, thinks, seed=1)
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        memory = watch(server, clients, start, seconds)
        # What the last ones cancelled ends within a second.
        last = time.monotonic() + 30
        while busy := [slot["id"] for slot in server.get("/slots") if slot["is_processing"]]:
            if time.monotonic() > last:
                break
    ties = f"{len(tally.ties)} near ties of at most {max(tally.ties, default=0):.3f} nats"
    print(f"{setting}: {tally.whole} whole, {tally.cancelled} cancelled, {tally.resumed} read on, {ties}")
    print(f"KiB from time to time: {memory}")
    assert not tally.problems, tally.problems[:10]
    assert min(tally.whole, tally.cancelled, tally.resumed) > seconds / 5
    assert not busy
    assert max(tally.ties, default=0) <= (0 if setting == "alone" else NEAR_TIE)
    warm = memory[int(len(memory) * WARM)]
    assert max(memory) <= warm + GROWTH_KIB, memory


def watch(server, clients, start, seconds):
    """The server's memory, each minute or a tenth of the time, until all clients have ended."""
    memory, pause = [], min(60, seconds / 10)
    while any(client.is_alive() for client in clients):
        memory.append(resident_kib(server.process.pid))
        assert time.monotonic() < start + seconds + soak.PATIENCE, "clients wait for answers"
        for client in clients:
            client.join(max(0, start + len(memory) * pause - time.monotonic()))
    return memory
