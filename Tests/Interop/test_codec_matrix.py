"""Every form a call can come in, to nodes that take one codec only: what reaches the node, and what comes back.

The table of the results is `docs/codecs.md`; the test fails when that file says something else. To write it anew:
MICRO_WRITE_DOCS=1 python3 Tests/Interop/run.py --binary PATH matrix
"""

from __future__ import annotations

import collections
import json
import os
import unittest

import bson
import msgpack

from codecpeer import CODECS, LEGACY
from gomicro import Connection, Node, encode, fields, header, string_field
from sidecar import BlackBox, service

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "codecs.md")

WORKS, NO = "yes", "–"


def asked(family):
    return {"name": "a"} if family == "json" else string_field(1, "a")


def answered(family):
    return {"msg": "Hello a"} if family == "json" else string_field(1, "Hello a")


class StrictNode(Node):
    """A node that takes one codec; anything else is refused, as servers refuse a content type they do not know."""

    def __init__(self, codec, generation):
        super().__init__(None, generation)
        self.codec = codec

    def registration(self, name):
        found = super().registration(name)
        found["metadata"]["content-type"] = self.codec.content_type
        return found

    def answer(self, connection, number, first, request):
        codec = self.codec
        kind = header(request, "Content-Type", "")
        if kind != codec.content_type:
            text = ("Unsupported Content-Type: " + kind).encode()
            lines = [("Content-Type", "text/plain"), ("Content-Length", len(text))]
            return connection.send(encode("HTTP/1.1 200 OK", lines, text))
        named = header(request, "Endpoint") if codec.name == "mercury" else header(request, "Micro-Endpoint")
        endpoint, payload, identity = codec.read_request(request.body, named)
        self.calls.append((endpoint, payload))
        error = "" if endpoint == "Say.Hello" else "no such thing"
        body = codec.reply(None if error else answered(codec.family), identity, endpoint, error)
        lines = [("Content-Type", kind), ("Content-Length", len(body)), ("Micro-Id", header(request, "Micro-Id") or "")]
        if error and self.generation != "v0.14":
            lines.append(("Micro-Error", error))
        connection.send(encode("HTTP/1.1 200 OK", lines, body))


class Path:
    """A plain HTTP call of the local API."""

    def __init__(self, name, content_type, family, dump, load):
        self.name, self.content_type, self.family, self.dump, self.load = name, content_type, family, dump, load

    def call(self, sidecar, target, endpoint):
        path = "/%s/%s" % (target, endpoint)
        answer = sidecar.post(path, self.dump(asked(self.family)), {"Content-Type": self.content_type})
        if answer.status != 200:
            return None, answer.json()["detail"]
        if answer.headers["Content-Type"] != self.content_type:
            raise AssertionError("asked in %s, answered in %s" % (self.content_type, answer.headers["Content-Type"]))
        return self.load(answer.body), None


class Frames:
    """A go-micro client of one generation, told to call through the sidecar."""

    def __init__(self, codec, generation):
        self.codec, self.generation, self.family = codec, generation, codec.family
        self.name = "%s, %s" % (codec.name, {"x": "v0.16–v0.22", "micro": "v0.23 and later"}[generation])

    def call(self, sidecar, target, endpoint):
        codec = self.codec
        connection = Connection.to(sidecar.port)
        try:
            prefix = {"x": "X-Micro-", "micro": "Micro-"}[self.generation]
            body = codec.request(endpoint, asked(self.family), 3)
            lines = collections.OrderedDict({"Host": "h", "Content-Type": codec.content_type}, **codec.headers)
            for name, value in (("Service", target), ("Method", endpoint), ("Endpoint", endpoint), ("Id", "3")):
                lines[prefix + name] = value
            if codec.name == "mercury":
                lines.update({"Service": target, "Endpoint": endpoint})
            lines["Content-Length"] = len(body)
            connection.send(encode("POST / HTTP/1.1", lines.items(), body))
            reply = connection.read()
            error = header(reply, prefix + "Error")
            if not error and header(reply, "Content-Type") != codec.content_type:
                raise AssertionError("asked in %s: %r" % (codec.content_type, reply))
            if error and not reply.body:
                return None, error
            payload, inside = codec.read_reply(reply.body)
            return payload, inside or error
        finally:
            connection.close()


CALLERS = [
    Path("path, JSON", "application/json", "json", lambda v: json.dumps(v).encode(), json.loads),
    Path("path, MessagePack", "application/msgpack", "json", msgpack.packb, msgpack.unpackb),
    Path("path, BSON", "application/bson", "json", bson.encode, bson.decode),
    Path("path, protobuf", "application/protobuf", "protobuf", bytes, bytes),
] + [Frames(codec, generation) for codec in CODECS for generation in ("x", "micro")]

NODES = [(codec, "v0.14") for codec in LEGACY] + [(codec, "micro") for codec in CODECS]

TITLE = """# Codecs

Which caller reaches which node. Each cell is a call through the released binary to a node that takes that one codec and
refuses all others, which is harder than life: real servers have JSON, json-rpc, protobuf and proto-rpc at once. This page is
written by `Tests/Interop/test_codec_matrix.py`, which fails when it is out of date.

`yes`: the node was asked and its answer came back, both in their own forms; a node's error came back as an error as well.
`–`: the two do not carry the same information (JSON and protobuf without descriptors, or bytes that only the two
applications understand), and the caller was told so with an error.

Rows are callers: plain HTTP calls by path, and framework frames by codec and generation. v0.14's own clients do not say which
service they mean, so none of them can call through the sidecar; they can call the app behind it.
Columns are what the node takes.
"""

NOTES = """
## What a node is called in
A payload that is JSON goes to nodes of v0.22 and later bare, to older ones as JSON-RPC; protobuf goes in proto-rpc, which
every generation reads and which loses no errors. Other choices, first match:
1. `MICRO_SIDECAR_CONTENT_TYPE=greeter=application/msgpack,…` for the service, by its full name
2. the node's metadata `content-type`
3. `MICRO_SIDECAR_CONTENT_TYPE=application/json-rpc` for all

A choice is used for payloads it can hold; for others the usual one.

## Content types of the plug-ins
go-micro's plug-in codecs fix no content type, so there is a table: `MICRO_SIDECAR_CODECS=application/x-thing=jsonrpc2,…` adds to
it and wins over it. It begins as

| content type | codec |
|---|---|
| `application/json-rpc2`, `application/jsonrpc2` | jsonrpc2 |
| `application/msgpack`, `application/x-msgpack`, `application/msgpack-rpc` | msgpackrpc |
| `application/bson`, `application/bson-rpc` | bsonrpc |
| `application/mercury` | mercury |

go-micro's own content types cannot be given another meaning. Ids towards nodes of v0.22 and later are strings, as the plug-ins
for v2 and later want them; towards older nodes numbers. A JSON-RPC 2.0 request without an id is answered like any other.

## MessagePack and BSON
On the local API `application/msgpack` (`application/x-msgpack`, `application/vnd.msgpack`) and `application/bson` bodies are JSON
in another dress: translated on the way in, and the reply on the way out, in the form `Accept` names or else that of the
request. Errors are always JSON.

| MessagePack, BSON | JSON |
|---|---|
| integers from int64's least to uint64's largest (BSON: int64) | the same digits; more is refused |
| float, double | shortest digits; NaN and the infinities as `"NaN"`, `"Infinity"`, `"-Infinity"` |
| bin, BSON binary | standard base64; what is base64 in JSON stays a string on the way back |
| timestamp, datetime | RFC 3339; stays a string on the way back |
| keys that are integers or bools | strings |
| ObjectId | 24 hexadecimal digits |
| other extensions and keys, decimal128, regular expressions, code | refused |
| a key that comes twice, more than 64 levels, text that is not UTF-8 | refused |

In bsonrpc's own dialect strings are binaries of subtype 0 and unsigned integers int64; ordinary BSON strings are read too.
"""


class Matrix(BlackBox):
    def test_every_caller_reaches_every_node_that_can_understand_it(self):
        nodes, services = [], []
        for index, (codec, generation) in enumerate(NODES):
            node = self.start_server(StrictNode(codec, generation))
            name = "go.micro.srv.n%d" % index
            nodes.append((codec, node, name))
            services.append(service(name, node.registration(name)))
        sidecar = self.start(services=services)
        rows = []
        for caller in CALLERS:
            cells = []
            for codec, node, name in nodes:
                with self.subTest("%s to %s" % (caller.name, codec.name)):
                    cells.append(self.cell(sidecar, caller, codec, node, name))
            rows.append([caller.name] + cells)
        self.check_page(rows)

    def cell(self, sidecar, caller, codec, node, name):
        node.calls.clear()
        payload, error = caller.call(sidecar, name, "Say.Hello")
        # v0.14 has no bare bytes: there octet-stream is one more name for proto-rpc.
        is_old_name = caller.family == "bytes" and codec.name == "v0.14 protobuf"
        if caller.family != codec.family and not is_old_name:
            self.assertFalse(payload)
            self.assertTrue(error)
            self.assertEqual(node.calls, [])
            return NO
        self.assertIsNone(error)
        self.assertEqual(payload, answered(caller.family))
        self.assertEqual(node.calls, [("Say.Hello", asked(caller.family))])
        payload, error = caller.call(sidecar, name, "Say.Nothing")
        self.assertIn("no such thing", str(error))
        return WORKS

    def check_page(self, rows):
        names = [codec.name for codec, _ in NODES]
        table = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        table += ["| " + " | ".join(row) + " |" for row in rows]
        page = TITLE + "\n" + "\n".join(table) + "\n" + NOTES
        if os.environ.get("MICRO_WRITE_DOCS"):
            with open(DOCS, "w", encoding="utf-8") as stream:
                stream.write(page)
        with open(DOCS, encoding="utf-8") as stream:
            self.assertEqual(stream.read(), page, "docs/codecs.md is out of date")


class PackedBodies(BlackBox):
    """MessagePack and BSON bodies of the local API."""

    def setUp(self):
        super().setUp()
        self.node = self.start_server(Node(lambda call: {"got": call.payload, "list": [1, -1, 1.5, None, True]}))
        self.sidecar = self.start(services=[service("go.micro.srv.hello", self.node.registration())])

    def post(self, body, kind, accept=None):
        headers = {"Content-Type": kind}
        if accept:
            headers["Accept"] = accept
        return self.sidecar.post("/hello/say/hello", body, headers)

    def test_what_goes_in_comes_out(self):
        value = {"s": "é", "n": [0, 2**40, -(2**31), 1.25], "o": {"deep": True}, "z": None}
        for dump, load, kind in (
            (msgpack.packb, msgpack.unpackb, "application/msgpack"),
            (bson.encode, bson.decode, "application/bson"),
        ):
            with self.subTest(kind):
                answer = self.post(dump(value), kind)
                self.assertEqual((answer.status, answer.headers["Content-Type"]), (200, kind))
                self.assertEqual(load(answer.body), {"got": value, "list": [1, -1, 1.5, None, True]})
                self.assertEqual(self.node.calls[-1].payload, value)

    def test_the_reply_is_what_accept_names(self):
        answer = self.post(msgpack.packb({"a": 1}), "application/msgpack", "application/json")
        self.assertEqual(answer.json()["got"], {"a": 1})
        answer = self.post(b'{"a":1}', "application/json", "application/msgpack")
        self.assertEqual(msgpack.unpackb(answer.body)["got"], {"a": 1})

    def test_bad_bodies_are_400_and_say_where(self):
        self.assert_error(self.post(b"\x81\xa1a", "application/msgpack"), 400, "at byte")
        self.assert_error(self.post(b"\x05\0\0\0\1", "application/bson"), 400, "at byte")
        self.assert_error(self.post(b"\x91" * 65 + b"\xc0", "application/msgpack"), 400, "nested too deep")


if __name__ == "__main__":
    unittest.main()
