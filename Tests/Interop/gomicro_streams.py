"""go-micro streams for black-box tests: a node that serves them and a client that opens them, over raw sockets.

A handler is `handler(stream)`: it calls `stream.receive()` (None at the caller's end) and `stream.send(payload)`; to
return ends the stream in order, `NodeError` ends it with an error. As real servers do (server/rpc_router.go @ v1.9.0 and
later), one that has read the caller's end says nothing when it returns, and refuses whatever comes after that.
"""

from __future__ import annotations

import collections
import json
import queue
import threading

from gomicro import (
    JSON_RPC_TYPES_V014, PROTO_RPC_TYPES_V014, Client, Closed, Connection, Node, NodeError, encode, header,
    proto_rpc_parts, proto_rpc_request, proto_rpc_response,
)


class StreamEnded(Exception):
    """`receive` on the client's side: the server ended the stream in order."""


class NodeStream:
    """The handler's view of one stream."""

    def __init__(self, node, connection, opening, kind):
        self.node, self.connection, self.opening, self.kind = node, connection, opening, kind
        self.headers = {name.lower(): value for name, value in opening.headers}
        self.endpoint = node.endpoint_of(kind, opening)
        self.inbox = queue.Queue()
        self.lock = threading.Lock()
        self.saw_end = self.closed = False

    def receive(self, timeout=10):
        item = self.inbox.get(timeout=timeout)
        if item is None:
            self.saw_end = True
        return item

    def send(self, payload):
        self.write(self.node.wrap(self.kind, self.endpoint, payload, ""), "")

    def write(self, body, error):
        echoed = collections.OrderedDict((name.title(), value) for name, value in self.opening.headers)
        for hop in ("Content-Length", "Transfer-Encoding", "Host", "Connection", "User-Agent"):
            echoed.pop(hop, None)
        echoed["Content-Type"] = self.kind
        if error and self.node.generation != "v0.14":
            echoed["Micro-Error"] = echoed["X-Micro-Error"] = error
        echoed["Content-Length"] = str(len(body))
        with self.lock:
            self.connection.send(encode("HTTP/1.1 200 OK", echoed.items(), body))


class StreamNode(Node):
    """Every endpoint of it is a stream."""

    def __init__(self, handler, generation="micro", port=0):
        super().__init__(handler, generation, port)
        self.streams = []

    def serve(self, connection, number):
        stream, worker = None, None
        try:
            while not self.stopping:
                message = connection.read()
                kind = header(message, "Content-Type", "")
                if stream is None:
                    # The opening message: its body is thrown away.
                    stream = NodeStream(self, connection, message, kind)
                    self.streams.append(stream)
                    worker = threading.Thread(target=self.run, args=(stream,), daemon=True)
                    worker.start()
                    continue
                error = header(message, "Micro-Error")
                if stream.closed:
                    name = self.endpoint_of(kind, message).split(".")[0]
                    text = "rpc: can't find service %s" % name
                    stream.write(self.wrap(kind, stream.endpoint, None, text), text)
                elif error == "EOS":
                    stream.inbox.put(None)
                else:
                    stream.inbox.put(self.unwrap(kind, message.body))
        except (Closed, OSError):
            if stream:
                stream.inbox.put(None)
                stream.gone = True
            connection.close()

    def run(self, stream):
        try:
            self.handler(stream)
            stream.closed = True
            if not stream.saw_end:
                stream.write(self.wrap(stream.kind, stream.endpoint, None, "EOS"), "EOS")
        except NodeError as failure:
            stream.closed = True
            stream.write(self.wrap(stream.kind, stream.endpoint, None, str(failure)), str(failure))
        except OSError:
            stream.closed = True

    def is_legacy(self, message):
        return self.generation == "v0.14"

    def endpoint_of(self, kind, message):
        named = header(message, "Micro-Endpoint")
        if named and self.generation != "v0.14":
            return named
        if kind in JSON_RPC_TYPES_V014:
            return json.loads(message.body)["method"]
        return proto_rpc_parts(message.body)[0][1].decode()

    def wrap(self, kind, endpoint, payload, error):
        legacy = self.generation == "v0.14"
        if kind == "application/json-rpc" or legacy and kind in JSON_RPC_TYPES_V014:
            return json.dumps({"id": 0, "result": payload, "error": error or None}).encode() + b"\n"
        if kind == "application/proto-rpc" or legacy and kind in PROTO_RPC_TYPES_V014:
            return proto_rpc_response(endpoint, 0, payload or b"", error)
        if error:
            return b""
        return json.dumps(payload).encode() + b"\n" if kind == "application/json" else payload

    def unwrap(self, kind, body):
        legacy = self.generation == "v0.14"
        if kind == "application/json-rpc" or legacy and kind in JSON_RPC_TYPES_V014:
            return json.loads(body)["params"][0]
        if kind == "application/proto-rpc" or legacy and kind in PROTO_RPC_TYPES_V014:
            return proto_rpc_parts(body)[1]
        return json.loads(body) if kind == "application/json" else body


class ClientStream(Client):
    """A go-micro client's stream (client/rpc_stream.go): opening message, messages, end of stream, close."""

    def __init__(self, port, generation, content_type, endpoint, service="go.micro.srv.hello", headers=None, timeout=10):
        super().__init__(port, generation, content_type, service, timeout)
        self.endpoint, self.extra = endpoint, dict(headers or {})
        self.seq = 7
        if generation == "micro":
            self.extra["Micro-Stream"] = "7"
        self.post({} if "json" in content_type else b"")

    def headers(self, endpoint, extra):
        found = super().headers(endpoint, extra)
        found.pop("Timeout", None)
        return found

    def post(self, payload, extra=None):
        body = self.body(self.endpoint, payload) if payload is not None else b""
        fields = self.headers(self.endpoint, {**self.extra, **(extra or {})})
        if body:
            fields["Content-Length"] = str(len(body))
        else:
            fields["Transfer-Encoding"], body = "chunked", b"0\r\n\r\n"
        self.connection.send(encode("POST / HTTP/1.1", fields.items(), body))

    def end(self):
        """No more messages. Up to v1.8 a client can only close."""
        if self.generation == "micro":
            self.post(None, {"Micro-Error": "EOS"})

    def receive(self):
        self.seq += 1  # as the base class checks it
        payload, error = super().receive()
        self.seq -= 1
        if error == "EOS":
            raise StreamEnded()
        if error:
            raise NodeError(error)
        return payload


def echo(stream):
    """Sends back what comes until the caller's end."""
    while True:
        message = stream.receive()
        if message is None:
            return
        stream.send(message)


def count_down(stream):
    """One request {"from": n}; replies n … 1 and the end."""
    first = stream.receive()
    for number in range(int(first["from"]), 0, -1):
        stream.send({"number": number})
