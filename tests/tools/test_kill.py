"""SIGKILL at random moments of a conversion and of a build: nothing under a final name is ever incomplete, and the
next run repairs what is left, or says what to remove.

TMAC_KILLS sets how many times each; the moments are spread over all calls that the work makes.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.checkpoints import CHECKPOINTS
from tmac.common.errors import TmacError
from tmac.convert.pipeline import convert
from tmac.tools.llama import build as llama_build
from tmac.tools.llama import patch as llama_patch
from tmac.tools.llama import source as llama_source

KILLS = int(os.environ.get("TMAC_KILLS", "3"))
SEED = 15
SIZE = 1_200_000

# Runs `work` and kills its own process group at the n-th call; without n, says how many there are.
KILLER = """
import os, signal, sys
{imports}
n, count = int(sys.argv[1]), 0
def hook(frame, event, argument):
    global count
    if event in ("call", "c_call"):
        count += 1
        if count == n:
            os.killpg(0, signal.SIGKILL)
sys.setprofile(hook)
try:
    {work}
finally:
    sys.setprofile(None)
    print(count, flush=True)
"""


class Killed:
    """A program to kill at any of its calls."""

    def __init__(self, imports: str, work: str):
        self.script = KILLER.format(imports=imports, work=work)
        self.calls = 0

    def run(self, at: int = 0) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", self.script, str(at)]
        child = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        out, err = child.communicate()
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def moments(self, count: int, seed: int) -> list[int]:
        """Half of them over all calls, half in the last tenth, where names are given."""
        if not self.calls:
            done = self.run()
            assert done.returncode == 0, done.stderr
            self.calls = int(done.stdout.split()[-1])
        rng = random.Random(seed)
        first = [0, self.calls * 9 // 10]
        return [rng.randrange(first[i % 2], self.calls) + 1 for i in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def models(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".gguf")}


@pytest.mark.parametrize("split", [0, SIZE], ids=["one file", "shards"])
@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_conversion(tmp_path, capfd, split, force):
    """What has a final name is complete: the new files, or with --force the old ones; a set is never mixed."""
    source, out = CHECKPOINTS["w2g64z"], tmp_path / "out"
    options = {"split_max_size": split, "progress": False}
    (tmp_path / "whole").mkdir()
    convert(source, tmp_path / "whole" / "m.gguf", log=lambda line: None, **options)
    new = models(tmp_path / "whole")
    old = {name: b"old " + name.encode() for name in new} if force else {}
    work = f"convert({str(source)!r}, {str(out / 'm.gguf')!r}, force={force}, **{options!r})"
    killed = Killed("from tmac.convert.pipeline import convert", work)
    out.mkdir()
    for at in killed.moments(KILLS, SEED + split + force):
        shutil.rmtree(out)
        out.mkdir()
        for name, data in old.items():
            (out / name).write_bytes(data)
        done = killed.run(at)
        assert done.returncode == -signal.SIGKILL, (at, done.stderr)
        left = models(out)
        assert all(data in (new[name], old.get(name)) for name, data in left.items()), at
        # A set is opened by its first file: with it, all others are there, and of the same kind.
        if min(new) in left:
            assert left in (new, old), (at, sorted(left))
        try:
            convert(source, out / "m.gguf", force=force, log=lambda line: None, **options)
        except TmacError as problem:
            # Killed after the last name was given: the file that opens the model is there, and is said to be.
            assert f"{min(new)} exists" in problem.message and left == new and not force, (at, problem)
        assert contents(out) == new, at
        assert [path.name for path in out.iterdir() if path.is_dir()] == [], at


# Makes what is not there, as make does: half a file, and after a moment the other half.
CMAKE = """#!/bin/sh
if [ "$1" = -S ]; then mkdir -p "$4"; touch "$4/CMakeCache.txt"; exit 0; fi
echo $$ > "$2/process"
mkdir -p "$2/bin"
for name in {targets}; do
  if [ -e "$2/bin/$name" ]; then continue; fi
  printf half > "$2/bin/$name"; sleep ${{PAUSE:-0.01}}; printf " and half" >> "$2/bin/$name"
done
"""
BUILD_IMPORTS = """
from pathlib import Path
from tmac.common import lock
from tmac.tools.llama import build, patch, source
source.read_pin = lambda: source.Pin("some-package", "1.0", {sha256!r}, "vendor/llama.cpp")
build.find_cmake = lambda: Path({cmake!r})
build.has_ninja = lambda: False
"""
BUILD_WORK = (
    "with lock.held('build', 'building'): "
    "tree = source.obtain(patches=Path({patches!r})); patch.prepare(tree, lambda folder: [], Path({patches!r})); "
    "build.compile_tree(tree, build.build_folder(), jobs=1)"
)


@pytest.fixture
def tiny(tmp_path, work):
    """An archive of a tree of 30 files, two patches that change all of them, an overlay, and a cmake that is none."""
    import hashlib
    import tarfile

    tree, patches = tmp_path / "some_package-1.0" / "vendor" / "llama.cpp", tmp_path / "patches"
    (tree / "src").mkdir(parents=True)
    (patches / "overlay" / "src").mkdir(parents=True)
    (patches / "overlay" / "src" / "new.c").write_text("int new;\n" * 1000)
    for number in range(30):
        (tree / "src" / f"{number}.c").write_text("".join(f"line {line}\n" for line in range(50)))
    for name, word in (("0001-a.patch", "one"), ("0002-b.patch", "two")):
        hunks = (
            f"--- a/src/{number}.c\n+++ b/src/{number}.c\n@@ -1,2 +1,3 @@\n line 0\n+{word}\n {before}\n"
            for number in range(30)
            for before in (["line 1"] if word == "one" else ["one"])
        )
        (patches / name).write_text("".join(hunks))
    downloads = work / "downloads"
    downloads.mkdir(parents=True)
    archive = downloads / "some_package-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "some_package-1.0", "some_package-1.0")
    cmake = tmp_path / "cmake"
    cmake.write_text(CMAKE.format(targets=" ".join(llama_build.TARGETS)))
    cmake.chmod(0o755)
    facts = {"sha256": hashlib.sha256(archive.read_bytes()).hexdigest(), "cmake": str(cmake)}
    return Killed(BUILD_IMPORTS.format(**facts), BUILD_WORK.format(patches=str(patches)))


def test_build(tiny, work):
    """The next run ends with the patched tree and whole programs, whenever the last one was killed."""
    tree, build = work / "llama.cpp-1.0", work / "llama-build-native"
    moments = tiny.moments(KILLS, SEED)
    expected = {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    for at in moments:
        for folder in (tree, build):
            shutil.rmtree(folder, ignore_errors=True)
        done = tiny.run(at)
        # The number of calls differs a little from run to run, with what pipes give at a time: the end may come before.
        assert done.returncode in (-signal.SIGKILL, 0 if at > tiny.calls * 0.9 else None), (at, done.stderr)
        if tree.exists():
            assert (tree / llama_source.STAMP).is_file(), at
        again = tiny.run()
        assert again.returncode == 0, (at, again.stderr)
        assert {path.relative_to(tree): path.read_bytes() for path in tree.rglob("*") if path.is_file()} == expected, at
        assert not (tree / llama_patch.UNFINISHED).exists() and not (build / llama_build.UNFINISHED).exists()
        assert {(build / "bin" / name).read_text() for name in llama_build.TARGETS} == {"half and half"}, at
        assert not list(work.glob(".*.partial")), at


@pytest.mark.parametrize("whole", [False, True], ids=["tmac alone", "with cmake"])
def test_build_that_is_killed_while_cmake_works(tiny, work, whole):
    """By the clock, since what works then is another process: it is killed too, or works on, and the next run waits."""
    build = work / "llama-build-native"
    tiny.moments(0, SEED)
    rng, hits, waits = random.Random(SEED), 0, 0
    for _ in range(KILLS):
        shutil.rmtree(build)
        child = subprocess.Popen(
            [sys.executable, "-c", tiny.script, "0"],
            stderr=subprocess.PIPE,
            env=os.environ | {"PAUSE": "0.1" if whole else "0.4"},
        )
        for line in child.stderr:
            if re.match(rb"\+ .*--build", line):
                break
        try:
            child.wait(rng.uniform(0, 0.2))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            if whole:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                    os.killpg(int((build / "process").read_text()), signal.SIGKILL)
        child.stderr.close()
        hits += (build / llama_build.UNFINISHED).exists()
        again = tiny.run()
        assert again.returncode == 0, again.stderr
        waits += "waiting for what a tmac that was killed has left running" in again.stderr
        assert {(build / "bin" / name).read_text() for name in llama_build.TARGETS} == {"half and half"}
    assert hits, "every build was finished before it was killed"
    assert whole or waits, "no cmake outlived the build that started it"
