"""Selection and resilience as users meet them: nodes that fail, die and come back, policies of the file, explain, strict."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time

from gomicro import Node, NodeError, greeter
from sidecar import LONG, BlackBox, command, eventually, run_together, service

HELLO = "go.micro.srv.hello"
CALL = "/hello/say/hello"


def unwell(code):
    def handler(call):
        raise NodeError(json.dumps({"id": HELLO, "code": code, "detail": "no", "status": "x"}))

    return handler


class Switch:
    """A node's handler that can be told to fail."""

    def __init__(self, code=0):
        self.code = code

    def __call__(self, call):
        if call.endpoint == "Debug.Health":
            return {"status": "ok" if not self.code else "bad"}
        if self.code:
            unwell(self.code)(call)
        return greeter(call)


class Policies(BlackBox):
    def start_with(self, policies, nodes, environment=None):
        """A sidecar with these policies before these nodes."""
        sidecar_settings = dict(environment or {})
        folder = self.folder()
        path = os.path.join(folder, "micro.json")
        with open(path, "w") as stream:
            json.dump({"policies": policies}, stream)
        sidecar_settings["MICRO_CONFIG"] = path
        return self.start(services=[service(HELLO, *[n.registration() for n in nodes])], environment=sidecar_settings)

    def folder(self):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        return folder.name

    def test_health_checks_take_a_node_out_before_any_call_fails(self):
        switch = Switch()
        sick, well = self.start_server(Node(switch)), self.start_server(Node(Switch()))
        check = {"probe": "debug", "period": "200ms", "timeout": "150ms", "failures": 2}
        sidecar = self.start_with([{"service": HELLO, "health_check": check}], [sick, well])
        self.assertEqual(sidecar.post(CALL, {"name": "x"}).status, 200)
        switch.code = 503

        def is_out():
            explained = sidecar.get("/explain?service=%s&endpoint=Say.Hello" % HELLO).json()
            states = {node["id"]: node["standing"] for node in explained["candidates"]}
            return states[sick.registration()["id"]] == "unhealthy"

        eventually(is_out, 10, "the sick node is out")
        for turn in range(30):
            self.assertEqual(sidecar.post(CALL, {"name": "x"}).status, 200)
        switch.code = 0
        eventually(lambda: not is_out(), 10, "the node is back")
        self.assertGreater(sidecar.metric("micro_sidecar_health_checks_failed_total"), 1)

    def test_a_hedge_saves_an_idempotent_call_from_a_node_that_hangs(self):
        gate = threading.Event()
        self.addCleanup(gate.set)

        def hangs(call):
            gate.wait(20)
            return greeter(call)

        slow, quick = self.start_server(Node(hangs)), self.start_server(Node(greeter))
        sidecar = self.start_with([{"service": HELLO, "hedge": {"after": "50ms"}}], [slow, quick])
        for turn in range(12):
            answer = sidecar.get(CALL + "?name=x")
            self.assertEqual(answer.status, 200, answer)
            self.assertLess(int(answer.headers["X-Micro-Upstream-Time"]), 3_000_000)
        self.assertGreaterEqual(sidecar.metric("micro_sidecar_hedges_won_total"), 1)
        self.assertTrue(slow.calls and quick.calls)


def call_until_one_is_out(sidecar):
    """Calls until a node is ejected: how often a node that fails is tried is left to chance."""
    for turn in range(2000):
        if sidecar.metric("micro_sidecar_ejections_total") > 0:
            return
        sidecar.post(CALL, {"name": "x"})
    raise AssertionError("no node was ejected in 2,000 calls")


class Failures(BlackBox):
    def test_a_failing_node_rests_without_any_setting(self):
        bad, good = self.start_server(Node(unwell(503))), self.start_server(Node(greeter))
        sidecar = self.start(services=[service(HELLO, bad.registration(), good.registration())])
        call_until_one_is_out(sidecar)
        for turn in range(50):
            self.assertEqual(sidecar.post(CALL, {"name": "x"}).status, 200)
        self.assertEqual(len(bad.calls), 5, "five failures in a row are enough")
        self.assertEqual(sidecar.metric("micro_sidecar_ejections_total"), 1)

    def test_restarts_of_all_nodes_fail_no_call(self):
        nodes = [self.start_server(Node(greeter)) for _ in range(5)]
        sidecar = self.start(services=[service(HELLO, *[n.registration() for n in nodes])])
        over = time.monotonic() + (20 if LONG else 4)
        statuses, lock, paced = {}, threading.Lock(), threading.Event()

        def calls(index):
            while time.monotonic() < over:
                status = sidecar.get(CALL + "?name=x").status
                with lock:
                    statuses[status] = statuses.get(status, 0) + 1

        def restarts():
            while time.monotonic() < over - 1:
                for index, node in enumerate(nodes):
                    port = node.port
                    node.stop()
                    fresh = Node(greeter, port=port)
                    nodes[index] = self.start_server(fresh)
                    paced.wait(0.1)  # one call may meet one restart, and not one after the other

        thread = threading.Thread(target=restarts)
        thread.start()
        run_together(4, calls)
        thread.join()
        self.assertEqual(set(statuses), {200}, statuses)
        self.assertGreater(statuses[200], 100)


class Explain(BlackBox):
    def test_it_shows_candidates_exclusions_scores_and_limits(self):
        bad, good = self.start_server(Node(unwell(503))), self.start_server(Node(greeter))
        sidecar = self.start(services=[service(HELLO, bad.registration(), good.registration())])
        call_until_one_is_out(sidecar)
        explained = sidecar.get("/explain?path=" + CALL).json()
        self.assertEqual((explained["service"], explained["endpoint"]), (HELLO, "Say.Hello"))
        self.assertEqual(explained["namespace"], "go.micro.srv")
        self.assertEqual(explained["selection"]["usable"], 1)
        nodes = {node["id"]: node for node in explained["candidates"]}
        out, well = nodes[bad.registration()["id"]], nodes[good.registration()["id"]]
        self.assertEqual((out["standing"], out["cause"]), ("out", "consecutive_failures"))
        self.assertIn("ejected", out["excluded"])
        self.assertGreater(out["back_in_ms"], 0)
        self.assertIsNone(well["excluded"])
        self.assertGreater(well["latency_ms"], 0)
        self.assertGreater(well["score"], 0)
        self.assertEqual(explained["call"]["timeout_ms"], 5000)
        before = len(good.calls)
        sidecar.get("/explain?service=%s&endpoint=Say.Hello" % HELLO)
        self.assertEqual(len(good.calls), before, "nothing is sent")

    def test_the_command_prints_a_table_and_json(self):
        node = self.start_server(Node(greeter))
        sidecar = self.start(services=[service(HELLO, node.registration())])
        at = {"MICRO_PROXY_ADDRESS": "127.0.0.1:%d" % sidecar.port}
        status, out, err = command("explain", HELLO, "Say.Hello", environment=at)
        self.assertEqual((status, err), (0, ""))
        self.assertIn("NODE", out)
        self.assertIn(node.registration()["id"], out)
        self.assertIn("1 nodes usable", out)
        status, out, err = command("explain", CALL, "-o", "json", environment=at)
        self.assertEqual(json.loads(out)["service"], HELLO)
        status, out, err = command("explain", "go.micro.srv.nobody", environment=at)
        self.assertEqual(status, 1)
        self.assertIn("not found", err)

    def test_bad_questions_are_told_what_is_missing(self):
        sidecar = self.start()
        self.assertEqual(sidecar.get("/explain").status, 400)
        self.assertEqual(sidecar.get("/explain?path=/x").status, 400)
        self.assertEqual(sidecar.get("/explain?service=a%20b").status, 400)
        self.assertEqual(sidecar.get("/explain?service=go.micro.srv.nobody").status, 404)
        self.assertEqual(sidecar.post("/explain", {}).status, 405)


class Strict(BlackBox):
    def attempts(self, mode, code):
        node = self.start_server(Node(unwell(code)))
        environment = {"MICRO_SIDECAR_COMPAT": mode} if mode else {}
        sidecar = self.start(services=[service(HELLO, node.registration())], environment=environment)
        sidecar.post(CALL, {"name": "x"})
        return len(node.calls)

    def test_calls_are_repeated_as_the_frameworks_clients_do(self):
        self.assertEqual(self.attempts(None, 500), 1, "by default what may have run is not repeated")
        self.assertEqual(self.attempts("strict", 500), 2)
        self.assertEqual(self.attempts("strict-v2", 408), 2)
        self.assertEqual(self.attempts("strict-v4", 500), 1)
