"""The `eureka` registry against a server of Eureka's REST API (eurekapeer.py)."""

from __future__ import annotations

import signal
import time

from eurekapeer import Eureka, instance
from gomicro import Node, greeter
from registrypeers import RegistryBlackBox
from sidecar import command, eventually, free_port


class EurekaRegistry(RegistryBlackBox):
    def eureka(self, *instances, **options):
        server = self.start_server(Eureka(**options))
        for each in instances:
            server.put(each)
        return server

    def registry(self, *servers, options="?poll_ms=50"):
        return "eureka:%s%s" % ("+".join("http://127.0.0.1:%d" % server.port for server in servers), options)

    def test_the_rules_hold(self):
        server = self.eureka()
        held = self.assert_rules_hold(
            self.registry(server), "--without", "service-metadata", "--without", "empty-version",
            "--many", "100")
        self.assertGreaterEqual(held, 20)
        self.assertEqual(server.names(), [])

    def test_the_rule_of_many_services(self):
        server = self.eureka()
        self.assert_many_rule_holds(self.registry(server, options="?poll_ms=1000"))
        self.assertEqual(server.names(), [])

    def test_an_app_registers_renews_and_leaves(self):
        app = self.start_server(Node(greeter))
        server = self.eureka()
        owner = self.start(registry=self.registry(server), name="Greeter", app=app.port, environment={
            "MICRO_APP_PROTOCOL": "mucp", "MICRO_SERVER_ADVERTISE": "127.0.0.1:%d" % app.port,
            "MICRO_REGISTER_TTL": "2", "MICRO_REGISTER_INTERVAL": "1"})
        caller = self.start(registry=self.registry(server))
        eventually(lambda: self.addresses(caller, "Greeter"))
        self.assertEqual(caller.rpc("Greeter", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        eventually(lambda: [r for r in server.requests if r.startswith("PUT")], what="a heartbeat")
        self.assertEqual(len([r for r in server.requests if r.startswith("POST")]), 1)
        # The server forgets it: the next heartbeat is answered with 404.
        with server.lock:
            server.remove("GREETER", list(server.apps["GREETER"])[0])
        eventually(lambda: server.names() == ["GREETER"], what="the registration written again")
        owner.stop()
        self.assertEqual(server.names(), [])

    def test_kill_leaves_nothing_after_the_lease(self):
        app = self.start_server(Node(greeter))
        server = self.eureka()
        owner = self.start(registry=self.registry(server), name="g", app=app.port, environment={
            "MICRO_REGISTER_TTL": "2", "MICRO_REGISTER_INTERVAL": "1"})
        eventually(lambda: server.names() == ["G"])
        owner.send_signal(signal.SIGKILL)
        eventually(lambda: server.names() == [], within=4)

    def test_reading_rules_and_bad_instances(self):
        server = self.eureka(
            instance("S", 1), instance("S", 2, status="DOWN"), instance("S", 3, version=""),
            instance("S", 4, ipAddr="10.8.0.4:81"), instance("S", 5, port={"$": "82", "@enabled": "true"}),
            instance("S", 6, port={"$": 99999}), instance("S", 7, metadata={"version": "1", "metadata": "{"}))
        sidecar = self.start(registry=self.registry(server))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.1:80", "10.8.0.4:81", "10.8.0.5:82"])
        found = self.listed(sidecar, "s")[0]["nodes"][0]
        self.assertEqual((found["id"], found["metadata"]), ("S-1", {"zone": "a"}))
        whole = [request for request in server.requests if request == "GET /eureka/v2/apps"]
        eventually(lambda: server.requests.count("GET /eureka/v2/apps/delta") > 10)
        self.assertEqual(server.requests.count("GET /eureka/v2/apps"), len(whole), "bad instances spoil the hash")
        self.assertEqual(sidecar.text().count("entry=s/"), 0)
        self.assertEqual(sidecar.text().count("registry entry left out"), 2)
        foreign = self.start(registry=self.registry(server, options="?foreign=true&poll_ms=50"))
        eventually(lambda: "10.8.0.3:80" in self.addresses(foreign, "s"))

    def test_changes_come_by_delta_and_what_was_missed_by_everything(self):
        for delta in (True, False):
            server = self.eureka(instance("S", 1), delta=delta)
            sidecar = self.start(registry=self.registry(server))
            eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.1:80"])
            server.put(instance("S", 2))
            eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.1:80", "10.8.0.2:80"])
            server.remove("S", "10.8.0.1:S-1")
            eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.2:80"])
            with server.lock:
                server.put(instance("S", 3))
                server.changes = []
            eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.2:80", "10.8.0.3:80"])

    def test_an_outage_that_loses_everything(self):
        app = self.start_server(Node(greeter))
        first = self.eureka()
        owner = self.start(registry=self.registry(first), name="g", app=app.port)
        caller = self.start(registry=self.registry(first))
        eventually(lambda: self.addresses(caller, "g"))
        known = self.addresses(caller, "g")
        first.stop()
        for sidecar in (owner, caller):
            eventually(lambda: sidecar.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        self.assertEqual(self.addresses(caller, "g"), known)
        again = self.eureka(port=first.port)
        begun = time.monotonic()
        eventually(lambda: again.names() == ["G"], what="the registration written again")
        self.assertLess(time.monotonic() - begun, 2)
        eventually(lambda: self.addresses(caller, "g") == known)

    def test_another_server_takes_over_and_a_password_is_sent(self):
        one, two = self.eureka(), self.eureka(instance("S", 1), password="Basic bWU6c2VjcmV0")
        one.stop()
        sidecar = self.start(registry=self.registry(one, two, options="?poll_ms=50&user=me&password=secret"))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.8.0.1:80"])

    def test_the_doctor_names_the_cause(self):
        spring, secured = self.eureka(base="/eureka"), self.eureka(password="Basic x")
        for registry, words in (
            ("eureka:127.0.0.1:%d" % free_port(), ["refused", "start it there"]),
            (self.registry(spring), ["404", "Spring's /eureka"]),
            ("eureka:127.0.0.1:%d/eureka" % spring.port, ["answers"]),
            (self.registry(secured), ["401", "password_file"]),
        ):
            _, output, errors = command("doctor", environment={
                "MICRO_REGISTRY": registry, "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % free_port(),
                "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % free_port()})
            for word in words:
                self.assertIn(word, output + errors)
