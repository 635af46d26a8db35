"""Every form a call or a stream can come in, to nodes and apps that take one form only: what arrives, and what comes back.

The tables of the results are in `docs/codecs.md`; each test fails when its table there says something else. To write them
anew: MICRO_WRITE_DOCS=1 python3 Tests/Interop/run.py --binary PATH matrix
"""

from __future__ import annotations

import os
import unittest

import bson
import msgpack

import callers
from callees import FrameNode, GRPCCallee, HTTPApp, WebSocketApp, with_descriptors
from callers import GRPC, Ended, Failed, Frames
from codecpeer import CODECS, LEGACY
from gomicro import Node
from sidecar import BlackBox, service

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "codecs.md")

# What a cell says.
WORKS, WITH_TYPES = "yes", "types"

NAME = "go.micro.srv.hello"
APPS = (HTTPApp, WebSocketApp)
ENDPOINTS = ["Say.Hello", {"name": "Say.Chat", "metadata": {"stream": "true"}}]


def nodes():
    """(column, family, callee): nodes that have one codec each."""
    for codec in LEGACY:
        yield codec.name, codec.family, FrameNode([codec], generation="v0.14")
    for codec in CODECS:
        yield codec.name, codec.family, FrameNode([codec])
    yield "gRPC", "protobuf", GRPCCallee()
    yield "gRPC with JSON", "any", GRPCCallee(has_json=True)


class Matrix(BlackBox):
    """What calls and streams have in common. `go_through` makes one that succeeds, `fail_through` one that fails."""

    def check(self, table, columns, rows):
        """Compares a table with the one that docs/codecs.md has between its marks."""
        lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        mark, end = "<!-- %s -->\n" % table, "<!-- end -->"
        with open(DOCS, encoding="utf-8") as stream:
            page = stream.read()
        before, rest = page.split(mark)
        old, after = rest.split(end, 1)
        new = "\n".join(lines) + "\n"
        if os.environ.get("MICRO_WRITE_DOCS"):
            with open(DOCS, "w", encoding="utf-8") as stream:
                stream.write(before + mark + new + end + after)
        else:
            self.assertEqual(old, new, "docs/codecs.md is out of date")

    def fill(self, forms, columns, find):
        """Goes through all pairs. `columns`: (name, family, callee); `find(described, column)`: (port, service)."""
        rows = []
        for caller in forms:
            cells = []
            for column in columns:
                with self.subTest("%s to %s" % (caller, column[0])):
                    cells.append(self.cell(caller, column, find))
            rows.append([caller.name] + cells)
        return rows

    def cell(self, caller, column, find):
        name, family, callee = column
        is_same = family == "any" or family != "types" and (caller.family == "json") == (family == "json")
        self.succeed(caller, column, *find(True, column), is_same=is_same)
        if is_same:
            self.succeed(caller, column, *find(False, column), is_same=True)
            return WORKS
        callee.sides.clear()
        with self.assertRaises(Failed) as failed:
            self.go_through(caller, *find(False, column))
        # gRPC callers hear what gRPC callees say, unchanged.
        if not (isinstance(caller, GRPC) and isinstance(callee, GRPCCallee)):
            self.assertIn("MICRO_DESCRIPTORS", failed.exception.detail)
        self.assertEqual([side.received for side in callee.sides if side.received], [])
        return WITH_TYPES

    def succeed(self, caller, column, port, target, is_same):
        _, family, callee = column
        callee.sides.clear()
        self.go_through(caller, port, target)
        for payload in callee.sides[-1].raw:
            if isinstance(payload, dict):
                # As every generation of go-micro reads it, and as apps do.
                is_canonical = isinstance(callee, APPS) and caller.family != "json"
                number = ("bigNumber", "7") if is_canonical else ("big_number", 7)
                self.assertEqual(payload, {"name": payload["name"], number[0]: number[1]})
        if caller.family == "json" and not is_same:
            number = ("big_number", 7) if isinstance(caller, Frames) else ("bigNumber", "7")
            self.assertEqual(dict(caller.last_payload), {"msg": caller.last_payload["msg"], number[0]: number[1]})
        with self.assertRaises(Failed) as failed:
            self.fail_through(caller, port, target)
        self.assertEqual((failed.exception.code, failed.exception.detail), (409, "bad <fail>"))


class Calls(Matrix):
    def go_through(self, caller, port, target):
        call = caller.open(port, target, "Say.Hello", None)
        try:
            call.send("a", 7)
            call.finish()
            self.assertEqual(call.receive(), ("Hello a", 7))
            with self.assertRaises(Ended):
                call.receive()
        finally:
            call.close()

    def fail_through(self, caller, port, target):
        call = caller.open(port, target, "Say.Hello", None)
        try:
            call.send("fail", 0)
            call.finish()
            call.receive()
        finally:
            call.close()

    def test_every_caller_reaches_every_node(self):
        self.go_to_nodes("calls to nodes", callers.UNARY)

    def go_to_nodes(self, table, forms):
        columns = list(nodes())
        services, names = [], {}
        for index, (column, _, node) in enumerate(columns):
            self.start_server(node)
            names[column] = "go.micro.srv.n%d" % index
            services.append(service(names[column], node.registration(names[column]), endpoints=ENDPOINTS))
        ports = [
            self.start(services=services).port,
            self.start(services=services, environment=with_descriptors(self)).port,
        ]
        rows = self.fill(forms, columns, lambda described, column: (ports[described], names[column[0]]))
        self.check(table, [name for name, _, _ in columns], rows)

    def test_every_caller_reaches_every_app(self):
        self.go_to_apps("calls to apps", callers.from_framework(False), [
            ("HTTP", "json", HTTPApp(takes=["application/json"]), {}),
            ("gRPC", "types", GRPCCallee(package="greet.Say"), {"MICRO_APP_PROTOCOL": "grpc"}),
            ("mucp", "any", FrameNode(CODECS[:4]), {"MICRO_APP_PROTOCOL": "mucp"}),
        ])

    def go_to_apps(self, table, forms, apps):
        ports = {}
        for name, _, app, settings in apps:
            self.start_server(app)
            ports[name] = [
                self.start(name=NAME, app=app.port, environment={**settings, **more}).server_port
                for more in ({}, with_descriptors(self))
            ]
        columns = [app[:3] for app in apps]
        rows = self.fill(forms, columns, lambda described, column: (ports[column[0]][described], NAME))
        self.check(table, [name for name, _, _ in columns], rows)


class Streams(Calls):
    def go_through(self, caller, port, target):
        call = caller.open(port, target, "Say.Chat", None)
        try:
            if caller.messages_max > 1:
                call.send("two", 7)
                self.assertEqual(call.receive(), ("Hello two", 7))
                call.send("b", 7)
                self.assertEqual(call.receive(), ("Hello b", 7))
            else:
                call.send("one", 7)
                self.assertEqual(call.receive(), ("Hello one", 7))
            with self.assertRaises(Ended):
                call.receive()
        finally:
            call.close()

    def fail_through(self, caller, port, target):
        call = caller.open(port, target, "Say.Chat", None)
        try:
            call.send("fail", 1)
            self.assertEqual(call.receive(), ("before", 1))
            call.receive()
        finally:
            call.close()

    def test_every_caller_reaches_every_node(self):
        self.go_to_nodes("streams to nodes", callers.STREAMS)

    def test_every_caller_reaches_every_app(self):
        streams = "Say.Chat=websocket"
        self.go_to_apps("streams to apps", callers.from_framework(True), [
            ("WebSocket", "any", WebSocketApp(), {"MICRO_APP_STREAMS": streams}),
            ("NDJSON", "json", HTTPApp(), {"MICRO_APP_STREAMS": "Say.Chat=ndjson"}),
            ("gRPC", "types", GRPCCallee(package="greet.Say"), {"MICRO_APP_PROTOCOL": "grpc"}),
            ("mucp", "any", FrameNode(CODECS[:4]), {"MICRO_APP_PROTOCOL": "mucp", "MICRO_APP_STREAMS": "Say.Chat"}),
        ])


class Refusals(BlackBox):
    """Nodes that do not say what they take, and refuse what they do not."""

    def begin(self, codecs, **options):
        node = self.start_server(FrameNode(codecs))
        registration = node.registration(NAME)
        registration["metadata"].pop("content-type", None)
        return node, self.start(services=[service(NAME, registration, endpoints=ENDPOINTS)], **options)

    def test_a_refused_call_is_translated_and_sent_again_and_the_next_one_at_once(self):
        for codecs, request in ((CODECS[2:4], {"name": "a", "big_number": 7}), (CODECS[:1], b"\n\1a\x10\7")):
            with self.subTest(codecs[0].name):
                node, sidecar = self.begin(codecs, environment=with_descriptors(self))
                is_json = isinstance(request, dict)
                for _ in range(3):
                    answer = sidecar.post(
                        "/hello/say/hello", request,
                        {"Content-Type": "application/json" if is_json else "application/protobuf"})
                    self.assertEqual(answer.status, 200, answer)
                self.assertEqual(len(node.refused), 1, node.refused)
                self.assertEqual([side.received for side in node.sides], [[("a", 7)]] * 3)
                # What a call has taught holds for streams.
                caller = next(c for c in callers.STREAMS if c.name == "WebSocket, " + ("text" if is_json else "binary"))
                call = caller.open(sidecar.port, NAME, "Say.Chat", None)
                call.send("one", 7)
                self.assertEqual(call.receive(), ("Hello one", 7))
                call.close()
                self.assertEqual(len(node.refused), 1, node.refused)

    def test_without_descriptors_the_refusal_says_what_is_missing(self):
        node, sidecar = self.begin(CODECS[2:4])
        for _ in range(2):
            answer = sidecar.post("/hello/say/hello", {"name": "a"})
            self.assert_error(answer, 501, "no descriptors for %s Say.Hello: name a set in MICRO_DESCRIPTORS" % NAME)
        self.assertEqual((node.sides, node.refused), ([], ["application/json"] * 2))


class BinaryReplies(BlackBox):
    def test_an_app_may_answer_over_its_websocket_in_protobuf(self):
        def answer(side):
            name, number = side.receive()
            side.family = "protobuf"
            side.send("Hello " + name, number)

        app = self.start_server(WebSocketApp(answer))
        sidecar = self.start(
            name=NAME, app=app.port, environment={"MICRO_APP_STREAMS": "Say.Chat", **with_descriptors(self)})
        for caller in callers.from_framework(True):
            with self.subTest(caller.name):
                call = caller.open(sidecar.server_port, NAME, "Say.Chat", None)
                call.send("a", 7)
                self.assertEqual(call.receive(), ("Hello a", 7))
                with self.assertRaises(Ended):
                    call.receive()
                call.close()


class PackedBodies(BlackBox):
    """MessagePack and BSON bodies of the local API."""

    def setUp(self):
        super().setUp()
        self.node = self.start_server(Node(lambda call: {"got": call.payload, "list": [1, -1, 1.5, None, True]}))
        self.sidecar = self.start(services=[service("go.micro.srv.hello", self.node.registration())])

    def post(self, body, kind, accept=None):
        headers = {"Content-Type": kind}
        if accept:
            headers["Accept"] = accept
        return self.sidecar.post("/hello/say/hello", body, headers)

    def test_what_goes_in_comes_out(self):
        value = {"s": "é", "n": [0, 2**40, -(2**31), 1.25], "o": {"deep": True}, "z": None}
        for dump, load, kind in (
            (msgpack.packb, msgpack.unpackb, "application/msgpack"),
            (bson.encode, bson.decode, "application/bson"),
        ):
            with self.subTest(kind):
                answer = self.post(dump(value), kind)
                self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, kind))
                self.assertEqual(load(answer.body), {"got": value, "list": [1, -1, 1.5, None, True]})
                self.assertEqual(self.node.calls[-1].payload, value)

    def test_the_reply_is_what_accept_names(self):
        answer = self.post(msgpack.packb({"a": 1}), "application/msgpack", "application/json")
        self.assertEqual(answer.json()["got"], {"a": 1})
        answer = self.post(b'{"a":1}', "application/json", "application/msgpack")
        self.assertEqual(msgpack.unpackb(answer.body)["got"], {"a": 1})

    def test_bad_bodies_are_400_and_say_where(self):
        self.assert_error(self.post(b"\x81\xa1a", "application/msgpack"), 400, "at byte")
        self.assert_error(self.post(b"\x05\0\0\0\1", "application/bson"), 400, "at byte")
        self.assert_error(self.post(b"\x91" * 65 + b"\xc0", "application/msgpack"), 400, "nested too deep")


if __name__ == "__main__":
    unittest.main()
