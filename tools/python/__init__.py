"""`import tmac.python`, before `import llama_cpp`: the binding llama-cpp-python then computes with T-MAC's kernels.

Nothing is built here: an import must not take minutes.
"""

from tmac.common import packaged
from tmac.common.errors import TmacError
from tmac.tools.llama import binding
from tmac.tools.llama.build import Build, build_folder
from tmac.tools.pipeline import last_choice


def _use() -> None:
    try:
        carried = packaged.used()
        choice = last_choice()
        binding.use(Build(carried or build_folder(choice.portable, choice.source)))
    except TmacError as problem:
        raise ImportError(f"{problem.message}\nhint: {problem.hint}") from None


_use()
