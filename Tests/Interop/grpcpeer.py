"""gRPC peers for black-box tests: real grpcio servers and clients, and one on PyPI's h2 that can misbehave.

`GRPCNode` answers as go-micro's gRPC servers do (server/grpc @ v2.9.1): any prefix before the handler's name, codec by
content subtype, the framework's error JSON as the status message and `errors.Error` as first detail. `GRPCApp` is an
ordinary gRPC program: full proto service names, its own status details, reflection and health. `RawNode` speaks HTTP/2
frame by frame: it shows a request's headers as they came and refuses, goes away, resets and stays silent on demand.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from concurrent import futures

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from google.rpc import status_pb2

# --- the schema, built at run time: no generated code --------------------------------------------------------------


def make_pool():
    """greet.proto, errors.proto and a file that greet.proto imports."""
    pool = descriptor_pool.DescriptorPool()
    field = descriptor_pb2.FieldDescriptorProto
    common = descriptor_pb2.FileDescriptorProto(name="greet/common.proto", package="greet.common", syntax="proto3")
    mood = common.message_type.add(name="Mood")
    mood.field.add(name="kind", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    errors = descriptor_pb2.FileDescriptorProto(name="errors.proto", package="errors", syntax="proto3")
    error = errors.message_type.add(name="Error")
    for number, (name, kind) in enumerate(
        [("id", field.TYPE_STRING), ("code", field.TYPE_INT32), ("detail", field.TYPE_STRING), ("status", field.TYPE_STRING)], 1
    ):
        error.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    greet = descriptor_pb2.FileDescriptorProto(
        name="greet/greet.proto", package="greet", syntax="proto3", dependency=["greet/common.proto"]
    )
    request = greet.message_type.add(name="Request")
    reply = greet.message_type.add(name="Reply")
    for message, first in ((request, "name"), (reply, "msg")):
        message.field.add(name=first, json_name=first, number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
        message.field.add(
            name="big_number", json_name="bigNumber", number=2, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL
        )
        message.field.add(
            name="mood", number=3, type=field.TYPE_MESSAGE, type_name=".greet.common.Mood", label=field.LABEL_OPTIONAL
        )
        message.field.add(name="data", number=4, type=field.TYPE_BYTES, label=field.LABEL_OPTIONAL)
    say = greet.service.add(name="Say")
    for name, client_streams, server_streams in METHODS:
        say.method.add(
            name=name,
            input_type=".greet.Request",
            output_type=".greet.Reply",
            client_streaming=client_streams,
            server_streaming=server_streams,
        )
    for file in (common, errors, greet):
        pool.Add(file)
    return pool


METHODS = (
    ("Hello", False, False),
    ("Fail", False, False),
    ("Meta", False, False),
    ("Sleep", False, False),
    ("Count", False, True),
    ("Sum", True, False),
    ("Chat", True, True),
)
POOL = make_pool()
Request = message_factory.GetMessageClass(POOL.FindMessageTypeByName("greet.Request"))
Reply = message_factory.GetMessageClass(POOL.FindMessageTypeByName("greet.Reply"))
MicroError = message_factory.GetMessageClass(POOL.FindMessageTypeByName("errors.Error"))


def descriptor_set():
    """A FileDescriptorSet with greet.proto and what it imports, as `protoc --include_imports` writes it."""
    files = descriptor_pb2.FileDescriptorSet()
    for name in ("greet/common.proto", "greet/greet.proto"):
        POOL.FindFileByName(name).CopyToProto(files.file.add())
    return files.SerializeToString()


CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ALREADY_EXISTS,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    409: "Conflict",
    500: "Internal Server Error",
}

# --- the handlers --------------------------------------------------------------------------------------------------


class Failure(Exception):
    """The framework's error, as a handler returns it."""

    def __init__(self, code, detail, identity="greet.Say"):
        super().__init__(detail)
        self.code, self.detail, self.identity = code, detail, identity

    def json(self):
        return json.dumps(
            {"id": self.identity, "code": self.code, "detail": self.detail, "status": REASONS.get(self.code, "")},
            separators=(",", ":"),
            ensure_ascii=False,
        )

    def status(self):
        """The `google.rpc.Status` of v2 servers."""
        detail = any_pb2.Any()
        detail.Pack(
            MicroError(id=self.identity, code=self.code, detail=self.detail, status=REASONS.get(self.code, ""))
        )
        code = CODES.get(self.code, grpc.StatusCode.UNKNOWN)
        return status_pb2.Status(code=code.value[0], message=self.json(), details=[detail])


class Greeter:
    """What the handlers do, whoever serves them. `cancelled` is set when a caller has left or is out of time."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.calls = []
        self.sent = 0

    def note(self, method, context):
        self.calls.append((method, dict(context.invocation_metadata()), context.time_remaining()))

    def metadata(self, method):
        return next((metadata for name, metadata, _ in reversed(self.calls) if name == method), None)

    def time_left(self, method):
        return next((left for name, _, left in reversed(self.calls) if name == method), None)

    def Hello(self, request, context):
        context.send_initial_metadata((("x-answer", "first"),))
        context.set_trailing_metadata((("x-trailer", "last"), ("x-trailer-bin", b"\x00\x01\xff")))
        return Reply(msg="Hello " + request.name, big_number=request.big_number, data=request.data)

    def Meta(self, request, context):
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        return Reply(msg=json.dumps(metadata, sort_keys=True))

    def Fail(self, request, context):
        code = request.big_number or 400
        raise Failure(code, "bad <%s>" % request.name)

    def Sleep(self, request, context):
        context.add_callback(self.cancelled.set)
        end = time.monotonic() + (request.big_number or 30)
        while context.is_active() and time.monotonic() < end:
            time.sleep(0.005)  # the handler's work
        return Reply(msg="slept")

    def Count(self, request, context):
        context.add_callback(self.cancelled.set)
        context.send_initial_metadata((("x-answer", "first"),))
        context.set_trailing_metadata((("x-trailer", "last"),))
        for number in range(request.big_number):
            self.sent += 1
            yield Reply(msg=request.name, big_number=number, data=request.data)
        if request.name == "fail":
            raise Failure(400, "stream failed after %d" % request.big_number)

    def Sum(self, requests, context):
        total = sum(request.big_number for request in requests)
        return Reply(msg="sum", big_number=total)

    def Chat(self, requests, context):
        context.add_callback(self.cancelled.set)
        for request in requests:
            yield Reply(msg="Hello " + request.name, big_number=request.big_number)


def is_json(data):
    return data[:1] == b"{"


class GRPCServer:
    """A grpcio server of `Say`. Subclasses say which paths it knows and what a failure looks like."""

    def __init__(self, greeter=None, json_codec=True, options=()):
        self.greeter = greeter or Greeter()
        self.json_codec = json_codec
        self.paths = []
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0), *options])
        self.port = 0

    def start(self, port=0):
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:%d" % port)
        self.server.start()
        return self

    def stop(self):
        self.server.stop(0).wait()

    # What grpcio asks of a generic handler.
    def service(self, details):
        if not details.method.startswith("/grpc.reflection."):
            self.paths.append(details.method)
        method = self.method(details.method)
        if method is None:
            return None
        _, client_streams, server_streams = method
        # One handler call is one codec: replies go back as the request came.
        codec = {"json": False}

        def decode(data):
            codec["json"] = is_json(data)
            if codec["json"]:
                if not self.json_codec:
                    raise ValueError("no json codec")
                return json_format.Parse(data, Request())
            return Request.FromString(data)

        def encode(reply):
            if codec["json"]:
                return json_format.MessageToJson(reply, preserving_proto_field_name=True, indent=None).encode()
            return reply.SerializeToString()

        handler = getattr(self.greeter, method[0])

        def unary(request, context):
            self.greeter.note(method[0], context)
            try:
                return handler(request, context)
            except Failure as failure:
                self.fail(context, failure)

        def stream(request, context):
            self.greeter.note(method[0], context)
            try:
                yield from handler(request, context)
            except Failure as failure:
                self.fail(context, failure)

        make = {
            (False, False): lambda: grpc.unary_unary_rpc_method_handler(unary, decode, encode),
            (False, True): lambda: grpc.unary_stream_rpc_method_handler(stream, decode, encode),
            (True, False): lambda: grpc.stream_unary_rpc_method_handler(unary, decode, encode),
            (True, True): lambda: grpc.stream_stream_rpc_method_handler(stream, decode, encode),
        }
        return make[client_streams, server_streams]()

    def registration(self, identity="grpc-node", metadata=None):
        """A node of the registry file."""
        return {
            "id": identity,
            "address": "127.0.0.1:%d" % self.port,
            "metadata": metadata or {"protocol": "grpc", "server": "grpc", "transport": "grpc"},
        }


class GRPCNode(GRPCServer):
    """go-micro's gRPC server. `details`: v2 and later send `errors.Error` as a detail, 1.18 and the plug-in do not."""

    def __init__(self, greeter=None, details=True, **options):
        super().__init__(greeter, **options)
        self.details = details

    def method(self, path):
        service, _, name = path[1:].rpartition("/")
        handler = service.rpartition(".")[2]
        return next((method for method in METHODS if handler == "Say" and method[0] == name), None)

    def fail(self, context, failure):
        if self.details:
            context.abort_with_status(rpc_status.to_status(failure.status()))
        context.abort(CODES.get(failure.code, grpc.StatusCode.UNKNOWN), failure.json())


class GRPCApp(GRPCServer):
    """An ordinary gRPC program with official libraries, under its full proto name only, with reflection and health."""

    def __init__(self, greeter=None, with_reflection=True, **options):
        super().__init__(greeter, json_codec=False, **options)
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        if with_reflection:
            reflection.enable_server_reflection(("greet.Say", reflection.SERVICE_NAME), self.server, pool=POOL)

    def set_healthy(self, is_healthy):
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if is_healthy else status.NOT_SERVING)

    def method(self, path):
        return next((method for method in METHODS if path == "/greet.Say/" + method[0]), None)

    def fail(self, context, failure):
        """A detail of its own kind, which go-micro's clients must never see first (they would panic)."""
        detail = any_pb2.Any()
        detail.Pack(Reply(msg="more about it"))
        code = CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
        status = status_pb2.Status(code=code.value[0], message=failure.detail, details=[detail])
        context.abort_with_status(rpc_status.to_status(status))


def channel(port):
    """A client's channel that shares no connection with any other."""
    return grpc.insecure_channel("127.0.0.1:%d" % port, options=[("grpc.use_local_subchannel_pool", 1)])


# --- a peer that can misbehave -------------------------------------------------------------------------------------


class RawNode:
    """HTTP/2 on PyPI's h2. `answer(node, connection, stream id, headers, body)` is called for each whole request, and
    `begun` for its headers when given. What it did is in `requests` (headers, body), `resets` (stream id, code), `pings`
    and
    `connections`, those that brought a call. It has no reflection, and what asks for it is not shown.
    """

    def __init__(self, answer=None, begun=None, streams_max=None, window=None):
        self.answer = answer or RawNode.hello
        self.begun = begun
        self.streams_max, self.window = streams_max, window
        self.requests, self.resets, self.pings, self.peers = [], [], [], []
        self.connections = []
        self.open_now, self.open_most = 0, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stopping = False

    registration = GRPCServer.registration

    def start(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def stop(self):
        self.stopping = True
        self.listener.close()
        for peer in self.peers:
            peer.close()

    def accept(self):
        while not self.stopping:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            peer = RawPeer(self, sock)
            self.peers.append(peer)
            threading.Thread(target=peer.run, daemon=True).start()

    @staticmethod
    def hello(node, peer, stream, headers, body):
        """Says hello in the codec it was asked in."""
        if dict(headers).get("content-type") == "application/grpc+json":
            payload = json.dumps({"msg": "Hello " + json.loads(body[5:]).get("name", "")}).encode()
        else:
            payload = Reply(msg="Hello " + Request.FromString(body[5:]).name).SerializeToString()
        peer.reply(stream, payload)


class RawPeer:
    """One connection of a `RawNode`."""

    def __init__(self, node, sock):
        self.node, self.sock = node, sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.lock = threading.RLock()
        self.heads, self.bodies, self.reflections = {}, {}, set()
        self.acknowledges = True
        self.waiting = {}  # what the peer's windows do not let go yet, by stream

    def run(self):
        codes = h2.settings.SettingCodes
        first = {codes.MAX_CONCURRENT_STREAMS: self.node.streams_max, codes.INITIAL_WINDOW_SIZE: self.node.window}
        with self.lock:
            self.h2.local_settings = h2.settings.Settings(
                client=False, initial_values={code: value for code, value in first.items() if value is not None}
            )
            self.h2.initiate_connection()
            self.flush()
        try:
            while True:
                data = self.sock.recv(65536)
                if not data:
                    return
                with self.lock:
                    events = self.h2.receive_data(data)
                    for stream in list(self.waiting):
                        self.send(stream)
                    self.flush()
                for event in events:
                    self.happened(event)
        except (OSError, h2.exceptions.ProtocolError):
            pass
        finally:
            self.close()

    def happened(self, event):
        if getattr(event, "stream_id", None) in self.reflections:
            return None
        if isinstance(event, h2.events.RequestReceived):
            if dict(event.headers)[":path"].startswith("/grpc.reflection."):
                return self.has_no_reflection(event.stream_id)
            if self not in self.node.connections:
                self.node.connections.append(self)
            self.heads[event.stream_id], self.bodies[event.stream_id] = event.headers, b""
            with self.node.lock:
                self.node.open_now += 1
                self.node.open_most = max(self.node.open_most, self.node.open_now)
            if self.node.begun:
                self.node.begun(self.node, self, event.stream_id, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            if self.acknowledges:
                with self.lock:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    self.flush()
        elif isinstance(event, h2.events.StreamEnded):
            headers, body = self.heads[event.stream_id], self.bodies[event.stream_id]
            self.node.requests.append((headers, body))
            self.node.answer(self.node, self, event.stream_id, headers, body)
        elif isinstance(event, h2.events.StreamReset):
            self.node.resets.append((event.stream_id, int(event.error_code)))
            self.ended()
        elif isinstance(event, h2.events.PingReceived):
            self.node.pings.append(time.monotonic())

    def has_no_reflection(self, stream):
        self.reflections.add(stream)
        head = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "12")]
        with self.lock:
            self.h2.send_headers(stream, head, end_stream=True)
            self.flush()

    def ended(self):
        with self.node.lock:
            self.node.open_now -= 1

    def flush(self):
        data = self.h2.data_to_send()
        if data:
            self.sock.sendall(data)

    def begin(self, stream, headers=()):
        with self.lock:
            self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc"), *headers])
            self.flush()

    def message(self, stream, payload, flag=0):
        self.data(stream, bytes([flag]) + struct.pack(">I", len(payload)) + payload)

    def data(self, stream, data):
        with self.lock:
            self.waiting.setdefault(stream, []).append(data)
            self.send(stream)
            self.flush()

    def send(self, stream):
        """As much of what waits as the windows allow; trailers are a list of fields."""
        queue = self.waiting[stream]
        try:
            while queue:
                if isinstance(queue[0], list):
                    self.h2.send_headers(stream, queue.pop(0), end_stream=True)
                    self.ended()
                    continue
                room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
                if room <= 0:
                    return
                self.h2.send_data(stream, queue[0][:room])
                queue[0] = queue[0][room:]
                if not queue[0]:
                    queue.pop(0)
        except (h2.exceptions.StreamClosedError, h2.exceptions.ProtocolError):
            pass  # the caller has left
        del self.waiting[stream]

    def end(self, stream, status=0, message=None, trailers=()):
        found = [("grpc-status", str(status))] + ([("grpc-message", message)] if message else []) + list(trailers)
        self.data(stream, found)

    def reply(self, stream, payload, headers=(), trailers=()):
        self.begin(stream, headers)
        self.message(stream, payload)
        self.end(stream, trailers=trailers)

    def only_headers(self, stream, headers):
        with self.lock:
            self.h2.send_headers(stream, headers, end_stream=True)
            self.flush()
        self.ended()

    def reset(self, stream, code):
        with self.lock:
            self.h2.reset_stream(stream, code)
            self.flush()
        self.ended()

    def go_away(self, last_stream, code=0):
        """The frame itself: h2 would close its side at once."""
        with self.lock:
            self.sock.sendall(
                b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + struct.pack(">II", last_stream, code)
            )

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


# Error codes of HTTP/2 (RFC 9113 §7).
INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 2, 7, 8
