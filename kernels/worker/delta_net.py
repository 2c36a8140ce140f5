"""Runs kernels of delta nets in a worker process.

Comes in: a Worker. Goes out: `WorkerDeltaNet`, which has the interface of `native_delta_net.NativeDeltaNet`. The
target's threads take the blocks of a delta net in turn, and equal parts of those of a convolution.
"""

from __future__ import annotations

import numpy as np

from ..native_delta_net import Convolution, Inputs, NativeDeltaNet
from . import Worker, memory_of, packed_arrays
from .protocol import CONVOLVING, DELTA_NET_ROW, KERNEL_CHOICE, UPDATING, operation


class WorkerDeltaNet(NativeDeltaNet):
    """The kernels of delta nets of a target."""

    def __init__(self, worker: Worker):
        self.library = worker
        self.rows = worker.list_rows("list_delta_nets", DELTA_NET_ROW)

    def ask_dispatcher(self, features: int, forced: bytes) -> tuple[str, str]:
        return self.library.ask_choice("select_delta_net", KERNEL_CHOICE.pack(features, len(forced)) + forced)

    def update(
        self, name: str, inputs: Inputs, is_in_place: bool = False, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """As NativeDeltaNet's, in the target's threads or so many."""
        known = {"kernel": self.row(name).index, "threads": threads or self.library.target.threads}
        request = operation("update") + UPDATING.pack_named(
            inputs.numbers() | known | {"is_in_place": int(is_in_place), "state_bytes": inputs.states.nbytes}
        )
        request += packed_arrays([memory_of(array) for array in inputs.arrays])
        out, kept = np.empty(inputs.v.shape, np.float32), np.empty(inputs.kept_shape, np.float32)
        answer = np.frombuffer(self.library.ask(request, out.nbytes + kept.nbytes), np.float32)
        out[...], kept[...] = answer[: out.size].reshape(out.shape), answer[out.size :].reshape(kept.shape)
        return out, kept

    def convolve(self, name: str, inputs: Convolution, threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As NativeDeltaNet's, in the target's threads or so many."""
        window, out = np.empty(inputs.window_shape, np.float32), np.empty(inputs.x.shape, np.float32)
        known = {"blocks": inputs.blocks, "window_bytes": window.nbytes, "out_bytes": out.nbytes}
        known |= {"kernel": self.row(name).index, "threads": threads or self.library.target.threads}
        request = operation("convolve") + CONVOLVING.pack_named(inputs.numbers() | known)
        request += packed_arrays([memory_of(array) for array in inputs.arrays])
        answer = np.frombuffer(self.library.ask(request, window.nbytes + out.nbytes), np.float32)
        window[...], out[...] = answer[: window.size].reshape(window.shape), answer[window.size :].reshape(out.shape)
        return window, out
