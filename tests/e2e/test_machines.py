"""A model whose layers lie on several machines (--rpc): here on servers at two ports of this one."""

import io
import json
import re
import socket
import threading
import time
import urllib.error
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
import pytest

from support.comparison import FLOAT_ATTENTION, nmse
from support.expert_models import expert_model
from support.machines import free_port, layer_server
from support.rotated_models import PQ2_0, RotatedModel
from support.server import serving
from support.tiny_models import logits
from tmac.common.errors import TmacError
from tmac.common.format import TYPES_BY_NAME
from tmac.convert.pipeline import convert
from tmac.tools.llama import run as llama_run

PRODUCTS = re.compile(r"tmac: (\d+) x tmac_\w+ by ")
HELLO_ANSWER = 8 + 3  # bytes before the one by which a server of ours says its types


@pytest.fixture
def servers(build, tmp_path):
    """A function: starts one more server."""
    with ExitStack() as stack:
        count = iter(range(10))
        yield lambda: stack.enter_context(
            layer_server(build.binary("ggml-rpc-server"), tmp_path / f"server-{next(count)}.log")
        )


def joined(*servers):
    return ",".join(server.endpoint for server in servers)


def write(build, model, *extra, n_predict=40):
    options = llama_run.Options(n_predict=n_predict, temperature=0, seed=1, extra=extra)
    return llama_run.generate(build, model, "Once upon a time", options, out=io.BytesIO())


def test_two_servers_give_the_text_of_one_machine(build, converted, servers):
    """All products are computed by T-MAC's kernels on the servers, none here. The ends are in types that are computed
    alike on both sides: a repacked one would round otherwise.
    """
    model = converted("w2g64z", embedding="f16", head="f16")
    alone = write(build, model, *FLOAT_ATTENTION)
    first, second = servers(), servers()
    spread = write(build, model, *FLOAT_ATTENTION, "--rpc", joined(first, second))
    assert spread.text == alone.text and len(alone.text.split()) > 10 and spread.kernels == []
    assert nmse(logits(build, model, "--rpc", joined(first, second)), logits(build, model)) < 1e-6
    counts = [max(map(int, PRODUCTS.findall(server.said()))) for server in (first, second)]
    assert all(counts) and sum(counts) == 28


@pytest.mark.parametrize("layers", ["2", "4"])
def test_some_layers_stay_here(build, converted, servers, layers):
    model = converted("w2g64z", embedding="f16", head="f16")
    alone, server = write(build, model, *FLOAT_ATTENTION), servers()
    spread = write(build, model, *FLOAT_ATTENTION, "--rpc", server.endpoint, "-ngl", layers)
    assert spread.text == alone.text and PRODUCTS.search(server.said())


def test_column_orders_and_exact_precision_travel_with_the_weights(build, tmp_path, servers):
    """Experts with `.order` tensors, and weights that a model trained with int8 activations marks."""
    server = servers()
    for name, options in (("w4g128", {"has_orders": True}), ("w2t", {})):
        path = expert_model(TYPES_BY_NAME[name], **options).write(tmp_path / f"{name}.gguf")
        assert nmse(logits(build, path, "--rpc", server.endpoint), logits(build, path)) < 1e-6


def test_hybrid_model_whose_rotation_is_computed_here(build, tmp_path, servers):
    """The rotation is a function of this process, so activations come back for it; delta nets are on the server."""
    source = RotatedModel().write(tmp_path / "rotated.gguf", PQ2_0)
    convert(source, path := tmp_path / "tmac.gguf", progress=False, log=lambda line: None)
    server = servers()
    # In one batch, and token by token: the same graph again, in which delta nets update their states in place.
    for ubatch in ("512", "1"):
        alone = logits(build, path, "-ub", ubatch)
        assert nmse(logits(build, path, "-ub", ubatch, "--rpc", server.endpoint), alone) < 1e-6


@contextmanager
def as_stock(endpoint):
    """A port at which a server of ours looks like llama.cpp's own, whose greeting has 0 where ours says its types."""
    host, port = endpoint.split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source, target, changed_at):
        at = 0
        with source, target:
            while piece := source.recv(1 << 16):
                if changed_at is not None and at <= changed_at < at + len(piece):
                    assert piece[changed_at - at] != 0
                    piece = piece[: changed_at - at] + b"\0" + piece[changed_at - at + 1 :]
                at += len(piece)
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            for arguments in ((client, server.dup(), None), (server, client.dup(), HELLO_ANSWER)):
                threading.Thread(target=_quietly, args=(copy, *arguments), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _quietly(function, *arguments):
    with suppress(OSError):
        function(*arguments)


def test_server_without_our_types_is_refused_by_name(build, converted, servers, tmp_path):
    """While the model is loaded, and not for a model in llama.cpp's types."""
    with as_stock(servers().endpoint) as endpoint:
        floats = RotatedModel().write(tmp_path / "floats.gguf")
        assert nmse(logits(build, floats, "--rpc", endpoint), logits(build, floats)) < 1e-6
        with pytest.raises(TmacError, match="exit code 1") as caught:
            write(build, converted("w2g64z"), "--rpc", endpoint)
    assert re.search(
        rf"tmac: the RPC server {endpoint} is llama.cpp without T-MAC: it cannot compute with "
        r"'blk\.\d+\.\w+\.weight' of type tmac_w2g64z",
        caught.value.message,
    )


def test_address_without_a_server_is_a_sentence(build, converted):
    endpoint = f"127.0.0.1:{free_port()}"
    with pytest.raises(TmacError, match=f"the RPC server {endpoint} cannot be reached") as caught:
        write(build, converted("w2g64z"), "--rpc", endpoint)
    assert "exit code 1" in caught.value.message


def test_server_that_dies_ends_the_run_with_a_sentence(build, converted, servers):
    """Not with an abort, and not with other words than the model's."""
    server, model = servers(), converted("w2g64z", embedding="f16", head="f16")
    alone = write(build, model, *FLOAT_ATTENTION, "--ignore-eos", n_predict=300).text
    out = _Killing(server.process, after=100)
    options = llama_run.Options(
        n_predict=2000, temperature=0, seed=1, extra=[*FLOAT_ATTENTION, "--ignore-eos", "--rpc", server.endpoint]
    )
    with pytest.raises(TmacError, match="llama-completion ended with exit code 1") as caught:
        llama_run.generate(build, model, "Once upon a time", options, out=out)
    assert f"tmac: the RPC server {server.endpoint} is lost" in caught.value.message
    assert alone.startswith(out.getvalue().decode()[:100])


class _Killing(io.BytesIO):
    """Kills a process when so many bytes were written."""

    def __init__(self, process, after):
        super().__init__()
        self.process, self.after = process, after

    def write(self, piece):
        written = super().write(piece)
        if self.tell() > self.after:
            self.process.kill()
        return written


def test_server_of_layers_that_dies_ends_llama_server(build, converted, servers):
    """Its client's answer is cut off; the exit code is 1."""
    layers = servers()
    with serving(build, converted("w2g64z"), "--rpc", layers.endpoint) as server:
        assert server.complete("Once upon a time", 4)
        layers.process.kill()
        with pytest.raises((urllib.error.URLError, OSError, json.JSONDecodeError)):
            server.complete("Once upon a time", 4)
        for _ in range(100):
            if server.process.poll() is not None:
                break
            time.sleep(0.1)
        assert server.process.returncode == 1


def test_plain_run_has_no_server(build, converted):
    """The backend is in the build, and without --rpc it has no device: the weights stay mapped."""
    result = write(build, converted("w2g64z"), n_predict=4)
    assert result.kernels and np.all([line.startswith("tmac: ") for line in result.kernels])
