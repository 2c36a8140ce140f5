"""Obtaining llama.cpp's source: the pin, the archive, extraction, copies of other trees."""

import base64
import hashlib
import http.server
import io
import json
import os
import socket
import struct
import tarfile
import threading

import pytest

from tmac.tools.errors import ToolError
from tmac.tools.llama import package_index
from tmac.tools.llama import source as llama_source

TREE = "vendor/llama.cpp"
LINKS_AND_DEVICES = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)


def archive(path, members):
    """A tar archive of (name, content) members, or (name, type) for what is no plain file."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content not in LINKS_AND_DEVICES:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content, "/etc/passwd"
                tar.addfile(member)
    return path


@pytest.fixture
def pin(tmp_path, monkeypatch):
    """A pin of a tiny archive, which the work folder already holds."""
    folder = llama_source.work_folder() / "downloads"
    folder.mkdir(parents=True)
    made = archive(
        folder / "some_package-1.0.tar.gz",
        [
            ("some_package-1.0/setup.py", b"raise SystemExit"),
            (f"some_package-1.0/{TREE}/CMakeLists.txt", b"project(x)"),
            (f"some_package-1.0/{TREE}/src/a.c", b"int a;"),
            (f"some_package-1.0/{TREE}/.git", b"gitdir: ../.git"),
        ],
    )
    found = llama_source.Pin("some-package", "1.0", hashlib.sha256(made.read_bytes()).hexdigest(), TREE)
    monkeypatch.setattr(llama_source, "read_pin", lambda: found)
    return found


def test_pin_is_complete():
    """The repository's pin names an archive by a sha256 of 64 digits and a folder inside."""
    pin = llama_source.read_pin()
    assert pin.archive == f"llama_cpp_python-{pin.version}.tar.gz"
    assert len(pin.sha256) == 64 and pin.tree == TREE


def test_only_the_tree_is_extracted(pin, work):
    """The tree's files arrive, without the submodule's .git; the rest of the archive does not."""
    source = llama_source.obtain()
    assert source == work / "llama.cpp-1.0"
    files = sorted(str(path.relative_to(source)) for path in source.rglob("*") if path.is_file())
    assert files == [llama_source.STAMP, "CMakeLists.txt", "src/a.c"]


def test_second_run_leaves_the_tree_alone(pin):
    """A complete tree is used as it is, edits included."""
    source = llama_source.obtain()
    (source / "src/a.c").write_text("patched")
    assert llama_source.obtain() == source
    assert (source / "src/a.c").read_text() == "patched"


def test_new_pin_replaces_the_tree(pin, monkeypatch):
    """When the pinned hash changes, the old tree is no longer used."""
    source = llama_source.obtain()
    old = source.parent / "downloads" / pin.archive
    archive(old, [(f"t/{TREE}/new.c", b"")])
    newer = llama_source.Pin(pin.package, pin.version, hashlib.sha256(old.read_bytes()).hexdigest(), TREE)
    monkeypatch.setattr(llama_source, "read_pin", lambda: newer)
    assert (llama_source.obtain() / "new.c").exists() and not (source / "src").exists()


def test_hash_mismatch_names_file_found_and_expected(pin, work):
    """A cached archive with other content is refused before anything is extracted."""
    path = work / "downloads" / pin.archive
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ToolError) as caught:
        llama_source.obtain()
    for fact in (str(path), hashlib.sha256(path.read_bytes()).hexdigest(), pin.sha256):
        assert fact in caught.value.message
    assert not (work / "llama.cpp-1.0").exists()


def pip_says(monkeypatch, **settings):
    """No configuration files; pip's settings are these variables."""
    monkeypatch.setattr(package_index.importlib.util, "find_spec", lambda name: None)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name.upper()}", str(value))


def test_failed_download_says_what_else_can_be_done(pin, work, monkeypatch):
    """Offline, the error has the place and what was wrong, and the hint lists alternatives; no archive is left."""
    (work / "downloads" / pin.archive).unlink()
    pip_says(monkeypatch, index_url="http://user:secret@127.0.0.1:9/simple")
    with pytest.raises(ToolError) as caught:
        llama_source.obtain()
    assert f"{pin.archive} could not be downloaded" in caught.value.message
    assert "http://127.0.0.1:9/simple/some-package/" in caught.value.message and "secret" not in caught.value.message
    assert "refused" in caught.value.message
    assert pin.archive in caught.value.hint and "--llama-src" in caught.value.hint
    assert list((work / "downloads").iterdir()) == []


def test_download_with_another_hash_is_a_warning(pin, work, monkeypatch):
    """An index that serves other bytes: found and expected hash, and not the hint for a lost network."""
    (work / "downloads" / pin.archive).replace(work / pin.archive)
    found = hashlib.sha256((work / pin.archive).read_bytes()).hexdigest()
    wanted = llama_source.Pin(pin.package, pin.version, "0" * 64, TREE)
    monkeypatch.setattr(llama_source, "read_pin", lambda: wanted)
    pip_says(monkeypatch, no_index="1", find_links=work)
    with pytest.raises(ToolError) as caught:
        llama_source.obtain()
    assert "not the pinned archive" in caught.value.message
    assert f"found:    {found}" in caught.value.message and f"expected: {'0' * 64}" in caught.value.message
    assert "do not use what this package index serves" in caught.value.hint and "network and" not in caught.value.hint
    assert list((work / "downloads").iterdir()) == []


JSON_PAGE, HTML_PAGE = "application/vnd.pypi.simple.v1+json", "text/html; charset=utf-8"


@pytest.fixture
def index(work, pin):
    """A package index of one file, which asks for a name and a password; notes the paths that it was asked for."""
    data = (work / "downloads" / pin.archive).read_bytes()
    (work / "downloads" / pin.archive).unlink()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append((self.path, self.headers["Authorization"]))
            kind, body = "application/octet-stream", data
            broken = self.path.startswith("/broken/")
            if self.path.removeprefix("/broken") == "/simple/some-package/":
                kind = self.server.kind
                link = f"../../files/{pin.archive}#sha256=0"
                body = (
                    json.dumps({"files": [{"url": "x.whl"}, {"url": link}]})
                    if kind == JSON_PAGE
                    else f'<a href="x.whl">x</a><a href="{link}">y</a>'
                ).encode()
            self.send_response(200 if self.headers["Authorization"] else 401)
            self.send_header("Content-Type", kind)
            if broken and self.path.endswith(self.server.breaks_at):
                self.send_header("Content-Length", str(len(body) + 100))
                if self.server.resets:
                    # Closing then says that the connection was reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()
            if broken and self.server.resets:
                for end in (self.rfile, self.wfile, self.connection):
                    end.close()

        def log_message(self, *ignored):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.kind, server.breaks_at, server.resets = [], JSON_PAGE, ".gz", False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("kind", [JSON_PAGE, HTML_PAGE])
def test_download_from_an_index_runs_nothing(index, pin, work, monkeypatch, kind):
    """The archive's setup.py would end the process; pip would run it. The password is sent to the index's host."""
    index.kind = kind
    pip_says(monkeypatch, index_url=f"http://me:p%40ss@127.0.0.1:{index.server_port}/simple/")
    monkeypatch.setattr("subprocess.Popen", lambda *given, **options: pytest.fail(f"{given} was started"))
    source = llama_source.obtain()
    assert (source / "src" / "a.c").read_text() == "int a;"
    password = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert index.asked[0] == ("/simple/some-package/", password)
    assert index.asked[1][0] == f"/files/{pin.archive}"


@pytest.mark.parametrize("resets", [False, True], ids=["cut", "reset"])
@pytest.mark.parametrize("breaks_at", ["/", ".gz"], ids=["page", "archive"])
@pytest.mark.parametrize("has_other", [False, True])
def test_connections_that_break(index, pin, work, monkeypatch, breaks_at, resets, has_other):
    """The next index is tried; without one the error says what was wrong at each."""
    index.breaks_at, index.resets = breaks_at, resets
    host = f"http://me:x@127.0.0.1:{index.server_port}"
    pip_says(
        monkeypatch, index_url=f"{host}/broken/simple", **({"extra_index_url": f"{host}/simple"} if has_other else {})
    )
    if has_other:
        assert (llama_source.obtain() / "src" / "a.c").read_text() == "int a;"
    else:
        with pytest.raises(ToolError) as caught:
            llama_source.obtain()
        assert ("reset by peer" if resets else "the connection was cut after") in caught.value.message


def test_settings_of_pip(monkeypatch):
    """The real pip's: variables before files, the section of `pip download` before the common one."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    listed = "global.index-url='https://a'\ndownload.index-url='https://b'\nglobal.cert='/c'\n:env:.cert='/d'\n"
    monkeypatch.setattr(package_index.process, "output", lambda command: listed)
    assert package_index.pip_settings() == {"index-url": "https://b", "cert": "/d"}
    monkeypatch.undo()
    monkeypatch.setenv("PIP_INDEX_URL", "https://e/it's")
    assert package_index.pip_settings()["index-url"] == "https://e/it's"
    # As pip does: an empty one says nothing.
    monkeypatch.setenv("PIP_INDEX_URL", "")
    assert package_index.pip_settings().get("index-url") != ""


@pytest.mark.parametrize("place", ["folder", "url"])
def test_links_in_a_folder(pin, work, monkeypatch, place):
    folder = work / "wheels"
    folder.mkdir()
    (work / "downloads" / pin.archive).replace(folder / pin.archive)
    pip_says(monkeypatch, no_index="true", find_links=folder if place == "folder" else folder.as_uri())
    assert (llama_source.obtain() / "CMakeLists.txt").exists()


def test_no_place_at_all(pin, work, monkeypatch):
    (work / "downloads" / pin.archive).unlink()
    pip_says(monkeypatch, no_index="1", find_links=work / "none")
    with pytest.raises(ToolError, match="none: there is no such folder"):
        llama_source.obtain()


def test_own_tree_that_has_gone_is_told(tmp_path):
    """If its folder was deleted, the hint says how to get back to the pinned source."""
    with pytest.raises(ToolError, match="is not there") as caught:
        llama_source.obtain(tmp_path / "gone")
    assert "`tmac build` returns to the pinned source" in caught.value.hint


@pytest.mark.parametrize(
    "name, content",
    [
        (f"t/{TREE}/../../../outside", b"x"),
        (f"t/{TREE}/a/../../../../outside", b"x"),
        *((f"t/{TREE}/special", kind) for kind in LINKS_AND_DEVICES),
    ],
)
def test_hostile_member_is_refused(tmp_path, name, content):
    """A member that is not a plain file, or that would leave the folder, stops the extraction; the error names it."""
    made = archive(tmp_path / "x.tar.gz", [(f"t/{TREE}/ok", b""), (name, content)])
    target = tmp_path / "deep" / "target"
    target.mkdir(parents=True)
    with pytest.raises(ToolError, match="archive refused") as caught:
        llama_source.extract(made, TREE, target)
    assert name in caught.value.message
    assert not list(tmp_path.rglob("outside"))


def test_link_in_place_of_a_folder_is_never_followed(tmp_path):
    """A symbolic link cannot redirect a later member: the link itself is refused."""
    made = archive(tmp_path / "x.tar.gz", [(f"t/{TREE}/src", tarfile.SYMTYPE), (f"t/{TREE}/src/evil", b"x")])
    (tmp_path / "target").mkdir()
    with pytest.raises(ToolError, match="archive refused"):
        llama_source.extract(made, TREE, tmp_path / "target")


def test_truncated_archive_leaves_nothing(pin, work, monkeypatch):
    """A truncated archive leaves neither the tree nor its temporary folder."""
    path = work / "downloads" / pin.archive
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(llama_source, "verify", lambda *ignored: None)
    with pytest.raises(ToolError, match="cannot be extracted"):
        llama_source.obtain()
    assert [entry.name for entry in work.iterdir()] == ["downloads"]


def test_foreign_folder_in_the_way_is_not_touched(pin, work):
    """If a folder with this name exists that T-MAC did not make, the work stops."""
    (work / "llama.cpp-1.0").mkdir()
    (work / "llama.cpp-1.0" / "mine").write_text("x")
    with pytest.raises(ToolError, match="not made by T-MAC"):
        llama_source.obtain()
    assert (work / "llama.cpp-1.0" / "mine").exists()


@pytest.fixture
def own_tree(tmp_path):
    folder = tmp_path / "own"
    (folder / "ggml/src/ggml-cpu").mkdir(parents=True)
    (folder / "ggml/src/ggml-cpu/traits.h").write_text("seam")
    (folder / ".git").mkdir()
    (folder / "build").mkdir()
    return folder


def test_own_tree_is_copied_without_git_and_build(own_tree, work):
    """--llama-src works on a copy, so that patches never reach the user's tree."""
    source = llama_source.obtain(own_tree)
    assert source.parent == work
    (source / "ggml/src/ggml-cpu/traits.h").write_text("patched")
    assert (own_tree / "ggml/src/ggml-cpu/traits.h").read_text() == "seam"
    assert not (source / ".git").exists() and not (source / "build").exists()
    assert (llama_source.obtain(own_tree) / "ggml/src/ggml-cpu/traits.h").read_text() == "patched"


def test_own_tree_that_changed_is_copied_again(own_tree):
    """An edit in the user's tree reaches the next build."""
    llama_source.obtain(own_tree)
    (own_tree / "ggml/src/ggml-cpu/traits.h").write_text("newer seam")
    assert (llama_source.obtain(own_tree) / "ggml/src/ggml-cpu/traits.h").read_text() == "newer seam"


def test_own_tree_without_the_seam_is_refused(tmp_path):
    """A folder that is no llama.cpp tree is named in the error."""
    with pytest.raises(ToolError, match=str(tmp_path)):
        llama_source.obtain(tmp_path)
