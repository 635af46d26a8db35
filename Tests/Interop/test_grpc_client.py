"""Calls to services whose nodes speak gRPC: from apps over HTTP and from the framework, to real servers and to bad ones."""

from __future__ import annotations

import json
import threading
import time

from gomicro import Client, string_field
from grpcpeer import CANCEL, INTERNAL_ERROR, REFUSED_STREAM, GRPCNode, RawNode, Reply, Request
from sidecar import BlackBox, eventually, free_port, run_together, service

HELLO = "go.micro.srv.hello"


class GRPCNodes(BlackBox):
    def sidecar_for(self, *nodes, **options):
        entries = [node.registration("node-%d" % index) for index, node in enumerate(nodes)]
        return self.start(services=[service(HELLO, *entries)], **options)

    def header(self, node, name, index=0):
        return dict(node.requests[index][0]).get(name)


class Unary(GRPCNodes):
    def test_a_json_call_to_a_framework_node(self):
        node = self.start_server(GRPCNode())
        sidecar = self.sidecar_for(node)
        answer = sidecar.rpc(HELLO, "Say.Hello", {"name": "John", "big_number": "9007199254740993"})
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(answer.json(), {"msg": "Hello John", "big_number": "9007199254740993"})
        self.assertEqual(node.paths, ["/go.micro.srv.hello.Say/Hello"])

    def test_a_path_call_and_one_with_an_empty_body(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        self.assertEqual(sidecar.post("/hello/say/hello", {"name": "John"}).json(), {"msg": "Hello John"})
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {}).json(), {"msg": "Hello "})

    def test_protobuf_goes_as_protobuf(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        body = Request(name="John", big_number=-5).SerializeToString()
        answer = sidecar.post("/hello/say/hello", body, {"Content-Type": "application/protobuf"})
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(Reply.FromString(answer.body), Reply(msg="Hello John", big_number=-5))

    def test_an_empty_protobuf_message_is_a_message(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        answer = sidecar.post("/hello/say/hello", b"", {"Content-Type": "application/protobuf"})
        self.assertEqual(Reply.FromString(answer.body), Reply(msg="Hello "), answer)

    def test_framework_callers_of_every_generation(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        for generation in ("v0.14", "x", "micro"):
            for kind in ("application/json", "application/json-rpc", "application/protobuf", "application/proto-rpc"):
                with self.subTest("%s %s" % (generation, kind)):
                    client = Client(sidecar.port, generation, kind, HELLO)
                    self.addCleanup(client.close)
                    if generation == "v0.14":
                        continue  # it names no service
                    payload, error = client.call("Say.Hello", {"name": "a"} if "json" in kind else string_field(1, "a"))
                    self.assertIsNone(error)
                    found = payload["msg"] if "json" in kind else Reply.FromString(payload).msg
                    self.assertEqual(found, "Hello a")

    def test_the_request_is_one_of_grpc(self):
        node = self.start_server(RawNode())
        sidecar = self.sidecar_for(node, name="go.micro.srv.me")
        sidecar.rpc(
            HELLO,
            "Say.Hello",
            {"name": "John"},
            {"Timeout": "2", "X-Tenant": "Blue", "Authorization": "Bearer t", "Cookie": "a=b", "Micro-Topic": "leak"},
        )
        headers = dict(node.requests[0][0])
        self.assertEqual(headers[":method"], "POST")
        self.assertEqual(headers[":scheme"], "http")
        self.assertEqual(headers[":path"], "/go.micro.srv.hello.Say/Hello")
        self.assertEqual(headers[":authority"], "127.0.0.1:%d" % node.port)
        self.assertEqual(headers["content-type"], "application/grpc+json")
        self.assertEqual(headers["x-content-type"], "application/grpc+json")
        self.assertEqual(headers["te"], "trailers")
        self.assertEqual(headers["x-tenant"], "Blue")
        self.assertEqual(headers["authorization"], "Bearer t")
        self.assertEqual(headers["micro-from-service"], "go.micro.srv.me")
        self.assertNotIn("cookie", headers)
        self.assertNotIn("micro-topic", headers)
        self.assertRegex(headers["grpc-timeout"], r"^1[0-9]{7}[nu]$|^2000000u$|^19[0-9]+u$")
        self.assertTrue(1_500_000_000 < int(headers["timeout"]) <= 2_000_000_000, headers)
        self.assertEqual(node.requests[0][1][:1], b"\0")
        self.assertEqual(json.loads(node.requests[0][1][5:]), {"name": "John"})

    def test_large_messages_pass_the_windows_both_ways(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        body = Request(name="x", data=b"d" * 3_000_000).SerializeToString()
        answer = sidecar.post("/hello/say/hello", body, {"Content-Type": "application/protobuf"})
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(len(Reply.FromString(answer.body).data), 3_000_000)

    def test_a_reply_over_the_limit_is_an_error(self):
        node = self.start_server(
            RawNode(lambda node, peer, stream, headers, body: peer.reply(stream, b"x" * 60_000))
        )
        sidecar = self.sidecar_for(node, environment={"MICRO_SIDECAR_MAX_BODY": "50000"})
        answer = sidecar.post("/hello/say/hello", b"", {"Content-Type": "application/protobuf"})
        self.assert_error(answer, 429, "larger than max (60000 vs. 50000)")

    def test_metadata_of_a_node_goes_to_nobody(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        answer = sidecar.rpc(HELLO, "Say.Hello", {})
        self.assertNotIn("x-answer", answer.headers)
        self.assertNotIn("x-trailer", answer.headers)

    def test_nodes_of_both_dialects_in_one_service(self):
        from gomicro import Node, greeter

        grpc_node, http_node = self.start_server(GRPCNode()), self.start_server(Node(greeter))
        entries = [grpc_node.registration(), http_node.registration()]
        sidecar = self.start(services=[service(HELLO, *entries)], environment={"MICRO_SELECTOR": "roundrobin"})
        for _ in range(6):
            self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {"name": "J"}).json()["msg"], "Hello J")
        self.assertEqual(len(grpc_node.paths), 3)


class Errors(GRPCNodes):
    def test_the_frameworks_error_comes_through(self):
        for node in (GRPCNode(), GRPCNode(details=False)):
            sidecar = self.sidecar_for(self.start_server(node))
            for code in (400, 401, 403, 404, 409, 500):
                answer = sidecar.rpc(HELLO, "Say.Fail", {"name": "Jörg", "big_number": code})
                error = self.assert_error(answer, code, "bad <Jörg>", "greet.Say")
                self.assertEqual(error["detail"], "bad <Jörg>")

    def test_a_status_without_the_frameworks_error(self):
        def fail(node, peer, stream, headers, body):
            peer.only_headers(
                stream,
                [
                    (":status", "200"),
                    ("content-type", "application/grpc"),
                    ("grpc-status", "5"),
                    ("grpc-message", "no such%20user %C3%BC"),
                ],
            )

        sidecar = self.sidecar_for(self.start_server(RawNode(fail)))
        self.assert_error(sidecar.rpc(HELLO, "Say.Hello", {}), 404, "no such user ü")

    def test_an_unknown_method_is_not_found(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode()))
        self.assert_error(sidecar.rpc(HELLO, "Say.Nothing", {}), 404, "Method not found")

    def test_a_node_without_a_json_codec_is_explained(self):
        sidecar = self.sidecar_for(self.start_server(GRPCNode(json_codec=False)))
        answer = sidecar.rpc(HELLO, "Say.Hello", {"name": "J"})
        error = self.assert_error(answer, 500, "MICRO_DESCRIPTORS")
        self.assertIn("no descriptors for %s Say.Hello" % HELLO, error["detail"])

    def test_answers_that_are_not_grpc(self):
        def html(node, peer, stream, headers, body):
            peer.only_headers(stream, [(":status", "404"), ("content-type", "text/html")])

        def no_status(node, peer, stream, headers, body):
            peer.begin(stream)
            peer.message(stream, b"{}")
            with peer.lock:
                peer.h2.send_data(stream, b"", end_stream=True)
                peer.flush()

        def bad_type(node, peer, stream, headers, body):
            peer.only_headers(stream, [(":status", "200"), ("content-type", "text/plain")])

        def compressed(node, peer, stream, headers, body):
            peer.begin(stream, [("grpc-encoding", "gzip")])
            peer.message(stream, b"{}", flag=1)

        def truncated(node, peer, stream, headers, body):
            peer.begin(stream)
            peer.data(stream, b"\0\0\0\0\x09abc")
            peer.end(stream)

        def nothing(node, peer, stream, headers, body):
            peer.begin(stream)
            peer.end(stream)

        def two(node, peer, stream, headers, body):
            peer.begin(stream)
            peer.message(stream, b"{}")
            peer.message(stream, b"{}")
            peer.end(stream)

        for answer, code, detail in (
            (html, 501, "HTTP status 404"),
            (no_status, 500, "without a grpc-status"),
            (bad_type, 500, "text/plain"),
            (compressed, 501, "compressed"),
            (truncated, 500, "inside a message"),
            (nothing, 502, "no message"),
            (two, 502, "more than one message"),
        ):
            with self.subTest(answer.__name__):
                sidecar = self.sidecar_for(self.start_server(RawNode(answer)))
                self.assert_error(sidecar.rpc(HELLO, "Say.Hello", {}), code, detail)

    def test_a_node_that_speaks_http_1_is_explained(self):
        from gomicro import Node, greeter

        node = self.start_server(Node(greeter))
        entry = dict(node.registration(), metadata={"protocol": "grpc"})
        sidecar = self.start(services=[service(HELLO, entry)])
        answer = sidecar.rpc(HELLO, "Say.Hello", {})
        self.assertEqual(answer.status, 503, answer)
        self.assertIn("go.micro.client", answer.json()["id"])

    def test_a_node_that_is_not_there(self):
        class Gone:
            port = free_port()
            registration = GRPCNode.registration

        sidecar = self.sidecar_for(Gone())
        self.assert_error(sidecar.rpc(HELLO, "Say.Hello", {}), 503, "connection refused")


class Time(GRPCNodes):
    def test_the_deadline_shrinks_hop_by_hop(self):
        node = self.start_server(GRPCNode())
        sidecar = self.sidecar_for(node)
        sidecar.rpc(HELLO, "Say.Hello", {}, {"Timeout": "3"})
        left = node.greeter.time_left("Hello")
        self.assertTrue(2 < left <= 3.1, left)
        client = Client(sidecar.port, "micro", "application/json", HELLO)
        self.addCleanup(client.close)
        client.send("Say.Meta", {}, {"Timeout": "1500000000"})
        client.connection.read()
        left = node.greeter.time_left("Meta")
        self.assertTrue(0.5 < left <= 1.6, left)
        self.assertTrue(5e8 < int(node.greeter.metadata("Meta")["timeout"]) <= 1.5e9)

    def test_a_call_out_of_time_is_cancelled_at_the_node(self):
        node = self.start_server(GRPCNode())
        sidecar = self.sidecar_for(node)
        begun = time.monotonic()
        answer = sidecar.rpc(HELLO, "Say.Sleep", {}, {"Timeout": "0.3"})
        self.assertEqual(answer.status, 504, answer)
        self.assertEqual(answer.json()["code"], 408)
        self.assertLess(time.monotonic() - begun, 3)
        self.assertTrue(node.greeter.cancelled.wait(5))

    def test_a_caller_that_leaves_cancels_at_the_node(self):
        def silent(node, peer, stream, headers, body):
            pass

        node = self.start_server(RawNode(silent))
        sidecar = self.sidecar_for(node)
        client = Client(sidecar.port, "micro", "application/json", HELLO)
        client.send("Say.Hello", {}, {"Timeout": "20000000000"})
        eventually(lambda: node.requests, what="the request at the node")
        client.close()
        eventually(lambda: node.resets, what="the reset at the node")
        self.assertEqual(node.resets[0][1], CANCEL)

    def test_two_sidecars_in_a_row(self):
        """App, sidecar, sidecar, HTTP app: what is left of the time reaches the end."""
        node = self.start_server(GRPCNode())
        inner = self.sidecar_for(node)
        entry = {"id": "inner", "address": "127.0.0.1:%d" % inner.port, "metadata": {"protocol": "mucp"}}
        outer = self.start(services=[service(HELLO, entry)])
        answer = outer.rpc(HELLO, "Say.Hello", {"name": "J"}, {"Timeout": "2"})
        self.assertEqual(answer.json(), {"msg": "Hello J"}, answer)
        left = node.greeter.time_left("Hello")
        self.assertTrue(1 < left <= 2.1, left)


class Connections(GRPCNodes):
    def test_many_calls_share_a_connection(self):
        node = self.start_server(RawNode())
        sidecar = self.sidecar_for(node, environment={"MICRO_SIDECAR_WORKERS": "1"})
        sidecar.rpc(HELLO, "Say.Hello", {})
        run_together(20, lambda index: self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {}).status, 200))
        self.assertEqual(len(node.connections), 1)

    def test_more_connections_when_the_peer_takes_few_streams(self):
        release = threading.Event()

        def slow(node, peer, stream, headers, body):
            threading.Thread(target=lambda: (release.wait(5), RawNode.hello(node, peer, stream, headers, body))).start()

        node = self.start_server(RawNode(slow, streams_max=3))
        sidecar = self.sidecar_for(node, environment={"MICRO_SIDECAR_WORKERS": "1"})
        threading.Thread(target=lambda: (eventually(lambda: len(node.requests) == 12), release.set())).start()
        answers = run_together(12, lambda index: sidecar.rpc(HELLO, "Say.Hello", {"name": str(index)}, {"Timeout": "8"}))
        self.assertEqual([a.json() for a in answers], [{"msg": "Hello %d" % i} for i in range(12)])
        self.assertEqual(len(node.connections), 4)

    def test_a_refused_stream_is_tried_again(self):
        refused = []

        def refuse_once(node, peer, stream, headers):
            if not refused:
                refused.append(stream)
                peer.reset(stream, REFUSED_STREAM)

        node = RawNode(begun=refuse_once)
        node.answer = lambda n, peer, stream, h, b: stream in refused or RawNode.hello(n, peer, stream, h, b)
        sidecar = self.sidecar_for(self.start_server(node))
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {"name": "J"}).json(), {"msg": "Hello J"})
        self.assertEqual(len(refused), 1)

    def test_a_node_that_refuses_for_ever_is_given_up(self):
        node = RawNode(begun=lambda node, peer, stream, headers: peer.reset(stream, REFUSED_STREAM))
        node.answer = lambda *_: None
        sidecar = self.sidecar_for(self.start_server(node))
        self.assert_error(sidecar.rpc(HELLO, "Say.Hello", {}), 503)

    def test_goaway_moves_unprocessed_calls(self):
        def leave(node, peer, stream, headers, body):
            if peer is node.connections[0]:
                return peer.go_away(0)
            RawNode.hello(node, peer, stream, headers, body)

        node = self.start_server(RawNode(leave))
        sidecar = self.sidecar_for(node)
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {"name": "J"}).json(), {"msg": "Hello J"})
        self.assertEqual(len(node.connections), 2)

    def test_goaway_lets_processed_calls_end(self):
        def leave_later(node, peer, stream, headers, body):
            if peer is node.connections[0]:
                peer.go_away(stream)
            RawNode.hello(node, peer, stream, headers, body)

        node = self.start_server(RawNode(leave_later))
        sidecar = self.sidecar_for(node, environment={"MICRO_SIDECAR_WORKERS": "1"})
        for _ in range(2):
            self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {"name": "J"}).json(), {"msg": "Hello J"})
        self.assertEqual(len(node.connections), 2)

    def test_a_call_that_may_have_run_is_not_repeated(self):
        node = RawNode(lambda node, peer, stream, headers, body: peer.reset(stream, INTERNAL_ERROR))
        sidecar = self.sidecar_for(self.start_server(node))
        self.assert_error(sidecar.rpc(HELLO, "Say.Hello", {}), 502, "INTERNAL_ERROR")
        self.assertEqual(len(node.requests), 1)
        sidecar.post("/hello/say/hello", {}, {"Idempotency-Key": "1"})
        self.assertEqual(len(node.requests), 3)

    def test_a_node_that_restarts_is_found_again(self):
        node = GRPCNode().start()
        port = node.port
        sidecar = self.sidecar_for(node)
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {}).status, 200)
        node.stop()
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {}).status, 503)
        again = GRPCNode().start(port)
        self.addCleanup(again.stop)
        eventually(lambda: sidecar.rpc(HELLO, "Say.Hello", {}).status == 200, what="an answer after the restart")

    def test_a_slow_window_holds_a_large_request_and_lets_it_through(self):
        node = self.start_server(RawNode(window=1000))
        sidecar = self.sidecar_for(node)
        name = "n" * 200_000
        self.assertEqual(sidecar.rpc(HELLO, "Say.Hello", {"name": name}).json(), {"msg": "Hello " + name})

    def test_connections_end_with_the_sidecar(self):
        node = self.start_server(RawNode())
        sidecar = self.sidecar_for(node)
        sidecar.rpc(HELLO, "Say.Hello", {})
        self.assertEqual(sidecar.stop(), 0)
