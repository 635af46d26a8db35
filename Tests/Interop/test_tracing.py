"""Traces: ids carried and translated across every dialect, and the tree of spans that a collector gets of two sidecars."""

from __future__ import annotations

import uuid

import callers
from callees import GRPCCallee, with_descriptors
from gomicro import App, Node, greeter, json_reply
from otlpcollector import Collector
from sidecar import BlackBox, eventually, free_port, service

HELLO = "go.micro.srv.hello"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
W3C = {"traceparent": "00-%s-%s-01" % (TRACE, SPAN), "tracestate": "vendor=1"}
SERVER, CLIENT = 2, 3


def echo_app(seen):
    def handle(method, path, headers, body):
        seen.append({name.lower(): value for name, value in headers.items()})
        return json_reply(200, {"msg": "Hello"})

    return handle


class Traces(BlackBox):
    def begin(self, answers=(), sample="1"):
        """A sidecar beside an app, and one that calls it: (caller, callee, collector, the app's headers)."""
        self.collector = self.start_server(Collector(answers))
        self.seen = []
        app = self.start_server(App(echo_app(self.seen)))
        tracing = {"MICRO_TRACE_ENDPOINT": self.collector.url, "MICRO_TRACE_SAMPLE": sample}
        self.callee = self.start(name=HELLO, app=app.port, environment=tracing)
        self.caller = self.start(
            services=[service(HELLO, self.callee.server_port)],
            environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:%d" % self.collector.port,
                         "OTEL_SERVICE_NAME": "the-caller", "MICRO_TRACE_SAMPLE": sample})
        return self.caller

    def spans(self, count):
        return eventually(
            lambda: len(self.collector.spans) >= count and self.collector.spans, 10, "%d spans" % count)

    def pair(self, spans):
        client = next(span for span in spans if span.kind == CLIENT)
        server = next(span for span in spans if span.kind == SERVER)
        self.assertEqual(server.parent, client.id)
        self.assertEqual(server.trace, client.trace)
        self.assertLessEqual(client.start, client.end)
        return client, server

    def test_a_tree_over_two_sidecars(self):
        sidecar = self.begin()
        self.assertEqual(sidecar.post("/hello/say/hello", {}, W3C).status, 200)
        client, server = self.pair(self.spans(2))
        self.assertEqual((client.trace, client.parent), (TRACE, SPAN))
        self.assertEqual(client.resource["service.name"], "the-caller")
        self.assertEqual(server.resource["service.name"], HELLO)
        self.assertEqual(client.name, HELLO + "/Say.Hello")
        self.assertEqual([name for name, _ in client.events], ["attempt", "attempt.ok"])
        self.assertEqual(client.attributes["micro.dialect"], "http")
        self.assertEqual(server.attributes["micro.dialect"], "mucp")
        self.assertFalse(client.error)
        heard = self.seen[0]
        self.assertEqual(heard["traceparent"], "00-%s-%s-01" % (TRACE, server.id))
        self.assertEqual(heard["tracestate"], "vendor=1")
        self.assertEqual(heard["micro-trace-id"], str(uuid.UUID(TRACE)))
        self.assertEqual(heard["micro-span-id"], server.id)

    def test_every_convention_is_understood_and_passed_on(self):
        sidecar = self.begin()
        ids = str(uuid.UUID(TRACE))
        forms = {
            "w3c": W3C,
            "b3": {"b3": "%s-%s-1" % (TRACE, SPAN)},
            "b3 multi": {"X-B3-TraceId": TRACE, "X-B3-SpanId": SPAN, "X-B3-Sampled": "1"},
            "b3 short": {"b3": "%s-%s-d" % (TRACE[16:], SPAN)},
            "micro": {"Micro-Trace-Id": ids, "Micro-Span-Id": SPAN},
            "micro span of another kind": {"Micro-Trace-Id": ids, "Micro-Span-Id": str(uuid.UUID(SPAN + SPAN))},
        }
        for turn, (name, headers) in enumerate(forms.items()):
            with self.subTest(name):
                self.assertEqual(sidecar.post("/hello/say/hello", {}, headers).status, 200)
                client, server = self.pair(self.spans(2 * (turn + 1))[-2:])
                trace = TRACE if name != "b3 short" else "0" * 16 + TRACE[16:]
                self.assertEqual((client.trace, client.parent), (trace, SPAN))
                heard = self.seen[-1]
                self.assertEqual(heard["traceparent"], "00-%s-%s-01" % (trace, server.id))
                self.assertEqual(heard.get("b3"), "%s-%s-1" % (trace, server.id) if name in ("b3", "b3 short") else None)
                self.assertEqual(heard.get("x-b3-traceid"), trace if name == "b3 multi" else None)

    def test_a_trace_begins_here_where_there_is_none(self):
        sidecar = self.begin()
        for headers in ({}, {"traceparent": "00-%s-%s-01" % ("0" * 32, SPAN)}, {"traceparent": "garbage", "b3": "x"}):
            before = len(self.collector.spans)
            self.assertEqual(sidecar.post("/hello/say/hello", {}, headers).status, 200)
            client, _ = self.pair(self.spans(before + 2)[before:])
            self.assertEqual(client.parent, "")
            self.assertNotEqual(int(client.trace, 16), 0)
        self.assertEqual(len({span.trace for span in self.collector.spans}), 3)

    def test_the_callers_decision_holds(self):
        sidecar = self.begin(sample="0")
        sidecar.post("/hello/say/hello", {}, {"traceparent": "00-%s-%s-00" % (TRACE, SPAN)})
        sidecar.post("/hello/say/hello", {}, {"b3": "%s-%s-0" % (TRACE, SPAN)})
        sidecar.post("/hello/say/hello", {})
        # What is not sampled is still one trace, and its caller still the parent.
        self.assertEqual(self.seen[0]["traceparent"], "00-%s-%s-00" % (TRACE, SPAN))
        self.assertTrue(self.seen[1]["traceparent"].endswith("-00"))
        self.assertTrue(self.seen[2]["traceparent"].endswith("-00"))
        sidecar.post("/hello/say/hello", {}, W3C)
        client, server = self.pair(self.spans(2))
        self.assertEqual(len(self.collector.spans), 2)
        self.assertEqual(client.trace, TRACE)

    def test_off_headers_pass_as_they_came(self):
        seen = []
        app = self.start_server(App(echo_app(seen)))
        callee = self.start(name=HELLO, app=app.port)
        caller = self.start(services=[service(HELLO, callee.server_port)])
        sent = {**W3C, "X-B3-TraceId": TRACE, "b3": "0", "Micro-Trace-Id": "anything", "Micro-Span-Id": "at all"}
        caller.post("/hello/say/hello", {}, sent)
        self.assertEqual({name: seen[0].get(name.lower()) for name in sent}, sent)
        caller.post("/hello/say/hello", {})
        self.assertFalse({"traceparent", "micro-trace-id", "b3"} & set(seen[1]))

    def test_every_form_of_caller_is_a_tree(self):
        self.begin()
        for caller in callers.UNARY:
            call = caller.open(self.caller.port, HELLO, "Say.Hello", 5)
            call.send("John", 1)
            call.finish()
            try:
                call.receive()
                call.leave()
            except Exception:  # noqa: BLE001 - some need descriptors; a failed call is a tree too
                continue
        wanted = {"http", "grpc", "mucp", "mucp-x-micro"}

        def trees():
            clients = {span.id: span for span in self.collector.spans if span.kind == CLIENT}
            servers = [span for span in self.collector.spans if span.kind == SERVER]
            for server in servers:
                self.assertEqual(clients[server.parent].trace, server.trace)
            return {clients[server.parent].attributes["micro.dialect"] for server in servers} == wanted

        eventually(trees, 10, "a tree for each dialect")
        self.assertEqual(len({span.trace for span in self.collector.spans if span.kind == CLIENT}), len(callers.UNARY))

    def test_grpc_carries_the_trace(self):
        self.collector = self.start_server(Collector())
        node = self.start_server(GRPCCallee())
        sidecar = self.start(
            services=[service(HELLO, node.registration(HELLO))],
            environment={"MICRO_TRACE_ENDPOINT": self.collector.url, **with_descriptors(self)})
        self.assertEqual(sidecar.post("/hello/say/hello", {"name": "ok"}, W3C).status, 200)
        client = self.spans(1)[0]
        self.assertEqual((client.trace, client.parent), (TRACE, SPAN))

    def test_attempts_are_events_and_failures_errors(self):
        self.collector = self.start_server(Collector())
        node = self.start_server(Node(greeter))
        sidecar = self.start(
            services=[service(HELLO, free_port(), node.registration()), service("go.micro.srv.dead", free_port())],
            environment={"MICRO_TRACE_ENDPOINT": self.collector.url, "MICRO_SELECTOR": "roundrobin",
                         "MICRO_CLIENT_RETRIES": "0"})
        for turn in range(2):
            self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)
        self.assertEqual(sidecar.post("/dead/say/hello", {}).status, 503)
        spans = self.spans(3)
        events = [[name for name, _ in span.events] for span in spans]
        self.assertIn(["attempt", "attempt.connect_failed", "attempt", "attempt.ok"], events)
        self.assertEqual([span.error for span in spans], [False, False, True])
        self.assertEqual(spans[2].attributes["micro.reason"], "connect_failed")

    def test_a_collector_that_is_away_costs_no_call(self):
        sidecar = self.begin(answers=[503, 503])
        self.assertEqual(sidecar.post("/hello/say/hello", {}, W3C).status, 200)
        self.spans(2)
        self.assertGreaterEqual(self.collector.requests, 3)

    def test_spans_are_sent_before_the_end(self):
        sidecar = self.begin()
        sidecar.post("/hello/say/hello", {}, W3C)
        sidecar.stop()
        self.assertTrue([span for span in self.collector.spans if span.kind == CLIENT], "the span was lost")
