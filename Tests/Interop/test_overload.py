"""Apps and services with limits as callers meet them: what is turned away, what is told of the load, where calls go then."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time

import grpc

from gomicro import App, Client, Node, greeter, header
from sidecar import BlackBox, eventually, run_together, service
from test_grpc_server import PATH, channel, unary

HELLO = "go.micro.srv.hello"
CALL = "/hello/say/hello"


class Gate:
    """An app whose calls wait until they are let go."""

    def __init__(self):
        self.open = threading.Event()
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def __call__(self, method, path, headers, body):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            if path != "/Say/Quick":
                self.open.wait(10)
            return 200, {"Content-Type": "application/json"}, b'{"msg": "app"}'
        finally:
            with self.lock:
                self.inside -= 1


class AppLimit(BlackBox):
    def with_app(self, concurrency, **environment):
        gate = Gate()
        self.addCleanup(gate.open.set)
        app = self.start_server(App(gate))
        sidecar = self.start(
            name=HELLO,
            app=app.port,
            environment={"MICRO_APP_CONCURRENCY": concurrency, **environment},
        )
        return gate, sidecar

    def call(self, sidecar, endpoint="Say.Hello", headers=None):
        client = Client(sidecar.server_port, "micro", "application/json", service=HELLO)
        self.addCleanup(client.close)
        client.send(endpoint, {}, headers)
        return client

    def test_a_limit_below_the_number_of_workers_is_kept(self):
        gate, sidecar = self.with_app("2", MICRO_SIDECAR_WORKERS="4")
        clients = [self.call(sidecar) for _ in range(16)]
        eventually(lambda: gate.inside == 2, what="two calls at the app")
        gate.open.set()
        for client in clients:
            client.receive()
        self.assertEqual(gate.most, 2)

    def test_replies_say_how_busy_the_app_is(self):
        gate, sidecar = self.with_app("4", MICRO_SIDECAR_WORKERS="1")
        waiting = [self.call(sidecar) for _ in range(2)]
        eventually(lambda: gate.inside == 2, what="two calls at the app")
        reply = self.call(sidecar, "Say.Quick").connection.read()
        self.assertEqual(header(reply, "X-Micro-Load"), "0.50")
        gate.open.set()
        for client in waiting:
            client.receive()


class Limits(BlackBox):
    def start_with(self, policies, *nodes):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "micro.json")
        with open(path, "w") as stream:
            json.dump({"policies": policies}, stream)
        return self.start(
            services=[service(HELLO, *[node.registration() for node in nodes])],
            environment={"MICRO_CONFIG": path, "MICRO_SIDECAR_WORKERS": "1"},
        )

    def test_grpc_callers_above_a_rate_are_told_when_to_come_back(self):
        node = self.start_server(Node(greeter))
        sidecar = self.start_with([{"service": HELLO, "rate_limit": {"rate": 0.5, "burst": 1}}], node)
        with channel(sidecar.port, enable_retries=0) as client:
            unary(client, PATH + "Hello", timeout=10)
            with self.assertRaises(grpc.RpcError) as caught:
                unary(client, PATH + "Hello", timeout=10)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        wait = int(dict(caught.exception.trailing_metadata())["grpc-retry-pushback-ms"])
        self.assertTrue(1000 <= wait <= 2000, wait)

    def test_each_node_has_its_limit_and_every_place_is_used(self):
        lock, inside, most = threading.Lock(), {}, {}

        def handler(name):
            def handle(call):
                with lock:
                    inside[name] = inside.get(name, 0) + 1
                    most[name] = max(most.get(name, 0), inside[name])
                time.sleep(0.02)
                with lock:
                    inside[name] -= 1
                return {"msg": name}

            return handle

        nodes = [self.start_server(Node(handler(str(index)))) for index in range(3)]
        limits = {"in_flight": 6, "in_flight_per_node": 2}
        sidecar = self.start_with([{"service": HELLO, "limits": limits}], *nodes)
        statuses = []

        def work(index):
            for _ in range(10):
                statuses.append(sidecar.post(CALL, {}).status)

        run_together(12, work)
        self.assertEqual(set(statuses), {200})
        self.assertEqual(most, {"0": 2, "1": 2, "2": 2})


class Loaded(BlackBox):
    def test_a_node_that_says_it_is_full_gets_fewer_calls(self):
        """Two sidecars before apps of one service; others keep one of them busy."""
        gate = Gate()
        self.addCleanup(gate.open.set)
        sidecars = []
        for _ in range(2):
            app = self.start_server(App(gate))
            sidecars.append(
                self.start(
                    name=HELLO,
                    app=app.port,
                    environment={"MICRO_APP_CONCURRENCY": "2", "MICRO_SIDECAR_WORKERS": "1"},
                )
            )
        busy = Client(sidecars[0].server_port, "micro", "application/json", service=HELLO)
        self.addCleanup(busy.close)
        busy.send("Say.Hello", {}, {})
        eventually(lambda: gate.inside == 1, what="a call that keeps the first busy")
        caller = self.start(
            services=[service(HELLO, *[each.server_port for each in sidecars])], environment={"MICRO_SIDECAR_WORKERS": "1"}
        )
        for _ in range(20):
            self.assertEqual(caller.post("/hello/say/quick", {}).status, 200)
        explained = caller.get("/explain?service=%s&endpoint=Say.Quick" % HELLO).json()
        loads = sorted(node["reported_load"] or 0 for node in explained["candidates"])
        self.assertEqual(loads, [0, 0.5])
