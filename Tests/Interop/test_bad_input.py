"""Bytes a peer should not send, over real sockets: each is refused, the connection is closed where it must be, nobody else
notices, and the process lives."""

from __future__ import annotations

import contextlib
import os
import random
import socket

from gomicro import App, Closed, Connection, Node, greeter, hello_app
from sidecar import BlackBox, eventually, service

HELLO = "go.micro.srv.hello"
OK = b"POST /hello/say/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


def post(*lines, body=b""):
    return b"\r\n".join((b"POST /hello/say/hello HTTP/1.1", b"Host: x") + lines) + b"\r\n\r\n" + body


SMUGGLING = {
    "Content-Length and Transfer-Encoding": post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "two Content-Lengths": post(b"Content-Length: 2", b"Content-Length: 3", body=b"{}x"),
    "a list of Content-Lengths": post(b"Content-Length: 2, 3", body=b"{}x"),
    "a signed Content-Length": post(b"Content-Length: +2", body=b"{}"),
    "a hexadecimal Content-Length": post(b"Content-Length: 0x2", body=b"{}"),
    "an overflowing Content-Length": post(b"Content-Length: 18446744073709551618", body=b"{}"),
    "a space before the colon": post(b"Content-Length : 2", body=b"{}"),
    "obsolete folding": post(b"A: b", b" c", b"Content-Length: 2", body=b"{}"),
    "a bare LF between headers": post(b"A: b\nContent-Length: 2", body=b"{}"),
    "a bare CR in a value": post(b"A: b\rc", b"Content-Length: 2", body=b"{}"),
    "a NUL in a value": post(b"A: b\0c", b"Content-Length: 2", body=b"{}"),
    "a control byte in a name": post(b"A\x01: b", b"Content-Length: 2", body=b"{}"),
    "an empty name": post(b": b", b"Content-Length: 2", body=b"{}"),
    "an unknown coding before chunked": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked not last": post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "a chunk size with a sign": post(b"Transfer-Encoding: chunked", body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk size with a prefix": post(b"Transfer-Encoding: chunked", body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "an overflowing chunk size": post(b"Transfer-Encoding: chunked", body=b"ffffffffffffffff2\r\n{}\r\n0\r\n\r\n"),
    "a chunk that ends late": post(b"Transfer-Encoding: chunked", body=b"2\r\n{}x\r\n0\r\n\r\n"),
    "a bare LF after a chunk size": post(b"Transfer-Encoding: chunked", body=b"2\n{}\r\n0\r\n\r\n"),
    "an empty chunk size": post(b"Transfer-Encoding: chunked", body=b"\r\n{}\r\n0\r\n\r\n"),
    "Transfer-Encoding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
MALFORMED = {
    "no version": b"GET /\r\n\r\n",
    "a version of the future": b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "no Host": b"GET /registry HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /registry HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a method of brackets": b"G[T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000 1fc0303".replace(" ", "")) + os.urandom(64),
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "zeroes": b"\0" * 64,
}


class BadInput(BlackBox):
    def setUp(self):
        super().setUp()
        app = self.start_server(App(hello_app))
        node = self.start_server(Node(greeter))
        self.sidecar = self.start(
            services=[service(HELLO, node.registration())],
            name="go.micro.srv.inside",
            app=app.port,
            environment={"MICRO_SIDECAR_HEADER_TIMEOUT": "500ms"},
        )
        self.ports = (self.sidecar.port, self.sidecar.server_port, self.sidecar.admin_port)
        self.bystander = Connection.to(self.sidecar.port)
        self.addCleanup(self.bystander.close)

    def tearDown(self):
        # The connection that was there all along still works: nothing that was sent touched anyone else.
        self.bystander.send(OK)
        self.assertTrue(self.bystander.read().start.startswith("HTTP/1.1 200"))
        self.assertTrue(self.sidecar.is_running())

    def refused(self, port, data, status=b"400"):
        """The status the sidecar answered with before it closed, or None if it only closed."""
        connection = Connection.to(port, timeout=5)
        try:
            connection.send(data)
            reply = None
            try:
                reply = connection.read().start.split()[1].encode()
            except (Closed, ConnectionError):
                pass
            self.assertTrue(connection.is_closed_by_peer(), "the connection was left open after %r" % data[:60])
            return reply
        finally:
            connection.close()

    def test_smuggling_is_a_400_and_the_end_of_the_connection(self):
        for port in self.ports[:2]:
            for name, data in SMUGGLING.items():
                with self.subTest("%s at %d" % (name, port)):
                    # What follows on the connection must never be taken for a request.
                    self.assertEqual(self.refused(port, data + OK.replace(b"hello/say", b"smuggled/say")), b"400")

    def test_malformed_requests(self):
        for port in self.ports:
            for name, data in MALFORMED.items():
                with self.subTest("%s at %d" % (name, port)):
                    self.assertIn(self.refused(port, data), (b"400", b"408", b"505", None))

    def test_requests_cut_off_anywhere(self):
        for port in self.ports[:2]:
            for cut in range(0, len(OK), 3):
                connection = Connection.to(port)
                connection.send(OK[:cut])
                connection.close() if cut % 2 else connection.reset()

    def test_one_byte_at_a_time(self):
        connection = Connection.to(self.sidecar.port)
        for byte in OK:
            connection.send(bytes([byte]))
        self.assertTrue(connection.read().start.startswith("HTTP/1.1 200"))
        connection.close()

    def test_a_caller_that_never_finishes_its_head_is_dropped(self):
        for port in self.ports[:2]:
            connection = Connection.to(port, timeout=8)
            connection.send(b"POST / HTTP/1.1\r\nHost: x\r\n")
            self.assertTrue(connection.is_closed_by_peer(), "still open at %d" % port)
            connection.close()

    def test_callers_that_leave_before_the_answer(self):
        for turn in range(100):
            connection = Connection.to(self.sidecar.port)
            connection.send(OK)
            connection.reset() if turn % 2 else connection.close()
        eventually(lambda: self.sidecar.post("/hello/say/hello", {}).status == 200)

    def test_a_caller_that_never_reads(self):
        connection = Connection.to(self.sidecar.port)
        connection.sock.setblocking(False)
        sent = 0
        try:
            while sent < 8_000_000:
                sent += connection.sock.send(OK * 100)
        except BlockingIOError:
            pass  # the sidecar stopped reading: that is the bound
        before = self.sidecar.anonymous_kilobytes()
        self.assertLess(before, 40_000)
        connection.close()

    def test_deep_and_broken_json(self):
        bodies = (
            b"[" * 200_000,
            b'{"a":' * 50_000,
            b'{"name":"\xff\xfe\xc0\xaf"}',
            b'{"name":"\\ud800"}',
            b'{"name":"\\u12"}',
            b'{"name":"a\nb"}',
            b"{} {}",
            b"nul",
            b'{"a":01}',
            b'{"a":1e99999}',
            b"\xef\xbb\xbf{}",
            b"",
        )
        for path in (b"/rpc", b"/hello/say/hello", b"/registry"):
            for body in bodies:
                with self.subTest("%r at %r" % (body[:20], path)):
                    connection = Connection.to(self.sidecar.port)
                    connection.send(
                        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                        % (path, len(body), body)
                    )
                    status = int(connection.read().start.split()[1])
                    connection.close()
                    if body not in (b"", b'{"a":1e99999}', b'{"name":"\\ud800"}'):
                        self.assertEqual(status, 400)
                    self.assertLess(status, 500)

    def test_paths_of_every_kind(self):
        for path in (b"/%00", b"/%", b"/%zz/a", b"/a%2fb/c", b"/" + b"a/" * 500, b"/..;/x", b"/\xff\xfe", b"/a?%", b"//", b"*"):
            with self.subTest(path[:30]):
                connection = Connection.to(self.sidecar.port)
                connection.send(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
                status = int(connection.read().start.split()[1])
                connection.close()
                self.assertIn(status, (400, 404, 431, 414))

    def test_bytes_at_random(self):
        seed = int(os.environ.get("MICRO_TEST_SEED", random.randrange(1 << 32)))
        chance = random.Random(seed)
        print("        seed %d (MICRO_TEST_SEED)" % seed)
        samples = list(SMUGGLING.values()) + [OK, OK * 3]
        for turn in range(600):
            data = bytearray(chance.choice(samples))
            for _ in range(chance.randrange(1, 6)):
                place = chance.randrange(len(data))
                kind = chance.randrange(3)
                if kind == 0:
                    data[place] = chance.randrange(256)
                elif kind == 1:
                    del data[place]
                else:
                    data[place:place] = bytes([chance.choice(b"\r\n\0: ;0f")])
            connection = socket.create_connection(("127.0.0.1", chance.choice(self.ports)), timeout=5)
            try:
                connection.sendall(data)
                with contextlib.suppress(OSError):  # reset by then
                    connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
            except socket.timeout:
                self.fail("no end of the connection after %r" % bytes(data))
            finally:
                connection.close()
