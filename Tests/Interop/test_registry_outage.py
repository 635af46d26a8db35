"""Each registry that has a server is taken away under load: no call fails, and two seconds after its return all is as before.

Servers that keep their content in memory come back empty; what Kubernetes and DNS know is kept by others, and is still there.
"""

from __future__ import annotations

import socket
import struct
import tempfile
import threading
import time

from eurekapeer import Eureka
from gomicro import App, Node, greeter
from kubernetesapi import Cluster, pod
from registrypeers import RegistryBlackBox
from sidecar import LONG, Process, eventually, free_port
from test_registry_consul import Consul
from test_registry_dns import HOST, DNSServer, srv
from test_registry_etcd import Etcd
from test_registry_nats import Server as NATSServer
from test_registry_zookeeper import Peer as ZooKeeperPeer
from test_registry_zookeeper import Server as ZooKeeperServer

HELLO = "go.micro.srv.hello"
QUESTION = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + b"\x04node\x04test\0\0\x01\0\x01"


class Calls(threading.Thread):
    """Calls again and again until it is stopped; what failed is kept."""

    def __init__(self, sidecar, service=HELLO):
        super().__init__(daemon=True)
        self.sidecar, self.service, self.count, self.failed = sidecar, service, 0, []
        self.ends = threading.Event()
        self.start()

    def run(self):
        while not self.ends.wait(0.002):
            try:
                answer = self.sidecar.rpc(self.service, "Say.Hello", {"name": "J"})
                if answer.status != 200:
                    self.failed.append(answer)
            except OSError as error:
                self.failed.append(error)
            self.count += 1

    def stop(self):
        self.ends.set()
        self.join(10)


class Outage(RegistryBlackBox):
    AWAY_SECONDS = 30 if LONG else 2

    def check(self, name, make, place, ready=lambda server: None, beside_apps=True):
        """`make(before)` starts the server, `before` being the one it stands in for; `place(server, member)` is what a
        sidecar is told; `ready` returns when the server answers."""
        server = make(None)
        ready(server)
        if beside_apps:
            for member in range(2):
                app = self.start_server(App())
                self.start(registry=place(server, member), name=HELLO, app=app.port)
        caller = self.start(registry=place(server, "caller"))
        eventually(lambda: caller.rpc(HELLO, "Say.Hello", {"name": "J"}).status == 200, what="a call")
        eventually(lambda: len(self.addresses(caller, HELLO)) == 2, what="both nodes")
        calls = [Calls(caller) for _ in range(4)]
        try:
            server.kill() if isinstance(server, Process) else server.stop()
            ends = time.monotonic() + self.AWAY_SECONDS
            eventually(lambda: caller.metric("micro_sidecar_registry_up") == 0, what="the outage")
            eventually(lambda: time.monotonic() > ends, self.AWAY_SECONDS + 1)
            ready(make(server))
            back = time.monotonic()
            fresh = self.start(registry=place(server, "fresh"))
            eventually(lambda: fresh.rpc(HELLO, "Say.Hello", {"name": "J"}).status == 200, 10, "a call by who is new")
            eventually(lambda: len(self.addresses(fresh, HELLO)) == 2, 10, "both nodes in the registry")
            eventually(lambda: caller.metric("micro_sidecar_registry_up") == 1, 10, "the caller's watch")
            took = time.monotonic() - back
        finally:
            for each in calls:
                each.stop()
        self.assertEqual([failed for each in calls for failed in each.failed][:5], [])
        count = sum(each.count for each in calls)
        self.assertGreater(count, 100 * self.AWAY_SECONDS)
        print("        %s away for %d s: %d calls, none failed; back after %.2f s" % (name, self.AWAY_SECONDS, count, took))
        self.assertLess(took, 2)

    @staticmethod
    def at(form):
        return lambda server, _: form % server.port

    def port(self, before):
        return before.port if before else free_port()

    def test_consul(self):
        self.check("consul", lambda before: self.start_process(Consul(port=self.port(before))), self.at("consul:127.0.0.1:%d"),
                   Consul.wait_until_ready)

    def test_etcd(self):
        for name in ("etcd", "etcdv2"):
            self.check(name, lambda before: self.start_process(Etcd(ports=before and before.ports)),
                       self.at(name + ":127.0.0.1:%d"), Etcd.wait_until_ready)

    def test_nats(self):
        def ready(server):
            eventually(lambda: socket.create_connection(("127.0.0.1", server.port)).close() or True)

        self.check("nats", lambda before: self.start_process(NATSServer(self.port(before))), self.at("nats:127.0.0.1:%d"), ready)

    def test_zookeeper(self):
        def make(before):
            folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-zookeeper-", ignore_cleanup_errors=True)
            self.addCleanup(folder.cleanup)
            return self.start_process(ZooKeeperServer(self, self.port(before), folder.name))

        def ready(server):
            eventually(lambda: ZooKeeperPeer(server.port).socket.close() or True, 30, "the ZooKeeper server")

        self.check("zookeeper", make, self.at("zookeeper:127.0.0.1:%d?session_ms=4000"), ready)

    def test_proxy(self):
        def make(before):
            port = self.port(before)
            sidecar = self.start(registry="memory", environment={"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % port})
            sidecar.port = port
            return sidecar

        self.check("proxy", make, self.at("proxy:127.0.0.1:%d"))

    def test_eureka(self):
        self.check("eureka", lambda before: self.start_server(Eureka(port=self.port(before))),
                   self.at("eureka:http://127.0.0.1:%d?poll_ms=100"))

    def test_kubernetes(self):
        def make(before):
            cluster = Cluster(port=self.port(before))
            if before:
                cluster.objects, cluster.version, cluster.oldest = before.objects, before.version, before.version
            else:
                for member in range(2):
                    cluster.put("pods", pod("p%d" % member))
            return self.start_server(cluster)

        self.check("kubernetes", make, lambda server, member: "kubernetes:http://127.0.0.1:%d?pod=p%s" % (server.port, member))

    def test_dns(self):
        records = [srv(HELLO, self.start_server(Node(greeter)).port) for _ in range(2)]

        def ready(server):
            def answers():
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
                    asker.settimeout(0.2)
                    asker.sendto(QUESTION, ("127.0.0.1", server.port))
                    return asker.recv(512)

            eventually(answers, what="an answer of the DNS server")

        self.check("dns", lambda before: self.start_process(DNSServer(self.port(before), HOST, *records)),
                   self.at("dns:127.0.0.1:%d?domain=test&protocol=mucp&timeout_ms=100"), ready, beside_apps=False)
