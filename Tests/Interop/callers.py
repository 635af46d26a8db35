"""Every form in which a call or a stream can reach the sidecar, behind one face, so that a test can go through them all.

A form is a `Caller`; `caller.open(port, service, endpoint, timeout)` gives a `Call` with `send(text, number)`, `finish()`
(half-close), `receive()` (a pair, or raises `Ended` or `Failed`) and `leave()`. Messages are greet.proto's: a request is
{name, big_number}, a reply {msg, big_number}; as JSON or protobuf they are made and read here, whatever packs them.
"""

from __future__ import annotations

import json
import socket
import struct
import urllib.parse

import bson
import h2.config
import h2.connection
import h2.events
import msgpack
from google.protobuf import json_format
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from codecpeer import CODECS, LEGACY
from gomicro import Closed, Connection, encode, header, string_field, varint
from grpcpeer import Reply, Request

SECONDS_MAX = 10  # to wait for an answer


class Ended(Exception):
    """The call is over, in order."""


class Failed(Exception):
    """The call is over, with the framework's error, in JSON or plain text."""

    def __init__(self, code, detail):
        super().__init__("%s: %s" % (code, detail))
        self.code, self.detail = code, detail

    @classmethod
    def parse(cls, error):
        if isinstance(error, bytes):
            error = error.decode()
        if isinstance(error, str) and error.startswith("{"):
            error = json.loads(error)
        return cls(error.get("code"), error.get("detail")) if isinstance(error, dict) else cls(0, error)


# --- messages --------------------------------------------------------------------------------------------------------


def message(field, family, text, number):
    """`field`: "name" for a request, "msg" for a reply."""
    if family == "json":
        return {field: text, "big_number": number}
    return string_field(1, text) + b"\x10" + varint(number)


def parts(field, family, payload):
    kind = Request if field == "name" else Reply
    found = json_format.ParseDict(payload, kind()) if family == "json" else kind.FromString(payload)
    return getattr(found, field), found.big_number


def path_of(service, endpoint):
    return "/%s/%s" % (service, endpoint)


class Caller:
    """`family` is what its payloads are; `half_closes` and `messages_max` what its protocol can say."""

    half_closes, messages_max = True, 1000

    def __init__(self, name, family):
        self.name, self.family = name, family

    def __repr__(self):
        return self.name

    def request(self, text, number):
        return message("name", self.family, text, number)

    def reply(self, payload):
        self.last_payload = payload
        return parts("msg", self.family, payload)


# --- framework frames ------------------------------------------------------------------------------------------------


class FrameCall:
    def __init__(self, caller, port, service, endpoint, timeout):
        self.caller, self.codec, self.endpoint = caller, caller.codec, endpoint
        self.connection = Connection.to(port, SECONDS_MAX)
        self.prefix = {"v0.14": None, "x": "X-Micro-", "micro": "Micro-"}[caller.generation]
        self.fields = {"Host": "h", "Content-Type": self.codec.content_type, **self.codec.headers}
        if timeout is not None:
            self.fields["Timeout"] = "%d" % (timeout * 1e9)
        if self.prefix:
            for name, value in (("Service", service), ("Method", endpoint), ("Endpoint", endpoint), ("Id", "7")):
                self.fields[self.prefix + name] = value
        if self.codec.name == "mercury":
            self.fields.update({"Service": service, "Endpoint": endpoint})
        self.is_over = False

    def post(self, body, extra=()):
        fields = {**self.fields, **dict(extra), "Content-Length": len(body)}
        self.connection.send(encode("POST / HTTP/1.1", fields.items(), body))

    def send(self, text, number):
        self.post(self.codec.request(self.endpoint, self.caller.request(text, number), 7))

    def finish(self):
        """Nothing for a call; v1.9 and later have a message for a stream."""

    def receive(self):
        if self.is_over:
            raise Ended()
        reply = self.connection.read()
        error = header(reply, self.prefix + "Error") if self.prefix else None
        kind = header(reply, "Content-Type", "")
        if kind.startswith("text/plain"):
            raise Failed(0, reply.body.decode())
        if kind != self.codec.content_type:
            raise AssertionError("asked in %s: %r" % (self.codec.content_type, reply))
        payload = None
        if reply.body:
            payload, inside = self.codec.read_reply(reply.body)
            error = inside or error
        if isinstance(error, dict):
            error = error.get("message", error)
        if error == "EOS":
            raise Ended()
        if error:
            raise Failed.parse(error)
        return self.answered(payload)

    def answered(self, payload):
        self.is_over = True
        return self.caller.reply(payload)

    def leave(self):
        self.connection.close()

    close = leave


class FrameStream(FrameCall):
    def __init__(self, caller, port, service, endpoint, timeout):
        super().__init__(caller, port, service, endpoint, timeout)
        if caller.generation == "micro":
            self.fields["Micro-Stream"] = "7"
        if not self.codec.name.startswith("grpc"):
            # The opening message, which servers throw away.
            self.post(self.codec.request(endpoint, {} if self.codec.family == "json" else b"", 7))

    def finish(self):
        self.post(b"", [("Micro-Error", "EOS")])

    def answered(self, payload):
        return self.caller.reply(payload)


GENERATIONS = {"v0.14": "v0.14", "x": "v0.16–v0.22", "micro": "v0.23 and later"}


class Frames(Caller):
    """A go-micro client of one generation, told to call through the sidecar, or calling the app behind it."""

    def __init__(self, codec, generation, is_stream=False):
        super().__init__("%s, %s" % (codec.name, GENERATIONS[generation]), codec.family)
        self.codec, self.generation = codec, generation
        self.open = lambda *arguments: (FrameStream if is_stream else FrameCall)(self, *arguments)
        # Up to v1.8 to close the connection is all that a client can do.
        self.half_closes = generation == "micro" or not is_stream


# --- plain HTTP ------------------------------------------------------------------------------------------------------


class PathCall:
    def __init__(self, caller, port, service, endpoint, timeout):
        self.caller, self.path = caller, path_of(service, endpoint)
        self.connection = Connection.to(port, SECONDS_MAX)
        self.fields = {"Host": "h", "Content-Type": caller.content_type, "Accept": caller.accept}
        if timeout is not None:
            self.fields["Timeout"] = "%g" % timeout
        self.is_over = False

    def send(self, text, number):
        body = self.caller.dump(self.caller.request(text, number))
        fields = {**self.fields, "Content-Length": len(body)}
        self.connection.send(encode("POST %s HTTP/1.1" % self.path, fields.items(), body))

    def finish(self):
        pass

    def receive(self):
        if self.is_over:
            raise Ended()
        self.is_over = True
        reply = self.connection.read()
        status = int(reply.start.split()[1])
        if status != 200:
            raise Failed(status, json.loads(reply.body)["detail"])
        kind = header(reply, "Content-Type")
        if kind != self.caller.content_type:
            raise AssertionError("asked in %s, answered in %s" % (self.caller.content_type, kind))
        return self.caller.reply(self.caller.load(reply.body))

    def leave(self):
        self.connection.close()

    close = leave


class Path(Caller):
    def __init__(self, name, content_type, family, dump, load):
        super().__init__(name, family)
        self.content_type, self.dump, self.load = content_type, dump, load
        self.accept = "*/*"

    def open(self, *arguments):
        return PathCall(self, *arguments)


class LinesCall:
    """Replies are read from one HTTP response, chunk by chunk."""

    def __init__(self, caller, port, service, endpoint, timeout):
        self.caller = caller
        self.connection = Connection.to(port, SECONDS_MAX)
        self.fields = {"Host": "h", "Content-Type": caller.content_type, "Accept": caller.accept}
        if timeout is not None:
            self.fields["Timeout"] = "%g" % timeout
        self.path, self.has_begun, self.status = path_of(service, endpoint), False, None

    def begin(self, fields, body=b""):
        self.has_begun = True
        self.connection.send(encode("POST %s HTTP/1.1" % self.path, {**self.fields, **fields}.items(), body))

    def send(self, text, number):
        line = json.dumps(self.caller.request(text, number)).encode() + b"\n"
        if not self.has_begun:
            self.begin({"Transfer-Encoding": "chunked"})
        self.connection.send(b"%x\r\n%s\r\n" % (len(line), line))

    def finish(self):
        self.connection.send(b"0\r\n\r\n")

    def chunk(self):
        """The next chunk, None at the end."""
        if self.status is None:
            lines = self.connection.until(b"\r\n\r\n").decode().split("\r\n")
            self.status = int(lines[0].split()[1])
            if self.status != 200:
                length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length"))
                raise Failed(self.status, json.loads(self.connection.exactly(length))["detail"])
        size = int(self.connection.until(b"\r\n"), 16)
        if size == 0:
            while self.connection.until(b"\r\n"):
                pass
            return None
        return self.connection.exactly(size + 2)[:-2]

    def receive(self):
        data = self.chunk()
        if data is None:
            raise Ended()
        found = json.loads(data)
        if "error" in found:
            raise Failed.parse(found["error"])
        return self.caller.reply(found)

    def leave(self):
        self.connection.close()

    close = leave


class EventsCall(LinesCall):
    def send(self, text, number):
        body = json.dumps(self.caller.request(text, number)).encode()
        self.begin({"Content-Length": len(body)}, body)

    def finish(self):
        """A single request has ended by itself."""

    def receive(self):
        data = self.chunk()
        if data is None:
            raise Ended()
        fields = dict(line.split(": ", 1) for line in data.decode().strip().split("\n"))
        found = json.loads(fields["data"])
        if fields.get("event") == "error":
            raise Failed.parse(found)
        if fields.get("event") == "end":
            raise Ended()
        return self.caller.reply(found)


class Lines(Caller):
    content_type = accept = "application/x-ndjson"

    def open(self, *arguments):
        return LinesCall(self, *arguments)


class Events(Caller):
    content_type, accept = "application/json", "text/event-stream"
    messages_max = 1

    def open(self, *arguments):
        return EventsCall(self, *arguments)


# --- WebSocket -------------------------------------------------------------------------------------------------------


class WebSocketCall:
    def __init__(self, caller, port, service, endpoint, timeout):
        self.caller = caller
        fields = {} if timeout is None else {"Timeout": "%g" % timeout}
        url = "ws://127.0.0.1:%d%s" % (port, path_of(service, endpoint))
        try:
            self.socket = connect(
                url, additional_headers=fields, subprotocols=[caller.subprotocol], compression=None,
                open_timeout=SECONDS_MAX, close_timeout=1)
        except InvalidStatus as refusal:
            raise Failed(refusal.response.status_code, json.loads(refusal.response.body)["detail"]) from None

    def send(self, text, number):
        payload = self.caller.request(text, number)
        try:
            self.socket.send(json.dumps(payload) if self.caller.family == "json" else payload)
        except ConnectionClosed:
            pass  # `receive` says why

    def finish(self):
        self.socket.send("")

    def receive(self):
        try:
            payload = self.socket.recv(SECONDS_MAX)
        except ConnectionClosed as end:
            code = end.rcvd.code if end.rcvd else None
            if code == 1000:
                raise Ended() from None
            raise Failed(code - 4000 if code and code >= 4000 else code, end.rcvd and end.rcvd.reason) from None
        if isinstance(payload, str) != (self.caller.family == "json"):
            raise AssertionError("asked in %s, answered with %r" % (self.caller.family, payload))
        return self.caller.reply(json.loads(payload) if self.caller.family == "json" else payload)

    def leave(self):
        self.socket.close()

    close = leave


class WebSocket(Caller):
    def __init__(self, name, family):
        super().__init__(name, family)
        self.subprotocol = "json" if family == "json" else "proto"

    def open(self, *arguments):
        return WebSocketCall(self, *arguments)


# --- gRPC ------------------------------------------------------------------------------------------------------------


class GRPCCall:
    """On PyPI's h2: grpcio does not let a client choose the codec."""

    def __init__(self, caller, port, service, endpoint, timeout):
        self.caller = caller
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.peer.initiate_connection()
        handler, method = endpoint.split(".")
        fields = [
            (":method", "POST"), (":scheme", "http"), (":path", "/%s.%s/%s" % (service, handler, method)),
            (":authority", "localhost:1"), ("content-type", caller.content_type), ("te", "trailers"),
        ]
        if timeout is not None:
            fields.append(("grpc-timeout", "%dm" % (timeout * 1000)))
        self.peer.send_headers(1, fields)
        self.flush()
        self.body, self.events, self.trailers = b"", [], None

    def flush(self):
        self.socket.sendall(self.peer.data_to_send())

    def send(self, text, number):
        payload = self.caller.request(text, number)
        data = json.dumps(payload).encode() if self.caller.family == "json" else payload
        self.peer.send_data(1, struct.pack(">BI", 0, len(data)) + data)
        self.flush()

    def finish(self):
        self.peer.end_stream(1)
        self.flush()

    def receive(self):
        while True:
            if len(self.body) >= 5 and len(self.body) >= 5 + (size := struct.unpack(">I", self.body[1:5])[0]):
                data, self.body = self.body[5 : 5 + size], self.body[5 + size :]
                return self.caller.reply(json.loads(data) if self.caller.family == "json" else data)
            if self.trailers is not None:
                return self.end()
            self.read()

    def end(self):
        status, text = int(self.trailers["grpc-status"]), self.trailers.get("grpc-message", "")
        if status == 0:
            raise Ended()
        failure = Failed.parse(urllib.parse.unquote(text))
        raise Failed(failure.code or -status, failure.detail)

    def read(self):
        data = self.socket.recv(65536)
        if not data:
            raise Closed()
        for event in self.peer.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                self.head = dict(event.headers)
                if self.head["content-type"] != self.caller.content_type:
                    raise AssertionError("asked in %s, answered in %s" % (self.caller.content_type, self.head))
                if "grpc-status" in self.head:
                    self.trailers = self.head
            elif isinstance(event, h2.events.DataReceived):
                self.body += event.data
                self.peer.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.TrailersReceived):
                self.trailers = dict(event.headers)
            elif isinstance(event, h2.events.StreamReset) and self.trailers is None:
                raise Failed(None, "reset with %s" % event.error_code)
        self.flush()

    def leave(self):
        self.peer.reset_stream(1, 8)
        self.flush()

    def close(self):
        self.socket.close()


class GRPC(Caller):
    def __init__(self, name, content_type, family):
        super().__init__(name, family)
        self.content_type = content_type

    def open(self, *arguments):
        return GRPCCall(self, *arguments)


# --- all of them -----------------------------------------------------------------------------------------------------

GRPCS = [
    GRPC("gRPC", "application/grpc+proto", "protobuf"), GRPC("gRPC with JSON", "application/grpc+json", "json"),
]

#: What makes a unary call on the local API.
UNARY = (
    [
        Path("path, JSON", "application/json", "json", lambda v: json.dumps(v).encode(), json.loads),
        Path("path, MessagePack", "application/msgpack", "json", msgpack.packb, msgpack.unpackb),
        Path("path, BSON", "application/bson", "json", bson.encode, bson.decode),
        Path("path, protobuf", "application/protobuf", "protobuf", bytes, bytes),
    ]
    + GRPCS
    + [Frames(codec, generation) for codec in CODECS for generation in ("x", "micro")]
)

#: What opens a stream there.
STREAMS = (
    [
        WebSocket("WebSocket, text", "json"), WebSocket("WebSocket, binary", "protobuf"),
        Lines("NDJSON", "json"), Events("Server-Sent Events", "json"),
    ]
    + GRPCS
    + [Frames(codec, generation, True) for codec in CODECS for generation in ("x", "micro")]
)


def from_framework(is_stream):
    """What calls the app behind a sidecar: v0.14 too, which names no service."""
    old = [Frames(codec, "v0.14", is_stream) for codec in LEGACY]
    return GRPCS + old + [Frames(codec, generation, is_stream) for codec in CODECS for generation in ("x", "micro")]
