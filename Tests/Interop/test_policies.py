"""Policies of the configuration file: the examples of docs/policies.md load, a changed file takes effect while calls go on."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading

from gomicro import Node
from sidecar import SOURCE_ROOT, BlackBox, command, eventually, service

HELLO = "go.micro.srv.hello"


def write(path, text):
    with open(path + ".new", "w") as stream:
        stream.write(text)
    os.rename(path + ".new", path)


class Examples(BlackBox):
    def test_every_example_of_the_document_loads(self):
        with open(os.path.join(SOURCE_ROOT, "docs", "policies.md")) as stream:
            examples = re.findall(r"^```yaml\n(.*?)^```", stream.read(), re.M | re.S)
        self.assertGreater(len(examples), 6)
        for example in examples:
            with self.subTest(example=example), tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
                file.write(example)
                file.flush()
                status, out, err = command("config", environment={"MICRO_CONFIG": file.name})
                self.assertEqual(status, 0, err)
                self.assertRegex(out, r"policies\[0\]|inbound")

    def test_what_is_wrong_stops_the_start_with_its_place(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write("policies:\n- service: a\n  limits: {pendign: 1}\n- service: b\n  retries: many\n")
            file.flush()
            status, _, err = command("config", environment={"MICRO_CONFIG": file.name})
            self.assertEqual(status, 64)
            self.assertIn("policies[0].limits.pendign: no such field; did you mean pending?", err)
            self.assertIn("policies[1].retries: found", err)


class Reload(BlackBox):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        self.file = os.path.join(folder.name, "sidecar.yaml")
        write(self.file, "policies:\n- {service: %s, retries: 2}\n" % HELLO)
        self.node = self.start_server(Node(lambda call: {"msg": "hi"}))
        self.sidecar = self.start(
            services=[service(HELLO, self.node.port)],
            environment={"MICRO_CONFIG": self.file, "MICRO_SIDECAR_WORKERS": "2"},
        )

    def abort_with(self, code):
        write(self.file, "policies:\n- service: %s\n  fault: {abort: %d}\n" % (HELLO, code))

    def status(self):
        return self.sidecar.post("/hello/say/hello", {}).status

    def test_a_changed_file_takes_effect_and_no_call_is_lost(self):
        stop = threading.Event()
        statuses = []

        def work():
            while not stop.is_set():
                statuses.append(self.status())

        thread = threading.Thread(target=work)
        thread.start()
        try:
            self.abort_with(418)
            eventually(lambda: statuses and statuses[-1] == 418, what="the fault")
            write(self.file, "policies: []\n")
            eventually(lambda: statuses[-1] == 200, what="its end")
        finally:
            stop.set()
            thread.join()
        self.assertEqual(set(statuses), {200, 418})
        # Both workers: new connections are spread over them.
        self.assertEqual({self.status() for _ in range(20)}, {200})
        self.assertGreaterEqual(self.sidecar.metric("micro_sidecar_config_reloads_total"), 2)

    def test_a_bad_file_is_refused_and_the_next_good_one_taken(self):
        self.abort_with(418)
        eventually(lambda: self.status() == 418, what="the fault")
        write(self.file, "policies:\n- {service: a, retires: 1}\n")
        eventually(lambda: "did you mean retries?" in self.sidecar.text(), what="the complaint")
        self.assertEqual(self.status(), 418)
        self.abort_with(451)
        eventually(lambda: self.status() == 451, what="the other fault")

    def test_a_signal_reads_it_too_and_what_cannot_change_is_named(self):
        write(self.file, "zone: b\npolicies:\n- service: %s\n  fault: {abort: 451}\n" % HELLO)
        self.sidecar.process.send_signal(signal.SIGHUP)
        eventually(lambda: self.status() == 451, what="the fault")
        eventually(lambda: "MICRO_ZONE" in self.sidecar.text(), what="the warning")
        self.assertIn("after a restart", self.sidecar.text())
        self.assertTrue(self.sidecar.is_running())
