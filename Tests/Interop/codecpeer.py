"""Every way a go-micro body is packed, both roles, written from the wire: what `test_codec_matrix` calls and answers in.

A `Codec` turns (endpoint, payload) into a request body and its headers, a body into what was asked, and the same for
replies. Payloads are dicts of strings for JSON's kin and bytes for protobuf's. MessagePack comes from PyPI's msgpack, the
framework's BSON dialect is written out here.
"""

from __future__ import annotations

import json
import struct

import msgpack

from gomicro import proto_rpc_parts, proto_rpc_request, proto_rpc_response

# --- BSON as vitess writes it: strings are binaries of subtype 0, integers int64 -----------------------------------


def vitess(document):
    out = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, str):
            data = value.encode()
            out += b"\x05" + name + struct.pack("<i", len(data)) + b"\0" + data
        elif isinstance(value, int):
            out += b"\x12" + name + struct.pack("<q", value)
        else:
            out += b"\x03" + name + vitess(value)
    return struct.pack("<i", len(out) + 5) + out + b"\0"


def read_vitess(data):
    """(document, the bytes behind it)"""
    length = struct.unpack("<i", data[:4])[0]
    body, rest, found = data[4 : length - 1], data[length:], {}
    while body:
        kind = body[0]
        key, body = body[1:].split(b"\0", 1)
        if kind == 5:
            count = struct.unpack("<i", body[:4])[0]
            found[key.decode()], body = body[5 : 5 + count].decode(), body[5 + count :]
        elif kind == 18:
            found[key.decode()], body = struct.unpack("<q", body[:8])[0], body[8:]
        elif kind == 3:
            found[key.decode()], _ = read_vitess(body)
            body = body[struct.unpack("<i", body[:4])[0] :]
        else:
            raise ValueError("BSON type %d is not of this dialect" % kind)
    return found, rest


# --- the codecs ----------------------------------------------------------------------------------------------------


class Codec:
    """A bare body. `family` is json or protobuf; `identity` is the envelope's id, where there is one."""

    headers = {}

    def __init__(self, name, content_type, family):
        self.name, self.content_type, self.family = name, content_type, family

    def dump(self, payload):
        return json.dumps(payload).encode() + b"\n" if self.family == "json" else payload

    def load(self, body):
        return json.loads(body) if self.family == "json" else body

    def request(self, endpoint, payload, identity):
        return self.dump(payload)

    def read_request(self, body, named):
        """(endpoint, payload, identity)"""
        return named, self.load(body), None

    def reply(self, payload, identity, endpoint, error=""):
        return b"" if error else self.dump(payload)

    def read_reply(self, body):
        """(payload, error)"""
        return self.load(body) if body else None, None


class JSONRPC(Codec):
    def request(self, endpoint, payload, identity):
        return json.dumps({"method": endpoint, "params": [payload], "id": identity}).encode() + b"\n"

    def read_request(self, body, named):
        asked = json.loads(body)
        return asked["method"], asked["params"][0], asked["id"]

    def reply(self, payload, identity, endpoint, error=""):
        return json.dumps({"id": identity, "result": payload, "error": error or None}).encode() + b"\n"

    def read_reply(self, body):
        answer = json.loads(body)
        return answer["result"], answer["error"]


class JSONRPC2(Codec):
    def request(self, endpoint, payload, identity):
        return json.dumps({"jsonrpc": "2.0", "method": endpoint, "params": payload, "id": str(identity)}).encode()

    def read_request(self, body, named):
        asked = json.loads(body)
        if asked["jsonrpc"] != "2.0":
            raise ValueError("no JSON-RPC 2.0: %r" % body)
        return asked["method"], asked["params"], asked["id"]

    def reply(self, payload, identity, endpoint, error=""):
        answer = {"error": {"code": -32000, "message": error}} if error else {"result": payload}
        return json.dumps(dict(answer, jsonrpc="2.0", id=identity)).encode()

    def read_reply(self, body):
        answer = json.loads(body)
        if len(answer) != 3:
            raise ValueError("exactly three keys are read: %r" % answer)
        return answer.get("result"), answer.get("error")


class MessagePackRPC(Codec):
    def request(self, endpoint, payload, identity):
        return msgpack.packb([0, str(identity), endpoint, [payload]])

    def read_request(self, body, named):
        kind, identity, endpoint, arguments = msgpack.unpackb(body)
        if kind != 0 or len(arguments) != 1:
            raise ValueError("no request: %r" % body)
        return endpoint, arguments[0], identity

    def reply(self, payload, identity, endpoint, error=""):
        return msgpack.packb([1, identity, error or None, payload])

    def read_reply(self, body):
        kind, _, error, payload = msgpack.unpackb(body)
        if kind != 1:
            raise ValueError("no reply: %r" % body)
        return payload, error


class BSONRPC(Codec):
    def request(self, endpoint, payload, identity):
        return vitess({"ServiceMethod": endpoint, "Seq": str(identity)}) + vitess(payload)

    def read_request(self, body, named):
        head, rest = read_vitess(body)
        payload, _ = read_vitess(rest)
        return head["ServiceMethod"], payload, head["Seq"]

    def reply(self, payload, identity, endpoint, error=""):
        return vitess({"ServiceMethod": endpoint, "Seq": identity, "Error": error}) + vitess(payload or {})

    def read_reply(self, body):
        head, rest = read_vitess(body)
        return read_vitess(rest)[0], head["Error"] or None


class ProtoRPC(Codec):
    def request(self, endpoint, payload, identity):
        return proto_rpc_request(endpoint, identity, payload)

    def read_request(self, body, named):
        envelope, payload = proto_rpc_parts(body)
        return envelope[1].decode(), payload, envelope.get(2, 0)

    def reply(self, payload, identity, endpoint, error=""):
        return proto_rpc_response(endpoint, identity, payload or b"", error)

    def read_reply(self, body):
        envelope, payload = proto_rpc_parts(body)
        return payload, envelope.get(3, b"").decode() or None


class GRPCFramed(Codec):
    headers = {"Te": "trailers"}

    def dump(self, payload):
        data = json.dumps(payload).encode() if self.family == "json" else payload
        return struct.pack(">BI", 0, len(data)) + data

    def load(self, body):
        flag, length = struct.unpack(">BI", body[:5])
        if flag or length != len(body) - 5:
            raise ValueError("no frame: %r" % body)
        return json.loads(body[5:]) if self.family == "json" else body[5:]


class Mercury(Codec):
    headers = {"Content-Encoding": "request"}


#: Those of go-micro itself, then the plug-ins.
CODECS = [
    Codec("JSON", "application/json", "json"),
    JSONRPC("json-rpc", "application/json-rpc", "json"),
    Codec("protobuf", "application/protobuf", "protobuf"),
    ProtoRPC("proto-rpc", "application/proto-rpc", "protobuf"),
    Codec("octet-stream", "application/octet-stream", "bytes"),
    GRPCFramed("grpc framed", "application/grpc", "protobuf"),
    GRPCFramed("grpc+json framed", "application/grpc+json", "json"),
    JSONRPC2("jsonrpc2", "application/json-rpc2", "json"),
    MessagePackRPC("msgpackrpc", "application/msgpack", "json"),
    BSONRPC("bsonrpc", "application/bson", "json"),
    Mercury("mercury", "application/mercury", "protobuf"),
]

#: What v0.14 calls JSON-RPC and proto-rpc by.
LEGACY = [
    JSONRPC("v0.14 JSON", "application/json", "json"),
    ProtoRPC("v0.14 protobuf", "application/protobuf", "protobuf"),
]
