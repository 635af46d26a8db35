"""go-micro's gRPC transport for black-box tests, on official gRPC: messages of a header map and a body in one stream in the
place of a connection. Written from the wire: `map<string,string> header = 1; bytes body = 2`, keys spelled as they are sent.

The peers of gomicro.py and gomicro_streams.py read and write HTTP messages; `Transport` stands where their connection is.
"""

from __future__ import annotations

import queue
import threading
from concurrent import futures

import grpc

from gomicro import Client, Closed, Message, Node, header, string_field, varint
from gomicro_streams import ClientStream, StreamNode

OLD = "/go.micro.grpc.transport.Transport/Stream"  # up to v2.3
NEW = "/go.micro.transport.grpc.Transport/Stream"

HTTPS_OWN = ("host", "content-length", "transfer-encoding", "user-agent")
OPTIONS = [("grpc.max_receive_message_length", 8 << 20), ("grpc.max_send_message_length", 8 << 20)]


def encode_message(headers, body):
    entries = b"".join(string_field(1, string_field(1, name) + string_field(2, str(value))) for name, value in headers)
    return entries + (b"\x12" + varint(len(body)) + body if body else b"")


def decode_message(data):
    """([(name, value)], body)"""
    headers, body, position = [], b"", 0

    def number():
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def pair(entry):
        found, at = {1: b"", 2: b""}, 0
        while at < len(entry):
            tag, length, at = entry[at] >> 3, entry[at + 1], at + 2
            if length >= 0x80:
                length, at = length & 0x7F | entry[at] << 7, at + 1
            found[tag] = entry[at : at + length]
            at += length
        return found[1].decode(), found[2].decode()

    while position < len(data):
        tag = number()
        length = number()
        value = data[position : position + length]
        position += length
        if tag == 0x0A:
            headers.append(pair(value))
        elif tag == 0x12:
            body = value
        else:
            raise ValueError("tag %x" % tag)
    return headers, body


class Transport:
    """Looks like `gomicro.Connection`. `read` takes messages from `messages`, `send` puts them into `out`."""

    def __init__(self, messages, first_line, call=None):
        self.messages, self.first_line, self.call = messages, first_line, call
        self.out = queue.Queue()

    def read(self):
        try:
            data = next(self.messages)
        except (StopIteration, grpc.RpcError) as end:
            self.end = end
            raise Closed() from None
        headers, body = decode_message(data)
        return Message(self.first_line, headers, body)

    def send(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        if header(Message(lines[0], headers, b""), "Transfer-Encoding"):
            body = b""
        self.out.put(encode_message([pair for pair in headers if pair[0].lower() not in HTTPS_OWN], body))

    def sent(self):
        while (item := self.out.get()) is not None:
            yield item

    def close(self):
        self.out.put(None)

    def reset(self):
        self.close()
        if self.call:
            self.call.cancel()


class TransportServer:
    """Mixed into a node: the same server behind the gRPC transport. `path`: the name its version has for the method."""

    path = NEW

    def __init__(self, handler, generation="micro"):
        super().__init__(handler, generation)
        self.listener.close()
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=OPTIONS)
        self.server.add_generic_rpc_handlers([self])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.asked = []  # the paths called

    def service(self, details):
        self.asked.append(details.method)
        return grpc.stream_stream_rpc_method_handler(self.stream) if details.method == self.path else None

    def stream(self, messages, context):
        connection = Transport(messages, "POST / HTTP/1.1")
        self.connections.append(connection)
        number = len(self.connections) - 1

        def run():
            try:
                self.serve(connection, number)
            finally:
                connection.close()

        threading.Thread(target=run, daemon=True).start()
        yield from connection.sent()

    def start(self):
        self.server.start()
        return self

    def stop(self):
        self.stopping = True
        for connection in self.connections:
            connection.close()
        self.server.stop(None)

    def registration(self, *arguments, **options):
        found = super().registration(*arguments, **options)
        found["metadata"]["transport"] = "grpc"
        return found


class TransportNode(TransportServer, Node):
    def answer(self, connection, number, first, request):
        # Each message has its own headers here; only v0.14's HTTP transport repeats the first one's.
        super().answer(connection, number, request, request)


class TransportStreamNode(TransportServer, StreamNode):
    pass


def dial(port, path, timeout):
    channel = grpc.insecure_channel("127.0.0.1:%d" % port, options=OPTIONS)
    transport = Transport(None, "HTTP/1.1 200 OK")
    transport.call = channel.stream_stream(path)(transport.sent(), timeout=timeout)
    transport.messages = iter(transport.call)
    return transport, channel


class TransportClient(Client):
    def __init__(self, port, generation, content_type, service="go.micro.srv.hello", timeout=10, path=NEW):
        self.connection, self.channel = dial(port, path, timeout)
        self.port, self.generation, self.content_type, self.service = port, generation, content_type, service
        self.seq = 0

    def close(self):
        self.connection.close()
        self.channel.close()


class TransportClientStream(ClientStream):
    def __init__(self, port, generation, content_type, endpoint, headers=None, timeout=10, path=NEW):
        self.connection, self.channel = dial(port, path, timeout)
        self.port, self.generation, self.content_type, self.service = port, generation, content_type, "go.micro.srv.hello"
        self.endpoint, self.extra = endpoint, dict(headers or {})
        self.seq = 7
        if generation == "micro":
            self.extra["Micro-Stream"] = "7"
        self.post({} if "json" in content_type else b"")

    def close(self):
        self.connection.close()
        self.channel.close()
