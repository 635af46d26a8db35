"""gRPC from end to end: official clients through the sidecar to official servers, unary and all kinds of streams, with what
they send around their messages; and apps that are gRPC servers."""

from __future__ import annotations

import threading
import time

import grpc
from gomicro import Client, string_field
from google.rpc import status_pb2
from grpc_status import rpc_status
from grpcpeer import INTERNAL_ERROR, REFUSED_STREAM, GRPCApp, GRPCNode, RawNode, Reply, Request, channel
from sidecar import BlackBox, eventually, run_together, service

HELLO = "go.micro.srv.hello"
ME = "go.micro.srv.me"


class Caller:
    """A grpcio client of `Say` under any path prefix."""

    def __init__(self, port, prefix=HELLO + ".Say"):
        self.channel, self.prefix = channel(port), prefix

    def close(self):
        self.channel.close()

    def __getattr__(self, name):
        kinds = {"Count": "unary_stream", "Sum": "stream_unary", "Chat": "stream_stream"}
        make = getattr(self.channel, kinds.get(name, "unary_unary"))
        return make("/%s/%s" % (self.prefix, name), Request.SerializeToString, Reply.FromString)


class PassThrough(BlackBox):
    """A grpcio client, the sidecar of its app, and a framework's node."""

    def setUp(self):
        super().setUp()
        self.node = self.start_server(GRPCNode())
        self.sidecar = self.start(services=[service(HELLO, self.node.registration())])
        self.caller = Caller(self.sidecar.port)
        self.addCleanup(self.caller.close)

    def test_unary_with_metadata_both_ways(self):
        reply, call = self.caller.Hello.with_call(
            Request(name="John", big_number=2**62), metadata=(("x-tenant", "Blue"), ("x-raw-bin", b"\x00\xff")), timeout=5
        )
        self.assertEqual(reply, Reply(msg="Hello John", big_number=2**62))
        self.assertIn(("x-answer", "first"), list(call.initial_metadata()))
        self.assertIn(("x-trailer", "last"), list(call.trailing_metadata()))
        self.assertIn(("x-trailer-bin", b"\x00\x01\xff"), list(call.trailing_metadata()))
        metadata = self.node.greeter.metadata("Hello")
        self.assertEqual(metadata["x-tenant"], "Blue")
        self.assertEqual(metadata["x-raw-bin"], b"\x00\xff")
        self.assertTrue(3 < self.node.greeter.time_left("Hello") <= 5.1)

    def test_errors_are_exactly_the_nodes(self):
        for code in (400, 404, 500):
            direct, through = [], []
            for port, found in ((self.node.port, direct), (self.sidecar.port, through)):
                caller = Caller(port)
                self.addCleanup(caller.close)
                with self.assertRaises(grpc.RpcError) as raised:
                    caller.Fail(Request(name="Jörg %", big_number=code), timeout=5)
                error = raised.exception
                found.append((error.code(), error.details(), rpc_status.from_call(error)))
            self.assertEqual(direct, through)

    def test_details_of_other_types_come_through_untouched(self):
        def fail(node, peer, stream, headers, body):
            status = status_pb2.Status(code=9, message="no % ü")
            status.details.add(type_url="type.googleapis.com/greet.Reply", value=b"\x0a\x01x")
            import base64

            details = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
            peer.only_headers(
                stream,
                [
                    (":status", "200"),
                    ("content-type", "application/grpc"),
                    ("grpc-status", "9"),
                    ("grpc-message", "no %25 %C3%BC"),
                    ("grpc-status-details-bin", details),
                ],
            )

        node = self.start_server(RawNode(fail))
        sidecar = self.start(services=[service(HELLO, node.registration())])
        caller = Caller(sidecar.port)
        self.addCleanup(caller.close)
        with self.assertRaises(grpc.RpcError) as raised:
            caller.Hello(Request(), timeout=5)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertEqual(raised.exception.details(), "no % ü")
        status = rpc_status.from_call(raised.exception)
        self.assertEqual(status.details[0].type_url, "type.googleapis.com/greet.Reply")

    def test_a_server_stream(self):
        call = self.caller.Count(Request(name="n", big_number=500), timeout=10)
        self.assertEqual([reply.big_number for reply in call], list(range(500)))
        self.assertIn(("x-answer", "first"), list(call.initial_metadata()))
        self.assertIn(("x-trailer", "last"), list(call.trailing_metadata()))

    def test_a_server_stream_that_fails_after_some_messages(self):
        call, seen = self.caller.Count(Request(name="fail", big_number=3), timeout=10), []
        with self.assertRaises(grpc.RpcError) as raised:
            for reply in call:
                seen.append(reply.big_number)
        self.assertEqual(seen, [0, 1, 2])
        self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_a_client_stream(self):
        reply = self.caller.Sum((Request(big_number=number) for number in range(1000)), timeout=10)
        self.assertEqual(reply.big_number, sum(range(1000)))

    def test_a_client_stream_without_messages(self):
        self.assertEqual(self.caller.Sum(iter(()), timeout=10), Reply(msg="sum"))

    def test_both_directions_in_step(self):
        ready = threading.Semaphore(1)

        def requests():
            for number in range(50):
                self.assertTrue(ready.acquire(timeout=10))
                yield Request(name=str(number), big_number=number)

        seen = []
        for reply in self.caller.Chat(requests(), timeout=20):
            seen.append(reply.msg)
            ready.release()
        self.assertEqual(seen, ["Hello %d" % number for number in range(50)])

    def test_large_messages_both_ways(self):
        data = bytes(range(256)) * 8000
        for reply in self.caller.Chat(iter([Request(name="a"), Request(name="b")]), timeout=10):
            self.assertTrue(reply.msg.startswith("Hello"))
        reply = self.caller.Hello(Request(data=data), timeout=10)
        self.assertEqual(reply.data, data)

    def test_a_caller_that_cancels_cancels_the_node(self):
        call = self.caller.Chat(iter_forever(), timeout=30)
        next(call)
        call.cancel()
        self.assertTrue(self.node.greeter.cancelled.wait(5))

    def test_a_deadline_ends_both_sides(self):
        begun = time.monotonic()
        with self.assertRaises(grpc.RpcError) as raised:
            self.caller.Sleep(Request(), timeout=0.4)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - begun, 3)
        self.assertTrue(self.node.greeter.cancelled.wait(5))

    def test_a_slow_reader_stops_the_server(self):
        """300 MiB are offered; what is taken while nobody reads stays within the windows and buffers on the way."""
        size = 1 << 20
        call = self.caller.Count(Request(big_number=300, data=b"d" * size), timeout=60)
        next(call)
        last = [0, time.monotonic()]

        def stands_still():
            sent = self.node.greeter.sent
            if sent != last[0]:
                last[:] = [sent, time.monotonic()]
            return time.monotonic() - last[1] > 1

        eventually(stands_still, 20, "the server standing still")
        self.assertLess(self.node.greeter.sent, 30)
        self.assertLess(self.sidecar.anonymous_kilobytes(), 100_000)
        call.cancel()

    def test_many_callers_at_once(self):
        replies = run_together(40, lambda i: self.caller.Hello(Request(name=str(i)), timeout=10).msg)
        self.assertEqual(replies, ["Hello %d" % i for i in range(40)])


def iter_forever():
    """Requests until nobody wants them."""
    number = 0
    while number < 10_000:
        yield Request(name=str(number))
        number += 1
        time.sleep(0.01)  # the pace of a talker


class Leaving(BlackBox):
    """A node that ends its connection at a bad moment."""

    def caller_of(self, node):
        sidecar = self.start(services=[service(HELLO, self.start_server(node).registration())])
        caller = Caller(sidecar.port)
        self.addCleanup(caller.close)
        return caller

    def test_a_call_that_the_node_has_not_seen_costs_its_caller_nothing(self):
        def leave(node, peer, stream, headers, body):
            if peer is node.connections[0]:
                return peer.go_away(0)
            RawNode.hello(node, peer, stream, headers, body)

        node = RawNode(leave)
        self.assertEqual(self.caller_of(node).Hello(Request(name="J"), timeout=5).msg, "Hello J")
        self.assertEqual([body[5:] for _, body in node.requests], [Request(name="J").SerializeToString()] * 2)

    def test_a_node_that_never_takes_the_call_is_given_up(self):
        node = RawNode(begun=lambda node, peer, stream, headers: peer.reset(stream, REFUSED_STREAM))
        node.answer = lambda *_: None
        with self.assertRaises(grpc.RpcError) as raised:
            self.caller_of(node).Hello(Request(), timeout=5)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_what_may_have_run_is_not_sent_again(self):
        node = RawNode(lambda node, peer, stream, headers, body: peer.reset(stream, INTERNAL_ERROR))
        with self.assertRaises(grpc.RpcError) as raised:
            self.caller_of(node).Hello(Request(), timeout=5)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.INTERNAL)
        self.assertEqual(len(node.requests), 1)


class GRPCApps(BlackBox):
    """An ordinary gRPC program behind the sidecar, called by the framework."""

    environment = {"MICRO_APP_PROTOCOL": "grpc"}

    def setUp(self):
        super().setUp()
        self.app = self.start_server(GRPCApp())
        self.sidecar = self.start(name=ME, app=self.app.port, environment=self.environment)
        eventually(lambda: self.sidecar.get("/health").status == 200, what="the app's health")

    def test_a_grpc_caller_of_any_package(self):
        for prefix in ("greet.Say", ME + ".Say", "Say"):
            with self.subTest(prefix):
                caller = Caller(self.sidecar.server_port, prefix)
                self.addCleanup(caller.close)
                reply, call = caller.Hello.with_call(Request(name="J"), timeout=5, metadata=(("x-tenant", "Blue"),))
                self.assertEqual(reply.msg, "Hello J")
                self.assertIn(("x-trailer", "last"), list(call.trailing_metadata()))
                self.assertEqual(self.app.greeter.metadata("Hello")["x-tenant"], "Blue")
                self.assertTrue(3 < self.app.greeter.time_left("Hello") <= 5.1)

    def test_streams(self):
        caller = Caller(self.sidecar.server_port, "greet.Say")
        self.addCleanup(caller.close)
        self.assertEqual([r.big_number for r in caller.Count(Request(big_number=5), timeout=5)], list(range(5)))
        self.assertEqual(caller.Sum(iter([Request(big_number=2)] * 3), timeout=5).big_number, 6)
        replies = caller.Chat(iter([Request(name="a"), Request(name="b")]), timeout=5)
        self.assertEqual([r.msg for r in replies], ["Hello a", "Hello b"])

    def test_framework_callers_with_protobuf(self):
        for generation in ("v0.14", "x", "micro"):
            for kind in ("application/protobuf", "application/proto-rpc"):
                with self.subTest("%s %s" % (generation, kind)):
                    client = Client(self.sidecar.server_port, generation, kind, ME)
                    self.addCleanup(client.close)
                    payload, error = client.call("Say.Hello", string_field(1, "a"))
                    self.assertIsNone(error)
                    self.assertEqual(Reply.FromString(payload).msg, "Hello a")

    def test_framework_callers_with_json(self):
        """The app takes only protobuf; its descriptors come by reflection."""
        for generation, kind in (("v0.14", "application/json"), ("x", "application/json-rpc"), ("micro", "application/json")):
            with self.subTest("%s %s" % (generation, kind)):
                client = Client(self.sidecar.server_port, generation, kind, ME)
                self.addCleanup(client.close)
                payload, error = client.call("Say.Hello", {"name": "a", "big_number": 7})
                self.assertIsNone(error)
                self.assertEqual(payload, {"msg": "Hello a", "big_number": 7})

    def test_json_that_is_no_message_is_refused_with_the_field(self):
        client = Client(self.sidecar.server_port, "micro", "application/json", ME)
        self.addCleanup(client.close)
        _, error = client.call("Say.Hello", {"mood": {"kind": 5}})
        self.assertIn("mood.kind", error)
        self.assertIn('"code":400', error)
        self.assertEqual(self.app.greeter.calls, [])

    def test_the_apps_error_reaches_every_caller(self):
        client = Client(self.sidecar.server_port, "micro", "application/protobuf", ME)
        self.addCleanup(client.close)
        _, error = client.call("Say.Fail", Request(name="J", big_number=404).SerializeToString())
        self.assertIn('"code":404', error)
        self.assertIn("J", error)
        caller = Caller(self.sidecar.server_port, "greet.Say")
        self.addCleanup(caller.close)
        with self.assertRaises(grpc.RpcError) as raised:
            caller.Fail(Request(name="J", big_number=404), timeout=5)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(raised.exception.details(), "bad <J>")

    def test_a_caller_out_of_time_cancels_the_app(self):
        client = Client(self.sidecar.server_port, "micro", "application/protobuf", ME)
        self.addCleanup(client.close)
        client.send("Say.Sleep", b"", {"Timeout": "300000000"})
        message = client.connection.read()
        self.assertIn("408", str(message))
        self.assertTrue(self.app.greeter.cancelled.wait(5))


class WithoutReflection(BlackBox):
    def test_the_callers_path_is_the_way_and_json_is_explained(self):
        app = self.start_server(GRPCApp(with_reflection=False))
        sidecar = self.start(name=ME, app=app.port, environment={"MICRO_APP_PROTOCOL": "grpc"})
        eventually(lambda: sidecar.get("/health").status == 200, what="the app's health")
        caller = Caller(sidecar.server_port, "greet.Say")
        self.addCleanup(caller.close)
        self.assertEqual(caller.Hello(Request(name="J"), timeout=5).msg, "Hello J")
        client = Client(sidecar.server_port, "micro", "application/protobuf", ME)
        self.addCleanup(client.close)
        _, error = client.call("Say.Hello", string_field(1, "a"))
        self.assertIn("Method not found", error)


class NodeReflection(BlackBox):
    """Nodes that take only protobuf, called with JSON."""

    def test_a_node_is_asked_once_for_what_json_needs(self):
        node = self.start_server(GRPCApp())
        sidecar = self.start(services=[service("greet", node.registration())])
        for _ in range(3):
            answer = sidecar.rpc("greet", "Say.Hello", {"name": "J", "bigNumber": "9007199254740993"})
            self.assertEqual(answer.status, 200, answer)
            self.assertEqual(answer.json(), {"msg": "Hello J", "bigNumber": "9007199254740993"})
        self.assertEqual(node.paths.count("/greet.Say/Hello"), 3)

    def test_calls_together_wait_for_one_answer(self):
        node = self.start_server(GRPCApp())
        sidecar = self.start(services=[service("greet", node.registration())])
        answers = run_together(20, lambda index: sidecar.rpc("greet", "Say.Hello", {"name": str(index)}))
        self.assertEqual([a.json() for a in answers], [{"msg": "Hello %d" % index} for index in range(20)])

    def test_a_node_without_reflection_is_explained(self):
        node = self.start_server(GRPCApp(with_reflection=False))
        sidecar = self.start(services=[service("greet", node.registration())])
        answer = sidecar.rpc("greet", "Say.Hello", {"name": "J"})
        self.assert_error(answer, 500, "MICRO_DESCRIPTORS")

    def test_json_that_is_no_message_never_leaves(self):
        node = self.start_server(GRPCApp())
        sidecar = self.start(services=[service("greet", node.registration())])
        answer = sidecar.rpc("greet", "Say.Hello", {"name": 5})
        self.assert_error(answer, 400, "name")
        self.assertNotIn("/greet.Say/Hello", node.paths)


class Health(BlackBox):
    def test_grpc_health_decides(self):
        app = self.start_server(GRPCApp())
        app.set_healthy(False)
        sidecar = self.start(
            name=ME,
            app=app.port,
            environment={
                "MICRO_APP_PROTOCOL": "grpc",
                "MICRO_APP_HEALTH": "grpc",
                "MICRO_APP_HEALTH_PERIOD": "100ms",
            },
        )
        eventually(lambda: "not serving" in sidecar.get("/health").body.decode(), what="the reason")
        app.set_healthy(True)
        eventually(lambda: sidecar.get("/health").status == 200, what="health")
        app.set_healthy(False)
        eventually(lambda: sidecar.get("/health").status == 503, what="the end of health")


class FramesApp(BlackBox):
    """An app that is a go-micro server itself, as the apps of 2018 were."""

    def test_json_and_protobuf(self):
        from gomicro import Node, fields, greeter

        for generation in ("v0.14", "micro"):
            app = self.start_server(Node(greeter, generation))
            sidecar = self.start(name=ME, app=app.port, environment={"MICRO_APP_PROTOCOL": "mucp"})
            eventually(lambda: sidecar.get("/health").status == 200, what="the app's health")
            client = Client(sidecar.server_port, "micro", "application/json", ME)
            self.addCleanup(client.close)
            payload, error = client.call("Say.Hello", {"name": "a"})
            self.assertEqual((payload, error), ({"msg": "Hello a"}, None))
            _, error = client.call("Say.Fail", {"name": "a"})
            self.assertIn("bad <name>", error.replace("\\u003c", "<").replace("\\u003e", ">"))
            client = Client(sidecar.server_port, "micro", "application/protobuf", ME)
            self.addCleanup(client.close)
            payload, error = client.call("Say.Hello", string_field(1, "a"))
            self.assertEqual(fields(payload)[1], b"Hello a")
