"""The `dns` registry against dnsmasq: SRV and A records, their time to live, truncation, failover, an outage."""

from __future__ import annotations

import socket
import struct
import time

from gomicro import Node, greeter
from registrypeers import RegistryBlackBox, program
from sidecar import Process, command, eventually, free_port


class DNSServer(Process):
    """dnsmasq with nothing but what the test says; `change` is a restart, since it does not read SRV records again."""

    def __init__(self, port, *records, ttl=1):
        self.port = port
        super().__init__(
            "dnsmasq",
            [program("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
             "--no-hosts", "--no-daemon", "--user=root", "--bind-interfaces", "--listen-address=127.0.0.1", "--port=%d" % port,
             "--local-ttl=%d" % ttl, "--edns-packet-max=512", "--local=/test/", "--pid-file="] + list(records))


def srv(service, port, host="node.test", priority=0, weight=0):
    return "--srv-host=_%s._tcp.test,%s,%d,%d,%d" % (service, host, port, priority, weight)


HOST = "--host-record=node.test,127.0.0.1"


class DNSRegistry(RegistryBlackBox):
    def serve(self, *records, port=None, **options):
        server = self.start_process(DNSServer(port or free_port(), *records, **options))
        self.wait_for(server.port)
        return server

    def wait_for(self, port):
        def answers():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                asker.settimeout(0.2)
                asker.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\x04node\x04test\0\0\x01\0\x01", ("127.0.0.1", port))
                return asker.recv(512)[:2] == b"\0\x07"

        eventually(answers, what="an answer of the DNS server")

    def registry(self, *ports, options=""):
        return "dns:%s?domain=test&protocol=mucp%s" % ("+".join("127.0.0.1:%d" % port for port in ports), options)

    def test_a_service_is_called_by_its_srv_record(self):
        node = self.start_server(Node(greeter))
        server = self.serve(HOST, srv("hello", node.port))
        sidecar = self.start(registry=self.registry(server.port))
        self.assertEqual(sidecar.rpc("hello", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        self.assertEqual(self.addresses(sidecar, "hello"), ["127.0.0.1:%d" % node.port])
        self.assert_error(sidecar.rpc("nobody", "Say.Hello", {}), 404)

    def test_addresses_and_a_port_where_there_is_no_srv_record(self):
        node = self.start_server(Node(greeter))
        server = self.serve("--host-record=hello.test,127.0.0.1")
        sidecar = self.start(registry=self.registry(server.port, options="&port=%d" % node.port))
        self.assertEqual(sidecar.rpc("hello", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})

    def test_only_the_lowest_priority_is_used_and_weights_are_shown(self):
        server = self.serve(HOST, srv("hello", 1001, priority=2), srv("hello", 1002, priority=1, weight=7))
        sidecar = self.start(registry=self.registry(server.port, options="&services=hello"))
        eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.1:1002"])
        self.assertEqual(self.listed(sidecar, "hello")[0]["nodes"][0]["metadata"]["weight"], "7")

    def test_an_answer_too_large_for_a_datagram_comes_over_tcp(self):
        records = [srv("many", 2000 + index) for index in range(60)]
        server = self.serve(HOST, *records)
        sidecar = self.start(registry=self.registry(server.port, options="&services=many"))
        expected = sorted("127.0.0.1:%d" % (2000 + index) for index in range(60))
        eventually(lambda: self.addresses(sidecar, "many") == expected)

    def test_records_without_port_or_target_are_left_out(self):
        server = self.serve(HOST, "--srv-host=_odd._tcp.test", srv("odd", 0), srv("odd", 3000))
        sidecar = self.start(registry=self.registry(server.port, options="&services=odd"))
        eventually(lambda: self.addresses(sidecar, "odd") == ["127.0.0.1:3000"])
        self.assertIn("names no port or no target", sidecar.text())

    def test_what_changed_is_seen_after_its_ttl_and_an_outage_keeps_what_is_known(self):
        server = self.serve(HOST, srv("hello", 4001))
        sidecar = self.start(registry=self.registry(server.port, options="&timeout_ms=100"))
        sidecar.rpc("hello", "Say.Hello", {})
        self.assertEqual(self.addresses(sidecar, "hello"), ["127.0.0.1:4001"])
        server.stop()
        eventually(lambda: sidecar.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        self.assertEqual(self.addresses(sidecar, "hello"), ["127.0.0.1:4001"])
        self.serve(HOST, srv("hello", 4002), port=server.port)
        begun = time.monotonic()
        eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.1:4002"])
        self.assertLess(time.monotonic() - begun, 3)

    def test_a_silent_server_is_passed_over(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            server = self.serve(HOST, srv("hello", 5001))
            registry = self.registry(silent.getsockname()[1], server.port, options="&timeout_ms=50&services=hello")
            sidecar = self.start(registry=registry)
            eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.1:5001"])

    def test_forged_answers_and_garbage_are_not_believed(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(5)
            registry = self.registry(server.getsockname()[1], options="&timeout_ms=2000&services=hello")
            sidecar = self.start(registry=registry, wait=False)
            query, asker = server.recvfrom(2048)
            identity = struct.unpack(">H", query[:2])[0]
            end = query.index(b"\0", 12) + 5
            record = b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 60, 15) + struct.pack(">3H", 0, 0, 6666) + b"\x03bad\x04test\0"
            record = record[:10] + struct.pack(">H", len(record) - 12) + record[12:]

            def reply(number, body):
                return struct.pack(">6H", number, 0x8180, 1, 1, 0, 0) + query[12:end] + body

            server.sendto(reply(identity ^ 1, record), asker)
            server.sendto(b"\xff" * 700, asker)
            server.sendto(reply(identity, b"\xc0")[:20], asker)
            good = b"\xc0\x0c" + struct.pack(">HHIH", 33, 1, 60, 18) + struct.pack(">3H", 0, 0, 6001) + b"\x09127-0-0-1\0"
            good = good[:10] + struct.pack(">H", len(good) - 12) + good[12:]
            server.sendto(reply(identity, good), asker)
            query, asker = server.recvfrom(2048)
            end = query.index(b"\0", 12) + 5
            identity = struct.unpack(">H", query[:2])[0]
            server.sendto(
                reply(identity, b"\xc0\x0c" + struct.pack(">HHIH4B", 1, 1, 60, 4, 127, 0, 0, 9)), asker)
            eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.9:6001"])

    def test_it_can_only_be_read(self):
        server = self.serve(HOST)
        for rule in ("cannot be written", "unknown service"):
            self.assertEqual(self.assert_rules_hold(self.registry(server.port), "--without", "writing", "--rule", rule), 1)

    def test_a_wrong_option_is_named(self):
        status, _, errors = command(environment={"MICRO_REGISTRY": "dns:127.0.0.1?domian=test"})
        self.assertEqual(status, 64)
        self.assertIn("domian", errors)
