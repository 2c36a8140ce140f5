"""What the kernels of attention, of delta nets and of rotations have in common: one per instruction set, in a catalog.

Comes in: a Library. Goes out: `NativeRows`, and `ForcibleRows` for those of which a name can be forced.
"""

from __future__ import annotations

import ctypes

from .errors import KernelError
from .native import Library


class NativeRows:
    """The catalog in C of some kernels of a library: `rows`, each with a name and CPU features.

    SYMBOL  in the names of C symbols: tmac_<SYMBOL>_kernels
    KIND    what a kernel is called in messages
    """

    SYMBOL: str
    KIND: str
    rows: list | ctypes.Array

    def __init__(self, library: Library, row: type[ctypes.Structure]):
        self.library = library
        count = ctypes.c_size_t.in_dll(library.c, f"tmac_{self.SYMBOL}_kernel_count").value
        self.rows = (row * count).in_dll(library.c, f"tmac_{self.SYMBOL}_kernels")
        self.c_select = getattr(library.c, f"tmac_select_{self.SYMBOL}")
        self.c_select.restype = ctypes.POINTER(row)

    def features_or_own(self, cpu_features: int | None) -> int:
        """The features that a kernel is selected for: by default this CPU's."""
        return self.library.cpu_features() if cpu_features is None else cpu_features

    def runs_here(self, name: str) -> bool:
        """Whether this CPU has the features that a kernel needs."""
        return not self.row(name).cpu_features & ~self.library.cpu_features()

    def row(self, name: str):
        """The row of the kernel `name`. Raises KernelError if there is none."""
        for row in self.rows:
            if row.name.decode() == name:
                return row
        raise KernelError(f"no {self.KIND} called {name!r} was compiled for {self.library.architecture}")


class ForcibleRows(NativeRows):
    """Kernels of which a user can force one, by its name or its instruction set."""

    def __init__(self, library: Library, row: type[ctypes.Structure]):
        super().__init__(library, row)
        self.c_select.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]

    def select(self, forced: str = "", cpu_features: int | None = None) -> str:
        """The name of the kernel that dispatch chooses. Raises KernelError with the dispatcher's message."""
        found, error = self.ask_dispatcher(self.features_or_own(cpu_features), forced.encode())
        if not found:
            raise KernelError(error, "`tmac doctor` shows what this CPU has")
        return found

    def ask_dispatcher(self, features: int, forced: bytes) -> tuple[str, str]:
        """The kernel's name, empty if there is none, and the message that says why."""
        error = ctypes.create_string_buffer(200)
        found = self.c_select(features, forced, error, len(error))
        return found.contents.name.decode() if found else "", error.value.decode()
