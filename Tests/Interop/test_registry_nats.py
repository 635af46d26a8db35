"""The `nats` registry against a real nats-server: the rules, recorded go-micro peers, outages, owners that die, bad messages."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time

from gomicro import App, Node, greeter
from registrypeers import CHANGE_MILLISECONDS_MAX, RegistryBlackBox, certificates, program, recorded
from sidecar import Process, command, eventually, free_port, free_ports

PLUGIN, CORE = "micro.registry.nats", "micro.nats"


class Server(Process):
    def __init__(self, port, *options):
        self.port = port
        super().__init__("nats-server", [program("nats-server", "nats-server"), "-a", "127.0.0.1", "-p", str(port), *options])


class Peer:
    """A go-micro process on NATS, as much of it as a test says."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self.buffer = b""
        assert self.line().startswith(b"INFO ")
        self.send(b'CONNECT {"verbose":false,"protocol":1}\r\n')
        self.settle()

    def fill(self):
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the server ended the connection")
        self.buffer += data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.fill()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    def send(self, data):
        self.socket.sendall(data)

    def publish(self, subject, payload, reply=""):
        self.send(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload))

    def change(self, action, service, subjects=PLUGIN):
        self.publish(subjects + ".watch", json.dumps({"Action": action, "Service": service}).encode())

    def settle(self):
        """Until the server has taken all of it."""
        self.send(b"PING\r\n")
        while self.line() != b"PONG":
            pass

    def message(self):
        """The next message: its reply subject and payload."""
        while True:
            words = self.line().split()
            if words[0] == b"PING":
                self.send(b"PONG\r\n")
            if words[0] == b"MSG":
                size = int(words[-1])
                while len(self.buffer) < size + 2:
                    self.fill()
                payload, self.buffer = self.buffer[:size], self.buffer[size + 2 :]
                return (words[3] if len(words) == 5 else b"").decode(), payload

    def answer(self, *services, subjects=PLUGIN):
        """Answers every query from now on with these, whatever it asks for."""
        self.send(b"SUB %s.query 1\r\n" % subjects.encode())
        self.settle()

        def serve():
            try:
                while True:
                    reply, _ = self.message()
                    for service in services:
                        self.publish(reply, json.dumps(service).encode())
            except (OSError, EOFError):
                pass  # the test is over

        self.socket.settimeout(None)
        threading.Thread(target=serve, daemon=True).start()

    def answers(self, question, subjects=PLUGIN):
        """What owners answer within a tenth of a second."""
        self.send(b"SUB inbox.%d 9\r\n" % id(self))
        self.publish(subjects + ".query", json.dumps(question).encode(), "inbox.%d" % id(self))
        found = []
        self.socket.settimeout(0.3)
        try:
            while True:
                found.append(json.loads(self.message()[1]))
        except TimeoutError:
            self.send(b"UNSUB 9\r\n")
            return found

    def close(self):
        self.socket.close()


def entry(name, port, identity="n1", **more):
    return {"name": name, "version": "1.0.0", "metadata": None, "endpoints": None,
            "nodes": [{"id": "%s-%s" % (name, identity), "address": "127.0.0.1", "port": port, "metadata": None}], **more}


class NATSRegistry(RegistryBlackBox):
    def serve(self, *options, port=None):
        server = self.start_process(Server(port or free_port(), *options))
        eventually(lambda: socket.create_connection(("127.0.0.1", server.port)).close() or True)
        return server

    def peer(self, server):
        peer = Peer(server.port)
        self.addCleanup(peer.close)
        return peer

    def registry(self, *servers, options=""):
        return "nats:%s%s" % ("+".join("127.0.0.1:%d" % server.port for server in servers), options and "?" + options)

    def app(self, server, name, options="", **more):
        app = self.start_server(App())
        sidecar = self.start(registry=self.registry(server, options=options), name=name, app=app.port, **more)
        return sidecar

    def test_the_rules_hold_between_two_members(self):
        server = self.serve()
        self.assertGreater(self.assert_rules_hold(self.registry(server), "--apart", self.registry(server)), 18)

    def test_a_recorded_server_is_found_and_leaves(self):
        server = self.serve()
        sidecar = self.start(registry=self.registry(server))
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            for piece in recorded("v014-registry-nats-register"):
                peer.sendall(piece)
            eventually(lambda: self.addresses(sidecar, "hello-rnats"))
            found = self.listed(sidecar, "hello-rnats")[0]
            self.assertEqual(found["version"], "1.0.0")
            self.assertTrue(found["nodes"][0]["address"].startswith("127.0.0.1:"), found)
            self.assertIn("Hello.Stream", [endpoint["name"] for endpoint in found["endpoints"]])
            for piece in recorded("v014-registry-nats-deregister"):
                peer.sendall(piece)
            eventually(lambda: not self.addresses(sidecar, "hello-rnats"))

    def test_a_recorded_client_gets_its_answer(self):
        server = self.serve()
        sidecar = self.app(server, "hello-rnats")
        peer = self.peer(server)
        eventually(lambda: len(self.listed(sidecar, "hello-rnats")) == 1)
        for piece in recorded("v014-registry-nats-lookup")[1:]:
            if b"CONNECT" not in piece:
                peer.send(piece)
        _, payload = peer.message()
        node = json.loads(payload)["nodes"][0]
        self.assertEqual(node["address"], "127.0.0.1:%d" % sidecar.server_port)

    def test_both_pairs_of_subjects_are_spoken(self):
        server = self.serve()
        sidecar = self.app(server, "go.micro.srv.own")
        peer = self.peer(server)
        eventually(lambda: self.listed(sidecar, "go.micro.srv.own"))
        for subjects in (PLUGIN, CORE):
            peer.change("create", entry("of." + subjects, 4000), subjects)
            eventually(lambda: self.addresses(sidecar, "of." + subjects) == ["127.0.0.1:4000"])
            for question in ({"Action": "list", "Service": None}, {"Action": "get", "Service": {"name": "go.micro.srv.own"}}):
                names = [found["name"] for found in peer.answers(question, subjects)]
                self.assertEqual(names, ["go.micro.srv.own"], (subjects, question))
        self.assertEqual(peer.answers({"Action": "get", "Service": {"name": "other"}}), [])

    def test_a_call_reaches_a_node_found_by_asking(self):
        node = self.start_server(Node(greeter, generation="micro"))
        server = self.serve()
        sidecar = self.start(registry=self.registry(server))
        peer = self.peer(server)
        found = entry("late", node.port)
        found["nodes"][0]["metadata"] = {"protocol": "mucp"}
        peer.answer(found, subjects=CORE)
        self.assertEqual(sidecar.rpc("late", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})

    def test_a_dead_owner_is_asked_for_and_forgotten(self):
        server = self.serve()
        sidecar = self.start(registry=self.registry(server, options="probe_seconds=1&window_ms=20"))
        peer = self.peer(server)
        peer.change("create", entry("dead", 4001))
        eventually(lambda: self.addresses(sidecar, "dead"))
        peer.close()
        begun = time.monotonic()
        eventually(lambda: not self.addresses(sidecar, "dead"), within=10)
        print("        forgotten after %.1f s, asked after 1 s" % (time.monotonic() - begun))

    def test_what_was_deleted_stays_out_though_its_owner_goes_on_answering(self):
        server = self.serve()
        sidecar = self.start(registry=self.registry(server, options="window_ms=50"))
        peer = self.peer(server)
        old, new = entry("gone", 4002, "old"), entry("gone", 4003, "new")
        peer.change("create", old)
        eventually(lambda: self.addresses(sidecar, "gone"))
        peer.change("delete", old)
        eventually(lambda: not self.addresses(sidecar, "gone"))
        peer.answer(old, new)

        def found_again():
            sidecar.rpc("gone", "Say.Hello", {})
            return self.addresses(sidecar, "gone")

        self.assertEqual(eventually(found_again), ["127.0.0.1:4003"])

    def test_a_server_that_lost_everything_has_it_again_within_two_seconds(self):
        server = self.serve()
        sidecar = self.app(server, "go.micro.srv.own")
        peer = self.peer(server)
        peer.change("create", entry("other", 4004))
        eventually(lambda: self.addresses(sidecar, "other") and self.addresses(sidecar, "go.micro.srv.own"))
        server.kill()
        eventually(lambda: sidecar.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        self.assertEqual(self.addresses(sidecar, "other"), ["127.0.0.1:4004"])
        server = self.serve(port=server.port)
        begun = time.monotonic()
        peer = self.peer(server)
        eventually(lambda: peer.answers({"Action": "get", "Service": {"name": "go.micro.srv.own"}}), within=2)
        print("        registered again %.2f s after the server's return" % (time.monotonic() - begun))

    def test_another_server_is_used_when_one_is_gone(self):
        first, second = self.serve(), self.serve()
        sidecar = self.start(registry=self.registry(first, second))
        first.kill()
        peer = self.peer(second)

        def seen():
            peer.change("create", entry("moved", 4005))
            return self.addresses(sidecar, "moved")

        eventually(seen)

    def test_leaving_in_order_is_told_and_a_killed_sidecar_answers_no_more(self):
        server = self.serve()
        watcher = self.start(registry=self.registry(server, options="probe_seconds=1&window_ms=20"))
        polite = self.app(server, "polite")
        eventually(lambda: self.addresses(watcher, "polite"))
        polite.stop()
        eventually(lambda: not self.addresses(watcher, "polite"), within=1)
        killed = self.app(server, "killed")
        eventually(lambda: self.addresses(watcher, "killed"))
        killed.kill()
        eventually(lambda: not self.addresses(watcher, "killed"), within=10)

    def test_bad_messages_harm_nothing(self):
        server = self.serve()
        sidecar = self.app(server, "go.micro.srv.own")
        peer = self.peer(server)
        bad = [b"", b"{", b"null", b"[]", b"[" * 5000, b'{"Action":7}', b'{"Action":"create"}', b"\xff\x00" * 100,
               b'{"Action":"create","Service":{"name":"x","nodes":[{"id":"x","address":"h","port":70000}]}}',
               b'{"Action":"create","Service":{"name":"x","nodes":"no"}}',
               b'{"Action":"create","Service":{"name":"a/b","nodes":[{"id":"x","address":"1.2.3.4:5"}]}}',
               b'{"Action":"create","Service":{"name":"x","nodes":[{"id":"x","address":"1.2.3.4:99999"}]}}',
               b'{"Action":"create","Service":{"name":"' + b"y" * 900_000 + b'"}}',
               json.dumps({"Action": "create", "Service": entry("x", 1, metadata={"z": {"deep": 1}})}).encode()]
        for subjects in (PLUGIN, CORE):
            for payload in bad:
                peer.publish(subjects + ".watch", payload)
                peer.publish(subjects + ".query", payload, "inbox.1")
        peer.publish(PLUGIN + ".query", b'{"Action":"list"}')
        peer.change("create", entry("good", 4006))
        eventually(lambda: self.addresses(sidecar, "good") == ["127.0.0.1:4006"])
        names = {found["name"] for found in sidecar.get("/registry").json()}
        self.assertEqual(names, {"good", "go.micro.srv.own"})
        self.assertIn("left out", sidecar.text())
        self.assertTrue(sidecar.metric("micro_sidecar_registry_entries_skipped_total") >= 2, sidecar.admin("/metrics").body)

    def test_tls_with_a_client_certificate(self):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-tls-")
        self.addCleanup(folder.cleanup)
        paths = certificates(folder.name)
        server = self.serve("--tls", "--tlscert", paths["server"], "--tlskey", paths["server_key"], "--tlsverify", "--tlscacert", paths["ca"])
        own = "&cert_file=%s&key_file=%s" % (paths["client"], paths["client_key"])
        good = "nats:tls://localhost:%d?ca_file=%s%s" % (server.port, paths["ca"], own)
        app = self.start_server(App())
        member = self.start(registry=good, name="secured", app=app.port)
        # The files alone say that TLS is wanted.
        caller = self.start(registry="nats:127.0.0.1:%d?ca_file=%s%s" % (server.port, paths["ca"], own))
        eventually(lambda: caller.rpc("secured", "Say.Hello", {"name": "J"}).status == 200, what="a call by what came over TLS")
        member.stop()
        eventually(lambda: not self.listed(caller, "secured"), what="the departure over TLS")
        for registry, cause in (
            ("nats:tls://localhost:%d" % server.port, "ca_file"),
            ("nats:tls://localhost:%d?ca_file=%s" % (server.port, paths["ca"]), "cert_file"),
            ("nats:tls://localhost:%d?ca_file=%s%s&server_name=elsewhere" % (server.port, paths["ca"], own), "not for elsewhere"),
        ):
            _, output, _ = command("doctor", environment={"MICRO_REGISTRY": registry})
            self.assertIn(cause, output, registry)

    def test_tls_is_not_left_out_when_the_server_has_none(self):
        server = self.serve()
        _, output, _ = command("doctor", environment={"MICRO_REGISTRY": "nats:tls://localhost:%d" % server.port})
        self.assertIn("TLS", output)
        sidecar = self.start(registry="nats:tls://localhost:%d" % server.port, wait=False)
        eventually(lambda: "not answering" in sidecar.text(), 5, "the outage")

    def test_a_server_that_breaks_the_protocol_is_left(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(5)
            listener.settimeout(5)
            sidecar = self.start(registry="nats:127.0.0.1:%d" % listener.getsockname()[1], wait=False)
            for said in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {}\r\n-ERR 'go away'\r\n", b"INFO {}\r\nPONG\r\nMSG a 1 99999999999\r\n"):
                peer, _ = listener.accept()
                peer.sendall(said)
                peer.settimeout(5)
                while peer.recv(4096):
                    pass
                peer.close()
        eventually(lambda: "nats" in sidecar.text())

    def test_credentials(self):
        for options, right, wrong in (
            (("--user", "u", "--pass", "p w&"), "user=u&password=p w%26", "user=u&password=x"),
            (("--auth", "secret"), None, "token=x"),
        ):
            server = self.serve(*options)
            if right is None:
                folder = tempfile.TemporaryDirectory()
                self.addCleanup(folder.cleanup)
                path = os.path.join(folder.name, "token")
                with open(path, "w") as stream:
                    stream.write("secret\n")
                right = "token_file=" + path
            writer = self.app(server, "go.micro.srv.own", options=right)
            eventually(lambda: self.addresses(writer, "go.micro.srv.own"))
            other = self.start(registry=self.registry(server, options=wrong), wait=False)
            eventually(lambda: "Authorization Violation" in other.text())

    def test_a_change_is_seen_soon(self):
        server = self.serve()
        sidecar = self.start(registry=self.registry(server))
        peer = self.peer(server)
        delays = []
        for turn in range(20):
            begun = time.monotonic()
            peer.change("create", entry("soon", 5000 + turn))
            while self.addresses(sidecar, "soon") != ["127.0.0.1:%d" % (5000 + turn)]:
                self.assertLess(time.monotonic() - begun, 1)
            delays.append((time.monotonic() - begun) * 1000)
        delays.sort()
        print("        a change is seen after %.1f ms, at most %.1f ms" % (delays[10], delays[-1]))
        self.assertLess(delays[10], CHANGE_MILLISECONDS_MAX)
