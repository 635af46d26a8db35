"""Streams over plain HTTP (NDJSON, Server-Sent Events) and in the framework's frames, both directions."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time

from gomicro import App, Client, Connection, Node, NodeError, header
from gomicro_streams import ClientStream, StreamEnded, StreamNode, count_down, echo
from sidecar import LONG, BlackBox, eventually, free_port, service

HELLO = "go.micro.srv.hello"
STREAM = {"stream": "true"}


def streaming_service(node, *endpoints):
    return service(
        HELLO, node.registration(), endpoints=[{"name": name, "metadata": STREAM} for name in endpoints])


class Lines:
    """A raw HTTP/1 caller that sends and reads a body piece by piece."""

    def __init__(self, port, path, headers=(), chunked=True):
        self.connection = Connection.to(port)
        lines = ["POST %s HTTP/1.1" % path, "Host: localhost"] + ["%s: %s" % pair for pair in headers]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        self.connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def send(self, value):
        line = json.dumps(value).encode() + b"\n"
        self.connection.send(b"%x\r\n%s\r\n" % (len(line), line))

    def end(self):
        self.connection.send(b"0\r\n\r\n")

    def head(self):
        text = self.connection.until(b"\r\n\r\n").decode().split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in text[1:])}
        self.status = int(text[0].split()[1])
        return self.status

    def chunk(self):
        """The next chunk's bytes; None at the end, with `trailers` set."""
        size = int(self.connection.until(b"\r\n"), 16)
        if size == 0:
            self.trailers = []
            while True:
                line = self.connection.until(b"\r\n")
                if not line:
                    return None
                self.trailers.append(line.decode())
        data = self.connection.exactly(size)
        self.connection.exactly(2)
        return data

    def line(self):
        data = self.chunk()
        return None if data is None else json.loads(data)


NDJSON = [("Content-Type", "application/x-ndjson")]


class Outbound(BlackBox):
    """The app streams to a framework node."""

    def begin(self, handler, *endpoints, generation="micro"):
        node = self.start_server(StreamNode(handler, generation).start())
        return node, self.start(services=[streaming_service(node, *endpoints)])

    def test_both_ways_as_lines_for_every_generation(self):
        for generation in ("micro", "v0.14"):
            with self.subTest(generation):
                node, sidecar = self.begin(echo, "Chat.Talk", generation=generation)
                lines = Lines(sidecar.port, "/hello/chat/talk", NDJSON + [("X-User", "ann")])
                for number in range(5):
                    lines.send({"n": number})
                    if number == 0:
                        self.assertEqual(lines.head(), 200)
                        self.assertEqual(lines.headers["content-type"], "application/x-ndjson")
                    self.assertEqual(lines.line(), {"n": number})
                self.assertEqual(node.streams[0].headers["x-user"], "ann")
                lines.end()
                if generation == "micro":
                    self.assertIsNone(lines.chunk())
                    self.assertEqual(lines.trailers, [])

    def test_a_node_that_is_gone_is_not_where_a_stream_begins(self):
        node = self.start_server(StreamNode(echo, "micro").start())
        gone = {"id": "gone", "address": "127.0.0.1:%d" % free_port()}
        entry = service(HELLO, node.registration(), gone, endpoints=[{"name": "Chat.Talk", "metadata": STREAM}])
        sidecar = self.start(services=[entry])
        for turn in range(12):
            lines = Lines(sidecar.port, "/hello/chat/talk", NDJSON)
            lines.send({"n": turn})
            self.assertEqual(lines.head(), 200)
            self.assertEqual(lines.line(), {"n": turn})
            lines.end()
            self.assertIsNone(lines.chunk())
        self.assertEqual(len(node.streams), 12)
        self.assertGreaterEqual(sidecar.metric("micro_sidecar_ejections_total"), 1)

    def test_new_settings_leave_streams_under_way_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "sidecar.yaml")

            def write(text):
                with open(file + ".new", "w") as stream:
                    stream.write(text)
                os.rename(file + ".new", file)

            write("policies: []\n")
            node = self.start_server(StreamNode(echo, "micro").start())
            sidecar = self.start(
                services=[streaming_service(node, "Chat.Talk")], environment={"MICRO_CONFIG": file})
            before = Lines(sidecar.port, "/hello/chat/talk", NDJSON)
            before.send({"n": 1})
            self.assertEqual((before.head(), before.line()), (200, {"n": 1}))
            write("policies:\n- {service: %s, selector: roundrobin, timeout: 50ms, fault: {abort: 451}}\n" % HELLO)

            def refused():
                lines = Lines(sidecar.port, "/hello/chat/talk", NDJSON)
                lines.send({"n": 2})
                return lines.head() == 451

            eventually(refused, what="the new policy for new streams")
            for number in (3, 4):
                before.send({"n": number})
                self.assertEqual(before.line(), {"n": number})
            before.end()
            self.assertIsNone(before.chunk())

    def test_one_request_and_many_replies(self):
        _, sidecar = self.begin(count_down, "Clock.Down")
        answer = sidecar.ask(
            "POST", "/hello/clock/down", b'{"from":3}',
            {"Content-Type": "application/json", "Accept": "application/x-ndjson"})
        self.assertEqual(answer.status, 200)
        self.assertEqual([json.loads(line) for line in answer.body.splitlines()], [{"number": n} for n in (3, 2, 1)])

    def test_events(self):
        _, sidecar = self.begin(count_down, "Clock.Down")
        answer = sidecar.get("/hello/clock/down?from=2", {"Accept": "text/event-stream"})
        self.assertEqual(answer.headers["Content-Type"], "text/event-stream")
        self.assertEqual(
            answer.body.decode().split("\n\n"),
            ['data: {"number": 2}', 'data: {"number": 1}', "event: end\ndata: {}", ""])

    def test_the_callers_end_is_told_and_the_silent_end_found_out(self):
        """A handler that has read the end and returns says nothing; the caller still gets its end."""
        received = []

        def collect(stream):
            while (message := stream.receive()) is not None:
                received.append(message)
            stream.send({"count": len(received)})

        _, sidecar = self.begin(collect, "Log.Upload")
        answer = sidecar.ask(
            "POST", "/hello/log/upload", b'{"a":1}\n{"a":2}\n\n{"a":3}', {"Content-Type": "application/x-ndjson"})
        self.assertEqual((answer.status, json.loads(answer.body)), (200, {"count": 3}))
        self.assertEqual(received, [{"a": 1}, {"a": 2}, {"a": 3}])

    def test_a_body_of_known_length_ends_the_stream_whenever_it_comes(self):
        """Its last byte is its end, also when it is read by itself after the stream has begun."""

        def collect(stream):
            count = 0
            while stream.receive() is not None:
                count += 1
            stream.send({"count": count})

        node, sidecar = self.begin(collect, "Log.Upload")
        body = b'{"a":1}\n{"a":2}\n'
        for parts in ((body,), (body[:5], body[5:]), (body[:-1], body[-1:])):
            with self.subTest(parts):
                begun = len(node.streams)
                connection = Connection.to(sidecar.port)
                connection.send(
                    b"POST /hello/log/upload HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body))
                eventually(lambda: len(node.streams) > begun, what="the stream")
                for part in parts:
                    connection.send(part)
                    time.sleep(0.02)  # so that each part is a read of its own
                self.assertEqual(json.loads(connection.read().body), {"count": 2})
                connection.close()

    def test_an_error_before_the_first_message_is_an_http_status(self):
        def refuse(stream):
            raise NodeError(json.dumps({"id": HELLO, "code": 403, "detail": "not you", "status": "Forbidden"}))

        _, sidecar = self.begin(refuse, "Chat.Talk")
        for accept in ("application/x-ndjson", "text/event-stream"):
            answer = sidecar.get("/hello/chat/talk", {"Accept": accept})
            self.assert_error(answer, 403, "not you")

    def test_an_error_inside_a_stream(self):
        def fail(stream):
            stream.send({"n": 1})
            raise NodeError(json.dumps({"id": HELLO, "code": 409, "detail": "changed", "status": "Conflict"}))

        _, sidecar = self.begin(fail, "Chat.Talk")
        lines = Lines(sidecar.port, "/hello/chat/talk", [("Accept", "application/x-ndjson")] + NDJSON)
        lines.send({})
        lines.head()
        self.assertEqual(lines.line(), {"n": 1})
        self.assertEqual(lines.line()["error"]["code"], 409)
        self.assertIsNone(lines.chunk())
        self.assertIn("changed", lines.trailers[0])
        answer = sidecar.get("/hello/chat/talk", {"Accept": "text/event-stream"})
        self.assertIn(b"event: error\ndata: ", answer.body)

    def test_unknown_service_dead_node_and_bad_lines(self):
        _, sidecar = self.begin(echo, "Chat.Talk")
        self.assert_error(sidecar.get("/nobody/chat/talk", {"Accept": "text/event-stream"}), 404)
        answer = sidecar.ask("POST", "/hello/chat/talk", b'{"a":1}\n{nonsense\n', {"Content-Type": "application/x-ndjson"})
        self.assert_error(answer, 400, "not JSON")
        sidecar.write_registry([service(HELLO, {"id": "dead", "address": "127.0.0.1:1", "metadata": {"protocol": "mucp"}})])
        eventually(lambda: sidecar.get("/hello/chat/talk", {"Accept": "text/event-stream"}).status == 503)

    def test_a_caller_that_leaves_ends_the_stream_at_the_node(self):
        ended = threading.Event()

        def wait(stream):
            stream.send({"n": 1})
            stream.receive(timeout=30)
            ended.set()

        _, sidecar = self.begin(wait, "Chat.Talk")
        lines = Lines(sidecar.port, "/hello/chat/talk", NDJSON)
        lines.send({})
        lines.head()
        lines.line()
        lines.connection.reset()
        self.assertTrue(ended.wait(10))
        eventually(lambda: sidecar.metric("micro_sidecar_requests_in_flight") == 0)

    def test_a_connection_goes_on_after_a_stream(self):
        _, sidecar = self.begin(count_down, "Clock.Down")
        connection = Connection.to(sidecar.port)
        for _ in range(3):
            connection.send(
                b"POST /hello/clock/down HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
                b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{\"from\":1}")
            reply = connection.read()
            self.assertEqual(json.loads(reply.body), {"number": 1})

    def test_a_unary_endpoint_called_as_a_stream(self):
        node = self.start_server(Node(lambda call: {"got": call.payload}).start())
        sidecar = self.start(services=[service(HELLO, node.registration(), endpoints=["Say.Hello"])])
        answer = sidecar.get("/hello/say/hello?name=x", {"Accept": "text/event-stream"})
        self.assertIn(b'data: {"got": {"name": "x"}}\n\n', answer.body)

    def test_a_slow_reader_stops_a_fast_writer(self):
        """The node sends without end; what the sidecar holds stays small while the caller does not read."""
        sent = [0]
        block = {"data": "x" * 60000}

        def flood(stream):
            while not stream.node.stopping:
                stream.send(block)
                sent[0] += 60000

        node, sidecar = self.begin(flood, "Data.Flood")
        before = sidecar.anonymous_kilobytes()
        lines = Lines(sidecar.port, "/hello/data/flood", NDJSON)
        lines.send({})
        lines.head()
        seen = -1
        while seen != sent[0]:  # until the writer is stopped
            seen = sent[0]
            time.sleep(0.3)  # between two looks
        self.assertLess(sidecar.anonymous_kilobytes() - before, 4000)
        self.assertLess(seen, 40_000_000)
        for _ in range(200):
            self.assertEqual(len(lines.line()["data"]), 60000)
        eventually(lambda: sent[0] > seen, what="the writer going on")


    def test_a_great_deal_through_a_small_window(self):
        """1 GiB with MICRO_TEST_LONG=1, else 64 MiB, to a caller whose socket takes 64 KiB at a time."""
        total = (1 << 30) if LONG else (64 << 20)
        size = 60_000
        block = {"data": "x" * size}

        def send(stream):
            for _ in range(total // size):
                stream.send(block)

        _, sidecar = self.begin(send, "Data.Send")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # the kernel doubles it
        sock.settimeout(30)
        sock.connect(("127.0.0.1", sidecar.port))
        connection = Connection(sock)
        connection.send(b"GET /hello/data/send HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        connection.until(b"\r\n\r\n")
        before, received, most = sidecar.anonymous_kilobytes(), 0, 0
        while (length := int(connection.until(b"\r\n"), 16)) > 0:
            received += len(connection.exactly(length))
            connection.exactly(2)
            most = max(most, sidecar.anonymous_kilobytes())
        self.assertGreaterEqual(received, total // size * size)
        self.assertLess(most - before, 4000)
        print("        %d MiB through 64 KiB: at most %.1f MB more" % (received >> 20, (most - before) / 1000))


class Frames(BlackBox):
    """Framework callers: Go services behind MICRO_PROXY_ADDRESS, and calls into the app."""

    def test_through_the_local_api_to_a_node(self):
        node = self.start_server(StreamNode(echo).start())
        sidecar = self.start(services=[streaming_service(node, "Chat.Talk")])
        for kind, messages in (
            ("application/json", [{"n": 1}, {"n": 2}]),
            ("application/json-rpc", [{"n": 1}, {"n": 2}]),
            ("application/protobuf", [b"\x0a\x01a", b"\x0a\x01b"]),
            ("application/proto-rpc", [b"\x0a\x01a", b"\x0a\x01b"]),
        ):
            with self.subTest(kind):
                stream = ClientStream(sidecar.port, "micro", kind, "Chat.Talk")
                for message in messages:
                    stream.post(message)
                    self.assertEqual(stream.receive(), message)
                stream.end()
                with self.assertRaises(StreamEnded):
                    stream.receive()
                stream.close()

    def test_into_an_app_that_speaks_lines(self):
        app = self.start_server(LineApp().start())
        sidecar = self.start(
            name=HELLO, app=app.port, environment={"MICRO_APP_STREAMS": "Chat.Talk=ndjson,Log.Fail=ndjson"})
        port = sidecar.server_port
        for generation, kind in (("micro", "application/json"), ("v0.14", "application/json"), ("micro", "application/json-rpc")):
            with self.subTest(generation + " " + kind):
                stream = ClientStream(port, generation, kind, "Chat.Talk", headers={"X-User": "bob"})
                for number in range(3):
                    stream.post({"n": number})
                    self.assertEqual(stream.receive(), {"n": number, "user": "bob"})
                stream.end()
                if generation == "micro":
                    with self.assertRaises(StreamEnded):
                        stream.receive()
                stream.close()
        stream = ClientStream(port, "micro", "application/json", "Log.Fail")
        with self.assertRaises(NodeError) as caught:
            stream.receive()
        self.assertEqual(json.loads(str(caught.exception))["code"], 418)

    def test_unary_calls_to_the_same_app_stay_unary(self):
        app = self.start_server(App().start())
        sidecar = self.start(name=HELLO, app=app.port, environment={"MICRO_APP_STREAMS": "Chat.Talk"})
        client = Client(sidecar.server_port, "micro", "application/json")
        self.assertEqual(client.call("Say.Hello", {"name": "x"}), ({"msg": "Hello x"}, None))

    def test_the_registration_says_which_endpoints_are_streams(self):
        app = self.start_server(LineApp().start())
        sidecar = self.start(
            name=HELLO, app=app.port, registry="memory", environment={"MICRO_APP_STREAMS": "Chat.Talk"})
        found = eventually(lambda: sidecar.get("/registry?service=" + HELLO).json())
        endpoints = found["services"][0]["endpoints"] if "services" in found else found[0]["endpoints"]
        self.assertEqual([(e["name"], e["metadata"]["stream"]) for e in endpoints], [("Chat.Talk", "true")])


class LineApp:
    """An app that answers a body of lines line by line, on raw sockets since http.server reads no chunks."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def start(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def stop(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(Connection(sock),), daemon=True).start()

    def serve(self, connection):
        try:
            lines = connection.until(b"\r\n\r\n").decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            path = lines[0].split()[1]
            if path == "/Log/Fail":
                connection.send(b"HTTP/1.1 418 Teapot\r\nContent-Length: 9\r\n\r\nno coffee")
                return
            if not path.startswith("/Chat/"):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                return
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                size = int(connection.until(b"\r\n"), 16)
                data = connection.exactly(size)
                connection.exactly(2)
                if size == 0:
                    connection.send(b"0\r\n\r\n")
                    return
                message = json.loads(data)
                message["user"] = headers.get("x-user")
                line = json.dumps(message).encode() + b"\n"
                connection.send(b"%x\r\n%s\r\n" % (len(line), line))
        except (OSError, Exception):
            pass
        finally:
            connection.close()
