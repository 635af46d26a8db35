"""The example apps behind a sidecar, and the calls they show; and mDNS between two sidecars of this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from sidecar import SOURCE_ROOT, BlackBox, Process, ask, eventually, free_port

HELLO = "go.micro.srv.hello"
EXAMPLES = os.path.join(SOURCE_ROOT, "examples")


class Examples(BlackBox):
    def example(self, program, *arguments):
        """The app under `run`, called by path, by its own `call`, and by a body it must refuse."""
        missing = [name for name in (program, *arguments) if not os.sep in name and not shutil.which(name)]
        if missing:
            self.skipTest("%s is not installed" % missing[0])
        port = free_port()
        sidecar = self.start(command=["run", "--", *arguments], registry="memory", name=HELLO, app=port)
        eventually(lambda: sidecar.get("/hello/say/hello").status == 200, within=10, what="the app behind its sidecar")
        self.assertEqual(sidecar.get("/hello/say/hello").json(), {"msg": "Hello World"})
        answer = sidecar.post("/hello/say/hello", {"name": 'J"\\örg'})
        self.assertEqual(answer.json(), {"msg": 'Hello J"\\örg'})
        self.assert_error(sidecar.post("/hello/say/goodbye", {}), 404)
        environment = dict(os.environ, MICRO_SIDECAR_ADDRESS="127.0.0.1:%d" % sidecar.port)
        called = subprocess.run(
            [*arguments, "call", "John"], env=environment, stdout=subprocess.PIPE, timeout=20, universal_newlines=True
        )
        self.assertEqual(called.returncode, 0)
        self.assertIn("Hello John", called.stdout)

    def test_python(self):
        self.example(sys.executable, sys.executable, os.path.join(EXAMPLES, "python", "hello.py"))

    def test_node(self):
        self.example("node", "node", os.path.join(EXAMPLES, "node", "hello.js"))

    def test_shell(self):
        self.example("socat", "bash", os.path.join(EXAMPLES, "shell", "hello.sh"))


class MulticastDNS(BlackBox):
    """On a host without working multicast the two meet by the loopback rendezvous; what the caller sees is the same."""

    def test_two_sidecars_find_each_other_and_the_second_forgets_the_first(self):
        name = "go.micro.srv.md%d" % (os.getpid() % 100_000)
        short = name.rsplit(".", 1)[1]
        app_port = free_port()
        program = os.path.join(EXAMPLES, "python", "hello.py")
        app = self.start_process(
            Process("hello.py", [sys.executable, program], {"MICRO_APP_ADDRESS": "127.0.0.1:%d" % app_port})
        )
        eventually(lambda: ask(app_port, "GET", "/health").status == 200)
        environment = {"MICRO_SERVER_ADDRESS": ":0"}
        inside = self.start(registry="mdns", name=name, app=app_port, environment=environment)
        outside = self.start(registry="mdns")
        begun = time.monotonic()
        answer = outside.post("/%s/say/hello" % short, {"name": "a"})
        took = (time.monotonic() - begun) * 1000
        self.assertEqual((answer.status, answer.json()), (200, {"msg": "Hello a"}))
        print("        first call over mDNS: %.1f ms" % took)
        self.assertIn(name, [entry["name"] for entry in outside.get("/registry").json()])
        inside.stop()
        eventually(lambda: outside.post("/%s/say/hello" % short, {}).status == 404, what="the goodbye")

    def test_an_unknown_name_is_told_soon(self):
        sidecar = self.start(registry="mdns")
        begun = time.monotonic()
        self.assert_error(sidecar.post("/nobody%d/say/hello" % os.getpid(), {}), 404)
        self.assertLess(time.monotonic() - begun, 3)
