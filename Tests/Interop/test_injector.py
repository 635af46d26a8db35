"""The admission webhook over real TLS: AdmissionReviews as an API server sends them, its certificate's rotation, and peers
that do not behave."""

from __future__ import annotations

import base64
import copy
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time

from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, command, eventually, free_port, run_together

NAME = "micro-sidecar-injector.micro-system.svc"
SCRIPT = os.path.join(SOURCE_ROOT, "deploy", "k8s", "overlays", "injector-own-certificate", "certificate")
BODY_BYTES_MAX = 3 << 20


def certificate(folder, days=365):
    """As the manifests' own script makes them: ca.crt, tls.crt, tls.key."""
    subprocess.run(["bash", SCRIPT, folder, "micro-system", str(days)], check=True, stdin=subprocess.DEVNULL)


def pod(annotations=None, **spec):
    spec.setdefault("containers", [{"name": "app", "image": "app:1", "resources": {}, "imagePullPolicy": "Always",
                                    "terminationMessagePath": "/dev/termination-log"}])
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {
        "generateName": "hello-7c5ddbdf54-", "creationTimestamp": None,
        "labels": {"app": "hello", "pod-template-hash": "7c5ddbdf54"}, "annotations": annotations or {}},
        "spec": spec, "status": {}}


def review(item, uid="705ab4f5-6393-11e8-b7cc-42010a800002", **request):
    """An AdmissionReview with all that kube-apiserver puts into one."""
    return dict({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": dict({
        "uid": uid, "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop", "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": ["system:authenticated"]},
        "object": item, "oldObject": None, "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}}, **request)})


def apply(document, operations):
    """`add` of RFC 6902."""
    document = copy.deepcopy(document)
    for operation in operations:
        assert operation["op"] == "add", operation
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        target = document
        for part in path:
            target = target[int(part)] if isinstance(target, list) else target[part]
        if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), operation["value"])
        else:
            target[last] = operation["value"]
    return document


class Injector(Process):
    def __init__(self, folder, environment=None):
        self.port = free_port()
        self.folder = folder
        settings = {
            "MICRO_INJECTOR_ADDRESS": "127.0.0.1:%d" % self.port, "MICRO_INJECTOR_IMAGE": "registry.example/micro-sidecar:1",
            "MICRO_INJECTOR_CERT_FILE": os.path.join(folder, "tls.crt"),
            "MICRO_INJECTOR_KEY_FILE": os.path.join(folder, "tls.key"), "MICRO_LOG_LEVEL": "debug",
        }
        settings.update(environment or {})
        super().__init__("micro-sidecar injector", [BINARY, "injector"], settings)

    def context(self):
        return ssl.create_default_context(cafile=os.path.join(self.folder, "ca.crt"))

    def connect(self, timeout=15):
        """A connection that has checked who answers, as an API server does."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout)
        return self.context().wrap_socket(plain, server_hostname=NAME)

    def serial(self):
        with self.connect() as stream:
            return stream.getpeercert()["serialNumber"]

    def ask(self, method, path, body=None, headers=None, stream=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.sock = stream or self.connect()
        try:
            connection.request(method, path, body=body, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            if not stream:
                connection.close()

    def inject(self, document, stream=None, path="/inject?timeout=10s"):
        body = document if isinstance(document, (bytes, str)) else json.dumps(document)
        return self.ask("POST", path, body, {"Content-Type": "application/json"}, stream)

    def metric(self, name):
        rows = [line for line in self.ask("GET", "/metrics")[2].decode().splitlines() if line.startswith(name)]
        return float(rows[0].rsplit(" ", 1)[1]) if rows else 0.0


class Webhook(BlackBox):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        certificate(self.folder.name)

    def injector(self, environment=None):
        injector = self.start_process(Injector(self.folder.name, environment))
        eventually(lambda: injector.ask("GET", "/readyz")[0] == 200, what="the injector")
        return injector

    def response(self, answer):
        status, headers, body = answer
        self.assertEqual(status, 200, body)
        self.assertEqual(headers["Content-Type"], "application/json")
        document = json.loads(body)
        self.assertEqual((document["kind"], document["apiVersion"]), ("AdmissionReview", "admission.k8s.io/v1"))
        return document["response"]

    def patched(self, injector, item):
        response = self.response(injector.inject(review(item)))
        self.assertEqual((response["allowed"], response["patchType"]), (True, "JSONPatch"), response)
        return apply(item, json.loads(base64.b64decode(response["patch"], validate=True)))

    def test_a_pod_gets_its_sidecar_once(self):
        injector = self.injector()
        before = pod({"micro.mu/service-name": "go.micro.srv.hello", "micro.mu/app-port": "9090"})
        after = self.patched(injector, before)
        (sidecar,) = after["spec"]["initContainers"]
        self.assertEqual((sidecar["image"], sidecar["restartPolicy"]), ("registry.example/micro-sidecar:1", "Always"))
        self.assertIn({"name": "MICRO_SERVER_NAME", "value": "go.micro.srv.hello"}, sidecar["env"])
        self.assertEqual(after["spec"]["containers"][0]["image"], "app:1")
        again = self.response(injector.inject(review(after)))
        self.assertEqual((again["allowed"], again.get("patch")), (True, None))
        self.assertEqual(again["uid"], review({})["request"]["uid"])
        self.assertEqual(injector.metric('micro_injector_reviews_total{outcome="patched"}'), 1)
        self.assertEqual(injector.metric('micro_injector_reviews_total{outcome="unchanged"}'), 1)

    def test_the_sidecar_it_puts_in_starts_with_its_settings(self):
        """What the API server would give the container is given to the real binary."""
        injector = self.injector({"MICRO_INJECTOR_ENV": "MICRO_SIDECAR_CORS=https://a.example\nMICRO_LOG_LEVEL=debug"})
        after = self.patched(injector, pod({"micro.mu/service-name": "greeter", "micro.mu/app-port": "9090"}))
        fields = {"metadata.name": "hello-1", "metadata.namespace": "shop", "status.podIP": "10.1.2.3",
                  "metadata.uid": "u", "spec.nodeName": "n", "spec.serviceAccountName": "default"}
        environment = {}
        for pair in after["spec"]["initContainers"][0]["env"]:
            value = pair["value"] if "value" in pair else fields[pair["valueFrom"]["fieldRef"]["fieldPath"]]
            environment[pair["name"]] = value.replace("$(POD_NAME)", environment.get("POD_NAME", ""))
        status, output, errors = command("config", "-o", "json", environment=environment)
        self.assertEqual((status, errors), (0, ""))
        for key, value in (("MICRO_SERVER_NAME", "greeter"), ("MICRO_SERVER_ID", "hello-1"), ("MICRO_SIDECAR_DRAIN", "20s"),
                           ("MICRO_APP_ADDRESS", "127.0.0.1:9090"), ("MICRO_SIDECAR_CORS", "https://a.example")):
            self.assertIn('"%s"' % value, output, key)

    def test_bad_annotations_are_refused_with_a_message(self):
        injector = self.injector()
        response = self.response(injector.inject(review(pod({"micro.mu/app-port": "http", "micro.mu/app-prot": "1"}))))
        self.assertEqual((response["allowed"], response["status"]["code"]), (False, 422))
        self.assertIn('micro.mu/app-port: found "http"', response["status"]["message"])
        response = self.response(injector.inject(review(pod({"micro.mu/app-protocl": "grpc"}))))
        self.assertTrue(response["allowed"])
        self.assertIn("did you mean micro.mu/app-protocol", response["warnings"][0])
        self.assertIn("a pod was refused", injector.text())
        response = self.response(injector.inject(review(pod({"micro.mu/registry": "consull"}))))
        self.assertIn("micro.mu/registry", response["status"]["message"])

    def test_the_wrong_method_path_type_and_body(self):
        injector = self.injector()
        good = json.dumps(review(pod()))
        kind = {"Content-Type": "application/json"}
        for method, path, body, headers, wanted in (
                ("GET", "/inject", None, {}, 405), ("PUT", "/inject", good, kind, 405), ("POST", "/", good, kind, 404),
                ("POST", "/inject/", good, kind, 404), ("POST", "/INJECT", good, kind, 404),
                ("POST", "/inject", good, {}, 415), ("POST", "/inject", good, {"Content-Type": "text/plain"}, 415),
                ("POST", "/inject", good, {"Content-Type": "application/json; charset=utf-8"}, 200),
                ("POST", "/inject", "{}", kind, 400), ("POST", "/inject", "", kind, 400), ("POST", "/inject", good[:-9], kind, 400),
                ("POST", "/readyz", "", kind, 405), ("GET", "/metrics", None, {}, 200), ("GET", "/livez", None, {}, 200)):
            status, reply, text = injector.ask(method, path, body, headers)
            self.assertEqual(status, wanted, (method, path, text))
            if wanted == 405:
                self.assertTrue(reply["Allow"])
        self.assertEqual(self.response(injector.inject(review(pod(), operation="UPDATE"))).get("patch"), None)

    def test_bodies_up_to_3_mib(self):
        injector = self.injector()
        item = pod({"note": ""})
        item["metadata"]["annotations"]["note"] = "x" * (BODY_BYTES_MAX - len(json.dumps(review(item))))
        body = json.dumps(review(item))
        self.assertEqual(len(body), BODY_BYTES_MAX)
        self.assertTrue(self.response(injector.inject(body))["patch"])
        status, headers, _ = injector.inject(body + " ")
        self.assertEqual((status, headers["Connection"]), (413, "close"))
        # In chunks nobody says beforehand how much it will be.
        with injector.connect() as stream:
            stream.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
            try:
                for _ in range(49):
                    stream.sendall(chunk)
            except OSError:
                pass  # it was refused before all was sent
            self.assertIn(b" 413 ", stream.recv(1 << 16))
        self.assertTrue(self.response(injector.inject(review(pod())))["allowed"])

    def test_requests_one_after_the_other_and_in_pieces(self):
        injector = self.injector()
        with injector.connect() as stream:
            for _ in range(3):
                self.assertTrue(self.response(injector.inject(review(pod()), stream))["patch"])
            body = json.dumps(review(pod())).encode()
            head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            whole = (head + body) * 2
            for at in range(0, len(whole), 97):
                stream.sendall(whole[at:at + 97])
            text = b""
            while text.count(b"HTTP/1.1 200") < 2 or text.count(b'"uid"') < 2:
                text += stream.recv(1 << 16)

    def test_a_client_that_prefers_http_2_gets_http_1(self):
        """As kube-apiserver does; without this it would speak HTTP/2 at once."""
        injector = self.injector()
        context = injector.context()
        for offered, wanted in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
            context.set_alpn_protocols(offered)
            with context.wrap_socket(socket.create_connection(("127.0.0.1", injector.port), 10), server_hostname=NAME) as stream:
                self.assertEqual(stream.selected_alpn_protocol(), wanted)
                self.assertTrue(self.response(injector.inject(review(pod()), stream))["patch"])

    def test_many_at_once(self):
        injector = self.injector()

        def work(index):
            with injector.connect() as stream:
                for turn in range(20):
                    uid = "%d-%d" % (index, turn)
                    if self.response(injector.inject(review(pod(), uid=uid), stream))["uid"] != uid:
                        raise AssertionError("another's answer")

        run_together(16, work)
        self.assertEqual(injector.metric('micro_injector_reviews_total{outcome="patched"}'), 320)

    def test_slow_and_silent_clients_are_ended_and_hold_nobody_up(self):
        injector = self.injector()
        silent = socket.create_connection(("127.0.0.1", injector.port), 20)
        half = injector.connect(20)
        half.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        plain = socket.create_connection(("127.0.0.1", injector.port), 20)
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.addCleanup(silent.close)
        self.addCleanup(plain.close)
        begun = time.monotonic()
        self.assertTrue(self.response(injector.inject(review(pod())))["patch"])
        self.assertLess(time.monotonic() - begun, 5)
        plain.recv(1 << 16)  # an alert, perhaps
        self.assertEqual(plain.recv(1), b"")
        self.assertIn(b" 408 ", half.recv(1 << 16))
        try:
            self.assertEqual(silent.recv(1), b"")
        except ConnectionResetError:
            pass
        self.assertLess(time.monotonic() - begun, 15)
        self.assertGreaterEqual(injector.metric("micro_injector_handshake_failures_total"), 1)

    def test_idle_connections_make_room(self):
        injector = self.injector()
        streams = [injector.connect() for _ in range(256)]
        for stream in streams:
            self.addCleanup(stream.close)
        self.assertTrue(self.response(injector.inject(review(pod())))["patch"])
        self.assertEqual(streams[0].recv(1), b"", "the one that was idle longest")
        self.assertTrue(self.response(injector.inject(review(pod()), streams[-1]))["patch"])

    def test_memory_is_bounded_whatever_is_under_way(self):
        injector = self.injector()
        before = injector.resident_kilobytes()
        head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES_MAX
        refused = 0
        for _ in range(20):
            stream = injector.connect()
            self.addCleanup(stream.close)
            stream.sendall(head)
            try:
                stream.sendall(b" " * (BODY_BYTES_MAX - 1))
                stream.settimeout(0.5)
                refused += b" 503 " in stream.recv(1 << 12)
            except OSError:
                pass  # no answer yet: it is held
        self.assertGreaterEqual(refused, 1)
        self.assertLess(injector.resident_kilobytes() - before, 64 << 10)

    def test_a_new_certificate_is_used_without_a_restart(self):
        injector = self.injector()
        first = injector.serial()
        with injector.connect() as shown:
            ends = ssl.cert_time_to_seconds(shown.getpeercert()["notAfter"])
        self.assertEqual(injector.metric("micro_injector_certificate_expiry_timestamp_seconds"), ends)
        with injector.connect() as standing:
            certificate(self.folder.name)
            eventually(lambda: injector.serial() != first, 10, "the new certificate")
            self.assertTrue(self.response(injector.inject(review(pod()), standing))["patch"], "what stands goes on")
        self.assertEqual(injector.metric('micro_injector_certificate_reloads_total{outcome="replaced"}'), 1)
        # One that cannot be used leaves the one before.
        second = injector.serial()
        with open(os.path.join(self.folder.name, "tls.crt"), "w") as stream:
            stream.write("no certificate")
        injector.process.send_signal(signal.SIGHUP)
        eventually(lambda: "the one before stays" in injector.text(), 10, "the refusal in the log")
        self.assertEqual(injector.serial(), second)
        certificate(self.folder.name)
        injector.process.send_signal(signal.SIGHUP)
        eventually(lambda: injector.serial() not in (first, second), 10, "the third certificate")

    def test_a_certificate_in_a_volume_of_kubernetes(self):
        """A secret's volume: files are links through `..data`, which is what moves."""
        with tempfile.TemporaryDirectory() as volume:
            def put(version):
                inner = os.path.join(volume, "..%d" % version)
                os.mkdir(inner)
                certificate(self.folder.name)
                for name in ("tls.crt", "tls.key"):
                    with open(os.path.join(self.folder.name, name)) as source, open(os.path.join(inner, name), "w") as target:
                        target.write(source.read())
                os.symlink("..%d" % version, os.path.join(volume, "..new"))
                os.rename(os.path.join(volume, "..new"), os.path.join(volume, "..data"))

            put(1)
            for name in ("tls.crt", "tls.key"):
                os.symlink("..data/" + name, os.path.join(volume, name))
            injector = self.injector({"MICRO_INJECTOR_CERT_FILE": os.path.join(volume, "tls.crt"),
                                      "MICRO_INJECTOR_KEY_FILE": os.path.join(volume, "tls.key")})
            first = injector.serial()
            put(2)
            eventually(lambda: injector.serial() != first, 15, "the new certificate")

    def test_it_answers_what_is_under_way_and_ends(self):
        injector = self.injector()
        body = json.dumps(review(pod())).encode()
        with injector.connect() as stream, injector.connect():
            stream.sendall(b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            stream.sendall(body[:50])
            eventually(lambda: injector.metric("micro_injector_connections") >= 3)
            injector.send_signal(signal.SIGTERM)
            eventually(lambda: "draining" in injector.text())
            stream.sendall(body[50:])
            text = b""
            while part := stream.recv(1 << 16):
                text += part
            self.assertIn(b" 200 ", text)
            self.assertIn(b"Connection: close", text)
        self.assertEqual(injector.wait(), 0)

    def test_wrong_settings_end_it_before_it_listens(self):
        status, _, errors = command("injector", environment={"MICRO_INJECTOR_IMGE": "x", "MICRO_INJECTOR_NATIVE": "perhaps"})
        self.assertEqual(status, 64)
        for part in ("did you mean MICRO_INJECTOR_IMAGE", "MICRO_INJECTOR_IMAGE", "is not set", "true or false"):
            self.assertIn(part, errors)
        status, _, errors = command("injector", environment={"MICRO_INJECTOR_IMAGE": "x", "MICRO_INJECTOR_REGISTRY": "consull"})
        self.assertEqual(status, 64)
        self.assertIn("consull", errors)
        status, _, errors = command("injector", environment={
            "MICRO_INJECTOR_IMAGE": "x", "MICRO_INJECTOR_CERT_FILE": "/nowhere/tls.crt"})
        self.assertEqual(status, 64)
        self.assertIn("/nowhere/tls.crt", errors)
