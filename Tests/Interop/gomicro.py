"""go-micro peers for black-box tests, written from the wire and not from our code: envelopes, clients, nodes and apps.

A `Node` is a go-micro server of one generation over the HTTP transport, with that generation's habits: v0.14 reads the
envelope only, later ones route by headers; every reply starts as a copy of the connection's first request's headers; the
status is always 200. A `Client` is the caller's side on a raw socket. An `App` is the plain HTTP app behind a sidecar.
"""

from __future__ import annotations

import collections
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# --- protobuf and envelopes ----------------------------------------------------------------------------------------


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def string_field(tag, text):
    data = text.encode() if isinstance(text, str) else text
    return bytes([tag << 3 | 2]) + varint(len(data)) + data


def fields(message):
    """{field number: value} of a flat message: bytes for strings, int for fixed64 and varints."""
    found, position = {}, 0

    def number():
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while position < len(message):
        key = number()
        kind = key & 7
        if kind == 2:
            length = number()
            found[key >> 3] = message[position : position + length]
            position += length
        elif kind == 1:
            found[key >> 3] = struct.unpack("<Q", message[position : position + 8])[0]
            position += 8
        elif kind == 0:
            found[key >> 3] = number()
        else:
            raise ValueError("wire type %d" % kind)
    return found


def proto_rpc_request(method, seq, payload):
    header = string_field(1, method) + b"\x11" + struct.pack("<Q", seq)
    return struct.pack(">I", len(header)) + header + struct.pack(">I", len(payload)) + payload


def proto_rpc_response(method, seq, payload, error=""):
    header = string_field(1, method) + b"\x11" + struct.pack("<Q", seq) + string_field(3, error)
    return struct.pack(">I", len(header)) + header + struct.pack(">I", len(payload)) + payload


def proto_rpc_parts(body):
    """(header fields, payload)"""
    length = struct.unpack(">I", body[:4])[0]
    header, rest = body[4 : 4 + length], body[4 + length :]
    payload_length = struct.unpack(">I", rest[:4])[0]
    if len(rest) != 4 + payload_length:
        raise ValueError("payload of %d bytes, %d came" % (payload_length, len(rest) - 4))
    return fields(header), rest[4:]


PROTO_RPC_TYPES_V014 = ("application/protobuf", "application/proto-rpc", "application/octet-stream")
JSON_RPC_TYPES_V014 = ("application/json", "application/json-rpc")

# --- HTTP/1 over a raw socket --------------------------------------------------------------------------------------

Message = collections.namedtuple("Message", "start headers body")  # headers: list of (name as sent, value)


def header(message, name, fallback=None):
    return next((value for key, value in message.headers if key.lower() == name.lower()), fallback)


class Closed(Exception):
    """The peer closed before a whole message came. `partial` is what did come."""

    def __init__(self, partial=b""):
        super().__init__("closed after %r" % partial[:200])
        self.partial = partial


class Connection:
    """A socket that reads and writes HTTP/1 messages without pairing them."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def to(cls, port, timeout=10):
        return cls(socket.create_connection(("127.0.0.1", port), timeout=timeout))

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed(self.buffer)
        self.buffer += data

    def until(self, mark):
        while mark not in self.buffer:
            self.fill()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def exactly(self, count):
        while len(self.buffer) < count:
            self.fill()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read(self):
        """The next message, by Content-Length or chunked; one with neither has no body."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        message = Message(lines[0], headers, b"")
        if (header(message, "Transfer-Encoding") or "").lower() == "chunked":
            body = b""
            while True:
                size = int(self.until(b"\r\n").split(b";")[0], 16)
                if size == 0:
                    while self.until(b"\r\n"):
                        pass
                    return message._replace(body=body)
                body += self.exactly(size)
                self.exactly(2)
        return message._replace(body=self.exactly(int(header(message, "Content-Length") or 0)))

    def is_closed_by_peer(self):
        """True when the peer closes; anything it sends before that is read away."""
        try:
            while self.sock.recv(65536):
                pass
            return True
        except ConnectionError:
            return True
        except socket.timeout:
            return False


def encode(start, headers, body):
    lines = [start] + ["%s: %s" % pair for pair in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


# --- caller --------------------------------------------------------------------------------------------------------


class Client:
    """A go-micro client on one connection. `generation`: "v0.14", "x" (X-Micro-*), "micro" (v0.23 and later)."""

    def __init__(self, port, generation, content_type, service="go.micro.srv.hello", timeout=10):
        self.connection = Connection.to(port, timeout)
        self.port, self.generation, self.content_type, self.service = port, generation, content_type, service
        self.seq = 0

    def close(self):
        self.connection.close()

    def headers(self, endpoint, extra):
        found = collections.OrderedDict()
        found["Host"] = "127.0.0.1:%d" % self.port
        found["User-Agent"] = "Go-http-client/1.1"
        found["Accept"] = found["Content-Type"] = self.content_type
        found["Timeout"] = "5000000000"
        prefix = {"v0.14": None, "x": "X-Micro-", "micro": "Micro-"}[self.generation]
        if prefix:
            for name, value in (("Service", self.service), ("Method", endpoint), ("Endpoint", endpoint), ("Id", self.seq)):
                found[prefix + name] = str(value)
        else:
            found["X-Micro-From-Service"] = "cli"
        found.update(extra or {})
        return found

    def body(self, endpoint, payload):
        """`payload`: protobuf bytes for protobuf types, something JSON can write for JSON types."""
        legacy = self.generation == "v0.14"
        if self.content_type in JSON_RPC_TYPES_V014 and (legacy or self.content_type.endswith("-rpc")):
            identity = self.seq if legacy else str(self.seq)
            return json.dumps({"method": endpoint, "params": [payload], "id": identity}).encode() + b"\n"
        if self.content_type == "application/json":
            return json.dumps(payload).encode() + b"\n"
        if legacy or self.content_type == "application/proto-rpc":
            return proto_rpc_request(endpoint, self.seq, payload)
        return payload

    def send(self, endpoint, payload, headers=None):
        body = self.body(endpoint, payload)
        all_headers = self.headers(endpoint, headers)
        if body:
            all_headers["Content-Length"] = str(len(body))
        else:  # an empty body comes chunked from Go
            all_headers["Transfer-Encoding"], body = "chunked", b"0\r\n\r\n"
        self.connection.send(encode("POST / HTTP/1.1", all_headers.items(), body))
        self.seq += 1

    def receive(self):
        """(payload, error text): as a go-micro client of this generation takes them out of the reply."""
        reply = self.connection.read()
        if not reply.start.startswith("HTTP/1.1 200"):
            raise AssertionError("%s: %s" % (reply.start, reply.body))
        error = {"v0.14": None, "x": header(reply, "X-Micro-Error"), "micro": header(reply, "Micro-Error")}[self.generation]
        kind = header(reply, "Content-Type")
        body = reply.body
        if error and not body:
            return None, error
        if kind != self.content_type:
            raise AssertionError("asked with %s, answered with %s: %r" % (self.content_type, kind, body))
        legacy = self.generation == "v0.14"
        if self.content_type in JSON_RPC_TYPES_V014 and (legacy or kind.endswith("-rpc")):
            answer = json.loads(body)
            if legacy and answer["id"] not in (self.seq - 1, None):
                raise AssertionError("v0.14 reads integer ids only: %r" % answer)
            if not (answer["error"] is None or isinstance(answer["error"], str)):
                raise AssertionError("an error is a string or null: %r" % answer)
            return answer["result"], error or answer["error"]
        if legacy or kind == "application/proto-rpc":
            envelope, payload = proto_rpc_parts(body)
            return payload, error or envelope.get(3, b"").decode() or None
        if kind == "application/json":
            return json.loads(body) if body.strip() else None, error
        return body, error

    def call(self, endpoint, payload, headers=None):
        self.send(endpoint, payload, headers)
        return self.receive()


# --- node ----------------------------------------------------------------------------------------------------------


class Call:
    """What a node was asked. `payload` is the request without envelope; `connection` counts from 0."""

    def __init__(self, endpoint, payload, content_type, request, connection):
        self.endpoint, self.payload, self.content_type = endpoint, payload, content_type
        self.headers = {name.lower(): value for name, value in request.headers}
        self.raw, self.connection = request, connection


class NodeError(Exception):
    """Raised by a handler to answer with an error text."""


class DropConnection(Exception):
    """Raised by a handler to close, or with `reset` to reset, instead of answering."""

    def __init__(self, reset=False, partial=b""):
        super().__init__()
        self.reset, self.partial = reset, partial


class Node:
    """A go-micro server. `handler(call)` returns the reply's payload: bytes for protobuf, else something for JSON."""

    def __init__(self, handler, generation="micro", port=0):
        self.handler, self.generation = handler, generation
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", port))
        self.listener.listen(128)
        self.port = self.listener.getsockname()[1]
        self.calls = []
        self.connections = []
        self.stopping = False

    def start(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def stop(self):
        """Refuses new connections and resets the open ones, like a killed process."""
        self.stopping = True
        try:
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        except OSError:
            pass
        self.listener.close()
        self.reset_connections()

    def reset_connections(self):
        for connection in self.connections:
            try:
                connection.reset()
            except OSError:
                pass

    def registration(self, name="go.micro.srv.hello", identity=None):
        metadata = {"transport": "http", "server": "rpc", "broker": "http", "registry": "mdns"}
        if self.generation == "micro":
            metadata.update({"protocol": "mucp", "server": "mucp"})
        return {"id": identity or "%s-%d" % (name, self.port), "address": "127.0.0.1:%d" % self.port, "metadata": metadata}

    def accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            connection = Connection(sock)
            self.connections.append(connection)
            threading.Thread(target=self.serve, args=(connection, len(self.connections) - 1), daemon=True).start()

    def serve(self, connection, number):
        first = None
        try:
            while not self.stopping:
                request = connection.read()
                first = first or request
                self.answer(connection, number, first, request)
            connection.reset()  # accepted while stopping
        except DropConnection as drop:
            connection.send(drop.partial)
            connection.reset() if drop.reset else connection.close()
        except (Closed, OSError):
            connection.close()

    def answer(self, connection, number, first, request):
        kind = header(request, "Content-Type", "")
        # v0.14 hands every handler the first request's headers; all generations echo them on every reply.
        seen = request._replace(headers=first.headers) if self.generation == "v0.14" else request
        echoed = collections.OrderedDict((name.title(), value) for name, value in first.headers)
        for hop in ("Content-Length", "Transfer-Encoding", "Host", "Connection", "User-Agent"):
            echoed.pop(hop, None)
        try:
            endpoint, payload, wrap = self.decode(kind, request)
        except ValueError as error:
            connection.send(encode("HTTP/1.1 200 OK", [("Content-Type", "text/plain"), ("Content-Length", len(str(error)))], str(error).encode()))
            raise Closed() from None
        call = Call(endpoint, payload, kind, seen, number)
        self.calls.append(call)
        try:
            body, error = wrap(self.handler(call), "")
        except NodeError as failure:
            body, error = wrap(None, str(failure))
        echoed["Content-Type"] = kind
        if self.generation != "v0.14":
            identity = header(request, "Micro-Id") or header(request, "X-Micro-Id") or ""
            echoed["Micro-Id"] = echoed["X-Micro-Id"] = identity
            if error:
                echoed["Micro-Error"] = echoed["X-Micro-Error"] = error
        echoed["Content-Length"] = str(len(body))
        connection.send(encode("HTTP/1.1 200 OK", echoed.items(), body))

    def decode(self, kind, request):
        """(endpoint, payload, function from (payload, error) to (body, error header))"""
        named = header(request, "Micro-Endpoint") or header(request, "Micro-Method")
        if self.generation == "x":
            named = header(request, "X-Micro-Endpoint") or header(request, "X-Micro-Method")
        legacy = self.generation == "v0.14" or not named
        if kind == "application/json-rpc" or legacy and kind in JSON_RPC_TYPES_V014:
            asked = json.loads(request.body)
            identity = asked["id"]
            if self.generation == "v0.14" and not isinstance(identity, int):
                raise ValueError("v0.14 reads integer ids only")

            def wrap(payload, error):
                empty = {} if self.generation == "v0.14" else None
                answer = {"id": identity, "result": empty if error else payload, "error": error or None}
                return json.dumps(answer).encode() + b"\n", error

            return (asked["method"] if legacy else named), asked["params"][0], wrap
        if kind == "application/proto-rpc" or legacy and kind in PROTO_RPC_TYPES_V014:
            envelope, payload = proto_rpc_parts(request.body)
            method, seq = envelope.get(1, b"").decode(), envelope.get(2, 0)
            return (
                method if legacy else named,
                payload,
                lambda reply, error: (proto_rpc_response(method, seq, reply or b"", error), error),
            )
        if legacy:
            raise ValueError("Unsupported Content-Type: " + kind)
        if kind == "application/json":
            asked = json.loads(request.body) if request.body.strip() else None
            return named, asked, lambda reply, error: (b"" if error else json.dumps(reply).encode() + b"\n", error)
        return named, request.body, lambda reply, error: (b"" if error else reply, error)


def greeter(call):
    """Say.Hello in JSON or protobuf; Say.Fail answers with a framework error, Say.Plain with a plain text one."""
    if call.endpoint == "Say.Fail":
        raise NodeError('{"id":"go.micro.srv.hello","code":400,"detail":"bad \\u003cname\\u003e","status":"Bad Request"}')
    if call.endpoint == "Say.Plain":
        raise NodeError("plain failure")
    if call.endpoint != "Say.Hello":
        raise NodeError("rpc: can't find method " + call.endpoint)
    if isinstance(call.payload, bytes):
        return string_field(1, b"Hello " + fields(call.payload).get(1, b"World"))
    return {"msg": "Hello " + str((call.payload or {}).get("name", "World"))}


# --- app -----------------------------------------------------------------------------------------------------------


class App:
    """The plain HTTP app behind a sidecar. `handler(method, path, headers, body)` returns (status, headers, body).

    Head and body are written apart; with `nagle` as the standard library's own server does it."""

    def __init__(self, handler=None, port=0, nagle=False):
        self.requests = []
        app = self
        handler = handler or hello_app

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = not nagle

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                app.requests.append((self.command, self.path, self.headers, body))
                status, headers, reply = handler(self.command, self.path, self.headers, body)
                self.send_response(status)
                for name, value in dict(headers, **{"Content-Length": str(len(reply))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply)

            do_GET = do_POST = do_PUT = do_DELETE = serve

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client_address):
                pass  # a caller that leaves is part of the tests

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]

    def start(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def json_reply(status, value):
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def hello_app(method, path, headers, body):
    if path == "/Say/Hello":
        if (headers.get("Content-Type") or "").startswith("application/json"):
            return json_reply(200, {"msg": "Hello " + str(json.loads(body or b"{}").get("name", "World"))})
        return 200, {"Content-Type": headers.get("Content-Type")}, string_field(1, b"Hello " + fields(body).get(1, b"World"))
    if path == "/Say/Echo":
        return json_reply(200, {"headers": {name.lower(): value for name, value in headers.items()}})
    if path == "/Say/Teapot":
        return 418, {"Content-Type": "text/plain"}, b"short and stout"
    if path == "/Say/Conflict":
        return json_reply(409, {"id": "hello", "code": 409, "detail": "taken", "status": "Conflict"})
    if path == "/Say/Broken":
        return json_reply(500, {"problem": "disk"})
    if method == "GET":
        return json_reply(200, {"status": "ok"})
    return json_reply(404, {"detail": "no method " + path})
