"""A headless Chromium, driven by its DevTools protocol: what a reader does with keyboard and eyes, a test does by this."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import tempfile
import time
import urllib.request
import zlib

from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS_MAX = 60


class Browser:
    """One page. `problems` collects what went wrong in it: exceptions, refusals of the policy."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-browser-", ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
             "--remote-debugging-port=0", "--user-data-dir=" + self.folder.name, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.number, self.problems = 0, []
        port = self.wait_for(self.port)
        pages = json.load(urllib.request.urlopen("http://127.0.0.1:%d/json/list" % port, timeout=10))
        address = next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"]
        self.socket = connect(address, max_size=None, close_timeout=1)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.ask(domain + ".enable")

    def port(self):
        with open(os.path.join(self.folder.name, "DevToolsActivePort")) as stream:
            return int(stream.readline())

    @staticmethod
    def wait_for(condition, what="the browser"):
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            try:
                value = condition()
                if value:
                    return value
            except (OSError, ValueError):
                pass
            if time.monotonic() > deadline:
                raise AssertionError("%s did not come in time" % what)
            time.sleep(0.02)  # between two polls

    def close(self):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()

    def ask(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(SECONDS_MAX))
            if message.get("id") == self.number:
                if "error" in message:
                    raise AssertionError("%s: %s" % (method, message["error"]))
                return message["result"]
            self.note(message)

    def note(self, message):
        kind, about = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.problems.append(about["exceptionDetails"].get("text", "") + json.dumps(about["exceptionDetails"])[:500])
        elif kind == "Log.entryAdded" and about["entry"]["level"] == "error" and about["entry"]["source"] != "network":
            self.problems.append(about["entry"]["text"])

    def run(self, script):
        """The value of a JavaScript expression."""
        result = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise AssertionError("%s: %s" % (script, json.dumps(result["exceptionDetails"])[:800]))
        return result["result"].get("value")

    def open(self, url):
        self.ask("Page.navigate", url=url)
        self.wait_for(lambda: self.run("document.readyState") == "complete", url)

    def until(self, script, what=None):
        return self.wait_for(lambda: self.run(script), what or script)

    def press(self, key, text=None):
        """A key of the keyboard."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        press = dict(key=key, code=key, windowsVirtualKeyCode=codes.get(key, 0))
        if text:
            press["text"] = text
        self.ask("Input.dispatchKeyEvent", type="keyDown", **press)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **dict(press, text=""))

    def type(self, text):
        self.ask("Input.insertText", text=text)

    def focus(self):
        """Where the keyboard is: id or text of the element."""
        return self.run("document.activeElement.id || document.activeElement.textContent.trim().slice(0, 60)")

    def tab_to(self, name, steps=60):
        """Goes on by the tabulator until the keyboard is at the element of that id or text."""
        for _ in range(steps):
            self.press("Tab")
            if self.focus() == name:
                return
        raise AssertionError("the keyboard does not reach %s" % name)

    def look(self, width, height, dark=False, phone=False):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.ask("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self):
        """PNG bytes of the whole page."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"])


def rows_of(png):
    """(width, height, how many rows of the picture differ from the row above): a blank picture has none."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, head = 8, b"", None
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + size]
        at += 12 + size
        if kind == b"IHDR":
            head = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            data += body
    width, height, depth, colour = head
    raw = zlib.decompress(data)
    stride = width * (3 if colour == 2 else 4) * depth // 8 + 1
    # Rows that are like the one above are all the same once they are filtered, whatever filter was taken.
    return width, height, len({raw[row * stride:(row + 1) * stride] for row in range(height)}) - 1
