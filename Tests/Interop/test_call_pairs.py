"""Every form of caller with every form of callee: what the one says about time, leaving and having no more to say must reach
the other, whatever both speak. Who can be understood at all is `test_codec_matrix`'s; here descriptors are known.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import callers
from callees import GRPCCallee, HTTPApp, FrameNode, WebSocketApp, with_descriptors
from callers import Ended, Failed
from codecpeer import CODECS, LEGACY
from gomicro import DropConnection, Node
from sidecar import BlackBox, eventually, service

NAME = "go.micro.srv.hello"
ENDPOINTS = ["Say.Hello", {"name": "Say.Chat", "metadata": {"stream": "true"}}]
TOGETHER = 32
# What the sidecar may take to tell the other end.
SECONDS_MAX = 3


class Pair:
    """`number` goes with the messages, so that one callee's calls can be told apart."""

    def __init__(self, number, caller, callee, port, target, is_stream):
        self.number, self.caller, self.callee = number, caller, callee
        self.port, self.target, self.is_stream = port, target, is_stream

    def open(self, timeout=None):
        return self.caller.open(self.port, self.target, "Say.Chat" if self.is_stream else "Say.Hello", timeout)

    def begin(self, what, timeout=None):
        """A call with its first message sent; what the callee does is its name."""
        call = self.open(timeout)
        call.send(what, self.number)
        if not self.is_stream:
            call.finish()
        return call

    def side(self):
        """The call as its callee has it."""
        def find():
            return next((s for s in self.callee.sides if s.received and s.received[0][1] == self.number), None)

        return eventually(find, SECONDS_MAX, "the call at its callee")


class Pairs(BlackBox):
    def setUp(self):
        super().setUp()
        self.pairs = []

    def add(self, name, forms, callee, port, target, is_stream):
        for caller in forms:
            pair = Pair(len(self.pairs) + 1, caller, callee, port, target, is_stream)
            pair.name = "%s to %s" % (caller, name)
            self.pairs.append(pair)

    def add_nodes(self, forms, is_stream):
        nodes = [(codec.name, FrameNode([codec], generation="v0.14")) for codec in LEGACY]
        nodes += [(codec.name, FrameNode([codec])) for codec in CODECS]
        nodes.append(("a gRPC node", GRPCCallee()))
        services = []
        for index, (_, node) in enumerate(nodes):
            self.start_server(node)
            name = "go.micro.srv.n%d" % index
            services.append(service(name, node.registration(name), endpoints=ENDPOINTS))
        sidecar = self.start(services=services, environment=with_descriptors(self))
        for index, (name, node) in enumerate(nodes):
            self.add(name, forms, node, sidecar.port, "go.micro.srv.n%d" % index, is_stream)

    def add_app(self, name, app, is_stream, **settings):
        self.start_server(app)
        settings = {"MICRO_" + key.upper(): value for key, value in settings.items()}
        sidecar = self.start(name=NAME, app=app.port, environment={**settings, **with_descriptors(self)})
        self.add(name, callers.from_framework(is_stream), app, sidecar.server_port, NAME, is_stream)

    def add_calls(self):
        self.add_nodes(callers.UNARY, False)
        self.add_app("an app over HTTP", HTTPApp(), False)
        self.add_app("a gRPC app", GRPCCallee(package="greet.Say"), False, app_protocol="grpc")
        self.add_app("a mucp app", FrameNode(CODECS[:4]), False, app_protocol="mucp")

    def add_streams(self):
        self.add_nodes(callers.STREAMS, True)
        self.add_app("an app's WebSocket", WebSocketApp(), True, app_streams="Say.Chat=websocket")
        self.add_app("an app's lines", HTTPApp(), True, app_streams="Say.Chat=ndjson")
        self.add_app("a gRPC app", GRPCCallee(package="greet.Say"), True, app_protocol="grpc")
        self.add_app("a mucp app", FrameNode(CODECS[:4]), True, app_protocol="mucp", app_streams="Say.Chat")

    def go_through(self, work):
        """`work(pair, call)` for all pairs, some at a time. It begins the call and is rid of it afterwards."""
        def one(pair):
            calls = []

            def begin(*arguments):
                calls.append(pair.begin(*arguments))
                return calls[-1]

            try:
                work(pair, begin)
            except Exception as error:  # noqa: BLE001 - told with the pair's name below
                return "%s: %s: %s" % (pair.name, type(error).__name__, error)
            finally:
                for call in calls:
                    call.close()

        with ThreadPoolExecutor(TOGETHER) as pool:
            failures = [failure for failure in pool.map(one, self.pairs) if failure]
        self.assertEqual(failures, [], "%d of %d pairs" % (len(failures), len(self.pairs)))

    # What is tried

    def the_time_left_is_told(self, pair, begin):
        """Each hop tells the next what is left: no more than it was given, and not much less."""
        self.assertEqual(begin("hi", 5).receive(), ("Hello hi", pair.number))
        left = pair.side().time_left
        self.assertIsNotNone(left)
        self.assertTrue(3 < left <= 5, left)

    def the_time_ends_both(self, pair, begin):
        call = begin("wait", 0.3)
        with self.assertRaises(Failed) as failed:
            call.receive()
        self.assertIn(failed.exception.code, (408, 504, -4), failed.exception)
        self.assertTrue(pair.side().gone.wait(SECONDS_MAX), "the callee works on")

    def a_caller_that_leaves_is_gone(self, pair, begin):
        call = begin("wait")
        side = pair.side()
        call.leave()
        self.assertTrue(side.gone.wait(SECONDS_MAX), "the callee works on")

    def the_callers_end_is_told(self, pair, begin):
        if not pair.caller.half_closes:
            return
        call = begin("echo")
        self.assertEqual(call.receive(), ("Hello echo", pair.number))
        if pair.caller.messages_max > 1:
            call.send("more", 1)
            self.assertEqual(call.receive(), ("Hello more", 1))
        self.assertFalse(pair.side().saw_end and pair.caller.messages_max > 1)
        call.finish()
        with self.assertRaises(Ended):
            call.receive()
        self.assertTrue(pair.side().saw_end)

    def a_callee_that_breaks_off_is_no_end(self, pair, begin):
        if getattr(pair.callee, "generation", "") == "v0.14":
            return  # to close the connection is how such a node ends a stream
        call = begin("drop")
        self.assertEqual(call.receive(), ("Hello drop", pair.number))
        with self.assertRaises(Failed) as failed:
            call.receive()
        self.assertGreaterEqual(failed.exception.code, 500, failed.exception)


class Calls(Pairs):
    def setUp(self):
        super().setUp()
        self.add_calls()

    def test_deadlines(self):
        self.go_through(self.the_time_left_is_told)

    def test_the_end_of_the_time(self):
        self.go_through(self.the_time_ends_both)

    def test_leaving(self):
        self.go_through(self.a_caller_that_leaves_is_gone)


class Streams(Pairs):
    def setUp(self):
        super().setUp()
        self.add_streams()

    def test_deadlines(self):
        self.go_through(self.the_time_left_is_told)

    def test_the_end_of_the_time(self):
        self.go_through(self.the_time_ends_both)

    def test_leaving(self):
        self.go_through(self.a_caller_that_leaves_is_gone)

    def test_half_closing(self):
        self.go_through(self.the_callers_end_is_told)

    def test_breaking_off(self):
        self.go_through(self.a_callee_that_breaks_off_is_no_end)


class SecondAttempts(BlackBox):
    def test_they_have_what_the_first_has_left(self):
        """A node that closes a resting connection late is asked once more, with less time."""
        def answer(call):
            if len(node.calls) == 2:
                time.sleep(0.3)  # the handler's work
                raise DropConnection()
            return {}

        node = self.start_server(Node(answer))
        sidecar = self.start(services=[service(NAME, node.registration())])
        for _ in range(2):
            self.assertEqual(sidecar.get("/hello/say/hello", {"Timeout": "2"}).status, 200)
        first, second, third = [int(call.headers["timeout"]) / 1e9 for call in node.calls]
        self.assertTrue(1.5 < first <= 2 and 1.5 < second <= 2, (first, second))
        self.assertTrue(1 < third < second - 0.25, (second, third))
