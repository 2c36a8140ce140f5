"""Headless Chromium, driven by chromedriver's HTTP protocol (WebDriver): both are Debian's packages."""

import base64
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import contextmanager

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
# As root Chromium has no sandbox; in containers /dev/shm is small.
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1200,800"]


def obstacle():
    """What is missing here, or nothing."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"{' and '.join(missing)} not installed" if missing else ""


class Browser:
    def __init__(self, url):
        self.url = url
        options = {"binary": shutil.which("chromium"), "args": FLAGS}
        wanted = {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}
        self.session = self._ask("POST", "/session", {"capabilities": wanted})["sessionId"]

    def _ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            return json.load(urllib.request.urlopen(request, timeout=60))["value"]
        except urllib.error.HTTPError as problem:
            raise AssertionError(json.load(problem)["value"]["message"]) from None

    def _do(self, method, path, body=None):
        return self._ask(method, f"/session/{self.session}{path}", body)

    def open(self, url):
        self._do("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """What JavaScript returns in the page."""
        return self._do("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector, text):
        """Types into the element that a CSS selector finds; \\ue007 is Enter."""
        found = self._do("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]
        self._do("POST", f"/element/{found}/value", {"text": text})

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))

    def close(self):
        self._do("DELETE", "")


@contextmanager
def browsing():
    """A browser that ends with the block."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        ports = (re.search(r"started successfully on port (\d+)", line) for line in driver.stdout)
        port = next(found[1] for found in ports if found)
        browser = Browser(f"http://127.0.0.1:{port}")
        try:
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)
