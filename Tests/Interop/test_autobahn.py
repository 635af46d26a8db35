"""The Autobahn test suite against our WebSocket codec, as server and as client, by the program `websocket-echo`.

Every case has to end OK, strictly: NON-STRICT, UNIMPLEMENTED and unclean ends are failures. INFORMATIONAL cases have no
verdict. MICRO_TEST_LONG=1 runs all cases, and those of compression again with context kept between messages.
"""

from __future__ import annotations

import collections
import json
import os
import tempfile
import unittest

from sidecar import BINARY, LONG, SOURCE_ROOT, BlackBox, Process, eventually, free_port

ECHO = os.path.join(os.path.dirname(BINARY), "websocket-echo")
FOLDER = os.path.join(SOURCE_ROOT, ".build", "autobahn")
PYTHON = os.path.join(FOLDER, "python")  # a link that ./dev makes
PEER = os.path.join(SOURCE_ROOT, "Tests", "Interop", "autobahn_peer.py")

COMPRESSION = ["12.*", "13.*"]
# All rules, and of the measurements (limits, compression) one of each kind; the rest take a quarter of an hour.
SHORT = ["%d.*" % chapter for chapter in (1, 2, 3, 4, 5, 6, 7, 10)] + [
    "9.1.1", "9.1.4", "9.2.4", "9.3.3", "9.4.3", "9.5.3", "9.6.3", "9.7.1", "9.8.1",
    "12.1.1", "12.1.4", "12.1.7", "12.1.11", "12.2.5", "12.3.5", "12.4.5", "12.5.5",
] + ["13.%d.%d" % (kind, size) for kind in range(1, 8) for size in (4, 11)]
CASES_MIN = {"all": 517, "short": 270, "compression": 216}


@unittest.skipUnless(os.path.exists(ECHO), "no websocket-echo beside the binary: ./dev interop builds it")
@unittest.skipUnless(os.path.exists(PYTHON), "THE AUTOBAHN SUITE DID NOT RUN: it needs Python 2.7, see ./dev interop")
class Autobahn(BlackBox):
    def suite(self, role, folder, **spec):
        path = os.path.join(folder, "spec.json")
        with open(path, "w") as stream:
            json.dump({"outdir": folder, **spec}, stream)
        return self.start_process(Process("Autobahn's fuzzing " + role, [PYTHON, PEER, FOLDER, role, path]))

    def check(self, folder, least):
        with open(os.path.join(folder, "index.json")) as stream:
            (cases,) = json.load(stream).values()
        bad = {
            case: (result["behavior"], result["behaviorClose"], result["remoteCloseCode"])
            for case, result in cases.items()
            if not {result["behavior"], result["behaviorClose"]} <= {"OK", "INFORMATIONAL"}
        }
        print("  %d cases: %s" % (len(cases), dict(collections.Counter(r["behavior"] for r in cases.values()))))
        self.assertEqual(bad, {})
        self.assertGreaterEqual(len(cases), least)

    def as_server(self, cases, least, options=()):
        echo = self.start_process(Process("websocket-echo", [ECHO, "--server", "0", *options]))
        address = eventually(lambda: echo.text().strip(), what="the echo server's address")
        with tempfile.TemporaryDirectory() as folder:
            client = self.suite("client", folder, servers=[{"url": "ws://" + address}], cases=cases)
            self.assertEqual(client.wait(3600), 0)
            self.check(folder, least)

    def as_client(self, cases, least, options=()):
        port = free_port()
        with tempfile.TemporaryDirectory() as folder:
            server = self.suite("server", folder, url="ws://127.0.0.1:%d" % port, cases=cases)
            eventually(lambda: "Ok, will run" in server.text(), within=20, what="the fuzzing server")
            echo = self.start_process(
                Process("websocket-echo", [ECHO, "--client", "127.0.0.1:%d" % port, *options]))
            self.assertEqual(echo.wait(3600), 0)
            self.check(folder, least)
            server.kill()

    def test_rules_as_server(self):
        self.as_server(SHORT, CASES_MIN["short"])

    def test_rules_as_client(self):
        self.as_client(SHORT, CASES_MIN["short"])

    # Half an hour each, so that they are tests only where they are asked for.
    if LONG:
        test_all_cases = lambda self: self.all_cases()
        test_compression_with_context = lambda self: self.compression_with_context()

    def all_cases(self):
        self.as_server(["*"], CASES_MIN["all"])
        self.as_client(["*"], CASES_MIN["all"])

    def compression_with_context(self):
        self.as_server(COMPRESSION, CASES_MIN["compression"], ["--context"])
        # The other kinds of chapter 13 want a client that offers to keep none.
        self.as_client(["12.*", "13.1.*", "13.3.*", "13.4.*"], 144, ["--context"])
