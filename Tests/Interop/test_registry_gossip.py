"""The `gossip` registry between sidecars, and with what a recorded go-micro member said."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time

from gomicro import App
from registrypeers import RegistryBlackBox, recorded, recorded_datagrams
from sidecar import command, eventually, free_ports


class GossipRegistry(RegistryBlackBox):
    def member(self, port, *peers, name=None, options="", environment=None, wait=True):
        registry = "gossip:%s?bind=127.0.0.1:%d%s" % ("+".join("127.0.0.1:%d" % peer for peer in peers), port, options)
        app = self.start_server(App()) if name else None
        return self.start(
            registry=registry, name=name, app=app and app.port, environment=environment, wait=wait)

    def test_the_rules_hold_between_two_members(self):
        first, second = free_ports(2)
        for generation in ("v3", "v1"):
            rules = () if generation == "v3" else ("--rule", "found as it was written")
            self.assert_rules_hold(
                "gossip:?bind=127.0.0.1:%d&generation=%s" % (first, generation), *rules,
                "--apart", "gossip:127.0.0.1:%d?bind=127.0.0.1:%d&generation=%s" % (first, second, generation))

    def test_members_find_each_other_through_one_of_them_and_leave_in_order(self):
        ports = free_ports(3)
        first = self.member(ports[0], name="one")
        second = self.member(ports[1], ports[0], name="two")
        third = self.member(ports[2], ports[0], name="three")
        for sidecar in (first, second, third):
            for name in ("one", "two", "three"):
                eventually(lambda: len(self.addresses(sidecar, name)) == 1, what=name)
        self.assertEqual(third.rpc("two", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        begun = time.monotonic()
        second.stop()
        eventually(lambda: not self.addresses(first, "two") and not self.addresses(third, "two"), within=2)
        print("        a member's leaving is seen after %.0f ms" % ((time.monotonic() - begun) * 1000))

    def test_an_encrypted_cluster(self):
        """Members with a key find each other, one of them by a file that holds a second; others are told why they do not."""
        ports = free_ports(4)
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("micro-gossip-key\nfedcba9876543210\n")
            keys.flush()
            first = self.member(ports[0], name="one", options="&secure=true")
            second = self.member(ports[1], ports[0], name="two", options="&key_file=" + keys.name)
            for sidecar in (first, second):
                for name in ("one", "two"):
                    eventually(lambda: len(self.addresses(sidecar, name)) == 1, 10, what=name)
            self.assertEqual(first.rpc("two", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
            plain = self.member(ports[2], ports[0], name="plain", wait=False)
            eventually(lambda: "members of an encrypted cluster" in plain.text(), 10, "the cause")
            other = self.member(ports[3], ports[0], name="other", options="&key=0123456789abcdef", wait=False)
            eventually(lambda: "members with another key" in other.text(), 10, "the cause")
            self.assertEqual(self.addresses(first, "plain") + self.addresses(first, "other"), [])
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=5) as peer:
            peer.sendall(b"".join(recorded("v014-registry-gossip-register", "<<<")))
            self.assertEqual(self.rest(peer), b"")
        status, _, errors = command("serve", environment={"MICRO_REGISTRY": "gossip:?key=short"})
        self.assertEqual(status, 64)
        self.assertIn("16, 24 or 32 bytes", errors)

    def rest(self, peer):
        """What the other side says until it ends or resets the connection."""
        received = b""
        try:
            while data := peer.recv(65536):
                received += data
        except ConnectionError:
            pass
        return received

    def test_what_a_killed_member_had_ends_with_its_time(self):
        ports = free_ports(2)
        watcher = self.member(ports[0])
        environment = {"MICRO_REGISTER_TTL": "3", "MICRO_REGISTER_INTERVAL": "1"}
        killed = self.member(ports[1], ports[0], name="killed", environment=environment)
        eventually(lambda: self.addresses(watcher, "killed"))
        killed.kill()
        begun = time.monotonic()
        eventually(lambda: not self.addresses(watcher, "killed"), within=5)
        self.assertGreater(time.monotonic() - begun, 0.5)

    def test_a_member_that_comes_back_alone_finds_the_others_again(self):
        ports = free_ports(2)
        first = self.member(ports[0], name="one")
        second = self.member(ports[1], ports[0], name="two")
        eventually(lambda: self.addresses(second, "one"))
        first.kill()
        eventually(lambda: second.metric("micro_sidecar_registry_outages_total") >= 1, within=20, what="the outage")
        self.assertTrue(self.addresses(second, "one"), "the last content does not stay")
        first = self.member(ports[0], name="one")
        eventually(lambda: self.addresses(first, "two"), within=3)

    def test_a_recorded_member_joins_and_is_heard(self):
        port = free_ports(1)[0]
        sidecar = self.member(port, name="own")
        eventually(lambda: self.addresses(sidecar, "own"))
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            # What the first member answered carries its services.
            peer.sendall(b"".join(recorded("v014-registry-gossip-register", "<<<")))
            reply = b""
            while data := peer.recv(65536):
                reply += data
        self.assertEqual(reply[0], 6)
        self.assertIn(b'"own"', reply)
        eventually(lambda: self.addresses(sidecar, "hello-g1"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.settimeout(5)
            for datagram in recorded_datagrams("v014-registry-gossip-register"):
                peer.sendto(datagram, ("127.0.0.1", port))
            eventually(lambda: "topic:events" in [found["name"] for found in sidecar.get("/registry").json()])
            # A ping for anybody, as memberlist's own example.
            peer.sendto(bytes.fromhex("0082a55365714e6f07a44e6f6465a0"), ("127.0.0.1", port))
            self.assertEqual(peer.recv(1500)[0], 2)

    def test_garbage_harms_nothing(self):
        port = free_ports(1)[0]
        sidecar = self.member(port, name="own")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for datagram in recorded_datagrams("v014-registry-gossip-register"):
                for cut in range(0, len(datagram), 37):
                    peer.sendto(datagram[:cut] + os.urandom(9), ("127.0.0.1", port))
            for kind in range(256):
                peer.sendto(bytes([kind]) + os.urandom(40), ("127.0.0.1", port))
            peer.sendto(b"\x08d" + b"[" * 1000, ("127.0.0.1", port))
            peer.sendto(
                b'\x08d[{"Action":0,"Service":{"name":"a/b","nodes":[{"id":"x","address":"1.2.3.4:99999"}]}}]',
                ("127.0.0.1", port))
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x06\x81\xa5Nodes\xce\xff\xff\xff\xff", b"\x09" + os.urandom(500)):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
                peer.sendall(said)
                # Reset as soon as it is garbage, perhaps before we end our half.
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_WR)
                self.assertEqual(self.rest(peer), b"")
        eventually(lambda: self.addresses(sidecar, "own"))
        eventually(lambda: "left out" in sidecar.text())
