"""Drives Chromium without a window by the DevTools protocol (chromedevtools.github.io), over a pipe.

Messages are JSON with a zero byte behind each; the browser reads them from descriptor 3 and writes them to 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..browser import BROWSER, SECONDS

#: Cornerstone draws with WebGL; without a graphics card Chromium's own renderer does.
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--remote-debugging-pipe", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
)


class Page:
    """A page in a browser.

    Attributes:
        console: what its scripts said, and what the browser said of them.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._rest, self._number, self._session = b"", 0, ""
        self._asked: dict[str, str] = {}
        self.console: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command, and the browser's answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            said = self._receive()
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said['error']}"
                return dict(said["result"])
            self._note(said)

    @property
    def requests(self) -> list[str]:
        """Addresses that it asked for, in order; not what its content security policy held back."""
        return list(self._asked.values())

    def open(self, address: str) -> None:
        """Go to an address."""
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        said = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait_for(self, script: str, seconds: int = SECONDS) -> None:
        """Until an expression in the page is true."""
        for _ in range(2 * seconds):
            if self.run(f"Boolean({script})"):
                return
            time.sleep(0.5)
        raise AssertionError(f"never true: {script}\n{self.run('document.body.innerText')}\n{self.console[-20:]}")

    def press(self, key: str, number: int) -> None:
        """A key that has no letter, by its name and its number (UI Events, keyCode), and a moment for the page."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=number)
        time.sleep(0.2)

    def picture(self, path: Path) -> Path:
        """What it shows, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._from], [], [], SECONDS)[0], "the browser does not answer"
            content = os.read(self._from, 1 << 20)
            assert content, "the browser ended"
            self._rest += content
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self._asked[params["requestId"]] = params["request"]["url"]
            case "Network.loadingFailed" if params.get("blockedReason") == "csp":
                self._asked.pop(params["requestId"], None)
            case "Runtime.consoleAPICalled":
                self.console.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.console.append(params["entry"]["text"])


@contextmanager
def browser(folder: Path, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A page in a browser of its own, which is stopped afterwards.

    Args:
        folder: for its profile.
        width: of its window, pixels.
        height: of its window, pixels.
    """
    read, to_browser = os.pipe()
    from_browser, write = os.pipe()
    words = [str(BROWSER), *_OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}"]
    # The shell gives the pipes the numbers that the browser knows them by.
    shell = ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", *words]
    with (folder / "browser.txt").open("ab") as output:
        process = subprocess.Popen(shell, pass_fds=(read, write), stdout=output, stderr=output)
    os.close(read)
    os.close(write)
    try:
        yield Page(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(to_browser)
        os.close(from_browser)
