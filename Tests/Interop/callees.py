"""Every form in which a node or an app can answer, behind one face: the other end of `callers.py`.

A callee is given `handler(side)`, one for calls and streams alike, on a thread of its own. `side.receive()` gives what was
asked as a pair, None at the caller's end, and raises `Gone` when the caller has left; `side.send(text, number)` answers;
to return ends the call, to raise `Failure` fails it. `side.time_left` is what the caller gave it, in seconds, or None;
`side.wait_gone(seconds)` tells whether the caller has left.

Endpoint Say.Chat is a stream, all others are calls. `behave` is the handler that most tests want.
"""

from __future__ import annotations

import json
import queue
import select
import socket
import tempfile
import threading
from concurrent import futures

import grpc
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

from callers import message, parts
from gomicro import Closed, Node, encode, header
from grpcpeer import CODES, REASONS, Failure, descriptor_set

STREAM = "Say.Chat"


def with_descriptors(test):
    """Settings of a sidecar that knows greet.proto, for as long as the test runs."""
    file = tempfile.NamedTemporaryFile(suffix=".binpb")
    test.addCleanup(file.close)
    file.write(descriptor_set())
    file.flush()
    return {"MICRO_DESCRIPTORS": file.name}


class Gone(Exception):
    """The caller has left."""


class Side:
    """One call at its callee."""

    def __init__(self, callee, endpoint, family, time_left):
        self.callee, self.endpoint, self.family, self.time_left = callee, endpoint, family, time_left
        self.inbox = queue.Queue()
        self.gone = threading.Event()
        self.saw_end = False
        self.received, self.raw = [], []
        callee.sides.append(self)

    def take(self, payload):
        self.inbox.put(payload)

    def leave(self):
        self.gone.set()
        self.inbox.put(Gone)

    def receive(self, timeout=10):
        item = self.inbox.get(timeout=timeout)
        if item is Gone:
            raise Gone()
        if item is None:
            self.saw_end = True
            return None
        item = item() if callable(item) else item
        found = parts("name", self.family, item)
        self.raw.append(item)
        self.received.append(found)
        return found

    def send(self, text, number):
        self.write(message("msg", self.family, text, number))

    def wait_gone(self, seconds):
        return self.gone.wait(seconds)

    def run(self, handler):
        """Until the handler is done, and how that is told."""
        try:
            try:
                handler(self)
            except Failure as failure:
                return self.end(failure)
            self.end(None)
        except (Gone, OSError, ConnectionClosed):
            self.leave()

    def drop(self):
        """Not by closing: another thread reads."""
        self.connection.sock.shutdown(socket.SHUT_RDWR)

    def start(self, handler):
        threading.Thread(target=self.run, args=(handler,), daemon=True).start()


def behave(side):
    """What the first message's name says: `two`: answer two messages, then end; `echo`: answer until the caller's end;
    `wait`: say nothing until the caller has left; `drop`: break the connection after one answer; `fail`: fail, after as many answers as its number says; anything else:
    one answer."""
    first = side.receive()
    if first is None:
        return
    name, number = first
    if name == "wait":
        if not side.wait_gone(10):
            raise Failure(500, "nobody has left")
        raise Gone()
    if name == "fail":
        for index in range(number):
            side.send("before", index + 1)
        raise Failure(409, "bad <%s>" % name)
    side.send("Hello " + name, number)
    if name == "drop":
        side.drop()
        raise Gone()
    if name == "two":
        side.send("Hello " + side.receive()[0], number)
    while name == "echo" and (found := side.receive()) is not None:
        side.send("Hello " + found[0], found[1])


# --- framework frames ------------------------------------------------------------------------------------------------


class FrameSide(Side):
    def __init__(self, node, connection, codec, identity, endpoint, time_left):
        super().__init__(node, endpoint, codec.family, time_left)
        self.connection, self.codec, self.identity = connection, codec, identity
        self.lock = threading.Lock()
        self.closed = False

    def write(self, payload, error=""):
        body = self.codec.reply(payload, self.identity, self.endpoint, error)
        lines = [("Content-Type", self.codec.content_type), ("Content-Length", len(body))]
        if error and self.callee.generation != "v0.14":
            lines.append(("Micro-Error", error))
        with self.lock:
            self.connection.send(encode("HTTP/1.1 200 OK", lines, body))

    def end(self, failure):
        self.closed = True
        if failure:
            self.write(None, failure.json())
        elif self.endpoint == STREAM and (not self.saw_end or self.callee.generation == "v0.14"):
            # One that has read the caller's end says nothing (server/rpc_router.go @ v1.9.0 and later).
            self.write(None, "EOS")


class FrameNode(Node):
    """A go-micro server of one generation that has the given codecs and refuses all others."""

    def __init__(self, codecs, handler=behave, generation="micro"):
        super().__init__(handler, generation)
        self.codecs = {codec.content_type: codec for codec in codecs}
        self.sides, self.refused = [], []

    def registration(self, name):
        found = super().registration(name)
        if len(self.codecs) == 1:
            found["metadata"]["content-type"] = next(iter(self.codecs))
        return found

    def serve(self, connection, number):
        side = None
        try:
            while not self.stopping:
                request = connection.read()
                kind = header(request, "Content-Type", "")
                codec = self.codecs.get(kind)
                if codec is None:
                    self.refused.append(kind)
                    text = ("Unsupported Content-Type: " + kind).encode()
                    lines = [("Content-Type", "text/plain"), ("Content-Length", len(text))]
                    connection.send(encode("HTTP/1.1 200 OK", lines, text))
                elif side is None or side.endpoint != STREAM:
                    side = self.begin(connection, codec, request)
                else:
                    self.go_on(side, codec, request)
        except Closed:
            # v0.14 and its kind have no other end than that of the connection.
            if side and self.generation == "v0.14" and side.endpoint == STREAM:
                side.take(None)
                self.await_reset(connection.sock)
            if side:
                side.leave()
        except OSError:
            if side:
                side.leave()

    def await_reset(self, sock):
        """All that can still be heard from a caller that has ended its half."""
        poll = select.poll()
        poll.register(sock, 0)
        while not self.stopping and sock.fileno() >= 0 and not poll.poll(50):
            pass

    def begin(self, connection, codec, request):
        named = header(request, "Endpoint") if codec.name == "mercury" else header(request, "Micro-Endpoint")
        empty = b"{}" if codec.family == "json" else b""
        endpoint, payload, identity = codec.read_request(request.body or empty, named)
        timeout = header(request, "Timeout")
        side = FrameSide(self, connection, codec, identity, endpoint, timeout and int(timeout) / 1e9)
        side.headers = request.headers
        if endpoint != STREAM:
            side.take(payload)
            side.take(None)
        elif codec.name.startswith("grpc"):
            side.take(payload)
        # Else it is the opening message, whose body is thrown away.
        side.start(self.handler)
        return side

    def go_on(self, side, codec, request):
        if side.closed:
            name = header(request, "Micro-Endpoint", "").split(".")[0]
            side.write(None, "rpc: can't find service %s" % name)
        elif header(request, "Micro-Error") == "EOS":
            side.take(None)
        else:
            # Read when the handler asks for it, as servers do: it may be the question whether the stream is over.
            side.take(lambda: codec.read_request(request.body, None)[1])


# --- gRPC ------------------------------------------------------------------------------------------------------------


class GRPCSide(Side):
    def __init__(self, callee, endpoint, family, requests, context):
        super().__init__(callee, endpoint, family, context.time_remaining())
        self.requests, self.context = requests, context
        self.outbox = queue.Queue()
        if not context.add_callback(self.leave):
            self.leave()

    def receive(self, timeout=10):
        try:
            data = next(self.requests, None)
        except Exception:  # grpcio's own, when the caller has left
            raise Gone() from None
        if data is not None and data[:1] == b"{":
            self.family = "json"
        self.inbox.put(json.loads(data) if data is not None and self.family == "json" else data)
        return super().receive(timeout)

    def write(self, payload):
        self.outbox.put(json.dumps(payload).encode() if self.family == "json" else payload)

    def end(self, failure):
        self.outbox.put(failure)

    def leave(self):
        super().leave()
        self.outbox.put(None)

    def drop(self):
        """grpcio cannot break a connection; to the caller this is the same."""
        self.outbox.put(Failure(503, "the server is going away"))

    def answers(self, handler):
        self.start(handler)
        while isinstance(answer := self.outbox.get(), bytes):
            yield answer
        if answer is not None:
            self.context.abort(CODES.get(answer.code, grpc.StatusCode.UNKNOWN), answer.json())


class GRPCCallee:
    """A grpcio server. `package`: what must stand before `Say`; None: anything, as go-micro's servers have it.
    `has_json`: it takes `application/grpc+json`; grpcio does not tell, so it goes by the first byte."""

    def __init__(self, handler=behave, package=None, has_json=False):
        self.handler, self.package, self.has_json = handler, package, has_json
        self.sides = []
        self.server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])

    def start(self):
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return self

    def stop(self):
        # grpcio now and then loses count of calls that failed before their handler had begun.
        self.server.stop(0).wait(1)

    def registration(self, name):
        metadata = {"protocol": "grpc", "server": "grpc", "transport": "grpc"}
        return {"id": "%s-%d" % (name, self.port), "address": "127.0.0.1:%d" % self.port, "metadata": metadata}

    def service(self, details):
        service, _, method = details.method[1:].rpartition("/")
        if service != self.package if self.package else not service.endswith("Say"):
            return None
        endpoint = "Say." + method

        def answer(requests, context):
            yield from GRPCSide(self, endpoint, "protobuf", requests, context).answers(self.handler)

        return grpc.stream_stream_rpc_method_handler(answer, self.decode)

    def decode(self, data):
        if data[:1] == b"{" and not self.has_json:
            raise ValueError("no codec for JSON")
        return data


# --- apps over HTTP --------------------------------------------------------------------------------------------------


class HTTPSide(Side):
    """A call, or a stream of lines."""

    has_head = False

    def write(self, payload):
        data = json.dumps(payload).encode() if self.family == "json" else payload
        if self.endpoint != STREAM:
            fields = [("Content-Type", self.kind), ("Content-Length", len(data))]
            return self.connection.send(encode("HTTP/1.1 200 OK", fields, data))
        self.begin()
        self.connection.send(b"%x\r\n%s\n\r\n" % (len(data) + 1, data))

    def begin(self):
        if not self.has_head:
            self.has_head = True
            fields = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")]
            self.connection.send(encode("HTTP/1.1 200 OK", fields, b""))

    def end(self, failure):
        if failure and not self.has_head:
            body = failure.json().encode()
            fields = [("Content-Type", "application/json"), ("Content-Length", len(body))]
            status = "HTTP/1.1 %d %s" % (failure.code, REASONS.get(failure.code, "Error"))
            return self.connection.send(encode(status, fields, body))
        if self.endpoint != STREAM:
            return
        self.begin()
        last = b'{"error":%s}\n' % failure.json().encode() if failure else b""
        if last:
            last = b"%x\r\n%s\r\n" % (len(last), last)
        self.connection.send(last + b"0\r\n\r\n")


FAMILIES = {"application/json": "json", "application/protobuf": "protobuf", "application/x-ndjson": "json"}


class HTTPApp(Node):
    """An app over plain HTTP; its stream is one of lines. `takes`: the content types of its calls, None for all."""

    def __init__(self, handler=behave, takes=None):
        super().__init__(handler)
        self.takes, self.sides = takes, []

    def serve(self, connection, number):
        side = None
        try:
            while not self.stopping:
                lines = connection.until(b"\r\n\r\n").decode().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
                kind = fields.get("content-type", "")
                is_lines = "chunked" in fields.get("transfer-encoding", "")
                body = b"" if is_lines else connection.exactly(int(fields.get("content-length", 0)))
                if self.takes and kind not in self.takes:
                    connection.send(b"HTTP/1.1 415 Unsupported Media Type\r\nContent-Length: 0\r\n\r\n")
                    continue
                timeout = fields.get("timeout")
                path = lines[0].split()[1]
                side = HTTPSide(
                    self, path[1:].replace("/", "."), FAMILIES.get(kind, "bytes"), timeout and float(timeout))
                side.connection, side.kind = connection, kind
                if not is_lines:
                    side.take(json.loads(body) if side.family == "json" else body)
                    side.take(None)
                side.start(self.handler)
                if is_lines:
                    self.read_lines(connection, side)
        except (Closed, OSError):
            if side:
                side.leave()

    def read_lines(self, connection, side):
        waiting = b""
        while size := int(connection.until(b"\r\n"), 16):
            waiting += connection.exactly(size + 2)[:-2]
            *whole, waiting = waiting.split(b"\n")
            for line in whole:
                side.take(json.loads(line))
        connection.until(b"\r\n")
        side.take(None)


class WebSocketSide(Side):
    def receive(self, timeout=10):
        try:
            data = self.socket.recv(timeout)
        except ConnectionClosed:
            self.gone.set()
            raise Gone() from None
        if data == "":
            self.saw_end = True
            return None
        self.family = "json" if isinstance(data, str) else "protobuf"
        self.inbox.put(json.loads(data) if isinstance(data, str) else data)
        return super().receive(timeout)

    def write(self, payload):
        self.socket.send(json.dumps(payload) if self.family == "json" else payload)

    def wait_gone(self, seconds):
        try:
            while True:
                self.receive(seconds)
        except (Gone, TimeoutError):
            return self.gone.is_set()

    def drop(self):
        self.socket.socket.shutdown(socket.SHUT_RDWR)

    def end(self, failure):
        if failure:
            self.socket.close(4000 + failure.code, failure.detail)


class WebSocketApp:
    """An app whose streams are WebSockets."""

    def __init__(self, handler=behave):
        self.handler, self.sides = handler, []
        self.server = serve(self.talk, "127.0.0.1", 0, max_size=None, compression=None)
        self.port = self.server.socket.getsockname()[1]

    def start(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()

    def talk(self, connection):
        timeout = connection.request.headers.get("Timeout")
        side = WebSocketSide(self, STREAM, "json", timeout and float(timeout))
        side.socket = connection
        side.run(self.handler)
