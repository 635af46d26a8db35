"""Which node gets a call: selectors by name, calls that belong together, calls to some nodes only."""

from __future__ import annotations

from gomicro import Node, greeter
from sidecar import BlackBox, command, free_port, service
from test_grpc_server import channel, unary

HELLO = "go.micro.srv.hello"
PATH = "/hello/say/hello"


class Selection(BlackBox):
    def nodes(self, count):
        return [self.start_server(Node(greeter)) for _ in range(count)]

    def shares(self, nodes, calls, *headers, sidecar):
        before = [len(node.calls) for node in nodes]
        for turn in range(calls):
            self.assertEqual(sidecar.post(PATH, {}, headers=headers[turn % len(headers)] if headers else None).status, 200)
        return [len(node.calls) - was for node, was in zip(nodes, before)]

    def weighted(self, nodes, weights):
        entries = [node.registration() for node in nodes]
        for entry, weight in zip(entries, weights):
            entry["metadata"] = dict(entry.get("metadata") or {}, weight=str(weight))
        return [service(HELLO, *entries)]

    def test_every_selector_of_the_list_serves_calls(self):
        nodes = self.nodes(2)
        services = [service(HELLO, *(node.registration() for node in nodes))]
        for selector in (
            "ewma", "leastrequest", "random", "weightedrandom", "weightedroundrobin", "hash", "shard:header=X-User",
            "crc32:cookie=sid", "blacklist", "label:region=eu", "cache", "default",
        ):
            sidecar = self.start(services=services, environment={"MICRO_SELECTOR": selector})
            self.assertEqual(sum(self.shares(nodes, 4, sidecar=sidecar)), 4, selector)
            self.end(sidecar)

    def test_weights_are_shares(self):
        nodes = self.nodes(3)
        sidecar = self.start(
            services=self.weighted(nodes, (3, 1, 0)), environment={"MICRO_SELECTOR": "weightedroundrobin"})
        shares = self.shares(nodes, 40, sidecar=sidecar)
        self.assertEqual(shares[2], 0)
        self.assertIn(shares[0], (29, 30, 31))

    def test_calls_of_one_key_go_to_one_node_whichever_sidecar_they_come_by(self):
        nodes = self.nodes(4)
        services = [service(HELLO, *(node.registration() for node in nodes))]
        for selector in ("hash:header=X-User", "shard:header=X-User", "crc32:header=X-User"):
            sidecars = [self.start(services=services, environment={"MICRO_SELECTOR": selector}) for _ in range(2)]
            used = set()
            for user in range(12):
                chosen = set()
                for sidecar in sidecars:
                    shares = self.shares(nodes, 2, {"X-User": f"user-{user}"}, sidecar=sidecar)
                    chosen |= {index for index, share in enumerate(shares) if share}
                self.assertEqual(len(chosen), 1, (selector, user))
                used |= chosen
            self.assertGreater(len(used), 1, selector)
            for sidecar in sidecars:
                self.end(sidecar)

    def test_grpc_callers_send_the_key_as_metadata(self):
        nodes = self.nodes(4)
        services = [service(HELLO, *(node.registration() for node in nodes))]
        sidecar = self.start(services=services, environment={"MICRO_SELECTOR": "hash:header=X-User"})
        used = set()
        with channel(sidecar.port) as client:
            for user in range(12):
                before = [len(node.calls) for node in nodes]
                for _ in range(4):
                    unary(client, "/%s.Say/Hello" % HELLO, metadata=[("x-user", "user-%d" % user)], timeout=10)
                chosen = {index for index, node in enumerate(nodes) if len(node.calls) > before[index]}
                self.assertEqual(len(chosen), 1, user)
                used |= chosen
        self.assertGreater(len(used), 1)

    def test_a_call_may_name_its_nodes(self):
        nodes = self.nodes(2)
        services = [
            service(HELLO, nodes[0].registration(), version="v1"), service(HELLO, nodes[1].registration(), version="v2")]
        sidecar = self.start(services=services)
        self.assertEqual(self.shares(nodes, 6, {"X-Micro-Select": "version=v2"}, sidecar=sidecar), [0, 6])
        self.assertEqual(self.shares(nodes, 6, {"X-Micro-Select": "version = v1"}, sidecar=sidecar), [6, 0])
        self.assertNotIn("x-micro-select", str(nodes[0].calls[0].headers).lower())
        self.assertEqual(sidecar.post(PATH, {}, headers={"X-Micro-Select": "version=v3"}).status, 503)
        answer = sidecar.post(PATH, {}, headers={"X-Micro-Select": "v3"})
        self.assertEqual(answer.status, 400)
        self.assertIn("X-Micro-Select", answer.json()["detail"])

    def test_static_names_are_addresses_and_the_registry_is_not_asked(self):
        registered, called = self.nodes(2)
        sidecar = self.start(
            services=[service("localhost", registered.registration())],
            environment={"MICRO_SELECTOR": "static", "STATIC_SELECTOR_PORT_NUMBER": str(called.port)})
        headers = {"Micro-Service": "localhost", "Micro-Endpoint": "Say.Hello"}
        self.assertEqual(sidecar.post("/", {}, headers=headers).status, 200)
        self.assertEqual([len(node.calls) for node in (registered, called)], [0, 1])
        self.assertIn("localhost", sidecar.get("/registry").body.decode())
        headers["Micro-Service"] = f"127.0.0.1:{called.port}"
        self.assertEqual(sidecar.post("/", {}, headers=headers).status, 200)
        headers["Micro-Service"] = f"127.0.0.1:{free_port()}"
        self.assertEqual(sidecar.post("/", {}, headers=headers).status, 503)

    def test_what_is_no_selector_is_refused_with_its_place_and_the_list(self):
        for value, told in (
            ("ewmaa", "did you mean ewma?"), ("hash:user", "expected header=NAME"), ("label", "key=value"),
            ("roundrobin:x", "takes no argument"),
        ):
            status, _, said = command("config", environment={"MICRO_SELECTOR": value})
            self.assertNotEqual(status, 0, value)
            self.assertIn("MICRO_SELECTOR", said)
            self.assertIn(told, said)
