"""How soon a change is seen where no server stands between: over mDNS from another host, and in `memory`.

What is measured is the time from the change to the first answer of `/registry` that shows it, which comes from a worker's
snapshot. consul, etcd, nats and zookeeper are measured beside their other tests. Of 22 changes the median counts, as a machine
may do other things.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import threading
import time

import test_mdns
from registrypeers import CHANGE_MILLISECONDS_MAX
from sidecar import BINARY, BlackBox, eventually

ROUNDS = 11


class Asker:
    """One connection for many requests; `inside` is the network namespace of the other end."""

    def __init__(self, port, inside=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        if inside:
            # A socket stays in the namespace that it was made in, whoever uses it.
            thread = threading.Thread(target=self.connect_in, args=(inside, port))
            thread.start()
            thread.join()
        else:
            self.connection.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect_in(self, namespace, port):
        with open(os.path.join("/run/netns", namespace)) as entry:
            if ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), 0) == 0:
                self.connection.sock = socket.create_connection(("127.0.0.1", port), 5)

    def ask(self, method, path, body=None):
        self.connection.request(method, path, json.dumps(body) if body else None)
        reply = self.connection.getresponse()
        return reply.status, reply.read()

    def close(self):
        self.connection.close()


class Measuring:
    def measure(self, what, writer, reader, host):
        took = []
        for number in range(ROUNDS):
            for port in (4000, 4001):  # a node that comes, and one that changes
                service = {"name": "quick-%d" % number, "version": "1", "nodes": [{"id": "quick-%d-1" % number, "address": "%s:%d" % (host, port)}]}
                expected = b":%d" % port
                begun = time.monotonic()
                self.assertEqual(writer.ask("POST", "/registry", service)[0], 200)
                while expected not in reader.ask("GET", "/registry?service=quick-%d" % number)[1]:
                    self.assertLess(time.monotonic() - begun, 5, "%s: the change is not seen" % what)
                took.append((time.monotonic() - begun) * 1000)
        took.sort()
        print("        %s: a change is seen after %.1f ms (median), %.1f ms (worst)" % (what, took[len(took) // 2], took[-1]))
        self.assertLess(took[len(took) // 2], CHANGE_MILLISECONDS_MAX)

    def asker(self, *arguments):
        asker = Asker(*arguments)
        self.addCleanup(asker.close)
        return asker


class InOneProcess(Measuring, BlackBox):
    def test_memory(self):
        sidecar = self.start(registry="memory")
        self.measure("memory", self.asker(sidecar.port), self.asker(sidecar.port), "127.0.0.1")


class OverTheNetwork(Measuring, test_mdns.TwoHosts):
    def test_mdns(self):
        here, there = self.hosts
        for host in self.hosts:
            self.start_in(host, "a sidecar", [BINARY])
        for host in self.hosts:
            eventually(lambda: self.status_in(host, "http://127.0.0.1:8083/readyz")[0] == 200, 10)
        self.measure("mdns", self.asker(8081, here), self.asker(8081, there), "10.99.0.1")
