"""The `kubernetes` registry against an API server that keeps its rules (kubernetesapi.py): go-micro's pods, EndpointSlices."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from gomicro import Node, greeter
from kubernetesapi import Cluster, endpoint, endpoint_slice, pod, service_pod, status
from registrypeers import RegistryBlackBox, program
from sidecar import command, eventually, free_port, service

SERVICE = "micro.mu/service-"


def entry(name, number=1, **metadata):
    return service(name, {"id": "%s-%d" % (name, number), "address": "10.9.0.%d:80" % number, "metadata": metadata})


class KubernetesRegistry(RegistryBlackBox):
    def cluster(self, *pods, **options):
        cluster = self.start_server(Cluster(**options))
        for item in pods:
            cluster.put("pods", item)
        return cluster

    def registry(self, cluster, options="pod=me"):
        return "kubernetes:http://127.0.0.1:%d?%s" % (cluster.port, options)

    def test_the_rules_hold(self):
        cluster = self.cluster(pod("me"))
        held = self.assert_rules_hold(self.registry(cluster), "--without", "ttl", "--many", "20")
        self.assertGreaterEqual(held, 18)
        self.assertEqual((cluster.annotations("me"), cluster.labels("me")), ({}, {}))

    def test_the_rule_of_many_services(self):
        # A pod's annotations have room for 256 KiB, a fraction of ten thousand nodes.
        names = ["w%d" % number for number in range(50)]
        cluster = self.cluster(*map(pod, names))
        writers = [self.registry(cluster, "pod=" + name) for name in names]
        self.assert_many_rule_holds(self.registry(cluster, "pod=w0"), "--without", "ttl", writers=writers)
        self.assertEqual([cluster.annotations(name) for name in names], [{}] * len(names))

    def test_an_app_is_written_on_its_pod_as_go_micro_reads_it_and_called(self):
        app = self.start_server(Node(greeter))
        cluster = self.cluster(pod("me", annotations={"other": "stays"}), pod("not-ours"))
        owner = self.start(registry=self.registry(cluster), name="go.micro.srv.greeter", app=app.port, environment={
            "MICRO_APP_PROTOCOL": "mucp", "MICRO_SERVER_ADVERTISE": "127.0.0.1:%d" % app.port})
        caller = self.start(registry=self.registry(cluster, "pod=other"))
        eventually(lambda: self.addresses(caller, "go.micro.srv.greeter"))
        self.assertEqual(caller.rpc("go.micro.srv.greeter", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        self.assertEqual(cluster.labels("me"), {
            "micro.mu/type": "service", "micro.mu/selector-go.micro.srv.greeter": "service"})
        written = json.loads(cluster.annotations("me")[SERVICE + "go.micro.srv.greeter"])
        self.assertEqual((written["name"], len(written["nodes"])), ("go.micro.srv.greeter", 1))
        owner.stop()
        self.assertEqual((cluster.annotations("me"), cluster.labels("me")), ({"other": "stays"}, {}))
        eventually(lambda: self.addresses(caller, "go.micro.srv.greeter") == [])

    def test_what_a_pod_asks_of_the_injector_is_no_entry(self):
        app = self.start_server(Node(greeter))
        wish = {"micro.mu/service-name": "go.micro.srv.greeter", "micro.mu/service-version": "1"}
        cluster = self.cluster(pod("me", annotations=wish), service_pod("a", entry("name", 1)))
        owner = self.start(registry=self.registry(cluster), name="go.micro.srv.greeter", app=app.port, environment={
            "MICRO_APP_PROTOCOL": "mucp"})
        caller = self.start(registry=self.registry(cluster, "pod=other"))
        eventually(lambda: self.addresses(caller, "go.micro.srv.greeter"))
        self.assertEqual(self.addresses(caller, "name"), ["10.9.0.1:80"], "a service may be called so")
        owner.stop()
        self.assertEqual((cluster.annotations("me"), cluster.labels("me")), (wish, {}))
        self.assertNotIn("service-name", caller.text())

    def test_pods_count_while_they_run_and_are_ready(self):
        cluster = self.cluster(
            service_pod("a", entry("s", 1)), service_pod("b", entry("s", 2), phase="Pending"),
            service_pod("c", entry("s", 3), ready=False), service_pod("d", entry("s", 4), phase="Succeeded"))
        sidecar = self.start(registry=self.registry(cluster))
        eager = self.start(registry=self.registry(cluster, "ready=false"))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:80"])
        eventually(lambda: self.addresses(eager, "s") == ["10.9.0.1:80", "10.9.0.3:80"])
        cluster.put("pods", service_pod("b", entry("s", 2)))
        cluster.put("pods", service_pod("c", entry("s", 3)))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.%d:80" % n for n in (1, 2, 3)])
        leaving = service_pod("a", entry("s", 1))
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        cluster.put("pods", leaving)
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.2:80", "10.9.0.3:80"])
        cluster.delete("pods", "b")
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.3:80"])
        # Its label gone, the pod is no longer selected, which a watch is told as a deletion.
        cluster.put("pods", pod("c", annotations=service_pod("c", entry("s", 3))["metadata"]["annotations"]))
        eventually(lambda: self.addresses(sidecar, "s") == [])

    def test_namespaces(self):
        cluster = self.cluster(
            service_pod("a", entry("s", 1)), service_pod("a", entry("s", 2), namespace="shop"))
        for options, numbers in (("namespace=shop", [2]), ("namespace=*", [1, 2]), ("pod=x", [1])):
            sidecar = self.start(registry=self.registry(cluster, options))
            eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.%d:80" % n for n in numbers])

    def test_bad_annotations_are_left_out(self):
        good = service_pod("a", entry("s", 1))
        good["metadata"]["annotations"].update({SERVICE + "x": "{", SERVICE + "y": '{"name":1}', "micro.mu/versions-z": "7"})
        cluster = self.cluster(good)
        sidecar = self.start(registry=self.registry(cluster))
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.1:80"])
        for junk in (b"{}\n", b"nonsense\n", b'{"type":"ADDED","object":{"metadata":{}}}\n', b'{"type":"ADDED","object":[]}\n'):
            cluster.send("RAW", junk)
        for _ in range(3):
            good["metadata"]["labels"]["turn"] = str(time.monotonic_ns())
            cluster.put("pods", good)
        cluster.put("pods", service_pod("b", entry("s", 2)))
        eventually(lambda: len(self.addresses(sidecar, "s")) == 2)
        self.assertEqual(sidecar.text().count("entry=\"a micro.mu/service-x\""), 1)
        self.assertIn("a micro.mu/service-y", sidecar.text())

    def test_changes_arrive_at_once(self):
        cluster = self.cluster(*(service_pod("p%d" % n, entry("s%d" % n, n)) for n in range(1, 50)))
        sidecar = self.start(registry=self.registry(cluster))
        eventually(lambda: self.addresses(sidecar, "s1"))
        times = []
        for number in range(10, 20):
            begun = time.monotonic()
            cluster.put("pods", service_pod("p1", entry("s1", number)))
            eventually(lambda: self.addresses(sidecar, "s1") == ["10.9.0.%d:80" % number])
            times.append(time.monotonic() - begun)
        self.assertLess(sorted(times)[5], 0.05, times)

    def watches(self, cluster):
        return [request for request in cluster.requests if "watch=true" in request]

    def test_a_watch_goes_on_from_a_bookmark_and_is_listed_anew_after_410(self):
        cluster = self.cluster(service_pod("a", entry("s", 1)))
        sidecar = self.start(registry=self.registry(cluster))
        eventually(lambda: self.addresses(sidecar, "s") and len(cluster.watchers) == 1)
        lists = len(cluster.requests) - len(self.watches(cluster))
        for _ in range(5):
            cluster.put("pods", pod("elsewhere", labels={"n": str(cluster.version)}))
        cluster.bookmark()
        version = cluster.version
        cluster.send("CLOSE", None)
        eventually(lambda: "resourceVersion=%d&" % version in self.watches(cluster)[-1])
        self.assertEqual(len(cluster.requests) - len(self.watches(cluster)), lists, "a bookmark was not used")
        # What happens while nobody watches is only seen by a list when the history is gone.
        with cluster.lock:
            cluster.send("ERROR", status(410, "Expired", "too old resource version"))
            cluster.put("pods", service_pod("b", entry("s", 2)))
            cluster.delete("pods", "a")
            cluster.compact()
        eventually(lambda: self.addresses(sidecar, "s") == ["10.9.0.2:80"])
        cluster.cut()
        cluster.put("pods", service_pod("c", entry("s", 3)))
        eventually(lambda: len(self.addresses(sidecar, "s")) == 2)
        self.assertEqual(sidecar.metric("micro_sidecar_registry_outages_total"), 0)

    def test_an_outage_that_loses_everything(self):
        app = self.start_server(Node(greeter))
        first = self.cluster(pod("me"))
        owner = self.start(registry=self.registry(first), name="g", app=app.port)
        caller = self.start(registry=self.registry(first, "pod=other"))
        eventually(lambda: self.addresses(caller, "g"))
        known = self.addresses(caller, "g")
        first.stop()
        eventually(lambda: caller.metric("micro_sidecar_registry_outages_total") >= 1, what="the outage")
        eventually(lambda: owner.metric("micro_sidecar_registry_outages_total") >= 1, what="the owner's outage")
        self.assertEqual(self.addresses(caller, "g"), known)
        again = self.cluster(pod("me"), port=first.port)
        begun = time.monotonic()
        eventually(lambda: SERVICE + "g" in again.annotations("me"), what="the registration written again")
        self.assertLess(time.monotonic() - begun, 2)
        eventually(lambda: self.addresses(caller, "g") == known)

    def test_a_list_in_pages_whose_version_expires(self):
        cluster = self.cluster(*(service_pod("p%04d" % n, entry("s", n % 250)) for n in range(1100)))
        sidecar = self.start(registry=self.registry(cluster))
        eventually(lambda: len(self.addresses(sidecar, "s")) == 250)
        pages = [request for request in cluster.requests if "continue=" in request]
        self.assertEqual(len(pages), 2)
        sidecar.stop()
        cluster.requests.clear()
        real = Cluster.selects
        seen = []

        def compacting(self, query, namespace, item):
            if not seen and "limit" in query and "continue" not in query:
                seen.append(cluster.compact())
                cluster.oldest += 1
            return real(self, query, namespace, item)

        Cluster.selects = compacting
        self.addCleanup(setattr, Cluster, "selects", real)
        cluster.version += 5
        sidecar = self.start(registry=self.registry(cluster))
        eventually(lambda: len(self.addresses(sidecar, "s")) == 250)

    def test_what_was_left_by_a_killed_sidecar_is_overwritten(self):
        app = self.start_server(Node(greeter))
        cluster = self.cluster(pod("me"))
        options = dict(registry=self.registry(cluster), name="g", app=app.port)
        first = self.start(**options)
        eventually(lambda: SERVICE + "g" in cluster.annotations("me"))
        before = cluster.annotations("me")
        first.send_signal(signal.SIGKILL)
        first.wait()
        self.assertEqual(cluster.annotations("me"), before)
        self.start(**options)
        eventually(lambda: cluster.annotations("me") != before)
        self.assertEqual(len(json.loads(cluster.annotations("me")[SERVICE + "g"])["nodes"]), 1)

    def test_renewals_write_only_what_is_missing(self):
        app = self.start_server(Node(greeter))
        cluster = self.cluster(pod("me"))
        self.start(registry=self.registry(cluster), name="g", app=app.port, environment={
            "MICRO_REGISTER_TTL": "2", "MICRO_REGISTER_INTERVAL": "1"})
        eventually(lambda: SERVICE + "g" in cluster.annotations("me"))

        def patches():
            return len([request for request in cluster.requests if request.startswith("PATCH")])

        written = patches()
        version = cluster.version
        cluster.put("pods", pod("me"))
        eventually(lambda: SERVICE + "g" in cluster.annotations("me"), what="the entry somebody took away")
        self.assertEqual((patches(), cluster.version), (written + 1, version + 2))

    def account(self, cluster, **files):
        folder = tempfile.mkdtemp(prefix="micro-sidecar-test-")
        self.addCleanup(shutil.rmtree, folder)
        for name, content in files.items():
            with open(os.path.join(folder, name.replace("_", ".")), "w") as stream:
                stream.write(content)
        return folder

    def certificate(self, host):
        folder = tempfile.mkdtemp(prefix="micro-sidecar-test-")
        self.addCleanup(shutil.rmtree, folder)
        key, certificate = os.path.join(folder, "key.pem"), os.path.join(folder, "cert.pem")
        subprocess.run(
            [program("openssl", "openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
             "-days", "2", "-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:" + host],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return certificate, key

    def test_in_a_pod_with_tls_and_a_token_that_is_replaced(self):
        app = self.start_server(Node(greeter))
        certificate, key = self.certificate("127.0.0.1")
        cluster = self.cluster(pod("me", namespace="shop"), token="one", certificate=(certificate, key))
        with open(certificate) as stream:
            folder = self.account(cluster, token="one\n", namespace="shop", ca_crt=stream.read())
        environment = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(cluster.port), "HOSTNAME": "me",
            "MICRO_REGISTER_TTL": "2", "MICRO_REGISTER_INTERVAL": "1"}
        self.start(registry="kubernetes:?account=" + folder, name="g", app=app.port, environment=environment)
        eventually(lambda: SERVICE + "g" in cluster.annotations("me", "shop"))
        cluster.token = "two"
        with open(os.path.join(folder, "token.new"), "w") as stream:
            stream.write("two")
        os.rename(os.path.join(folder, "token.new"), os.path.join(folder, "token"))
        cluster.put("pods", pod("me", namespace="shop"))
        eventually(lambda: SERVICE + "g" in cluster.annotations("me", "shop"), what="a write with the new token")

    def doctor(self, registry, **environment):
        _, output, errors = command("doctor", environment={
            "MICRO_REGISTRY": registry, "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % free_port(),
            "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % free_port(), **environment})
        return output + errors

    def test_the_doctor_names_the_cause(self):
        cases = [
            ({"denied": ["patch"]}, "pod=me", ['cannot patch resource "pods"', 'verbs: [list, watch, patch]']),
            ({"denied": ["list"]}, "pod=me", ['cannot list resource', "Role"]),
            ({"denied": ["watch"]}, "pod=me", ['cannot watch resource']),
            ({"token": "good"}, "pod=me&token=bad", ["does not accept the token", "token_file"]),
            ({}, "pod=you", ["there is no pod you in namespace default", "POD_NAME"]),
            ({}, "pod=me&namespace=shop", ["there is no pod me in namespace shop"]),
            ({}, "pod=me", ["allows list, watch, patch on pods in namespace default"]),
            ({"denied": ["patch"]}, "mode=slices", ["allows list, watch on endpointslices"]),
        ]
        for options, query, words in cases:
            cluster = self.cluster(pod("me"), **options)
            found = self.doctor(self.registry(cluster, query))
            for word in words:
                self.assertIn(word, found)
            cluster.stop()
        self.assertIn("refused", self.doctor("kubernetes:http://127.0.0.1:%d" % cluster.port))
        self.assertIn("kubectl proxy", self.doctor("kubernetes"))
        secured = self.cluster(certificate=self.certificate("127.0.0.2"))
        self.assertIn("ca_file", self.doctor("kubernetes:127.0.0.1:%d" % secured.port))

    def test_a_registration_that_is_not_allowed_says_so(self):
        app = self.start_server(Node(greeter))
        cluster = self.cluster(pod("me"), denied=["patch"])
        sidecar = self.start(registry=self.registry(cluster), name="g", app=app.port)
        eventually(lambda: "does not allow `patch` on pods in namespace default" in sidecar.text())
        self.assertIn("verbs: [list, watch, patch]", sidecar.text())

    def test_endpoint_slices(self):
        node = self.start_server(Node(greeter))
        cluster = self.cluster()
        here = {"name": "mucp", "port": node.port, "protocol": "TCP"}
        cluster.put("endpointslices", endpoint_slice(
            "greeter-1", "greeter", endpoint("127.0.0.1", "p1", zone="z1"), endpoint("10.0.0.2", "p2", ready=False),
            endpoint("10.0.0.3", "p3", terminating=True), endpoint("10.0.0.4", "p4", ready=None, zone="z2"),
            ports=({"name": "metrics", "port": 9100, "protocol": "TCP"}, here)))
        sidecar = self.start(registry=self.registry(cluster, "mode=slices&prefix=go.micro.srv."))
        eventually(lambda: len(self.addresses(sidecar, "go.micro.srv.greeter")) == 2)
        found = self.listed(sidecar, "go.micro.srv.greeter")[0]
        by_id = {each["id"]: each for each in found["nodes"]}
        self.assertEqual(by_id["go.micro.srv.greeter-p1"]["metadata"], {"protocol": "mucp", "zone": "z1"})
        self.assertEqual(by_id["go.micro.srv.greeter-p4"]["address"], "10.0.0.4:%d" % node.port)
        # The pod's IPv6 address in another slice is the same node; it stays when the first slice goes.
        cluster.put("endpointslices", endpoint_slice(
            "greeter-2", "greeter", endpoint("::1", "p1"), ports=(here,), labels={"micro.mu/version": "latest"}))
        cluster.put("endpointslices", endpoint_slice(
            "greeter-1", "greeter", endpoint("127.0.0.1", "p1", zone="z1"), ports=(here,)))
        eventually(lambda: self.addresses(sidecar, "go.micro.srv.greeter") == ["127.0.0.1:%d" % node.port])
        self.assertEqual(sidecar.rpc("go.micro.srv.greeter", "Say.Hello", {"name": "a"}).json(), {"msg": "Hello a"})
        cluster.delete("endpointslices", "greeter-1")
        eventually(lambda: self.addresses(sidecar, "go.micro.srv.greeter") == ["[::1]:%d" % node.port])

    def test_endpoint_slices_say_names_versions_and_protocols(self):
        cluster = self.cluster()
        cluster.put("endpointslices", endpoint_slice(
            "a-1", "a", endpoint("10.0.0.1", "p"), ports=({"name": "x", "port": 1, "protocol": "TCP", "appProtocol": "grpc"},),
            labels={"micro.mu/name": "go.micro.srv.a", "micro.mu/version": "7"}))
        cluster.put("endpointslices", endpoint_slice(
            "b-1", "b", endpoint("10.0.0.2", "p"), ports=({"name": "dns", "port": 53, "protocol": "UDP"},)))
        cluster.put("endpointslices", endpoint_slice(
            "c-1", "c", endpoint("10.0.0.3", "p"), ports=({"name": "y", "port": 70000, "protocol": "TCP"},)))
        sidecar = self.start(registry=self.registry(cluster, "mode=slices&namespace=*"))
        eventually(lambda: self.addresses(sidecar, "go.micro.srv.a") == ["10.0.0.1:1"])
        found = self.listed(sidecar, "go.micro.srv.a")[0]
        self.assertEqual((found["version"], found["nodes"][0]["metadata"]), ("7", {"protocol": "grpc"}))
        self.assertEqual(len(sidecar.get("/registry").json()), 1)
        self.assertIn("no TCP port", sidecar.text())
        for rule in ("cannot be written", "unknown service"):
            self.assertEqual(self.assert_rules_hold(
                self.registry(cluster, "mode=slices"), "--without", "writing", "--rule", rule), 1)
