"""Calls the compiled kernels of delta nets from Python, with numpy arrays in and out.

All arithmetic is the kernels' own. `Inputs` are the operands of one delta net, `Convolution` those of the convolution
before it. `NativeDeltaNet` computes both in this process; worker/delta_net.py does the same in another one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .delta_net import BLOCK_ROWS, CHANNEL_BLOCK
from .interface import CONVOLUTION, DELTA_NET, DELTA_NET_KERNEL
from .native import Library
from .native_rows import ForcibleRows

CDeltaNet, CConvolution, CKernel = (s.as_ctypes() for s in (DELTA_NET, CONVOLUTION, DELTA_NET_KERNEL))


@dataclass(frozen=True)
class Inputs:
    """The operands of one delta net, all float32. Vectors of q, k and v may lie apart, the rest is contiguous.

    q, k          [sequences, tokens, groups, width]
    v             [sequences, tokens, heads, width]
    gates, betas  [sequences, tokens, heads]
    states        [sequences, heads, width, width], a row for each value
    snapshots     the states after so many of the last tokens are wanted
    """

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    gates: np.ndarray
    betas: np.ndarray
    states: np.ndarray
    scale: float = 1
    snapshots: int = 1

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.q, self.k, self.v, self.gates, self.betas, self.states

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """Of the states after the last token, after the one before it, ..."""
        return (self.snapshots, *self.states.shape)

    @property
    def blocks(self) -> int:
        """The parts of the work."""
        sequences, heads, width, _ = self.states.shape
        return sequences * heads * width // BLOCK_ROWS

    def numbers(self) -> dict[str, float]:
        """The fields of `struct tmac_delta_net` that are numbers."""
        sequences, tokens, heads, width = self.v.shape
        strides = {
            f"{name}_{of}_bytes": stride
            for name, array in (("q", self.q), ("k", self.k), ("v", self.v))
            for of, stride in zip(("sequence", "token", "head"), array.strides)
        }
        return strides | {
            "from_sequence_bytes": self.states[0].nbytes,
            "to_sequence_bytes": self.states[0].nbytes,
            "snapshots": self.snapshots,
            "snapshot_bytes": self.states.nbytes,
            "width": width,
            "heads": heads,
            "groups": self.q.shape[2],
            "tokens": tokens,
            "sequences": sequences,
            "scale": self.scale,
        }


@dataclass(frozen=True)
class Convolution:
    """The operands of one convolution, all float32. The vectors of x may lie apart, the rest is contiguous.

    before   [sequences, channels, taps - 1]
    x        [sequences, tokens, channels]
    weights  [channels, taps]
    """

    before: np.ndarray
    x: np.ndarray
    weights: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.before, self.x, self.weights

    @property
    def window_shape(self) -> tuple[int, ...]:
        sequences, tokens, channels = self.x.shape
        return sequences, channels, self.before.shape[2] + tokens

    @property
    def blocks(self) -> int:
        """The parts of the work."""
        return self.x.shape[0] * self.x.shape[2] // CHANNEL_BLOCK

    def numbers(self) -> dict[str, int]:
        """The fields of `struct tmac_convolution` that are numbers."""
        sequences, tokens, channels = self.x.shape
        return {
            "before_sequence_bytes": self.before[0].nbytes,
            "x_token_bytes": self.x.strides[1],
            "x_sequence_bytes": self.x.strides[0],
            "channels": channels,
            "taps": self.weights.shape[1],
            "tokens": tokens,
            "sequences": sequences,
        }


class NativeDeltaNet(ForcibleRows):
    """The kernels of delta nets of a library. Checks nothing."""

    SYMBOL, KIND = "delta_net", "kernel of delta nets"

    def __init__(self, library: Library):
        super().__init__(library, CKernel)
        library.c.tmac_delta_net_blocks.restype = ctypes.c_int64

    def update(
        self, name: str, inputs: Inputs, is_in_place: bool = False, order: Iterable[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(result [sequences, tokens, heads, width], kept states as kept_shape says), by the kernel `name`.

        is_in_place: the states before and after are the same memory; order: of the blocks, by default 0, 1, 2, ...
        """
        # NaN until they are written.
        out, kept = (np.full(shape, np.nan, np.float32) for shape in (inputs.v.shape, inputs.kept_shape))
        states = kept[0] if is_in_place else inputs.states
        states[...] = inputs.states
        names = ("q", "k", "v", "gates", "betas", "from")
        pointers = {at: array.ctypes.data for at, array in zip(names, (*inputs.arrays[:-1], states))}
        net = CDeltaNet(**pointers, to=kept.ctypes.data, out=out.ctypes.data, **inputs.numbers())
        assert self.library.c.tmac_delta_net_blocks(ctypes.byref(net)) == inputs.blocks
        update = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(self.row(name).update)
        for block in range(inputs.blocks) if order is None else order:
            update(ctypes.addressof(net), block, block + 1)
        return out, kept

    def convolve(
        self, name: str, inputs: Convolution, order: Iterable[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(windows as window_shape says, result [sequences, tokens, channels]), by the kernel `name`.

        order: of the blocks, by default 0, 1, 2, ...
        """
        window, out = (np.full(shape, np.nan, np.float32) for shape in (inputs.window_shape, inputs.x.shape))
        pointers = {at: array.ctypes.data for at, array in zip(("before", "x", "weights"), inputs.arrays)}
        convolution = CConvolution(**pointers, window=window.ctypes.data, out=out.ctypes.data, **inputs.numbers())
        row, blocks = self.row(name), range(inputs.blocks) if order is None else list(order)
        for address in (row.fill, row.convolve):
            function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)
            for block in blocks:
                function(ctypes.addressof(convolution), block, block + 1)
        return window, out
