"""The access log: one line for each request, in and out, in every form; what is in it, what never is, rotation and loss."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile

from gomicro import App, Client, Node, NodeError, greeter, hello_app
from sidecar import BlackBox, command, eventually, free_port, run_together, service

HELLO = "go.micro.srv.hello"
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class AccessLog(BlackBox):
    def begin(self, format="json", services=None, **options):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "access.log")
        environment = {"MICRO_ACCESS_LOG": self.path, "MICRO_ACCESS_LOG_FORMAT": format}
        environment.update(options.pop("environment", {}))
        return self.start(services=services, environment=environment, **options)

    def text(self):
        with open(self.path, encoding="utf-8") as stream:
            return stream.read()

    def lines(self, count, within=5):
        return eventually(
            lambda: len(self.text().splitlines()) >= count and self.text().splitlines(), within, "%d lines" % count)

    def test_a_call_out_is_one_line(self):
        node = self.start_server(Node(greeter))
        sidecar = self.begin(services=[service(HELLO, node.registration())])
        body = {"name": "John"}
        answer = sidecar.post("/hello/say/hello", body, {"Authorization": "Bearer sesame", "Cookie": "id=sesame"})
        self.assertEqual(answer.status, 200)
        line = json.loads(self.lines(1)[0])
        self.assertTrue(TIME.fullmatch(line["time"]), line)
        self.assertEqual(line["node"], answer.headers["X-Micro-Node"])
        self.assertEqual(line["address"], "127.0.0.1:%d" % node.port)
        self.assertEqual(line["bytes_in"], len(json.dumps(body)))
        self.assertEqual(line["bytes_out"], len(answer.body))
        self.assertGreaterEqual(line["duration_ms"], line["upstream_ms"])
        self.assertGreater(line["upstream_ms"], 0)
        wanted = {"direction": "out", "dialect": "http", "service": HELLO, "endpoint": "Say.Hello", "status": 200,
                  "flag": "", "reason": "ok", "attempts": 1, "trace_id": ""}
        self.assertEqual({name: line[name] for name in wanted}, wanted)
        self.assertNotIn("sesame", self.text())

    def test_failures_have_their_flag_in_letters_and_words(self):
        def fail(call):
            raise NodeError(json.dumps({"id": HELLO, "code": 500, "detail": "no", "status": "x"}))

        node = self.start_server(Node(fail))
        dead = free_port()
        sidecar = self.begin(
            services=[service(HELLO, node.registration()), service("go.micro.srv.dead", dead)],
            environment={"MICRO_CLIENT_RETRIES": "0"})
        sidecar.post("/hello/say/hello", {})
        sidecar.post("/dead/say/hello", {})
        sidecar.post("/nobody/say/hello", {})
        sidecar.post("/hello/say/hello", "{")
        lines = [json.loads(line) for line in self.lines(4)]
        self.assertEqual(
            [(line["status"], line["flag"], line["reason"]) for line in lines],
            [(500, "UE", "upstream_error"), (503, "UF", "connect_failed"), (404, "NR", "service_not_found"),
             (400, "DPE", "bad_request")])
        self.assertEqual(lines[1]["service"], "go.micro.srv.dead")

    def test_calls_in_have_their_dialect(self):
        app = self.start_server(App(hello_app))
        sidecar = self.begin(name=HELLO, app=app.port)
        for generation in ("v0.14", "micro"):
            client = Client(sidecar.server_port, generation, "application/json")
            client.call("Say.Hello", {"name": "John"})
            client.close()
        lines = [json.loads(line) for line in self.lines(2)]
        self.assertEqual([line["direction"] for line in lines], ["in", "in"])
        self.assertEqual([line["dialect"] for line in lines], ["mucp-legacy", "mucp"])
        self.assertEqual({(line["service"], line["endpoint"], line["status"]) for line in lines}, {(HELLO, "Say.Hello", 200)})

    def test_text_and_template(self):
        node = self.start_server(Node(greeter))
        services = [service(HELLO, node.registration())]
        sidecar = self.begin("text", services=services)
        sidecar.post("/hello/say/hello", {})
        line = self.lines(1)[0]
        self.assertRegex(line, r"^\S+Z out dialect=http service=%s endpoint=Say.Hello node=\S+ address=\S+ status=200 "
                               r"flag=- reason=ok attempts=1 duration_ms=\d+\.\d{3} upstream_ms=\d+\.\d{3} "
                               r"bytes_in=2 bytes_out=\d+ trace_id=-$" % re.escape(HELLO))
        sidecar = self.begin("<{direction}> {service} took {duration_ms} ms: {reason}", services=services)
        sidecar.post("/hello/say/hello", {})
        self.assertRegex(self.lines(1)[0], r"^<out> %s took [\d.]+ ms: ok$" % re.escape(HELLO))

    def test_a_template_with_an_unknown_field_is_refused(self):
        status, _, error = command(environment={"MICRO_ACCESS_LOG_FORMAT": "{time} {secret}"})
        self.assertEqual(status, 64)
        self.assertIn("MICRO_ACCESS_LOG_FORMAT", error)
        self.assertIn("duration_ms", error)

    def test_a_file_that_cannot_be_opened_ends_the_start(self):
        status, _, error = command(environment={"MICRO_ACCESS_LOG": "/nowhere/access.log"})
        self.assertEqual(status, 64)
        self.assertIn("/nowhere/access.log", error)

    def test_no_name_breaks_out_of_its_line(self):
        node = self.start_server(Node(greeter))
        evil = {"id": 'n" \u202e=x', "address": "127.0.0.1:%d" % node.port,
                "metadata": {"protocol": "mucp", "server": "mucp", "transport": "http"}}
        services = [service(HELLO, evil)]
        for format in ("text", "json"):
            sidecar = self.begin(format, services=services)
            self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)
            lines = self.lines(1)
            self.assertEqual(len(lines), 1, lines)
            if format == "json":
                self.assertEqual(json.loads(lines[0])["node"], evil["id"])
            else:
                self.assertIn(r"node=n\x22\x20\xe2\x80\xae\x3dx ", lines[0])

    def test_rotation_loses_nothing(self):
        node = self.start_server(Node(greeter))
        sidecar = self.begin(services=[service(HELLO, node.registration())])
        for turn, number in enumerate((signal.SIGHUP, signal.SIGUSR1)):
            sidecar.post("/hello/say/hello", {})
            self.lines(1)
            os.rename(self.path, self.path + ".%d" % turn)
            os.kill(sidecar.pid, number)
            eventually(lambda: os.path.exists(self.path), what="a new file")
        sidecar.post("/hello/say/hello", {})
        self.lines(1)
        for name in (self.path + ".0", self.path + ".1", self.path):
            with open(name) as stream:
                self.assertEqual(len(stream.readlines()), 1, name)

    def test_what_is_buffered_is_written_at_the_end(self):
        node = self.start_server(Node(greeter))
        sidecar = self.begin(services=[service(HELLO, node.registration())])
        for turn in range(20):
            sidecar.post("/hello/say/hello", {})
        sidecar.stop()
        self.assertEqual(len(self.text().splitlines()), 20)

    def test_a_reader_that_does_not_read_costs_lines_and_no_call(self):
        node = self.start_server(Node(greeter))
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        pipe = os.path.join(folder.name, "pipe")
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        template = "{service}" + "x" * 1000 + "{time}"
        sidecar = self.start(
            services=[service(HELLO, node.registration())],
            environment={"MICRO_ACCESS_LOG": pipe, "MICRO_ACCESS_LOG_FORMAT": template})

        def calls(_):
            for turn in range(350):
                self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)

        run_together(4, calls)
        eventually(lambda: sidecar.metric("micro_sidecar_access_log_dropped_total") > 0, what="dropped lines")
        self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)

    def test_to_standard_error(self):
        node = self.start_server(Node(greeter))
        sidecar = self.start(
            services=[service(HELLO, node.registration())],
            environment={"MICRO_ACCESS_LOG": "stderr", "MICRO_ACCESS_LOG_FORMAT": "json"})
        sidecar.post("/hello/say/hello", {})
        eventually(lambda: '"endpoint":"Say.Hello"' in sidecar.text(), what="a line on standard error")
