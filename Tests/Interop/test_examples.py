"""The example apps behind a sidecar, and the calls they show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from sidecar import SOURCE_ROOT, BlackBox, eventually, free_port

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
