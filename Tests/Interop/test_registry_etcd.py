"""The registries `etcd`, `etcdv3` and `etcdv2` against a real etcd: the rules, recorded entries, outages, compaction, TLS."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time

from gomicro import Node, greeter
from registrypeers import CHANGE_MILLISECONDS_MAX, RegistryBlackBox, certificates, connections, program, recorded
from sidecar import SOURCE_ROOT, Process, ask, command, eventually, free_ports

CORE, PLUGIN = "/micro/registry/", "/micro-registry/"


class Etcd(Process):
    """One member with a data folder of its own; `port` keeps the address over a restart, `folder` the data too."""

    def __init__(self, ports=None, folder=None, tls=None, settings=(), name="default", peers=None):
        self.name, self.peers = name, peers
        self.ports = ports or free_ports(2)
        self.port = self.ports[0]
        self.folder = folder or tempfile.TemporaryDirectory(prefix="micro-sidecar-etcd-")
        self.scheme = "https" if tls else "http"
        client, peer = "%s://127.0.0.1:%d" % (self.scheme, self.port), "http://127.0.0.1:%d" % self.ports[1]
        secured = []
        if tls:
            secured = ["--cert-file", tls["server"], "--key-file", tls["server_key"], "--trusted-ca-file", tls["ca"], "--client-cert-auth"]
        self.tls = tls
        super().__init__(
            "etcd",
            [program("etcd", "etcd-server"), "--data-dir", os.path.join(self.folder.name, "data"), "--log-level", "error",
             "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
             "--name", name, "--initial-advertise-peer-urls", peer, "--initial-cluster", peers or name + "=" + peer, "--enable-v2",
             "--unsafe-no-fsync", *secured, *settings])

    def again(self):
        """The same member with the data that it left behind."""
        return Etcd(ports=self.ports, folder=self.folder, name=self.name, peers=self.peers)

    def ctl(self, *arguments, user=None):
        secured = ["--cacert", self.tls["ca"], "--cert", self.tls["client"], "--key", self.tls["client_key"]] if self.tls else []
        done = subprocess.run(
            [program("etcdctl", "etcd-client"), "--endpoints", "%s://127.0.0.1:%d" % (self.scheme, self.port), *secured,
             *(["--user", user] if user else []), *arguments],
            env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=10)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_until_ready(self):
        eventually(lambda: self.ctl("endpoint", "health") or True, 10, "etcd's health")
        return self

    def keys(self, prefix="/micro", **options):
        return self.ctl("get", "--prefix", "--keys-only", prefix, **options).split()


def cluster(count):
    """That many members of one cluster, started and perhaps not ready."""
    ports = [free_ports(2) for _ in range(count)]
    peers = ",".join("m%d=http://127.0.0.1:%d" % (index, pair[1]) for index, pair in enumerate(ports))
    return [Etcd(ports=pair, name="m%d" % index, peers=peers) for index, pair in enumerate(ports)]


def fields(message):
    """A protobuf message as (number, value): integers and bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        else:
            size = varint()
            yield tag >> 3, message[at : at + size]
            at += size


def puts(stream):
    """The (key, value, lease) of each PutRequest in what a gRPC client sent, its connection preface first."""
    at, found = stream.index(b"SM\r\n\r\n") + 6, []
    while at + 9 <= len(stream):
        size, kind = int.from_bytes(stream[at : at + 3], "big"), stream[at + 3]
        body, at = stream[at + 9 : at + 9 + size], at + 9 + size
        if kind == 0 and size > 5:
            with contextlib.suppress(IndexError, UnicodeDecodeError, AttributeError):
                values = dict(fields(body[5:]))
                if isinstance(values.get(2), bytes) and values[2].startswith(b"{"):
                    found.append((values[1].decode(), values[2], values.get(3)))
    return found


def entry(name, port, node="1", version="1"):
    return json.dumps({"name": name, "version": version, "metadata": None, "endpoints": None,
                       "nodes": [{"id": "%s-%s" % (name, node), "address": "127.0.0.1:%d" % port, "metadata": {"protocol": "mucp"}}]})


def recorded_entries(name):
    """Keys and values as `etcdctl get` printed them."""
    with open(os.path.join(SOURCE_ROOT, "Tests", "Fixtures", "registry", name + ".txt")) as stream:
        lines = [line.rstrip("\n") for line in stream]
    found = {key: value for key, value in zip(lines, lines[1:]) if key.startswith("/micro") and value.startswith("{")}
    assert found
    return found


class EtcdBlackBox(RegistryBlackBox):
    def serve(self, **options):
        return self.start_process(Etcd(**options)).wait_until_ready()

    def beside_app(self, registry, name, **environment):
        app = self.start_server(Node(greeter))
        return self.start(registry=registry, name=name, app=app.port, environment=environment)


class EtcdRegistry(EtcdBlackBox):
    def test_the_rules_hold(self):
        server = self.serve()
        self.assert_rules_hold("etcd:127.0.0.1:%d" % server.port, "--patience", "5")

    def test_recorded_entries_of_all_generations_are_found(self):
        server = self.serve()
        sidecar = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        for recording, name in (("v014-registry-etcdv3-keys", "hello-retcdv3"), ("v118-etcd-keys", "hello-e-v118"), ("v2-etcd-keys", "hello-e-v2")):
            entries = recorded_entries(recording)
            for key, value in entries.items():
                server.ctl("put", key, value)
            eventually(lambda name=name: self.listed(sidecar, name), what="the node of " + recording)
            (service,) = self.listed(sidecar, name)
            self.assertIn("Hello.Ping", [endpoint["name"] for endpoint in service["endpoints"]])
            for key in entries:
                server.ctl("del", key)
            eventually(lambda name=name: not self.listed(sidecar, name), what="the departure from " + recording)

    def test_recorded_servers_come_and_go_and_recorded_clients_find_our_app(self):
        """What go-micro sent to etcd, over gRPC: replayed on one connection each, as HTTP/2 numbers its streams."""
        server = self.serve()
        sidecar = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        for recording, name, registry in (("v014-registry-etcdv3", "hello-retcdv3", "etcdv3"), ("v118-etcd", "hello-e-v118", "etcd"),
                                          ("v2-etcd", "hello-e-v2", "etcd")):
            with self.subTest(recording):
                pieces = self.busiest(recording + "-register")
                leases = {lease for _, _, lease in puts(b"".join(pieces)) if lease}
                for lease in leases:
                    # The server would choose another number for the lease it grants now.
                    ask(server.port, "POST", "/v3/lease/grant", {"ID": str(lease), "TTL": "60"})
                self.assertTrue(any(key.startswith(("/micro/registry/" + name, "/micro-registry/" + name)) for key, _, _ in puts(b"".join(pieces))))
                with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                    self.send_recorded(peer, pieces)
                    eventually(lambda: self.listed(sidecar, name), what="the node of " + recording)
                    self.assertIn("Hello.Ping", [endpoint["name"] for endpoint in self.listed(sidecar, name)[0]["endpoints"]])
                    self.send_recorded(peer, recorded(recording + "-deregister"))
                    eventually(lambda: not self.listed(sidecar, name), what="the departure from " + recording)
                own = self.beside_app("%s:127.0.0.1:%d" % (registry, server.port), name)
                prefix = PLUGIN if registry == "etcdv3" else CORE
                eventually(lambda: server.keys(prefix + name), what="our registration")
                with socket.create_connection(("127.0.0.1", server.port), 5) as peer:
                    said = self.send_recorded(
                        peer, self.busiest(recording + "-lookup"), until=b'"127.0.0.1:%d"' % own.server_port)
                self.assertIn(b'"name":"%s"' % name.encode(), said)
                own.stop()

    def busiest(self, name):
        """What was sent on the connection that was used: Go's client opened two and kept one."""
        return max((recorded(name, ">>>", connection) for connection in connections(name)), key=lambda pieces: sum(map(len, pieces)))

    def send_recorded(self, peer, pieces, until=None):
        """Sends them, a little apart as they were; what the server said, up to and with `until`."""
        said = b""
        peer.settimeout(0.02)
        for piece in pieces:
            peer.sendall(piece)
            with contextlib.suppress(TimeoutError):
                said += peer.recv(65536)
        peer.settimeout(5)
        while until and until not in said:
            more = peer.recv(65536)
            self.assertTrue(more, "the server ended the connection")
            said += more
        return said

    def test_a_cluster_of_three_loses_the_member_in_use(self):
        """Real members: what was registered stays, the watch goes on at another member from where it was, and the lease is
        renewed there. With two of three gone there is no leader, and what was known stays."""
        members = cluster(3)
        for member in members:
            self.start_process(member)
        for member in members:
            member.wait_until_ready()
        registry = "etcd:" + "+".join("127.0.0.1:%d" % member.port for member in members)
        sidecar = self.beside_app(registry, "near", MICRO_REGISTER_TTL="4", MICRO_REGISTER_INTERVAL="1")
        eventually(lambda: members[0].keys(CORE + "near"), what="the registration")
        members[0].ctl("put", CORE + "far/far-1", entry("far", 1001))
        eventually(lambda: self.addresses(sidecar, "far") == ["127.0.0.1:1001"])
        (key,) = members[1].keys(CORE + "near")
        revision = self.create_revision(members[1], key)

        members[0].kill()
        began = time.monotonic()
        eventually(lambda: members[1].ctl("put", CORE + "far/far-1", entry("far", 1002)) or True, 10, "a leader")
        eventually(lambda: self.addresses(sidecar, "far") == ["127.0.0.1:1002"], 10, "a change at another member")
        print("        a change is seen %.2f s after the member in use was killed" % (time.monotonic() - began))
        # Longer than the ttl: somebody renews the lease.
        until = time.monotonic() + 6
        while time.monotonic() < until:
            self.assertEqual(self.create_revision(members[1], key), revision, "the entry was lost on the way")
        members[1].kill()
        self.assertEqual(self.addresses(sidecar, "far"), ["127.0.0.1:1002"])
        back = self.start_process(members[1].again())
        back.wait_until_ready()
        back.ctl("put", CORE + "far/far-1", entry("far", 1003))
        eventually(lambda: self.addresses(sidecar, "far") == ["127.0.0.1:1003"], 10, "a change after the cluster's return")
        eventually(lambda: back.keys(CORE + "near"), 10, "the registration")
        sidecar.stop()
        self.assertEqual(back.keys(CORE + "near"), [])

    def create_revision(self, member, key):
        """Of the key as it is; None when it is not there."""
        found = json.loads(member.ctl("get", key, "-w", "json")).get("kvs") or [{}]
        return found[0].get("create_revision")

    def test_what_is_written_stands_under_the_prefix_of_its_name(self):
        server = self.serve()
        for registry, prefixes in (("etcd:%s", [CORE]), ("etcdv3:%s", [PLUGIN]), ("etcd:%s?write=both", [PLUGIN, CORE])):
            sidecar = self.beside_app(registry % ("127.0.0.1:%d" % server.port), "greeter")
            keys = eventually(lambda: len(server.keys()) == len(prefixes) and server.keys())
            self.assertEqual([key[: key.index("greeter")] for key in keys], prefixes)
            value = json.loads(server.ctl("get", "--print-value-only", keys[0]))
            self.assertEqual((value["name"], len(value["nodes"])), ("greeter", 1))
            self.assertEqual(value["nodes"][0]["address"], "127.0.0.1:%d" % sidecar.server_port)
            sidecar.stop()
            self.assertEqual(server.keys(), [])
            self.assertEqual(server.ctl("lease", "list").split()[1], "0", "a lease was left behind")

    def test_a_change_is_seen_at_once(self):
        server = self.serve()
        sidecar = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        took = []
        for round in range(10):
            name = "quick-%d" % round
            server.ctl("put", CORE + name + "/" + name + "-1", entry(name, 4000))
            begun = time.monotonic()
            while name not in [found["name"] for found in sidecar.get("/registry").json()]:
                self.assertLess(time.monotonic() - begun, 5)
            took.append((time.monotonic() - begun) * 1000)
        print("        change to sidecar: %.1f ms median, %.1f ms worst" % (sorted(took)[5], max(took)))
        self.assertLess(sorted(took)[5], CHANGE_MILLISECONDS_MAX)

    def test_an_outage_that_loses_all_data(self):
        server = self.serve()
        node = self.start_server(Node(greeter))
        server.ctl("put", CORE + "far/far-1", entry("far", node.port))
        sidecar = self.beside_app("etcd:127.0.0.1:%d" % server.port, "near")
        eventually(lambda: server.keys(CORE + "near") and self.listed(sidecar, "far"))
        server.kill()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            self.assertEqual(sidecar.rpc("far", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        back = self.start_process(Etcd(ports=server.ports)).wait_until_ready()
        begun = time.monotonic()
        eventually(lambda: back.keys(CORE + "near"), 5, "the registration after the outage")
        took = time.monotonic() - begun
        print("        registered again %.2f s after etcd's return" % took)
        self.assertLess(took, 3)
        # What the registry lost and nobody wrote again is kept for a while: its node may be about to.
        self.assertEqual(sidecar.rpc("far", "Say.Hello", {"name": "b"}).json(), {"msg": "Hello b"})
        self.assertIn("has forgotten", sidecar.text())

    def test_an_outage_with_a_compaction(self):
        server = self.serve()
        server.ctl("put", CORE + "x/x-1", entry("x", 1000))
        sidecar = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        eventually(lambda: self.addresses(sidecar, "x") == ["127.0.0.1:1000"])
        # Stopped, it hears nothing of what is changed and compacted away meanwhile.
        sidecar.process.send_signal(signal.SIGSTOP)
        for port in range(1001, 1040):
            server.ctl("put", CORE + "x/x-1", entry("x", port))
        server.kill()
        back = self.start_process(Etcd(ports=server.ports, folder=server.folder)).wait_until_ready()
        revision = json.loads(back.ctl("get", "x", "-w", "json"))["header"]["revision"]
        back.ctl("compact", str(revision))
        sidecar.process.send_signal(signal.SIGCONT)
        eventually(lambda: self.addresses(sidecar, "x") == ["127.0.0.1:1039"], 8, "the last change")

    def test_a_killed_sidecar_is_gone_after_its_ttl(self):
        server = self.serve()
        sidecar = self.beside_app("etcd:127.0.0.1:%d" % server.port, "brief", MICRO_REGISTER_TTL="2", MICRO_REGISTER_INTERVAL="1")
        other = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        eventually(lambda: self.listed(other, "brief"))
        sidecar.kill()
        eventually(lambda: not self.listed(other, "brief"), 8, "the end of the entry")

    def test_users_and_permissions(self):
        server = self.serve()
        for arguments in (["user", "add", "root:r"], ["user", "grant-role", "root", "root"], ["role", "add", "micro"],
                          ["role", "grant-permission", "--prefix=true", "micro", "readwrite", "/micro"],
                          ["user", "add", "app:a%b"], ["user", "grant-role", "app", "micro"], ["user", "add", "nobody:n"],
                          ["auth", "enable"]):
            try:
                server.ctl(*arguments)
            except AssertionError as error:
                self.assertIn("already exists", str(error))
        place = "127.0.0.1:%d" % server.port
        sidecar = self.beside_app("etcd:" + place, "guarded", ETCD_USERNAME="app", ETCD_PASSWORD="a%b")
        eventually(lambda: server.keys(CORE, user="root:r"), what="the registration")
        eventually(lambda: self.listed(sidecar, "guarded"), what="the watch")
        for registry, cause in (("etcd:" + place, "ETCD_USERNAME"), ("etcd:%s?user=app&password=wrong" % place, "correct user and password"),
                                ("etcd:%s?user=nobody&password=n" % place, "grant the user's role")):
            _, output, _ = command("doctor", environment={"MICRO_REGISTRY": registry})
            self.assertIn(cause, output)

    def test_tls_with_a_client_certificate(self):
        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-tls-")
        self.addCleanup(folder.cleanup)
        paths = certificates(folder.name)
        server = self.serve(tls=paths)
        place = "etcd:127.0.0.1:%d?ca_file=%s" % (server.port, paths["ca"])
        sidecar = self.beside_app("%s&cert_file=%s&key_file=%s" % (place, paths["client"], paths["client_key"]), "secured")
        eventually(lambda: server.keys(CORE), what="the registration over TLS")
        eventually(lambda: self.listed(sidecar, "secured"), what="the watch over TLS")
        _, output, _ = command("doctor", environment={"MICRO_REGISTRY": place})
        self.assertIn("cert_file", output)

    def test_the_second_member_is_asked_when_the_first_is_gone(self):
        server = self.serve()
        server.ctl("put", CORE + "x/x-1", entry("x", 99))
        gone = free_ports(1)[0]
        sidecar = self.start(registry="etcd:127.0.0.1:%d+127.0.0.1:%d" % (gone, server.port))
        self.assertTrue(eventually(lambda: self.listed(sidecar, "x")))

    def test_garbage_harms_nothing(self):
        server = self.serve()
        sidecar = self.start(registry="etcd:127.0.0.1:%d" % server.port)
        garbage = ["", "{", "[]", "null", '{"name":"g","nodes":[{"id":1}]}', '{"name":"g","nodes":[{"id":"g","address":"1.2.3.4:99999"}]}',
                   '{"name":"a/b","nodes":[{"id":"g","address":"1.2.3.4:80"}]}', "[" * 10_000]
        for index, value in enumerate(garbage):
            server.ctl("put", "%sg/g-%d" % (CORE, index), value)
        server.ctl("put", CORE, "no node")
        server.ctl("put", CORE + "a/b/c", entry("deep", 80))
        server.ctl("put", CORE + "sound/sound-1", entry("sound", 81))
        eventually(lambda: self.listed(sidecar, "sound"))
        self.assertEqual(self.listed(sidecar, "g"), [])
        # Most are no services at all, which the registry sees; two break the catalog's rules. Each is counted whenever it is
        # met, by a look-up too, and logged once.
        self.assertGreaterEqual(self.skipped(sidecar, "garbage"), len(garbage) + 1, sidecar.text())
        self.assertEqual(self.skipped(sidecar, "full"), 0)
        self.assertEqual(sidecar.text().count("left out") + sidecar.text().count("skipped"), len(garbage) + 1)


class EtcdV2Registry(EtcdBlackBox):
    def test_the_rules_hold(self):
        server = self.serve()
        self.assert_rules_hold("etcdv2:127.0.0.1:%d" % server.port, "--patience", "5")

    def test_an_entry_comes_and_goes_with_its_app_and_survives_an_outage(self):
        server = self.serve()
        registry = "etcdv2:127.0.0.1:%d" % server.port
        sidecar, other = self.beside_app(registry, "near"), self.start(registry=registry)
        path = "/v2/keys" + PLUGIN + "near"
        eventually(lambda: ask(server.port, "GET", path).status == 200 and self.listed(other, "near"))
        value = json.loads(ask(server.port, "GET", path).json()["node"]["nodes"][0]["value"])
        self.assertEqual((value["name"], value["nodes"][0]["address"]), ("near", "127.0.0.1:%d" % sidecar.server_port))
        server.kill()
        back = self.start_process(Etcd(ports=server.ports)).wait_until_ready()
        eventually(lambda: ask(back.port, "GET", path).status == 200, 5, "the registration after the outage")
        sidecar.stop()
        eventually(lambda: not self.listed(other, "near"), what="the departure")
        self.assertEqual(ask(back.port, "GET", path).status, 404)

    def test_a_server_without_the_api_is_named_as_the_cause(self):
        server = self.serve(settings=["--enable-v2=false"])
        _, output, _ = command("doctor", environment={"MICRO_REGISTRY": "etcdv2:127.0.0.1:%d" % server.port})
        self.assertIn("--enable-v2", output)
