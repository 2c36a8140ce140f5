"""A wheel as a file: takes it apart and puts it together again, as the Python Packaging User Guide describes it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

# Of every file in the archive, so that the same tree makes the same wheel: the first that a zip archive can say.
DATE = (1980, 1, 1, 0, 0, 0)
PROGRAM, PLAIN = 0o100755, 0o100644


def unpack(wheel: Path, folder: Path) -> None:
    """Writes the files of a wheel of ours into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)


def platform_tag(name: str) -> str:
    """The tag of a platform by its name, such as linux_x86_64."""
    return re.sub(r"[-.]", "_", name)


def _information(tree: Path) -> Path:
    return next(tree.glob("*.dist-info"))


def drop_requirements(tree: Path, packages: Sequence[str]) -> None:
    """Removes packages from those that the wheel always requires; extras keep them."""
    metadata = _information(tree) / "METADATA"
    head, blank, text = metadata.read_text("utf-8").partition("\n\n")
    dropped = re.compile(rf"Requires-Dist: ({'|'.join(map(re.escape, packages))})\b[^;]*$")
    kept = [line for line in head.split("\n") if not dropped.match(line)]
    metadata.write_text("\n".join(kept) + blank + text, "utf-8")


def pack(tree: Path, output: Path, platform: str) -> Path:
    """Packs a tree as a wheel for one platform and any Python 3. Returns the wheel, in `output`."""
    information = _information(tree)
    header = (information / "WHEEL").read_text("utf-8")
    header = header.replace("Root-Is-Purelib: true", "Root-Is-Purelib: false")
    tag = f"py3-none-{platform}"
    (information / "WHEEL").write_text(re.sub(r"(?m)^Tag: .*$", f"Tag: {tag}", header), "utf-8")
    record = information / "RECORD"
    record.unlink()
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    record.write_text(_record(tree, paths, record), "utf-8")
    wheel = output / f"{information.name.removesuffix('.dist-info')}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*paths, record]:
            entry = zipfile.ZipInfo(path.relative_to(tree).as_posix(), DATE)
            entry.external_attr = (PROGRAM if path.stat().st_mode & 0o100 else PLAIN) << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return wheel


def _record(tree: Path, paths: Sequence[Path], record: Path) -> str:
    """The list of files, with their hashes, that an installer checks."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for path in paths:
        content = path.read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow([path.relative_to(tree).as_posix(), f"sha256={digest}", len(content)])
    rows.writerow([record.relative_to(tree).as_posix(), "", ""])
    return text.getvalue()
