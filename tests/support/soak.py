"""Clients that stream, cancel and reconnect, for as long as one likes, and what they saw.

Every answer is compared with what the server says to one client alone. A difference is a near tie if that answer had
taken the other token with almost the same likelihood; anything else is wrong.
"""

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TOKENS = 24
# Seconds that a request may take: the machine may be busy with something else.
PATIENCE = 600
PROMPTS = (
    "Once upon a time there was a little dog",
    "One morning, Mia went to the forest",
    "Tom had a big red ball",
    "The cat saw a bird in the tree and",
    "Lily and Ben like to play in the park. One day",
    "Mom said to Anna,",
)


class Wrong(Exception):
    """An answer that is not the one of a single client."""


@dataclass(frozen=True)
class Reference:
    """What one client alone is told: the pieces of the text, and for each piece the logarithm of its probability and
    that of the others that came near.
    """

    pieces: tuple[str, ...]
    chances: tuple[dict[str, float], ...]

    @property
    def text(self):
        return "".join(self.pieces)

    def distance(self, text, *, whole):
        """How much less likely the first other token of `text` was, in nats; 0 for the same text. Raises Wrong."""
        if text == self.text or (not whole and self.text.startswith(text)):
            return 0.0
        at, before = 0, []
        for piece, chances in zip(self.pieces, self.chances):
            rest = text[at:]
            others = {other: chance for other, chance in chances.items() if other not in ("", piece)}
            near = [chances[piece] - chance for other, chance in others.items() if rest.startswith(other)]
            if not rest.startswith(piece):
                # An answer with " there" instead of " the" begins with both, and differs at the next piece.
                if near or before:
                    return min(near or before)
                # A cancelled answer may end within a token.
                break
            at, before = at + len(piece), near
        raise Wrong(f"{text!r} instead of {self.text!r}")


@dataclass
class Tally:
    """What all clients saw together."""

    whole: int = 0
    cancelled: int = 0
    resumed: int = 0
    ties: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what, distance):
        with self.lock:
            setattr(self, what, getattr(self, what) + 1)
            if distance:
                self.ties.append(distance)

    def fail(self, problem):
        with self.lock:
            self.problems.append(problem)


def reference(url, prompt):
    """Asks once, with the likelihoods."""
    connection = _connect(url)
    _post(connection, "/completion", _body(prompt) | {"n_probs": 10})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    chosen = answer["completion_probabilities"]
    chances = [{each["token"]: each["logprob"] for each in (*step["top_logprobs"], step)} for step in chosen]
    return Reference(tuple(step["token"] for step in chosen), tuple(chances))


class Client(threading.Thread):
    """Asks again and again until `end` (of time.monotonic): reads a whole answer, or leaves in the middle, or leaves
    and comes back for the rest. Between two requests it thinks, `thinks` seconds at most.
    """

    def __init__(self, number, url, references, tally, end, thinks, seed):
        super().__init__(daemon=True)
        self.url, self.references, self.tally, self.end, self.thinks = url, references, tally, end, thinks
        self.random, self.name = random.Random(f"{seed}-{number}"), f"client-{number}"
        self.connection = None

    def run(self):
        while time.monotonic() < self.end:
            what = self.random.choices(("whole", "cancelled", "resumed"), (5, 3, 2))[0]
            prompt = self.random.choice(list(self.references))
            try:
                text = getattr(self, f"_{what}")(prompt)
                distance = self.references[prompt].distance(text, whole=what != "cancelled")
                self.tally.count(what, distance)
            except Exception as problem:
                self.tally.fail(f"{self.name}, {what}, {prompt!r}: {type(problem).__name__}: {problem}")
                self._leave()
            if self.random.random() < 0.5:
                self._leave()
            time.sleep(max(0, min(self.random.uniform(0, self.thinks), self.end - time.monotonic())))
        self._leave()

    def _ask(self, prompt, **headers):
        body = _body(prompt) | {"stream": True}
        if self.connection:
            try:
                _post(self.connection, "/completion", body, **headers)
                return self.connection.getresponse()
            except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
                # A server may close a connection that was kept; the client asks again by a new one.
                self._leave()
        self.connection = _connect(self.url)
        _post(self.connection, "/completion", body, **headers)
        return self.connection.getresponse()

    def _leave(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def _whole(self, prompt):
        return _text(self._ask(prompt).read())

    def _cancelled(self, prompt):
        """The text until the connection is closed, after some pieces or none."""
        response, text = self._ask(prompt), b""
        for _ in range(2 * self.random.randrange(TOKENS // 2)):
            text += response.readline()
        response.close()
        self._leave()
        return _text(text)

    def _resumed(self, prompt):
        """As the server's page does it: the answer goes on while nobody listens, and is read on from a byte."""
        response, seen = self._ask(prompt, **{"X-Conversation-Id": self.name}), b""
        for _ in range(2 * self.random.randrange(TOKENS // 2)):
            seen += response.readline()
        response.close()
        self._leave()
        time.sleep(self.random.uniform(0, 0.2))
        self.connection = _connect(self.url)
        self.connection.request("GET", f"/v1/stream?conv_id={self.name}&from={len(seen)}")
        response = self.connection.getresponse()
        if response.status != http.client.OK:
            raise Wrong(f"HTTP {response.status}: {response.read()!r}")
        return _text(seen + response.read())


def _connect(url):
    return http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)


def _body(prompt):
    return {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "ignore_eos": True}


def _post(connection, path, body, **headers):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})


def _text(events):
    """The text of server-sent events. Raises Wrong for an error among them."""
    text = ""
    for line in events.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line.removeprefix("data: "))
            if "error" in event:
                raise Wrong(f"the server says {event['error']}")
            text += event.get("content", "")
    return text
