"""A page in a real browser: headless Chromium, spoken to in its DevTools protocol over a pair of pipes.

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

PATIENCE = 60


class Browser:
    """One tab. `errors` holds what its pages complained of: exceptions, console errors, anything they tried to load."""

    def __init__(self, command: str, profile: Path) -> None:
        self._command = [
            command, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
            "--disable-background-networking", "--window-size=1300,900", f"--user-data-dir={profile}",
            "--remote-debugging-pipe", "about:blank"]
        self.errors: list[str] = []
        self._number, self._session, self._left = 0, "", b""

    def __enter__(self) -> "Browser":
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()

        def wire() -> None:
            high = [os.dup(theirs_in), os.dup(theirs_out)]       # 3 and 4 may be in use as these very pipes
            for ours, theirs in zip(high, (3, 4), strict=True):
                os.dup2(ours, theirs)

        self._process = subprocess.Popen(self._command, pass_fds=(3, 4, theirs_in, theirs_out), preexec_fn=wire,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
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
        """Load a file and wait until it stands."""
        self._call("Page.navigate", url=page.resolve().as_uri())
        deadline = time.monotonic() + PATIENCE
        while self.run("location.protocol + document.readyState") != "file:complete":
            assert time.monotonic() < deadline, "the page does not load"
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """What an expression of JavaScript comes to. An exception is an AssertionError."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _call(self, method: str, **parameters: object) -> Any:
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
        said = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.errors.append(str(said["entry"]))
            case "Network.requestWillBeSent" if not said["request"]["url"].startswith(("file:", "data:")):
                self.errors.append(f"it asks for {said['request']['url'][:200]}")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._from], [], [], PATIENCE)
            assert ready, "the browser does not answer"
            piece = os.read(self._from, 1 << 16)
            assert piece, "the browser ended"
            self._left += piece
        one, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found
