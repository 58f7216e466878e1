"""A page in a real browser: headless Chromium, controlled through its DevTools protocol over a pair of pipes.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each ended by a zero byte; the browser reads them from
file descriptor 3 and writes to 4.
"""
import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

TIMEOUT = 60
"""Seconds to wait for an answer."""


class Browser:
    """One tab. `errors` lists the exceptions and console errors of its pages, and the requests that they sent."""

    def __init__(self, command: str, profile: Path) -> None:
        self._command = [
            command, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            "--disable-background-networking", "--window-size=1300,900", f"--user-data-dir={profile}",
            "--remote-debugging-pipe", "about:blank"]
        self.errors: list[str] = []
        self._number, self._session, self._received = 0, "", b""

    def __enter__(self) -> "Browser":
        browser_in, self._to = os.pipe()
        self._from, browser_out = os.pipe()

        def connect_pipes() -> None:
            copies = [os.dup(browser_in), os.dup(browser_out)]   # 3 and 4 may be in use as these very pipes
            for copy, number in zip(copies, (3, 4), strict=True):
                os.dup2(copy, number)

        self._process = subprocess.Popen(self._command, pass_fds=(3, 4, browser_in, browser_out),
                                         preexec_fn=connect_pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(browser_in)
        os.close(browser_out)
        target = self._call("Target.getTargets")["targetInfos"]
        page = next(info["targetId"] for info in target if info["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def open(self, page: Path) -> None:
        """Load a file and wait until it is complete."""
        self._call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + TIMEOUT
        while self.run("location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression. An exception in it raises AssertionError."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: object) -> Any:
        """Send a command and return its result; events that arrive first are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        """Add an event to `errors` if it reports an error or a request to the network."""
        details = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(details["exceptionDetails"]))
            case "Log.entryAdded" if details["entry"]["level"] == "error":
                self.errors.append(str(details["entry"]))
            case "Network.requestWillBeSent" if not details["request"]["url"].startswith(("file:", "data:")):
                self.errors.append(f"request for {details['request']['url'][:200]}")

    def _next(self) -> dict[str, Any]:
        """Return the next message of the browser."""
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], TIMEOUT)
            assert ready, "the browser does not answer"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser ended"
            self._received += piece
        one, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found
