"""Shapes that are legal and rare: replies of every framing from nodes and apps, half-closed callers, Unix sockets, several
workers, several registries, a registry file behind a link, limits on what is held."""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
import threading

from gomicro import App, Client, Closed, Connection, Node, encode, greeter, hello_app
from sidecar import BlackBox, ask, eventually, free_port, run_together, service

HELLO = "go.micro.srv.hello"
GREETING = b'{"msg":"Hello World"}'
JSON = ("Content-Type", "application/json")


class RawNode(Node):
    """Answers each request with `reply(connection, request)`, which writes bytes itself."""

    def __init__(self, reply):
        super().__init__(greeter)
        self.reply = reply

    def answer(self, connection, number, first, request):
        self.calls.append(request)
        self.reply(connection, request)


def close_after(data):
    def reply(connection, _):
        connection.send(data)
        connection.sock.shutdown(socket.SHUT_RDWR)

    return reply


GOOD = {
    "with Content-Length": encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", len(GREETING))], GREETING),
    "chunked": encode("HTTP/1.1 200 OK", [JSON, ("Transfer-Encoding", "chunked")], b"5\r\n{\"msg\r\n10;a=b\r\n\":\"Hello World\"}\r\n0\r\nX: y\r\n\r\n"),
    "after 100 and 103": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", len(GREETING))], GREETING),
    "with lower-case names and no reason": encode("HTTP/1.1 200 ", [("content-type", "application/json"), ("content-length", len(GREETING))], GREETING),
    "with a parameter on the type": encode("HTTP/1.1 200 OK", [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", len(GREETING))], GREETING),
}
UNTIL_CLOSED = {
    "read to close": encode("HTTP/1.1 200 OK", [JSON], GREETING),
    "HTTP/1.0": encode("HTTP/1.0 200 OK", [JSON], GREETING),
    "with Connection: close": encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", len(GREETING)), ("Connection", "close")], GREETING),
}
BAD = {
    "cut short": encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", 100)], GREETING),
    "chunked and cut short": encode("HTTP/1.1 200 OK", [JSON, ("Transfer-Encoding", "chunked")], b"15\r\n" + GREETING),
    "two lengths": encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", 2), ("Content-Length", 21)], GREETING),
    "a length and chunked": encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", 21), ("Transfer-Encoding", "chunked")], GREETING),
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
    "a status of four digits": encode("HTTP/1.1 2000 OK", [JSON, ("Content-Length", 2)], b"{}"),
    "HTTP-level 500": encode("HTTP/1.1 500 Internal Server Error", [("Content-Length", 4)], b"oops"),
    "an upgrade nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
}


class RepliesOfNodes(BlackBox):
    def sidecar_with(self, reply):
        self.node = self.start_server(RawNode(reply))
        return self.start(
            services=[service(HELLO, self.node.registration())], environment={"MICRO_CLIENT_REQUEST_TIMEOUT": "2s"}
        )

    def test_every_legal_framing(self):
        for name, data in GOOD.items():
            with self.subTest(name):
                sidecar = self.sidecar_with(lambda connection, _, data=data: connection.send(data))
                for turn in range(3):
                    self.assertEqual(sidecar.post("/hello/say/hello", {}).json(), {"msg": "Hello World"})

    def test_the_same_one_byte_at_a_time(self):
        for name, data in GOOD.items():
            with self.subTest(name):

                def reply(connection, _, data=data):
                    for byte in data:
                        connection.send(bytes([byte]))

                self.assertEqual(self.sidecar_with(reply).post("/hello/say/hello", {}).json(), {"msg": "Hello World"})

    def test_replies_that_end_with_the_connection(self):
        for name, data in UNTIL_CLOSED.items():
            with self.subTest(name):
                sidecar = self.sidecar_with(close_after(data))
                for turn in range(3):
                    self.assertEqual(sidecar.post("/hello/say/hello", {}).json(), {"msg": "Hello World"})

    def test_bad_replies_are_errors_and_run_once(self):
        for name, data in BAD.items():
            with self.subTest(name):
                sidecar = self.sidecar_with(close_after(data))
                answer = sidecar.post("/hello/say/hello", {})
                self.assertIn(answer.status, (500, 502), (name, answer))
                self.assert_error(answer, answer.status)
                self.assertEqual(len(self.node.calls), 1, "repeated a call that may have run")

    def test_bytes_after_a_reply_are_never_the_next_callers(self):
        extra = encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", 16)], b'{"msg":"poison"}')
        sidecar = self.sidecar_with(lambda connection, _: connection.send(GOOD["with Content-Length"] + extra))
        for turn in range(5):
            self.assertEqual(sidecar.post("/hello/say/hello", {}).json(), {"msg": "Hello World"})

    def test_a_reply_over_the_limit(self):
        big = b'{"msg":"' + b"x" * (5 << 20) + b'"}'
        data = encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", len(big))], big)
        answer = self.sidecar_with(lambda connection, _: connection.send(data)).post("/hello/say/hello", {})
        self.assertIn(answer.status, (500, 502), answer)

    def test_a_reply_just_below_the_limit(self):
        big = b'{"msg":"' + b"x" * ((4 << 20) - 100) + b'"}'
        data = encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", len(big))], big)
        answer = self.sidecar_with(lambda connection, _: connection.send(data)).post("/hello/say/hello", {})
        self.assertEqual((answer.status, answer.body), (200, big))


class RepliesOfApps(BlackBox):
    def test_every_legal_framing(self):
        for name, data in list(GOOD.items()) + list(UNTIL_CLOSED.items()):
            with self.subTest(name):
                reply = close_after(data) if name in UNTIL_CLOSED else lambda connection, _, data=data: connection.send(data)
                app = self.start_server(RawNode(reply))
                sidecar = self.start(name=HELLO, app=app.port, registry="memory")
                client = Client(sidecar.server_port, "micro", "application/json")
                self.addCleanup(client.close)
                for turn in range(2):
                    self.assertEqual(client.call("Say.Hello", {}), ({"msg": "Hello World"}, None))

    def test_bad_replies_are_framework_errors(self):
        not_json = encode("HTTP/1.1 200 OK", [JSON, ("Content-Length", 8)], b"{\"msg\":}")
        for name, data in list(BAD.items()) + [("not JSON", not_json)]:
            with self.subTest(name):
                app = self.start_server(RawNode(close_after(data)))
                sidecar = self.start(name=HELLO, app=app.port, registry="memory")
                client = Client(sidecar.server_port, "micro", "application/json")
                self.addCleanup(client.close)
                _, error = client.call("Say.Hello", {})
                self.assertIn(json.loads(error)["code"], (500, 502), error)

    def test_an_empty_reply(self):
        app = self.start_server(App(lambda *_: (204, {}, b"")))
        sidecar = self.start(name=HELLO, app=app.port, registry="memory")
        for kind in ("application/json", "application/protobuf", "application/proto-rpc"):
            client = Client(sidecar.server_port, "micro", kind)
            self.addCleanup(client.close)
            _, error = client.call("Say.Hello", {} if "json" in kind else b"")
            self.assertIsNone(error)


class Callers(BlackBox):
    def setUp(self):
        super().setUp()
        self.release = threading.Event()
        self.release.set()
        self.node = self.start_server(Node(lambda call: self.release.wait(10) and greeter(call)))
        self.addCleanup(self.release.set)

    def test_a_caller_that_ends_its_half_still_gets_the_answer(self):
        sidecar = self.start(services=[service(HELLO, self.node.registration())])
        self.release.clear()
        connection = Connection.to(sidecar.port)
        connection.send(encode("POST /hello/say/hello HTTP/1.1", [("Host", "x"), ("Content-Length", 2)], b"{}"))
        connection.sock.shutdown(socket.SHUT_WR)
        eventually(lambda: self.node.calls)
        self.release.set()
        # Interim answers, until it is clear that somebody is there.
        while (reply := connection.read()).start == "HTTP/1.1 100 Continue":
            self.assertEqual(reply.headers, [])
        self.assertEqual(json.loads(reply.body), {"msg": "Hello World"})
        self.assertTrue(connection.is_closed_by_peer())
        connection.close()

    def test_one_that_knows_no_interim_answers_gets_none(self):
        sidecar = self.start(services=[service(HELLO, self.node.registration())])
        self.release.clear()
        connection = Connection.to(sidecar.port)
        connection.send(encode("POST /hello/say/hello HTTP/1.0", [("Host", "x"), ("Content-Length", 2)], b"{}"))
        connection.sock.shutdown(socket.SHUT_WR)
        eventually(lambda: self.node.calls)
        self.assertFalse(select.select([connection.sock], [], [], 0.2)[0], "something was written")
        self.release.set()
        self.assertEqual(json.loads(connection.read().body), {"msg": "Hello World"})
        connection.close()

    def test_head_is_answered_without_a_body(self):
        sidecar = self.start(services=[service(HELLO, self.node.registration())])
        connection = Connection.to(sidecar.port)
        self.addCleanup(connection.close)
        connection.send(b"HEAD /hello/say/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(connection.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200"))
        connection.send(b"GET /hello/say/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(json.loads(connection.read().body), {"msg": "Hello World"})

    def test_truth_about_the_call_in_the_headers(self):
        sidecar = self.start(services=[service(HELLO, free_port(), self.node.registration())])
        attempts = set()
        for turn in range(20):
            answer = sidecar.post("/hello/say/hello", {})
            attempts.add(answer.headers["X-Micro-Attempts"])
            self.assertIn(str(self.node.port), answer.headers["X-Micro-Node"])
            self.assertTrue(answer.headers["X-Micro-Upstream-Time"].isdigit())
        self.assertIn("1", attempts)

    def test_idle_connections_are_closed_in_time(self):
        environment = {"MICRO_SIDECAR_IDLE_TIMEOUT": "1s"}
        sidecar = self.start(services=[service(HELLO, self.node.registration())], environment=environment)
        connection = Connection.to(sidecar.port, timeout=5)
        connection.send(b"GET /hello/say/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.read()
        self.assertTrue(connection.is_closed_by_peer())
        connection.close()

    def test_more_connections_than_allowed_are_closed_and_the_others_work(self):
        environment = {"MICRO_SIDECAR_MAX_CONNECTIONS": "10"}
        sidecar = self.start(services=[service(HELLO, self.node.registration())], environment=environment)
        held = []
        self.addCleanup(lambda: [connection.close() for connection in held])
        served = 0
        for index in range(30):
            try:
                connection = Connection.to(sidecar.port)
                held.append(connection)
                connection.send(b"GET /hello/say/hello HTTP/1.1\r\nHost: x\r\n\r\n")
                served += connection.read().start.startswith("HTTP/1.1 200")
            except (Closed, OSError):  # as it should be
                pass
        self.assertEqual(served, 10)

    def test_more_calls_than_allowed_are_told_to_come_back(self):
        environment = {"MICRO_SIDECAR_MAX_IN_FLIGHT": "4"}
        sidecar = self.start(services=[service(HELLO, self.node.registration())], environment=environment)
        self.release.clear()
        refused = []

        def work(index):
            answer = sidecar.post("/hello/say/hello", {})
            if answer.status == 503:
                refused.append(answer)
            if len(refused) == 8:
                self.release.set()
            return answer.status

        statuses = run_together(12, work)
        self.assertEqual(sorted(statuses), [200] * 4 + [503] * 8)
        self.assertTrue(refused[0].headers["Retry-After"])


class Placement(BlackBox):
    def test_unix_sockets_on_both_sides(self):
        folder = tempfile.mkdtemp()
        app_path, sidecar_path = os.path.join(folder, "app"), os.path.join(folder, "sidecar")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(app_path)
        listener.listen(8)
        self.addCleanup(listener.close)

        def accept():
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                if sock.recv(65536):  # nothing comes on a connection that only asks whether the app is there
                    sock.sendall(UNTIL_CLOSED["with Connection: close"])
                sock.close()

        threading.Thread(target=accept, daemon=True).start()
        sidecar = self.start(
            name=HELLO,
            registry="memory",
            environment={"MICRO_APP_ADDRESS": "unix:" + app_path, "MICRO_SIDECAR_ADDRESS": "unix:" + sidecar_path},
        )
        client = Client(sidecar.server_port, "micro", "application/json")
        self.addCleanup(client.close)
        self.assertEqual(client.call("Say.Hello", {}), ({"msg": "Hello World"}, None))
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(sidecar_path)
        self.addCleanup(caller.close)
        caller.sendall(b"GET /hello/say/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while True:
            data = caller.recv(65536)
            if not data:
                break
            received += data
        self.assertIn(GREETING, received)

    def test_two_workers(self):
        node = self.start_server(Node(greeter))
        app = self.start_server(App(hello_app))
        sidecar = self.start(
            services=[service(HELLO, node.registration())],
            name="go.micro.srv.inside",
            app=app.port,
            environment={"MICRO_SIDECAR_WORKERS": "2"},
        )

        def work(index):
            for turn in range(20):
                self.assertEqual(sidecar.post("/hello/say/hello", {"name": "a"}).json(), {"msg": "Hello a"})
            client = Client(sidecar.server_port, "micro", "application/json")
            self.assertEqual(client.call("Say.Hello", {"name": "b"}), ({"msg": "Hello b"}, None))
            client.close()

        run_together(16, work)
        self.assertEqual(sidecar.stop(), 0)

    def test_two_registries_at_once(self):
        file_node, memory_node = self.start_server(Node(greeter)), self.start_server(Node(greeter))
        folder = tempfile.mkdtemp()
        path = os.path.join(folder, "services.yaml")
        with open(path, "w") as stream:
            stream.write("%s:\n  nodes:\n    - 127.0.0.1:%d\n" % (HELLO, file_node.port))
        sidecar = self.start(registry="memory,file:" + path)
        sidecar.post("/registry", service("go.micro.srv.other", memory_node.registration("go.micro.srv.other")))
        eventually(lambda: sidecar.post("/other/say/hello", {}).status == 200)
        self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)
        self.assertEqual(len(sidecar.get("/registry").json()), 2)

    def test_a_registry_file_behind_a_link_that_is_swapped(self):
        # Kubernetes swaps a link to a folder to change a mounted ConfigMap.
        old, new = self.start_server(Node(greeter)), self.start_server(Node(lambda call: {"msg": "new"}))
        folder = tempfile.mkdtemp()
        for name, node in (("one", old), ("two", new)):
            os.mkdir(os.path.join(folder, name))
            with open(os.path.join(folder, name, "services.json"), "w") as stream:
                json.dump([service(HELLO, node.registration())], stream)
        os.symlink("one", os.path.join(folder, "..data"))
        os.symlink("..data/services.json", os.path.join(folder, "services.json"))
        sidecar = self.start(registry="file:" + os.path.join(folder, "services.json"))
        self.assertEqual(sidecar.post("/hello/say/hello", {}).json(), {"msg": "Hello World"})
        os.symlink("two", os.path.join(folder, "..data_tmp"))
        os.rename(os.path.join(folder, "..data_tmp"), os.path.join(folder, "..data"))
        eventually(lambda: sidecar.post("/hello/say/hello", {}).json() == {"msg": "new"}, what="the swapped file in use")

    def test_ipv6(self):
        if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("no IPv6 here")
        node = self.start_server(Node(greeter))
        port = free_port()
        sidecar = self.start(
            services=[service(HELLO, node.registration())],
            environment={"MICRO_SIDECAR_ADDRESS": "[::1]:%d" % port},
        )
        self.assertEqual(ask(port, "GET", "/hello/say/hello", host="::1").json(), {"msg": "Hello World"})
        self.assertTrue(sidecar.is_running())

    def test_nodes_named_by_host_names(self):
        node = self.start_server(Node(greeter))
        entry = dict(node.registration(), address="localhost:%d" % node.port)
        sidecar = self.start(services=[service(HELLO, entry)])
        self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)

    def test_an_unknown_host_name_is_an_error_that_names_it(self):
        entry = {"id": "x", "address": "no-such-host.invalid:80", "metadata": {}}
        sidecar = self.start(services=[service(HELLO, entry)])
        answer = sidecar.post("/hello/say/hello", {})
        self.assertIn(answer.status, (502, 503), answer)
        self.assertIn("no-such-host.invalid", answer.json()["detail"])
