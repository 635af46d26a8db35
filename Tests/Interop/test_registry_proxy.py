"""The `proxy` registry (alias `sidecar`): against a sidecar of this program, and against what the one of 2018 answered."""

from __future__ import annotations

import json
import os
import signal
import time

from gomicro import Node, greeter
from proxypeer import OldSidecar
from registrypeers import RegistryBlackBox
from sidecar import command, eventually, free_port, service
from test_registry_etcd import Etcd


def node(name, number, **metadata):
    return {"id": "%s-%d" % (name, number), "address": "10.9.0.%d:80" % number, "metadata": metadata}


class ProxyRegistry(RegistryBlackBox):
    def old(self, **options):
        return self.start_server(OldSidecar(**options))

    def registry(self, *peers, options=""):
        return "proxy:%s%s" % ("+".join("127.0.0.1:%d" % peer.port for peer in peers), options)

    def test_the_rules_hold_through_a_sidecar(self):
        sidecar = self.start(registry="memory")
        self.assertGreaterEqual(self.assert_rules_hold(self.registry(sidecar), "--many", "100"), 20)

    def test_the_rule_of_many_services_through_sidecars(self):
        # One sidecar keeps 1024 registrations of others.
        server = self.start_process(Etcd()).wait_until_ready()
        sidecars = [self.start(registry="etcd:127.0.0.1:%d" % server.port) for _ in range(12)]
        self.assert_many_rule_holds(self.registry(sidecars[0]), writers=map(self.registry, sidecars))

    def test_the_rules_hold_through_the_sidecar_of_2018(self):
        old = self.old()
        self.assertGreaterEqual(self.assert_rules_hold(self.registry(old)), 20)
        self.assertEqual(old.names(), [])

    def test_an_app_is_called_through_what_another_sidecar_knows_and_leaves_with_sigterm(self):
        app = self.start_server(Node(greeter))
        for peer in (self.start(registry="memory"), self.old()):
            name = "greeter%d" % peer.port
            owner = self.start(registry=self.registry(peer), name=name, app=app.port, environment={
                "MICRO_APP_PROTOCOL": "mucp", "MICRO_SERVER_ADVERTISE": "127.0.0.1:%d" % app.port})
            caller = self.start(registry="sidecar:127.0.0.1:%d" % peer.port)
            eventually(lambda: self.addresses(caller, name))
            self.assertEqual(caller.rpc(name, "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
            owner.stop()
            eventually(lambda: self.addresses(caller, name) == [])
            if isinstance(peer, OldSidecar):
                self.assertEqual(peer.names(), [])

    def test_kill_leaves_nothing_after_the_ttl(self):
        app = self.start_server(Node(greeter))
        peer = self.start(registry="memory")
        owner = self.start(registry=self.registry(peer), name="g", app=app.port, environment={
            "MICRO_REGISTER_TTL": "2", "MICRO_REGISTER_INTERVAL": "1"})
        eventually(lambda: self.addresses(peer, "g"))
        owner.send_signal(signal.SIGKILL)
        eventually(lambda: self.addresses(peer, "g") == [], within=4)

    def outage(self, first, again):
        """Ends `first` under a caller and an owner, then calls `again`: what is known stays, and comes back by itself."""
        app = self.start_server(Node(greeter))
        registry = self.registry(first)
        owner = self.start(registry=registry, name="g", app=app.port)
        caller = self.start(registry=registry)
        eventually(lambda: self.addresses(caller, "g"))
        known = self.addresses(caller, "g")
        first.stop()
        eventually(lambda: caller.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        eventually(lambda: owner.metric("micro_sidecar_registry_outages_total") >= 1, what="the owner's outage")
        self.assertEqual(self.addresses(caller, "g"), known)
        peer = again()
        begun = time.monotonic()
        eventually(lambda: self.registered(peer, "g"), what="the registration written again")
        self.assertLess(time.monotonic() - begun, 2)
        eventually(lambda: self.addresses(caller, "g") == known)
        eventually(lambda: "answers again" in caller.text())

    def registered(self, peer, name):
        return peer.find(name) if isinstance(peer, OldSidecar) else self.addresses(peer, name)

    def test_an_outage_of_a_sidecar(self):
        first = self.start(registry="memory")
        environment = {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % first.port}

        def again():
            peer = self.start(registry="memory", environment=environment)
            peer.port = first.port
            return peer

        self.outage(first, again)

    def test_an_outage_of_the_sidecar_of_2018(self):
        first = self.old()
        self.outage(first, lambda: self.old(port=first.port))

    def test_another_server_takes_over(self):
        one, two = self.old(), self.old()
        for peer in (one, two):
            peer.put(service("s", node("s", 1)))
        sidecar = self.start(registry=self.registry(one, two))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:80"])
        one.stop()
        two.put(service("s", node("s", 2)))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:80", "10.9.0.2:80"])

    def test_polling_where_no_websocket_gets_through(self):
        old = self.old(upgrades=False)
        sidecar = self.start(registry=self.registry(old, options="?poll_seconds=1"))
        old.put(service("s", node("s", 1)))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:80"], within=3)
        old.remove(service("s", node("s", 1)))
        eventually(lambda: self.addresses(sidecar, "s") == [], within=3)

    def test_changes_arrive_at_once_and_pings_are_answered(self):
        for peer in (self.start(registry="memory"), self.old()):
            sidecar = self.start(registry=self.registry(peer))
            eventually(lambda: sidecar.metric("micro_sidecar_registry_stale_seconds") == 0)
            slowest = []
            for number in range(1, 8):
                entry = service("w", node("w", number))
                begun = time.monotonic()
                if isinstance(peer, OldSidecar):
                    peer.ping()
                    peer.put(entry)
                else:
                    peer.post("/registry", entry)
                eventually(lambda: "10.9.0.%d:80" % number in self.addresses(sidecar, "w"))
                slowest.append(time.monotonic() - begun)
            self.assertLess(sorted(slowest)[3], 0.1, slowest)

    def test_old_nodes_with_a_port_and_bad_entries(self):
        old = self.old()
        old.put({"name": "s", "version": "1", "metadata": None, "endpoints": None,
                 "nodes": [{"id": "s-1", "address": "10.9.0.1", "port": 81, "metadata": None}]})
        old.put(service("bad", node("bad", 1)))
        old.broken.add("bad")
        sidecar = self.start(registry=self.registry(old))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:81"])
        with old.lock:
            for junk in ([1, 2], {"Action": "create", "Service": {"name": "x", "nodes": 5}}, {"Action": 1}):
                for socket in old.sockets:
                    socket.frame(1, json.dumps(junk).encode())
        old.put(service("t", node("t", 2)))
        eventually(lambda: self.addresses(sidecar, "t") == ["10.9.0.2:80"])
        self.assertEqual(self.addresses(sidecar, "s"), ["10.9.0.1:81"])
        self.assertEqual(sidecar.text().count("registry entry left out"), sidecar.text().count("entry left out"))
        self.assertIn("left out", sidecar.text())

    def test_nodes_can_be_written_as_old_ones_want_them(self):
        old = self.old()
        app = self.start_server(Node(greeter))
        self.start(registry=self.registry(old, options="?address=split"), name="g", app=app.port)
        found = eventually(lambda: old.find("g"))[0]["nodes"][0]
        self.assertGreater(found["port"], 0)
        self.assertNotIn(":", found["address"])

    def test_the_doctor_names_the_cause(self):
        port = free_port()
        old = self.old()
        for registry, words in (
            ("proxy:127.0.0.1:%d" % port, ["refused", "start it there"]),
            ("proxy:127.0.0.1:%d/nowhere" % old.port, ["404", "MICRO_SIDECAR_ADDRESS"]),
            ("proxy:https://127.0.0.1:%d" % old.port, ["TLS", "ca_file"]),
            ("proxy:127.0.0.1:%d" % old.port, ["answers as a sidecar"]),
            ("proxy", ["no sidecar is named"]),
        ):
            _, output, errors = command("doctor", environment={
                "MICRO_REGISTRY": registry, "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % free_port(),
                "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % free_port()})
            for word in words:
                self.assertIn(word, output + errors)
