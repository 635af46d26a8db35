"""Queries and forms become JSON with the types that the registry tells of an endpoint's request."""

from __future__ import annotations

import json

from gomicro import Node
from gomicro_streams import StreamNode
from sidecar import BlackBox, eventually, service

HELLO = "go.micro.srv.hello"


def value(name, kind, *values):
    return {"name": name, "type": kind, "values": list(values) or None}


# As a go-micro server describes {user_name string; age int32; vip bool; tags []string; address {city string; zip int64}}.
REQUEST = value(
    "Request", "Request", value("user_name", "string"), value("age", "int32"), value("vip", "bool"),
    value("tags", "[]string", value("string", "string")),
    value("address", "Address", value("city", "string"), value("zip", "int64")),
)
QUERY = "userName=ann+b&age=41&vip&tags=1&address.city=Rome&address.zip=118&more=7"
SHAPED = {
    "user_name": "ann b", "age": 41, "vip": True, "tags": ["1"], "more": "7", "address": {"city": "Rome", "zip": 118}}


class Queries(BlackBox):
    def begin(self, node, endpoints):
        node = self.start_server(node)
        described = service(HELLO, node.registration(), endpoints=endpoints)
        return node, self.start(services=[described])

    def test_a_query_has_the_types_of_the_registry_from_the_first_call_on(self):
        node, sidecar = self.begin(Node(lambda call: {}), [{"name": "User.Find", "request": REQUEST}])
        for path in ("/hello/user/find?", "/go.micro.srv.hello/User.Find?"):
            self.assertEqual(sidecar.get(path + QUERY).status, 200)
            self.assertEqual(node.calls[-1].payload, SHAPED)

    def test_a_form_too_and_json_stays_as_it_is(self):
        node, sidecar = self.begin(Node(lambda call: {}), [{"name": "User.Find", "request": REQUEST}])
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self.assertEqual(sidecar.ask("POST", "/hello/user/find", QUERY.encode(), form).status, 200)
        self.assertEqual(node.calls[-1].payload, SHAPED)
        self.assertEqual(sidecar.post("/hello/user/find", {"age": "41", "userName": "ann"}).status, 200)
        self.assertEqual(node.calls[-1].payload, {"age": "41", "userName": "ann"})

    def test_v0_14_nodes_get_it_in_their_envelope(self):
        node, sidecar = self.begin(Node(lambda call: {}, "v0.14"), [{"name": "User.Find", "request": REQUEST}])
        self.assertEqual(sidecar.get("/hello/user/find?" + QUERY).status, 200)
        self.assertEqual(node.calls[-1].payload, SHAPED)

    def test_an_endpoint_that_is_not_described_gets_texts(self):
        node, sidecar = self.begin(
            Node(lambda call: {}), [{"name": "User.Find", "request": REQUEST}, {"name": "User.Drop", "request": None}])
        for endpoint in ("drop", "other"):
            self.assertEqual(sidecar.get("/hello/user/%s?age=41&vip=true&age=42" % endpoint).status, 200)
            self.assertEqual(node.calls[-1].payload, {"age": ["41", "42"], "vip": "true"})

    def test_a_description_that_changes(self):
        node, sidecar = self.begin(Node(lambda call: {}), [{"name": "User.Find", "request": REQUEST}])
        sidecar.get("/hello/user/find?age=41")
        described = value("Request", "Request", value("age", "string"))
        sidecar.write_registry([service(
            HELLO, node.registration(), version="2", endpoints=[{"name": "User.Find", "request": described}])])

        def asked():
            sidecar.get("/hello/user/find?age=41")
            return node.calls[-1].payload

        eventually(lambda: asked() == {"age": "41"})

    def test_a_stream_that_is_asked_with_a_query(self):
        received = []

        def answer(stream):
            received.append(stream.receive())
            stream.send({"n": 1})

        _, sidecar = self.begin(
            StreamNode(answer), [{"name": "User.Watch", "request": REQUEST, "metadata": {"stream": "true"}}])
        reply = sidecar.get("/hello/user/watch?" + QUERY, {"Accept": "application/x-ndjson"})
        self.assertEqual([json.loads(line) for line in reply.body.splitlines()], [{"n": 1}])
        self.assertEqual(received, [SHAPED])
