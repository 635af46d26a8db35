"""Official gRPC clients (grpcio) of the sidecar: the app's, calling services of the framework, and the framework's, calling
the app. Messages pass through as bytes, so no schema is needed; what is protobuf is written by hand.
"""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
import time

import grpc
import h2.config
import h2.connection
import h2.events
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gomicro import App, Node, NodeError, fields, greeter, string_field
from gomicro_streams import StreamNode
from sidecar import BlackBox, eventually, service

HELLO = "go.micro.srv.hello"
PATH = "/go.micro.srv.hello.Say/"


def same(value):
    return value


def channel(port, **options):
    found = [("grpc.use_local_subchannel_pool", 1), *(("grpc." + key, value) for key, value in options.items())]
    return grpc.insecure_channel("127.0.0.1:%d" % port, options=found)


def unary(channel, path, request=b"", **options):
    return channel.unary_unary(path, same, same)(request, **options)


def call_by_hand(port, path, message, kind):
    """One unary call on a connection of its own: (headers, message, trailers)."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    peer.initiate_connection()
    found = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost:1"), ("content-type", kind)]
    peer.send_headers(1, found + [("te", "trailers")])
    peer.send_data(1, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
    headers, body, trailers = {}, b"", None
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        while trailers is None:
            connection.sendall(peer.data_to_send())
            for event in peer.receive_data(connection.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived):
                    headers = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = dict(event.headers)
                elif isinstance(event, h2.events.StreamEnded) and trailers is None:
                    trailers = headers
    return headers, body[5:], trailers


class Refused:
    """Expects a call to fail, and keeps how."""

    def __init__(self, test, code):
        self.test, self.code, self.error = test, code, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not isinstance(error, grpc.RpcError):
            if error is None:
                self.test.fail("the call succeeded instead of ending with %s" % self.code)
            return False
        self.error = error
        self.test.assertEqual(error.code(), self.code, error.details())
        return True

    @property
    def micro(self):
        return json.loads(self.error.details())

    @property
    def detail(self):
        """The one detail of the status, as {field number: value}."""
        raw = dict(self.error.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(raw)
        self.test.assertEqual([d.type_url for d in status.details], ["type.googleapis.com/errors.Error"])
        self.test.assertEqual(status.code, self.error.code().value[0])
        self.test.assertEqual(status.message, self.error.details())
        return fields(status.details[0].value)


def streaming(node, *endpoints):
    """A registry entry whose endpoints are streams."""
    entry = service(HELLO, node.registration(), endpoints=endpoints)
    for endpoint in entry["endpoints"]:
        endpoint["metadata"] = {"stream": "true"}
    return entry


class FromTheApp(BlackBox):
    def with_node(self, handler=greeter, **options):
        node = self.start_server(Node(handler))
        sidecar = self.start(services=[service(HELLO, node.registration())], **options)
        found = channel(sidecar.port)
        self.addCleanup(found.close)
        return node, sidecar, found

    def test_a_unary_call_finds_its_service_in_the_path(self):
        node, sidecar, client = self.with_node()
        reply = unary(client, PATH + "Hello", string_field(1, b"Ann"), timeout=5)
        self.assertEqual(fields(reply)[1], b"Hello Ann")
        self.assertEqual(node.calls[0].endpoint, "Say.Hello")
        series = [l for l in sidecar.admin("/metrics").body.decode().splitlines() if 'dialect="grpc"' in l]
        self.assertTrue(any('endpoint="Say.Hello"' in line and 'service="%s"' % HELLO in line for line in series), series)

    def test_or_in_metadata_or_in_the_authority(self):
        node, sidecar, client = self.with_node()
        request = string_field(1, b"Bo")
        for path in ("/Say/Hello", "/other.package.Say/Hello"):
            unary(client, path, request, metadata=[("micro-service", HELLO)], timeout=5)
        with channel(sidecar.port, default_authority=HELLO) as named:
            unary(named, "/greeter.Say/Hello", request, timeout=5)
        self.assertEqual(len(node.calls), 3)
        with Refused(self, grpc.StatusCode.INVALID_ARGUMENT) as refused:
            unary(client, "/Say/Hello", request, timeout=5)
        self.assertIn("micro-service", refused.micro["detail"])

    def test_json_is_a_codec_too(self):
        node, sidecar, client = self.with_node()
        # grpcio always says `application/grpc`.
        headers, message, trailers = call_by_hand(sidecar.port, PATH + "Hello", b'{"name":"Cy"}', "application/grpc+json")
        self.assertEqual(json.loads(message), {"msg": "Hello Cy"})
        self.assertEqual(headers["content-type"], "application/grpc+json")
        self.assertEqual(trailers["grpc-status"], "0")

    def test_metadata_goes_through_and_routing_does_not_come_from_it(self):
        node, sidecar, client = self.with_node()
        metadata = [("foo", "one"), ("blob-bin", b"\x00\xff"), ("authorization", "Bearer t"), ("micro-error", "EOS")]
        unary(client, PATH + "Hello", metadata=metadata, timeout=5)
        seen = node.calls[0].headers
        self.assertEqual(seen["foo"], "one")
        self.assertEqual(seen["authorization"], "Bearer t")
        self.assertEqual(seen["blob-bin"].rstrip("="), "AP8")
        self.assertNotIn("micro-error", seen)
        self.assertFalse([name for name in seen if name.startswith((":", "grpc-")) or name in ("te",)], seen)
        self.assertLessEqual(int(seen["timeout"]), 5_000_000_000)

    def test_errors_keep_code_text_and_detail(self):
        node, sidecar, client = self.with_node()
        with Refused(self, grpc.StatusCode.INVALID_ARGUMENT) as refused:
            unary(client, PATH + "Fail", timeout=5)
        self.assertEqual(refused.micro["code"], 400)
        self.assertEqual(refused.micro["detail"], "bad <name>")
        detail = refused.detail
        self.assertEqual((detail[1], detail[2], detail[3]), (HELLO.encode(), 400, b"bad <name>"))
        with Refused(self, grpc.StatusCode.INTERNAL) as refused:
            unary(client, PATH + "Plain", timeout=5)
        self.assertIn("plain failure", refused.error.details())
        with Refused(self, grpc.StatusCode.UNIMPLEMENTED):
            unary(client, PATH + "Missing", timeout=5)

    def test_what_the_sidecar_refuses_itself(self):
        node, sidecar, client = self.with_node()
        with Refused(self, grpc.StatusCode.NOT_FOUND) as refused:
            unary(client, "/go.micro.srv.nobody.Say/Hello", timeout=5)
        self.assertEqual(refused.micro["code"], 404)
        self.assertEqual(refused.detail[2], 404)
        for path in ("/", "/x", "/a/b/c"):
            with Refused(self, grpc.StatusCode.INVALID_ARGUMENT):
                unary(client, path, timeout=5)
        node.stop()
        with Refused(self, grpc.StatusCode.UNAVAILABLE):
            unary(client, PATH + "Hello", timeout=5)

    def test_text_of_any_language_arrives(self):
        def handler(call):
            raise NodeError(json.dumps({"id": HELLO, "code": 409, "detail": "schön 100% 🚀\n", "status": "Conflict"}))

        node, sidecar, client = self.with_node(handler)
        with Refused(self, grpc.StatusCode.ALREADY_EXISTS) as refused:
            unary(client, PATH + "Hello", timeout=5)
        self.assertEqual(refused.micro["detail"], "schön 100% 🚀\n")

    def test_a_deadline_ends_the_call_at_both_ends(self):
        gone = threading.Event()

        def handler(call):
            gone.wait(10)
            return b""

        node, sidecar, client = self.with_node(handler)
        self.addCleanup(gone.set)
        begun = time.monotonic()
        with Refused(self, grpc.StatusCode.DEADLINE_EXCEEDED):
            unary(client, PATH + "Hello", timeout=0.3)
        self.assertLess(time.monotonic() - begun, 2)
        self.assertLessEqual(int(node.calls[0].headers["timeout"]), 300_000_000)
        # And when only the server keeps time: the framework's own `timeout`, in nanoseconds.
        with Refused(self, grpc.StatusCode.DEADLINE_EXCEEDED) as refused:
            unary(client, PATH + "Hello", metadata=[("timeout", "200000000")])
        self.assertEqual(refused.micro["code"], 408)
        eventually(lambda: sidecar.metric("micro_sidecar_requests_in_flight") == 0)

    def test_a_caller_that_cancels_is_let_go(self):
        held = threading.Event()
        node, sidecar, client = self.with_node(lambda call: held.wait(10) and b"" or b"")
        self.addCleanup(held.set)
        call = client.unary_unary(PATH + "Hello", same, same).future(b"")
        eventually(lambda: node.calls)
        call.cancel()
        eventually(lambda: sidecar.metric("micro_sidecar_requests_in_flight") == 0)

    def test_messages_up_to_four_mebibytes_pass_and_larger_ones_do_not(self):
        node, sidecar, _ = self.with_node(lambda call: call.payload)
        with channel(sidecar.port, max_receive_message_length=-1, max_send_message_length=-1) as client:
            for size in (0, 1, 65535, 65536, 1 << 20, 4 * 1024 * 1024 - 4096):
                body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                self.assertEqual(unary(client, PATH + "Hello", body, timeout=20), body, size)
            with Refused(self, grpc.StatusCode.RESOURCE_EXHAUSTED):
                unary(client, PATH + "Hello", b"x" * (4 * 1024 * 1024 + 1), timeout=20)
            unary(client, PATH + "Hello", b"still fine", timeout=20)

    def test_compressed_messages_are_refused(self):
        node, sidecar, client = self.with_node()
        with Refused(self, grpc.StatusCode.UNIMPLEMENTED) as refused:
            unary(client, PATH + "Hello", b"x" * 1000, compression=grpc.Compression.Gzip, timeout=5)
        self.assertIn("identity", refused.error.details())

    def test_many_calls_share_one_connection(self):
        node, sidecar, client = self.with_node()
        calls = [
            client.unary_unary(PATH + "Hello", same, same).future(string_field(1, b"%d" % n), timeout=20)
            for n in range(500)
        ]
        for number, call in enumerate(calls):
            self.assertEqual(fields(call.result())[1], b"Hello %d" % number)
        self.assertEqual(self.accepted(sidecar), 1)

    def accepted(self, sidecar):
        """Connections that the app's side has taken."""
        lines = sidecar.admin("/metrics").body.decode().splitlines()
        found = [l for l in lines if l.startswith("micro_sidecar_connections_accepted_total") and 'listener="sidecar"' in l]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    def test_health_of_the_sidecar_itself(self):
        node, sidecar, client = self.with_node()
        stub = health_pb2_grpc.HealthStub(client)
        serving = health_pb2.HealthCheckResponse.SERVING
        self.assertEqual(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status, serving)
        with Refused(self, grpc.StatusCode.NOT_FOUND):
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)

    def test_a_drain_says_goodbye_and_lets_calls_end(self):
        release = threading.Event()
        node, sidecar, client = self.with_node(lambda call: release.wait(10) and b"late")
        call = client.unary_unary(PATH + "Hello", same, same).future(b"", timeout=20)
        eventually(lambda: node.calls)
        sidecar.send_signal(15)
        # No new call is taken while the old one goes on.
        eventually(lambda: self.is_unavailable(client))
        release.set()
        self.assertEqual(call.result(), b"late")
        self.assertEqual(sidecar.wait(15), 0)

    def is_unavailable(self, client):
        try:
            unary(client, "/grpc.health.v1.Health/Check", timeout=1)
            return False
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE

    # --- streams

    def with_stream(self, handler):
        node = self.start_server(StreamNode(handler))
        sidecar = self.start(services=[streaming(node, "Chat.Talk")])
        found = channel(sidecar.port)
        self.addCleanup(found.close)
        return node, sidecar, found

    TALK = "/go.micro.srv.hello.Chat/Talk"

    def test_both_sides_talk(self):
        def handler(stream):
            while (message := stream.receive()) is not None:
                stream.send(b"re:" + message)

        node, sidecar, client = self.with_stream(handler)
        mine = queue.Queue()
        replies = client.stream_stream(self.TALK, same, same)(iter(mine.get, None), timeout=20)
        for number in range(50):
            mine.put(b"%d" % number)
            self.assertEqual(next(replies), b"re:%d" % number)
        mine.put(None)
        self.assertEqual(list(replies), [])
        self.assertEqual(replies.code(), grpc.StatusCode.OK)

    def test_one_request_and_many_replies(self):
        def handler(stream):
            count = int(stream.receive())
            for number in range(count):
                stream.send(b"%d" % number)

        node, sidecar, client = self.with_stream(handler)
        replies = client.unary_stream(self.TALK, same, same)(b"1000", timeout=20)
        self.assertEqual(list(replies), [b"%d" % n for n in range(1000)])

    def test_many_requests_and_one_reply(self):
        def handler(stream):
            total = 0
            for _ in range(200):
                total += int(stream.receive())
            stream.send(b"%d" % total)

        node, sidecar, client = self.with_stream(handler)
        reply = client.stream_unary(self.TALK, same, same)((b"%d" % n for n in range(200)), timeout=20)
        self.assertEqual(reply, b"19900")

    def test_an_error_ends_the_stream_after_what_was_sent(self):
        def handler(stream):
            stream.receive()
            stream.send(b"one")
            raise NodeError('{"id":"x","code":403,"detail":"enough","status":"Forbidden"}')

        node, sidecar, client = self.with_stream(handler)
        replies = client.unary_stream(self.TALK, same, same)(b"", timeout=20)
        self.assertEqual(next(replies), b"one")
        with Refused(self, grpc.StatusCode.PERMISSION_DENIED) as refused:
            next(replies)
        self.assertEqual(refused.micro["detail"], "enough")

    def test_a_caller_that_cancels_ends_the_stream_at_the_node(self):
        def handler(stream):
            while stream.receive() is not None:
                pass

        node, sidecar, client = self.with_stream(handler)
        mine = queue.Queue()
        call = client.stream_stream(self.TALK, same, same)(iter(mine.get, None))
        mine.put(b"hello")
        eventually(lambda: node.streams)
        call.cancel()
        mine.put(None)
        eventually(lambda: getattr(node.streams[0], "gone", False), what="the node hears of it")
        eventually(lambda: sidecar.metric("micro_sidecar_requests_in_flight") == 0)

    def test_a_reader_that_takes_nothing_stops_the_node(self):
        sent = []

        def handler(stream):
            stream.receive()
            for _ in range(20000):
                stream.send(b"x" * 16384)
                sent.append(1)

        node, sidecar, client = self.with_stream(handler)
        before = sidecar.anonymous_kilobytes()
        replies = client.unary_stream(self.TALK, same, same)(b"")
        next(replies)

        def stalled():
            had = len(sent)
            time.sleep(0.3)  # a writer that nobody holds up would send thousands meanwhile
            return len(sent) == had

        eventually(stalled, within=20, what="the node is held up")
        self.assertLess(len(sent), 10000)
        self.assertLess(sidecar.anonymous_kilobytes() - before, 8 * 1024)
        replies.cancel()


class FromTheFramework(BlackBox):
    def with_app(self, handler=None, **options):
        app = self.start_server(App(handler))
        sidecar = self.start(name=HELLO, app=app.port, **options)
        found = channel(sidecar.server_port)
        self.addCleanup(found.close)
        return app, sidecar, found

    def test_any_package_before_the_handler_is_taken(self):
        app, sidecar, client = self.with_app()
        for path in ("/go.micro.srv.hello.Say/Hello", "/proto.Say/Hello", "/Say/Hello", "/x.y.z.Say/Hello"):
            reply = unary(client, path, string_field(1, b"Di"), metadata=[("foo", "bar")], timeout=5)
            self.assertEqual(fields(reply)[1], b"Hello Di")
        method, path, headers, body = app.requests[-1]
        self.assertEqual((method, path, headers["foo"]), ("POST", "/Say/Hello", "bar"))
        self.assertEqual(headers["Content-Type"], "application/protobuf")

    def test_errors_of_the_app(self):
        app, sidecar, client = self.with_app()
        with Refused(self, grpc.StatusCode.ALREADY_EXISTS) as refused:
            unary(client, "/x.Say/Conflict", timeout=5)
        self.assertEqual(refused.micro, {"id": "hello", "code": 409, "detail": "taken", "status": "Conflict"})
        self.assertEqual(refused.detail[2], 409)
        with Refused(self, grpc.StatusCode.UNKNOWN) as refused:
            unary(client, "/x.Say/Teapot", timeout=5)
        self.assertEqual(refused.micro["code"], 418)

    def test_debug_is_answered_by_the_sidecar(self):
        app, sidecar, client = self.with_app()
        self.assertEqual(fields(unary(client, "/debug.Debug/Health", timeout=5))[1], b"ok")
        stats = fields(unary(client, "/go.micro.srv.hello.Debug/Stats", timeout=5))
        self.assertGreater(stats[2], 1_600_000_000)

    def test_health_follows_the_apps(self):
        healthy = threading.Event()
        healthy.set()

        def handler(method, path, headers, body):
            return (200 if healthy.is_set() else 503), {}, b""

        app, sidecar, client = self.with_app(
            handler,
            environment={
                "MICRO_APP_HEALTH": "/health", "MICRO_APP_HEALTH_PERIOD": "100ms", "MICRO_APP_HEALTH_FAILURES": "1"
            },
        )
        stub = health_pb2_grpc.HealthStub(client)
        response = health_pb2.HealthCheckResponse
        eventually(lambda: stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == response.SERVING)
        self.assertEqual(stub.Check(health_pb2.HealthCheckRequest(service=HELLO), timeout=5).status, response.SERVING)
        with Refused(self, grpc.StatusCode.NOT_FOUND):
            stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=HELLO))
        self.assertEqual(next(watch).status, response.SERVING)
        self.assertEqual(next(stub.Watch(health_pb2.HealthCheckRequest(service="other"))).status, response.SERVICE_UNKNOWN)
        healthy.clear()
        self.assertEqual(next(watch).status, response.NOT_SERVING)
        healthy.set()
        self.assertEqual(next(watch).status, response.SERVING)
        sidecar.send_signal(15)
        with Refused(self, grpc.StatusCode.UNAVAILABLE):
            while True:
                next(watch)
        self.assertEqual(sidecar.wait(15), 0)

    def test_http1_and_http2_share_the_port(self):
        app, sidecar, client = self.with_app()
        from sidecar import ask

        unary(client, "/x.Say/Hello", timeout=5)
        answer = ask(
            sidecar.server_port, "POST", "/", b"{}",
            {"Content-Type": "application/json", "Micro-Service": HELLO, "Micro-Endpoint": "Say.Hello"},
        )
        self.assertEqual(answer.status, 200)
        unary(client, "/x.Say/Hello", timeout=5)


if __name__ == "__main__":
    import unittest

    unittest.main()
