"""The `zookeeper` registry against a real server: the rules, leaves of go-micro, sessions that end, outages, bad leaves."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import tempfile
import time

from gomicro import App
from registrypeers import CHANGE_MILLISECONDS_MAX, RegistryBlackBox, program, recorded
from sidecar import Process, eventually, free_port

JAR = "/usr/share/java/zookeeper.jar"
CLASSES = "/usr/share/java/*"


class Server(Process):
    """`folder` holds its data; the same one again after a restart, or another for a server that lost everything."""

    def __init__(self, test, port, folder):
        self.port = port
        if not os.path.exists(JAR):
            test.skipTest("there is no %s here (Debian package zookeeper)" % JAR)
        configuration = os.path.join(folder, "zoo.cfg")
        with open(configuration, "w") as stream:
            stream.write(
                "tickTime=250\nminSessionTimeout=500\nmaxSessionTimeout=60000\ndataDir=%s\nclientPort=%d\nclientPortAddress=127.0.0.1\n"
                "admin.enableServer=false\nmaxClientCnxns=0\n" % (os.path.join(folder, "data"), port))
        super().__init__(
            "zookeeper",
            [program("java", "default-jre-headless"), "-Xmx96m", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no",
             "-cp", CLASSES, "org.apache.zookeeper.server.quorum.QuorumPeerMain", configuration])


class Peer:
    """A bare ZooKeeper client."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.frame(struct.pack(">iqiqi16s", 0, 0, 60000, 0, 16, b""))
        self.read()
        self.xid = 0

    def frame(self, body):
        self.socket.sendall(struct.pack(">i", len(body)) + body)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the server ended the connection")
            data += part
        return data

    def read(self):
        return self.exactly(struct.unpack(">i", self.exactly(4))[0])

    @staticmethod
    def text(value):
        value = value if isinstance(value, bytes) else value.encode()
        return struct.pack(">i", len(value)) + value

    def ask(self, operation, body):
        self.xid += 1
        self.frame(struct.pack(">ii", self.xid, operation) + body)
        reply = self.read()
        return struct.unpack(">i", reply[12:16])[0], reply[16:]

    def put(self, path, data=b""):
        acl = struct.pack(">ii", 1, 31) + self.text("world") + self.text("anyone")
        code, _ = self.ask(1, self.text(path) + self.text(data) + acl + struct.pack(">i", 0))
        if code == -110:
            code, _ = self.ask(5, self.text(path) + self.text(data) + struct.pack(">i", -1))
        assert code == 0, (path, code)

    def delete(self, path):
        return self.ask(2, self.text(path) + struct.pack(">i", -1))[0]

    def children(self, path):
        code, body = self.ask(8, self.text(path) + b"\0")
        if code:
            return None
        count, offset, names = struct.unpack(">i", body[:4])[0], 4, []
        for _ in range(count):
            size = struct.unpack(">i", body[offset : offset + 4])[0]
            names.append(body[offset + 4 : offset + 4 + size].decode())
            offset += 4 + size
        return names

    def register(self, name, port, identity="n1"):
        folder = "/micro-registry/" + name
        for path in ("/micro-registry", folder):
            self.put(path)
        self.put(folder + "/" + identity, json.dumps({
            "name": name, "version": "1.0.0", "metadata": None, "endpoints": None,
            "nodes": [{"id": identity, "address": "127.0.0.1", "port": port, "metadata": None}]}).encode())


class ZooKeeperRegistry(RegistryBlackBox):
    def folder(self):
        folder = tempfile.mkdtemp(prefix="micro-sidecar-zookeeper-")
        self.addCleanup(shutil.rmtree, folder, True)
        return folder

    def serve(self, port=None):
        server = self.start_process(Server(self, port or free_port(), self.folder()))
        eventually(lambda: Peer(server.port), within=30, what="the ZooKeeper server")
        return server

    def peer(self, server):
        peer = Peer(server.port)
        self.addCleanup(peer.socket.close)
        return peer

    def registry(self, server, options="session_ms=1000"):
        return "zookeeper:127.0.0.1:%d?%s" % (server.port, options)

    def test_a_server_s_life(self):
        # One server for all of these: a JVM takes its time to start.
        server = self.serve()
        peer = self.peer(server)
        sidecar = self.start(registry=self.registry(server))
        with self.subTest("leaves of go-micro are seen, changed and gone; watches are set again each time"):
            for turn in range(5):
                peer.register("hello", 4000 + turn)
                eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.1:%d" % (4000 + turn)])
            peer.delete("/micro-registry/hello/n1")
            eventually(lambda: not self.addresses(sidecar, "hello"))
            peer.register("hello", 4100, "n2")
            eventually(lambda: self.addresses(sidecar, "hello") == ["127.0.0.1:4100"])
        with self.subTest("a recorded server is seen"):
            with socket.create_connection(("127.0.0.1", server.port)) as replayed:
                for connection in (1, 2):
                    for piece in recorded("v014-registry-zookeeper-register", ">>>", connection):
                        replayed.sendall(piece)
                    if connection == 1:
                        replayed = socket.create_connection(("127.0.0.1", server.port))
                        self.addCleanup(replayed.close)
                eventually(lambda: self.addresses(sidecar, "hello-rzookeeper"))
                names = [found["name"] for found in self.listed(sidecar, "hello-rzookeeper")[0]["endpoints"]]
                self.assertIn("Hello.Stream", names)
        with self.subTest("bad leaves are left out"):
            peer.put("/micro-registry/bad")
            for index, data in enumerate((b"", b"{", b"\xff" * 10, b"[]", b'{"name":7}', b"[" * 900, b"x" * 900_000,
                                          b'{"name":"bad","nodes":[{"id":"a","address":"h","port":70000}]}')):
                peer.put("/micro-registry/bad/%d" % index, data)
            peer.put("/micro-registry/bad/good", json.dumps(
                {"name": "bad", "nodes": [{"id": "g", "address": "127.0.0.1:4200"}]}).encode())
            eventually(lambda: self.addresses(sidecar, "bad") == ["127.0.0.1:4200"])
            self.assertIn("left out", sidecar.text())
        with self.subTest("leaving in order leaves nothing, a killed sidecar nothing after its session"):
            for kill in (False, True):
                app = self.start_server(App())
                member = self.start(registry=self.registry(server), name="go.micro.srv.own", app=app.port, wait=False)
                eventually(lambda: peer.children("/micro-registry/go.micro.srv.own"), what="our leaf")
                member.kill() if kill else member.stop()
                eventually(lambda: peer.children("/micro-registry/go.micro.srv.own") == [], within=5 if kill else 0.5)
        with self.subTest("a change is seen soon"):
            delays = []
            for turn in range(20):
                begun = time.monotonic()
                peer.register("soon", 5000 + turn)
                while self.addresses(sidecar, "soon") != ["127.0.0.1:%d" % (5000 + turn)]:
                    self.assertLess(time.monotonic() - begun, 2)
                delays.append((time.monotonic() - begun) * 1000)
            print("        a change is seen after %.1f ms" % sorted(delays)[10])
            self.assertLess(sorted(delays)[10], CHANGE_MILLISECONDS_MAX)

    def test_the_rules_hold_between_two_sessions(self):
        registry = self.registry(self.serve())
        self.assert_rules_hold(registry, "--patience", "5", "--apart", registry)

    def test_a_server_that_lost_everything_has_it_again_soon(self):
        server = self.serve()
        app = self.start_server(App())
        sidecar = self.start(registry=self.registry(server), name="own", app=app.port)
        self.peer(server).register("other", 4300)
        eventually(lambda: self.addresses(sidecar, "other") and self.addresses(sidecar, "own"))
        server.kill()
        eventually(lambda: sidecar.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        self.assertEqual(self.addresses(sidecar, "other"), ["127.0.0.1:4300"])
        server = self.serve(port=server.port)
        begun = time.monotonic()
        peer = self.peer(server)
        eventually(lambda: peer.children("/micro-registry/own"), within=2)
        print("        registered again %.2f s after the server's return" % (time.monotonic() - begun))
