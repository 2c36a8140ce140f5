"""Servers of layers (ggml-rpc-server) on ports of this machine, for a test."""

import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerServer:
    process: subprocess.Popen
    endpoint: str
    log: object

    def said(self):
        return self.log.read_text()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def layer_server(program, log):
    """One that listens, ended with the block."""
    port = free_port()
    with open(log, "wb") as out:
        command = [str(program), "-H", "127.0.0.1", "-p", str(port), "-t", "1"]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={"TMAC_LOG": "1"})
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        yield LayerServer(process, f"127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait(timeout=30)
