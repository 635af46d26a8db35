"""go-micro's gRPC transport, both ways: frames in messages of a gRPC stream. The peers are official gRPC (grpctransport.py)."""

from __future__ import annotations

import itertools
import json
import signal
import time

import grpc

from gomicro import App, NodeError, fields, greeter, header, hello_app, string_field
from gomicro_streams import StreamEnded, count_down, echo
from grpctransport import (
    NEW, OLD, TransportClient, TransportClientStream, TransportNode, TransportStreamNode, decode_message, dial,
    encode_message,
)
from sidecar import BlackBox, eventually, free_port, run_together, service
from test_frames import GENERATIONS, HELLO, TYPES, greeting_in, request_in
from test_streams import NDJSON, LineApp, Lines, streaming_service

PATHS = {"v0.14": OLD, "x": OLD, "micro": NEW}


class Inbound(BlackBox):
    """A framework caller with `--transport=grpc`, the sidecar, a plain HTTP app."""

    def setUp(self):
        super().setUp()
        self.app = self.start_server(App(hello_app))
        self.sidecar = self.start(name=HELLO, app=self.app.port, registry="memory")

    def client(self, generation, kind):
        client = TransportClient(self.sidecar.server_port, generation, kind, path=PATHS[generation])
        self.addCleanup(client.close)
        return client

    def test_every_dialect_reaches_the_app(self):
        for generation, kind in itertools.product(GENERATIONS, TYPES):
            with self.subTest("%s %s" % (generation, kind)):
                client = self.client(generation, kind)
                for name in ("a", "b"):  # the second in the same stream
                    payload, error = client.call("Say.Hello", request_in(kind, name))
                    self.assertIsNone(error)
                    self.assertEqual(greeting_in(kind, payload), "Hello " + name)

    def test_errors_and_what_follows_them_in_the_stream(self):
        for generation, kind in itertools.product(GENERATIONS, ("application/json", "application/proto-rpc")):
            with self.subTest("%s %s" % (generation, kind)):
                client = self.client(generation, kind)
                _, text = client.call("Say.Teapot", request_in(kind, "a"))
                self.assertEqual(json.loads(text)["code"], 418)
                payload, error = client.call("Say.Hello", request_in(kind, "after"))
                self.assertIsNone(error)
                self.assertEqual(greeting_in(kind, payload), "Hello after")

    def test_each_message_has_its_own_headers(self):
        client = self.client("v0.14", "application/json")
        for value in ("one", "two"):
            client.call("Say.Hello", {"name": "a"}, {"X-Tag": value})
        self.assertEqual([r[2].get("X-Tag") for r in self.app.requests if r[1] == "/Say/Hello"], ["one", "two"])

    def test_both_spellings_of_the_id_and_of_nothing_else(self):
        client = self.client("micro", "application/json")
        client.send("Say.Hello", {"name": "a"})
        reply = client.connection.read()
        names = [name for name, _ in reply.headers]
        self.assertIn("Micro-Id", names)
        self.assertIn("Micro-ID", names)
        self.assertEqual(len(names), len(set(names)))
        self.assertNotIn("Content-Length", names)

    def test_an_id_in_the_spelling_of_v4_10(self):
        transport, channel = dial(self.sidecar.server_port, NEW, 10)
        self.addCleanup(channel.close)
        transport.out.put(encode_message(
            [("Content-Type", "application/json"), ("Micro-Endpoint", "Say.Hello"), ("Micro-ID", "41")], b'{"name":"a"}'))
        reply = transport.read()
        self.assertEqual((header(reply, "Micro-ID"), json.loads(reply.body)), ("41", {"msg": "Hello a"}))

    def test_headers_of_http_and_names_it_cannot_write_do_no_harm(self):
        transport, channel = dial(self.sidecar.server_port, NEW, 10)
        self.addCleanup(channel.close)
        hostile = [
            ("Content-Type", "application/json"), ("Micro-Endpoint", "Say.Echo"), ("Content-Length", "1"),
            ("Transfer-Encoding", "chunked"), ("Connection", "close"), ("Host", "elsewhere"), ("Expect", "100-continue"),
            (":path", "/x"), ("two words", "x"), ("", "nameless"), ("X-Split", "a\r\nX-Smuggled: b"), ("X-Name", "é"),
        ]
        for _ in range(2):
            transport.out.put(encode_message(hostile, b"{}"))
            seen = json.loads(transport.read().body)["headers"]
            self.assertNotIn("x-smuggled", seen)
            self.assertEqual(seen["x-split"], "a  X-Smuggled: b")
            self.assertEqual(seen["x-name"].encode("latin-1").decode(), "é")

    def test_large_messages(self):
        client = self.client("micro", "application/json")
        name = "x" * 3_000_000
        self.assertEqual(client.call("Say.Hello", {"name": name}), ({"msg": "Hello " + name}, None))

    def test_many_streams_of_one_connection(self):
        def one(index):
            client = TransportClient(self.sidecar.server_port, "micro", "application/json")
            try:
                for turn in range(5):
                    name = "%d.%d" % (index, turn)
                    self.assertEqual(client.call("Say.Hello", {"name": name}), ({"msg": "Hello " + name}, None))
            finally:
                client.close()

        run_together(40, one)

    def test_garbage_ends_the_stream_and_no_other(self):
        client = self.client("micro", "application/json")
        self.assertIsNone(client.call("Say.Hello", {"name": "a"})[1])
        transport, channel = dial(self.sidecar.server_port, NEW, 10)
        self.addCleanup(channel.close)
        transport.out.put(b"\x0a\x05ab")
        with self.assertRaises(grpc.RpcError):
            next(transport.messages)
        self.assertIsNone(client.call("Say.Hello", {"name": "b"})[1])

    def test_the_end_of_the_stream_is_answered_with_ok(self):
        client = self.client("micro", "application/json")
        client.call("Say.Hello", {"name": "a"})
        client.connection.close()
        self.assertEqual(client.connection.call.code(), grpc.StatusCode.OK)

    def test_an_idle_stream_does_not_hold_up_the_end_of_the_sidecar(self):
        client = self.client("micro", "application/json")
        self.assertIsNone(client.call("Say.Hello", {"name": "a"})[1])
        began = time.monotonic()
        self.sidecar.send_signal(signal.SIGTERM)
        self.assertEqual(self.sidecar.wait(10), 0)
        self.assertLess(time.monotonic() - began, 5)

    def test_streams_into_an_app_that_speaks_lines(self):
        app = self.start_server(LineApp().start())
        sidecar = self.start(
            name=HELLO, app=app.port, environment={"MICRO_APP_STREAMS": "Chat.Talk=ndjson,Log.Fail=ndjson"})
        for generation, kind in (("micro", "application/json"), ("v0.14", "application/json"), ("micro", "application/json-rpc")):
            with self.subTest("%s %s" % (generation, kind)):
                stream = TransportClientStream(
                    sidecar.server_port, generation, kind, "Chat.Talk", {"X-User": "bob"}, path=PATHS[generation])
                for number in range(3):
                    stream.post({"n": number})
                    self.assertEqual(stream.receive(), {"n": number, "user": "bob"})
                stream.end()
                if generation == "micro":
                    with self.assertRaises(StreamEnded):
                        stream.receive()
                stream.close()
        stream = TransportClientStream(sidecar.server_port, "micro", "application/json", "Log.Fail")
        with self.assertRaises(NodeError) as caught:
            stream.receive()
        self.assertEqual(json.loads(str(caught.exception))["code"], 418)
        stream.close()


class Outbound(BlackBox):
    """The app calls a framework node that was started with `--transport=grpc`."""

    def begin(self, handler, generation="micro", path=None, kind=TransportNode, endpoints=()):
        node = kind(handler, generation)
        node.path = path or PATHS[generation]
        self.start_server(node)
        if endpoints:
            return node, self.start(services=[streaming_service(node, *endpoints)])
        return node, self.start(services=[service(HELLO, node.registration())])

    def test_json_and_protobuf_to_every_generation_by_the_name_it_knows(self):
        for generation, path in (("v0.14", OLD), ("micro", OLD), ("micro", NEW)):
            with self.subTest("%s %s" % (generation, path)):
                node, sidecar = self.begin(greeter, generation, path)
                for name in ("a", "b", "c"):
                    answer = sidecar.post("/hello/say/hello", {"name": name})
                    self.assertEqual((answer.status, answer.json()), (200, {"msg": "Hello " + name}))
                answer = sidecar.ask(
                    "POST", "/hello/say/hello", string_field(1, "p"), {"Content-Type": "application/protobuf"})
                self.assertEqual((answer.status, fields(answer.body)), (200, {1: b"Hello p"}))
                # Of the nodes that do not say how old they are one is asked once, and then called in one stream.
                probes = [] if generation == "v0.14" else [NEW]
                self.assertEqual(node.asked, probes + [path])

    def test_bytes_are_counted_once(self):
        _, sidecar = self.begin(greeter, "micro", NEW)
        name = "n" * 20_000
        for _ in range(5):
            self.assertEqual(sidecar.post("/hello/say/hello", {"name": name}).json(), {"msg": "Hello " + name})
        for direction in ("sent", "received"):
            counted = sidecar.metric('micro_sidecar_bytes_total{peer="node",direction="%s"}' % direction)
            self.assertGreater(counted, 100_000)
            self.assertLess(counted, 120_000, direction)

    def test_metadata_is_spelled_as_over_http_and_both_ids_are_there(self):
        node, sidecar = self.begin(greeter)
        sidecar.post("/hello/say/hello", {"name": "a"}, {"x-user-name": "ann", "Authorization": "Bearer é".encode().decode("latin-1")})
        names = dict(node.calls[0].raw.headers)
        self.assertEqual(names["X-User-Name"], "ann")
        self.assertEqual(names["Authorization"], "Bearer é")
        self.assertEqual(names["Micro-Id"], names["Micro-ID"])
        for wanted in ("Content-Type", "Timeout", "Micro-Service", "Micro-Endpoint", "Micro-Method", "X-Micro-Service"):
            self.assertIn(wanted, names)
        for unwanted in ("Host", "Content-Length", "Connection"):
            self.assertNotIn(unwanted, names)

    def test_errors(self):
        for generation in ("v0.14", "micro"):
            _, sidecar = self.begin(greeter, generation)
            self.assert_error(sidecar.post("/hello/say/fail", {}), 400, "bad <name>", HELLO)
            self.assert_error(sidecar.post("/hello/say/plain", {}), 500, "plain failure")
            self.assertEqual(sidecar.post("/hello/say/hello", {"name": "a"}).json(), {"msg": "Hello a"})

    def test_an_error_ends_its_stream_as_it_ends_a_connection_of_http(self):
        node, sidecar = self.begin(greeter, "v0.14")
        sidecar.post("/hello/say/fail", {})
        sidecar.post("/hello/say/hello", {"name": "a"})
        self.assertEqual([call.connection for call in node.calls], [0, 1])

    def test_large_messages(self):
        _, sidecar = self.begin(greeter)
        name = "x" * 3_000_000
        self.assertEqual(sidecar.post("/hello/say/hello", {"name": name}).json(), {"msg": "Hello " + name})

    def test_calls_together_share_a_connection(self):
        node, sidecar = self.begin(greeter)

        def one(index):
            for turn in range(5):
                name = "%d.%d" % (index, turn)
                self.assertEqual(sidecar.post("/hello/say/hello", {"name": name}).json(), {"msg": "Hello " + name})

        run_together(16, one)
        self.assertEqual(len(node.calls), 80)

    def test_a_node_of_another_version_takes_the_place_of_one(self):
        node, sidecar = self.begin(greeter)
        self.assertEqual(sidecar.post("/hello/say/hello", {"name": "a"}).status, 200)
        node.path = OLD  # the next stream finds the name gone
        for connection in node.connections:
            connection.close()
        eventually(lambda: sidecar.post("/hello/say/hello", {"name": "b"}).status == 200)
        self.assertEqual(node.asked[-1], OLD)

    def test_nobody_there(self):
        dead = {"id": "dead", "address": "127.0.0.1:%d" % free_port(), "metadata": {"transport": "grpc", "server": "mucp", "protocol": "mucp"}}
        sidecar = self.start(services=[service(HELLO, dead)])
        self.assert_error(sidecar.post("/hello/say/hello", {}), 503, "refused")
        node = self.start_server(TransportNode(greeter))
        sidecar.write_registry([service(HELLO, dead, node.registration())])
        eventually(lambda: sidecar.post("/hello/say/hello", {"name": "a"}).status == 200)
        for _ in range(20):
            self.assertEqual(sidecar.post("/hello/say/hello", {"name": "a"}).status, 200)

    def test_a_deadline(self):
        _, sidecar = self.begin(lambda call: time.sleep(3))
        answer = sidecar.post("/hello/say/hello", {}, {"Timeout": "0.2"})
        self.assertEqual((answer.status, answer.json()["code"]), (504, 408))

    def test_streams_both_ways(self):
        for generation, path in (("v0.14", OLD), ("micro", OLD), ("micro", NEW)):
            with self.subTest("%s %s" % (generation, path)):
                node, sidecar = self.begin(echo, generation, path, TransportStreamNode, ["Chat.Talk"])
                lines = Lines(sidecar.port, "/hello/chat/talk", NDJSON + [("X-User", "ann")])
                for number in range(5):
                    lines.send({"n": number})
                    if number == 0:
                        self.assertEqual(lines.head(), 200)
                    self.assertEqual(lines.line(), {"n": number})
                self.assertEqual(node.streams[0].headers["x-user"], "ann")
                lines.end()
                if generation == "micro":
                    self.assertIsNone(lines.chunk())
                    self.assertEqual(lines.trailers, [])

    def test_one_request_and_many_replies(self):
        _, sidecar = self.begin(count_down, kind=TransportStreamNode, endpoints=["Clock.Down"])
        answer = sidecar.get("/hello/clock/down?from=3", {"Accept": "application/x-ndjson"})
        self.assertEqual([json.loads(line) for line in answer.body.splitlines()], [{"number": n} for n in (3, 2, 1)])

    def test_an_error_inside_a_stream(self):
        def fail(stream):
            stream.send({"n": 1})
            raise NodeError(json.dumps({"id": HELLO, "code": 409, "detail": "changed", "status": "Conflict"}))

        _, sidecar = self.begin(fail, kind=TransportStreamNode, endpoints=["Chat.Talk"])
        lines = Lines(sidecar.port, "/hello/chat/talk", [("Accept", "application/x-ndjson")] + NDJSON)
        lines.send({})
        lines.head()
        self.assertEqual(lines.line(), {"n": 1})
        self.assertEqual(lines.line()["error"]["code"], 409)

    def test_a_slow_reader_stops_the_node(self):
        block = {"data": "x" * 60_000}
        total = 16 << 20

        def send(stream):
            for _ in range(total // 60_000):
                stream.send(block)

        _, sidecar = self.begin(send, kind=TransportStreamNode, endpoints=["Data.Send"])
        lines = Lines(sidecar.port, "/hello/data/send", [("Accept", "application/x-ndjson")], chunked=False)
        lines.head()
        before, received, most = sidecar.anonymous_kilobytes(), 0, 0
        while (data := lines.chunk()) is not None:
            received += len(data)
            most = max(most, sidecar.anonymous_kilobytes())
        self.assertGreaterEqual(received, total // 60_000 * 60_000)
        self.assertLess(most - before, 6000)


class Between(BlackBox):
    """Two sidecars, of which one says `MICRO_TRANSPORT=grpc`."""

    def test_the_registry_says_it_and_the_other_follows(self):
        app = self.start_server(App(hello_app))
        served = self.start(name=HELLO, app=app.port, registry="memory", environment={"MICRO_TRANSPORT": "grpc"})
        entry = eventually(lambda: served.get("/registry?service=" + HELLO).json())
        nodes = (entry["services"] if isinstance(entry, dict) else entry)[0]["nodes"]
        self.assertEqual(nodes[0]["metadata"]["transport"], "grpc")
        node = {"id": "it", "address": "127.0.0.1:%d" % served.server_port, "metadata": nodes[0]["metadata"]}
        caller = self.start(services=[service(HELLO, node)])
        for name in ("a", "b"):
            self.assertEqual(caller.post("/hello/say/hello", {"name": name}).json(), {"msg": "Hello " + name})
        self.assert_error(caller.post("/hello/say/teapot", {}), 418, "short and stout")
