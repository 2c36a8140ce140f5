"""One file of a Python package index, by pip's settings but without pip: pip runs the build step of a source archive
that it downloads, and installs what that step wants, only to learn the archive's dependencies. Nothing is run here.

In: the names of a package and of its file. Out: the file, whose content the caller must check. Folders and pages of
`find-links` come first, then the index and extra indices. Source: the simple repository API of the Python Packaging
User Guide; settings as `pip config list` prints them.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import json
import netrc
import os
import re
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from tmac.common import process
from tmac.common.progress import ByteCount

DEFAULT_INDEX = "https://pypi.org/simple"
# Sections of pip's settings, the strongest first.
SECTIONS = (":env:", "download", "install", "global")
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
SECONDS = 60
PIECE = 1 << 16
MAX_PAGE_BYTES, MAX_FILE_BYTES = 100_000_000, 2_000_000_000


class NotFound(Exception):
    """No place has the file. The text has one line for each place: what was wrong there."""


def download(package: str, name: str, target: Path) -> None:
    """Writes the file `name` of `package` to `target`. Raises NotFound, or OSError if it cannot be written."""
    settings = pip_settings()
    client = _Client(settings)
    problems = []
    for place in _places(settings, package):
        try:
            found = client.find(place, name)
            if found is None:
                problems.append(f"{_shown(place)} does not list it")
                continue
        except (OSError, HTTPException, ValueError) as problem:
            problems.append(f"{_shown(place)}: {problem}")
            continue
        with target.open("wb") as file:
            try:
                client.copy(found, file)
                return
            except (HTTPException, ValueError) as problem:
                problems.append(f"{_shown(found)}: {problem}")
    raise NotFound("\n".join(problems) or "pip is told to use no index, and no place to find links in")


def pip_settings() -> dict[str, str]:
    """pip's settings by name. Without pip in this environment: those of its environment variables."""
    named: dict[tuple[str, str], str] = {}
    for key, value in os.environ.items():
        if key.startswith("PIP_"):
            named[":env:", key.removeprefix("PIP_").lower().replace("_", "-")] = value
    if importlib.util.find_spec("pip") is not None:
        for line in process.output([sys.executable, "-m", "pip", "config", "list"]).splitlines():
            key, _, value = line.partition("=")
            section, _, name = key.rpartition(".")
            with suppress(ValueError, SyntaxError):
                named[section, name] = str(ast.literal_eval(value))
    # pip takes an empty one for none.
    said = {key: value for key, value in named.items() if value}
    return {name: said[section, name] for section in reversed(SECTIONS) for place, name in said if place == section}


def _places(settings: dict[str, str], package: str) -> Iterator[str]:
    """URLs, or paths of folders, of pages that may list the file."""
    yield from settings.get("find-links", "").split()
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        return
    normal = re.sub(r"[-_.]+", "-", package).lower()
    for index in (settings.get("index-url", DEFAULT_INDEX), *settings.get("extra-index-url", "").split()):
        yield f"{index.rstrip('/')}/{normal}/"


def _shown(place: str) -> str:
    """A URL without the password that it may have."""
    parts = urlsplit(place)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class _Client:
    def __init__(self, settings: dict[str, str]):
        context = ssl.create_default_context(cafile=settings.get("cert") or None)
        unverified = ssl.create_default_context()
        unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
        proxy = settings.get("proxy")
        proxies = urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else None)
        self._trusted = settings.get("trusted-host", "").split()
        self._opener = urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=context))
        # Of hosts that the user trusts as they are. What they serve is checked by its hash.
        self._unverified = urllib.request.build_opener(proxies, urllib.request.HTTPSHandler(context=unverified))

    def find(self, place: str, name: str) -> str | None:
        """Where a page or folder says that the file is. Raises OSError, HTTPException or ValueError."""
        folder = _local_folder(place)
        if folder is not None and not (folder / "index.html").is_file():
            if not folder.is_dir():
                raise ValueError("there is no such folder")
            return (folder / name).absolute().as_uri() if (folder / name).is_file() else None
        page = place if folder is None else (folder / "index.html").absolute().as_uri()
        with self._open(page) as answer:
            text, kind, base = answer.read(MAX_PAGE_BYTES), answer.headers.get_content_type(), answer.geturl()
            _check_whole(len(text), min(_length(answer), MAX_PAGE_BYTES))
        links = links_of_json(text) if kind.endswith("json") else links_of_html(text)
        urls = (urljoin(base, link) for link in links)
        url = next((url for url in urls if unquote(urlsplit(url).path).rpartition("/")[2] == name), None)
        # Where the host is the page's, so are name and password.
        same_host = url and urlsplit(url).netloc == urlsplit(_shown(page)).netloc
        return urlunsplit(urlsplit(url)._replace(netloc=urlsplit(page).netloc)) if same_host else url

    def copy(self, url: str, file) -> None:
        """Raises HTTPException or ValueError if the file cannot be had whole, OSError if it cannot be written."""
        for piece in self._pieces(url):
            file.write(piece)

    def _pieces(self, url: str) -> Iterator[bytes]:
        count = 0
        try:
            with self._open(url) as answer, ByteCount("downloading", length := _length(answer)) as bar:
                while piece := answer.read(PIECE):
                    count += len(piece)
                    bar.update(len(piece))
                    if count > MAX_FILE_BYTES:
                        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
                    yield piece
        except OSError as problem:
            raise ValueError(str(problem)) from problem
        _check_whole(count, length)

    def _open(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "file"):
            raise ValueError(f"the address begins with {parts.scheme!r}, expected https")
        request = urllib.request.Request(_shown(url), headers={"Accept": ACCEPT, "User-Agent": "tmac"})
        if credentials := _credentials(parts):
            # Not sent on to where the host redirects to.
            encoded = base64.b64encode(":".join(credentials).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {encoded}")
        hosts = parts.hostname, f"{parts.hostname}:{parts.port}"
        opener = self._unverified if any(host in self._trusted for host in hosts) else self._opener
        return opener.open(request, timeout=SECONDS)


def _length(answer) -> int:
    """How many bytes the answer says that it has; 0 if it does not say."""
    return int(answer.headers.get("Content-Length") or 0)


def _check_whole(count: int, length: int) -> None:
    """Raises ValueError for fewer bytes than announced: reading piece by piece, the client takes that for the end."""
    if count < length:
        raise ValueError(f"the connection was cut after {count} of {length} bytes")


def _local_folder(place: str) -> Path | None:
    parts = urlsplit(place)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path))
    return None if parts.scheme in ("http", "https") else Path(place).expanduser()


def _credentials(parts) -> tuple[str, str] | None:
    """Of the URL itself, else of the user's .netrc."""
    if parts.username:
        return unquote(parts.username), unquote(parts.password or "")
    with suppress(OSError, netrc.NetrcParseError, TypeError):
        user, _, password = netrc.netrc().authenticators(parts.hostname or "")
        return user or "", password or ""
    return None


def links_of_json(text: bytes) -> list[str]:
    try:
        page = json.loads(text)
    except RecursionError as error:
        raise ValueError("the page is nested too deeply") from error
    files = page.get("files") if isinstance(page, dict) else None
    if not isinstance(files, list):
        raise ValueError("the page has no list of files")
    return [entry["url"] for entry in files if isinstance(entry, dict) and isinstance(entry.get("url"), str)]


def links_of_html(text: bytes) -> list[str]:
    class Links(HTMLParser):
        found: list[str]

        def handle_starttag(self, tag, attributes):
            if tag == "a":
                self.found += [value for key, value in attributes if key == "href" and value]

    parser = Links()
    parser.found = []
    parser.feed(text.decode("utf-8", "replace"))
    return parser.found
