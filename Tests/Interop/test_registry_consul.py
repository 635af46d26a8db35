"""The `consul` registry against a real Consul: the rules, go-micro's recorded bytes, outages, permissions, TLS, garbage."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import tempfile
import time
import zlib

from gomicro import Node, greeter
from registrypeers import CHANGE_MILLISECONDS_MAX, RegistryBlackBox, certificates, connections, program, recorded
from sidecar import Process, ask, command, eventually, free_port, free_ports


class Consul(Process):
    """An agent that is its own server and keeps nothing on disk: after a restart all is lost. With `server` one beside apps, as
    each host has it, whose server is that one."""

    def __init__(self, port=None, config=None, settings=(), server=None):
        self.port = port or free_port()
        self.ports = dict(zip(("server", "serf_lan", "serf_wan"), free_ports(3)), dns=-1, grpc=-1, http=self.port)
        ports = self.ports
        self.folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-consul-")
        path = os.path.join(self.folder.name, "config.json")
        # A leader is elected at once: the raft timings are those of -dev.
        content = {"ports": ports, "bind_addr": "127.0.0.1", "log_level": "warn", "disable_update_check": True, **(config or {})}
        content["ports"] = {**ports, **content.pop("more_ports", {})}
        kind = ["-dev"]
        if server:
            kind = ["-data-dir=" + self.folder.name]
            content.update(
                node_name="agent-%d" % self.port, retry_join=["127.0.0.1:%d" % server.ports["serf_lan"]], retry_interval="100ms")
        with open(path, "w") as stream:
            json.dump(content, stream)
        super().__init__("consul", [program("consul", "consul"), "agent", *kind, "-config-file=" + path, *settings])

    def ask(self, method, path, body=None, headers=None):
        return ask(self.port, method, path, body, headers)

    def wait_until_ready(self, headers=None):
        eventually(lambda: self.ask("GET", "/v1/catalog/nodes", headers=headers).json(), 20, "consul's leader")
        return self

    def health(self, name):
        return self.ask("GET", "/v1/health/service/" + name).json()


def tag(letter, text):
    return "%s-%s" % (letter, zlib.compress(text.encode()).hex())


def untag(tags, letter):
    return [zlib.decompress(bytes.fromhex(text[2:])).decode() for text in tags if text.startswith(letter + "-")]


class ConsulRegistry(RegistryBlackBox):
    def serve(self, **options):
        return self.start_process(Consul(**options)).wait_until_ready()

    def replay(self, server, name):
        """Sends what a go-micro server sent, each request after the reply to the last."""
        with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
            for piece in recorded(name):
                peer.sendall(piece)
                self.assertIn(b" 200 ", peer.recv(65536), piece)

    def beside_app(self, server, name, **environment):
        """A sidecar that registers an app."""
        app = self.start_server(Node(greeter))
        return self.start(registry="consul:127.0.0.1:%d" % server.port, name=name, app=app.port,
                          environment=environment)

    def test_the_rule_of_many_services(self):
        # An agent looks through all of its entries at each change of one: ten thousand would take it minutes.
        server = self.serve()
        agents = [self.start_process(Consul(server=server)) for _ in range(10)]
        for agent in agents:
            agent.wait_until_ready()
        registries = ["consul:127.0.0.1:%d" % agent.port for agent in agents]
        self.assert_many_rule_holds(registries[0], "--without", "service-metadata", writers=registries)

    def test_the_rules_hold(self):
        server = self.serve()
        self.assert_rules_hold(
            "consul:127.0.0.1:%d" % server.port, "--without", "service-metadata", "--many", "150", "--patience", "5")

    def test_recorded_servers_are_found_and_leave(self):
        server = self.serve()
        sidecar = self.start(registry="consul:127.0.0.1:%d" % server.port)
        for recording, name, version in (("v014-consul-register", "hello-c", "1.0.0"), ("v118p-consul-register", "hello-c-v118p", None)):
            self.replay(server, recording)
            eventually(lambda name=name: self.listed(sidecar, name), what="the node of " + recording)
            (service,) = self.listed(sidecar, name)
            self.assertIn("Hello.Ping", [endpoint["name"] for endpoint in service["endpoints"]])
            self.assertEqual(service["nodes"][0]["metadata"]["zone"], "eu")
            if version:
                self.assertEqual(service["version"], version)
        with self.subTest("a check that failed is passed by a recorded renewal"):
            (identity,) = [node["id"] for node in self.listed(sidecar, "hello-c")[0]["nodes"]]
            server.ask("PUT", "/v1/agent/check/fail/service:" + identity)
            eventually(lambda: not self.listed(sidecar, "hello-c"), what="the critical node's absence")
            self.exchange(server, "v014-consul-heartbeat", 2)
            eventually(lambda: self.listed(sidecar, "hello-c"), what="the node that was renewed")
        self.replay(server, "v014-consul-deregister")
        eventually(lambda: not self.listed(sidecar, "hello-c"), what="the departure")
        self.exchange(server, "v118p-consul-deregister", 1)
        eventually(lambda: not self.listed(sidecar, "hello-c-v118p"), what="the departure")

    def exchange(self, server, name, connection):
        """What a go-micro process asked in a recording, and what it would have been answered here: (request, status, body).
        Questions that wait for a change after the index of that time are left out."""
        found = []
        with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
            for piece in recorded(name, ">>>", connection):
                if b"?index=" in piece:
                    continue
                peer.sendall(piece)
                reply = http.client.HTTPResponse(peer)
                reply.begin()
                body = reply.read()
                if reply.getheader("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                found.append((piece.split(b"\r\n")[0].decode(), reply.status, body))
        return found

    def test_recorded_clients_find_our_app(self):
        server = self.serve()
        for recording, name in (("v014-consul-lookup", "hello-c"), ("v118p-consul-lookup", "hello-c-v118p")):
            sidecar = self.beside_app(server, name)
            eventually(lambda: server.health(name), what="the registration")
            answers = [answer for connection in connections(recording) for answer in self.exchange(server, recording, connection)]
            looked_up = [body for request, status, body in answers if "/v1/health/service/%s" % name in request.split("?")[0].split(" ")]
            self.assertTrue(looked_up)
            for body in looked_up:
                (entry,) = json.loads(body)
                self.assertEqual((entry["Service"]["Address"], entry["Service"]["Port"]), ("127.0.0.1", sidecar.server_port))
            listed = [body for request, status, body in answers if "/v1/catalog/services" in request]
            self.assertTrue(listed and all(name in json.loads(body) for body in listed))
            sidecar.stop()

    def test_what_is_written_is_what_go_micro_reads(self):
        server = self.serve()
        sidecar = self.beside_app(server, "go.micro.srv.greeter", MICRO_SERVER_VERSION="7.1", MICRO_SERVER_METADATA="zone=eu")
        (entry,) = eventually(lambda: server.health("go.micro.srv.greeter"))
        service = entry["Service"]
        self.assertEqual(untag(service["Tags"], "v"), ["7.1"])
        self.assertIn({"zone": "eu"}, [json.loads(text) for text in untag(service["Tags"], "t")])
        self.assertEqual(service["Meta"]["zone"], "eu")
        self.assertEqual((service["Address"], service["Port"]), ("127.0.0.1", sidecar.server_port))
        check = next(check for check in entry["Checks"] if check["ServiceID"] == service["ID"])
        self.assertEqual(check["Status"], "passing")
        sidecar.stop()
        self.assertEqual(server.health("go.micro.srv.greeter"), [])

    def test_a_change_is_seen_at_once(self):
        server = self.serve()
        sidecar = self.start(registry="consul:127.0.0.1:%d" % server.port)
        took = []
        for round in range(10):
            name = "quick-%d" % round
            body = {"ID": name + "-1", "Name": name, "Tags": [tag("v", "1")], "Address": "127.0.0.1", "Port": 4000 + round}
            server.ask("PUT", "/v1/agent/service/register", body)
            begun = time.monotonic()
            while name not in [entry["name"] for entry in sidecar.get("/registry").json()]:
                self.assertLess(time.monotonic() - begun, 5)
            took.append((time.monotonic() - begun) * 1000)
        print("        change to sidecar: %.1f ms median, %.1f ms worst" % (sorted(took)[5], max(took)))
        self.assertLess(sorted(took)[5], CHANGE_MILLISECONDS_MAX)

    def test_an_outage_that_loses_all_data(self):
        server = self.serve()
        node = self.start_server(Node(greeter))
        server.ask("PUT", "/v1/agent/service/register", {"ID": "far-1", "Name": "far", "Tags": [tag("v", "1"), tag("t", '{"protocol":"mucp"}')], "Address": "127.0.0.1", "Port": node.port})
        sidecar = self.beside_app(server, "near")
        eventually(lambda: server.health("near") and self.listed(sidecar, "far"))
        server.kill()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            self.assertEqual(sidecar.rpc("far", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        back = self.start_process(Consul(port=server.port)).wait_until_ready()
        begun = time.monotonic()
        eventually(lambda: back.health("near"), 5, "the registration after the outage")
        took = time.monotonic() - begun
        print("        registered again %.2f s after Consul's return" % took)
        self.assertLess(took, 3)
        # What the registry lost and nobody wrote again is kept for a while: its node may be about to.
        self.assertEqual(sidecar.rpc("far", "Say.Hello", {"name": "b"}).json(), {"msg": "Hello b"})
        self.assertIn("has forgotten", sidecar.text())

    def test_a_killed_sidecar_is_gone_after_its_ttl(self):
        server = self.serve()
        sidecar = self.beside_app(server, "brief", MICRO_REGISTER_TTL="2", MICRO_REGISTER_INTERVAL="1")
        other = self.start(registry="consul:127.0.0.1:%d" % server.port)
        eventually(lambda: self.listed(other, "brief"))
        sidecar.kill()
        eventually(lambda: not self.listed(other, "brief"), 5, "the end of the entry")

    def test_a_token_that_may_not_write_is_named_as_the_cause(self):
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": "root-token"}}
        server = self.start_process(Consul(config={"acl": acl, "primary_datacenter": "dc1"}))
        root = {"X-Consul-Token": "root-token"}
        server.wait_until_ready(headers=root)
        app = self.start_server(Node(greeter))
        token = tempfile.NamedTemporaryFile("w", suffix=".token")
        token.write("wrong\n")
        token.flush()
        registry = "consul:127.0.0.1:%d?token_file=%s" % (server.port, token.name)
        sidecar = self.start(wait=False, registry=registry, name="guarded", app=app.port)
        eventually(lambda: "option token or token_file" in sidecar.text(), 10, "the cause in the log")
        status, output, _ = command("doctor", environment={"MICRO_REGISTRY": registry})
        self.assertIn("ACL", output)
        self.assertIn("CONSUL_HTTP_TOKEN", output)
        # A new token in the file is used without a restart.
        token.seek(0)
        token.truncate()
        token.write("root-token\n")
        token.flush()
        eventually(lambda: server.ask("GET", "/v1/health/service/guarded", headers=root).json(), 40, "the registration")

    def test_tls_with_a_client_certificate(self):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-tls-")
        self.addCleanup(folder.cleanup)
        paths = certificates(folder.name)
        https = free_port()
        server = self.serve(config={"more_ports": {"https": https}, "verify_incoming_https": True, "ca_file": paths["ca"],
                                    "cert_file": paths["server"], "key_file": paths["server_key"]})
        good = "consul:https://localhost:%d?ca_file=%s&cert_file=%s&key_file=%s" % (https, paths["ca"], paths["client"], paths["client_key"])
        app = self.start_server(Node(greeter))
        self.start(registry=good, name="secured", app=app.port)
        eventually(lambda: server.health("secured"), what="the registration over TLS")
        for registry, cause in (
            ("consul:https://localhost:%d" % https, "ca_file"),
            ("consul:https://localhost:%d?ca_file=%s" % (https, paths["ca"]), "cert_file"),
            ("consul:https://localhost:%d?ca_file=%s&server_name=elsewhere" % (https, paths["ca"]), "not for elsewhere"),
            ("consul:https://localhost:%d?ca_file=%s" % (server.port, paths["ca"]), "does not speak TLS"),
            ("consul:https://localhost:%d?ca_file=/nowhere.pem" % https, "/nowhere.pem"),
        ):
            _, output, _ = command("doctor", environment={"MICRO_REGISTRY": registry})
            self.assertIn(cause, output, registry)

    def test_the_second_server_is_asked_when_the_first_is_gone(self):
        server = self.serve()
        server.ask("PUT", "/v1/agent/service/register", {"ID": "x-1", "Name": "x", "Tags": [tag("v", "1")], "Address": "127.0.0.1", "Port": 99})
        sidecar = self.start(registry="consul:127.0.0.1:%d+127.0.0.1:%d" % (free_port(), server.port))
        self.assertTrue(eventually(lambda: self.listed(sidecar, "x")))

    def test_entries_of_others_and_garbage_harm_nothing(self):
        server = self.serve()
        sidecar = self.start(registry="consul:127.0.0.1:%d" % server.port)
        bomb = "e-" + zlib.compress(b"[" * 5_000_000).hex()
        cases = {
            "traefik": ["traefik.enable=true", "env-prod", tag("v", "3"), tag("t", '{"zone":"eu"}')],
            "plain": ["t={\"zone\":\"eu\"}", "e={\"name\":\"Say.Hello\"}", "v=2.0"],
            "broken": ["t-789c", "e-zz", "t", "e", "v", "v-" + "00" * 9, "t-" + zlib.compress(b"[1]").hex(), bomb],
            "bare": [],
        }
        for name, tags in cases.items():
            for port in (80, 0):
                body = {"ID": "%s-%d" % (name, port), "Name": name, "Tags": tags, "Address": "10.0.0.9", "Port": port}
                self.assertEqual(server.ask("PUT", "/v1/agent/service/register", body).status, 200)
        found = {}
        for name in cases:
            found[name] = eventually(lambda name=name: self.listed(sidecar, name), what=name)[0]
            self.assertEqual([node["id"] for node in found[name]["nodes"]], [name + "-80"])
        self.assertEqual((found["traefik"]["version"], found["traefik"]["nodes"][0]["metadata"]), ("3", {"zone": "eu"}))
        self.assertEqual((found["plain"]["version"], found["plain"]["endpoints"][0]["name"]), ("2.0", "Say.Hello"))
        self.assertEqual(found["bare"]["version"], "")
        eventually(lambda: "broken" in sidecar.text(), what="a line about the broken entry")
        self.assertGreaterEqual(self.skipped(sidecar, "garbage"), 6, "tags that cannot be read")
        self.assertTrue(sidecar.is_running())
