"""The fake go-micro peers themselves: their bytes are a real peer's, and they understand each other without a sidecar."""

from __future__ import annotations

import itertools
import json
import unittest

from gomicro import Client, Node, fields, greeter, proto_rpc_parts, proto_rpc_request, proto_rpc_response, string_field

V014_REQUEST = bytes.fromhex("000000150A0A48656C6C6F2E50696E67110000000000000000000000030A0161")
V014_RESPONSE = bytes.fromhex("000000170A0A48656C6C6F2E50696E671100000000000000001A00000000060A0468692061")


class Peers(unittest.TestCase):
    def test_the_envelope_is_the_recorded_one(self):
        self.assertEqual(proto_rpc_request("Hello.Ping", 0, string_field(1, "a")), V014_REQUEST)
        self.assertEqual(proto_rpc_response("Hello.Ping", 0, string_field(1, "hi a")), V014_RESPONSE)
        self.assertEqual(proto_rpc_parts(V014_REQUEST), ({1: b"Hello.Ping", 2: 0}, b"\x0a\x01a"))

    def test_callers_and_nodes_of_one_generation_understand_each_other(self):
        kinds = ("application/json", "application/json-rpc", "application/protobuf", "application/proto-rpc")
        for generation, kind in itertools.product(("v0.14", "x", "micro"), kinds):
            with self.subTest("%s %s" % (generation, kind)):
                node = Node(greeter, generation).start()
                self.addCleanup(node.stop)
                client = Client(node.port, generation, kind)
                self.addCleanup(client.close)
                asked = {"name": "a"} if "json" in kind else string_field(1, "a")
                payload, error = client.call("Say.Hello", asked)
                self.assertIsNone(error)
                self.assertEqual(payload["msg"] if "json" in kind else fields(payload)[1].decode(), "Hello a")
                _, error = client.call("Say.Fail", asked)
                self.assertEqual(json.loads(error)["detail"], "bad <name>")

    def test_replies_echo_the_first_requests_headers(self):
        node = Node(greeter).start()
        self.addCleanup(node.stop)
        client = Client(node.port, "micro", "application/json")
        self.addCleanup(client.close)
        for tenant in ("one", "two"):
            client.send("Say.Hello", {}, {"X-Tenant": tenant})
            self.assertIn(("X-Tenant", "one"), client.connection.read().headers)
