"""deploy/k8s and deploy/helm: rendered with the real kubectl and helm, held to Kubernetes' own schemas (strict: an unknown
field is an error), to what the sidecar and the injector really do, and to each other. What no schema says (drain sums, ports
that have a name, rights, selectors) is looked at here; each of these looks is shown to find a mistake."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading

import kubernetes_validate
import yaml

from kubernetesapi import Cluster, pod as cluster_pod
from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, ask, command, eventually, free_port, free_ports
from test_injector import Injector, NAME, apply, review

K8S = os.path.join(SOURCE_ROOT, "deploy", "k8s")
CHART = os.path.join(SOURCE_ROOT, "deploy", "helm", "micro-sidecar")
TOOLS = os.path.join(SOURCE_ROOT, ".build", "kubernetes")
OVERLAYS = ("native", "classic", "injected", "daemonset", "injector-cert-manager", "injector-own-certificate")
DEREGISTRATION_SECONDS = 3  # LeaseTiming.removeLimit

# Kubernetes' schemas do not know these; the fields used here, from the documentation of their projects.
STRING, NUMBER = {"type": "string"}, {"type": "integer"}


def strictly(required=(), **properties):
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def resource(spec):
    return strictly(("apiVersion", "kind", "metadata", "spec"), apiVersion=STRING, kind=STRING, metadata={"type": "object"}, spec=spec)


CUSTOM = {
    ("monitoring.coreos.com/v1", "PodMonitor"): resource(strictly(("selector", "podMetricsEndpoints"), selector={"type": "object"},
        podMetricsEndpoints={"type": "array", "items": strictly(("port",), port=STRING, path=STRING, interval=STRING)})),
    ("cert-manager.io/v1", "Issuer"): resource(strictly(("selfSigned",), selfSigned={"type": "object"})),
    ("cert-manager.io/v1", "Certificate"): resource(strictly(("secretName", "issuerRef", "dnsNames"), secretName=STRING,
        dnsNames={"type": "array", "items": STRING}, duration=STRING, renewBefore=STRING,
        issuerRef=strictly(("name",), name=STRING, kind=STRING),
        privateKey=strictly(algorithm=STRING, size=NUMBER, rotationPolicy=STRING))),
}


def tool(name):
    path = os.path.join(TOOLS, name)
    return path if os.access(path, os.X_OK) else shutil.which(name)


def render(arguments):
    done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, timeout=120)
    if done.returncode:
        raise AssertionError("%s: %s" % (" ".join(arguments), done.stderr))
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def kustomize(folder):
    return render([tool("kubectl"), "kustomize", folder])


def helm(*values, namespace="micro-system"):
    return render([tool("helm"), "template", "mesh", CHART, "--namespace", namespace, *values])


def validate(item, version):
    custom = CUSTOM.get((item["apiVersion"], item["kind"]))
    if custom:
        kubernetes_validate.utils.jsonschema.Draft202012Validator(custom).validate(item)
    else:
        kubernetes_validate.validate(item, version, strict=True)


def one(items, kind, name=None):
    found = [item for item in items if item["kind"] == kind and name in (None, item["metadata"]["name"])]
    assert len(found) == 1, (kind, name, len(found))
    return found[0]


def pod_templates(items):
    """(object, pod spec) of whatever makes pods."""
    return [(item, item["spec"]["template"]) for item in items if item["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job")]


def containers(template):
    return template["spec"].get("initContainers", []) + template["spec"]["containers"]


def ours(template):
    return [item for item in containers(template) if "micro-sidecar" in item["image"]]


def variables(container):
    return {item["name"]: item for item in container.get("env", [])}


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


# --- what no schema says -------------------------------------------------------------------------------------------------


def drain_problems(items):
    """Pods whose sidecar may be killed before it is done."""
    found = []
    for item, template in pod_templates(items):
        for container in ours(template):
            drain = variables(container).get("MICRO_SIDECAR_DRAIN")
            if not drain:
                continue
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "", "0s"])
            total = seconds(hook[2]) + DEREGISTRATION_SECONDS + seconds(drain["value"])
            grace = template["spec"].get("terminationGracePeriodSeconds", 30)
            if not total < grace:
                found.append("%s: %d s of %d" % (item["metadata"]["name"], total, grace))
    return found


def security_problems(items):
    """What the pod security standard `restricted` asks for, and a root that cannot be written and bounded memory besides."""
    found = []
    for item, template in pod_templates(items):
        for container in containers(template):
            context, resources = container.get("securityContext", {}), container.get("resources", {})
            wanted = {
                "runAsNonRoot": context.get("runAsNonRoot") is True and context.get("runAsUser", 0) > 0,
                "escalation": context.get("allowPrivilegeEscalation") is False and not context.get("privileged"),
                "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
                "seccomp": context.get("seccompProfile") == {"type": "RuntimeDefault"},
                "read-only root": context.get("readOnlyRootFilesystem") is True,
                "requests": {"cpu", "memory"} <= set(resources.get("requests", {})),
                "memory limit": "memory" in resources.get("limits", {}),
            }
            found += ["%s/%s: %s" % (item["metadata"]["name"], container["name"], key) for key, holds in wanted.items() if not holds]
    return found


def reference_problems(items):
    """Names that nothing has: ports of probes and services, volumes, accounts, secrets, configuration maps, selectors."""
    found, names = [], {(item["kind"], item["metadata"]["name"]) for item in items}
    names |= {("Secret", item["spec"]["secretName"]) for item in items if item["kind"] == "Certificate"}
    for item, template in pod_templates(items):
        spec, where = template["spec"], item["metadata"]["name"]
        if not item["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
            found.append("%s: its selector does not fit its pods" % where)
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container and container[probe]["httpGet"]["port"] not in ports:
                    found.append("%s: %s asks a port without a name" % (where, probe))
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            found += ["%s: no volume %s" % (where, mount["name"]) for mount in container.get("volumeMounts", [])
                      if mount["name"] not in volumes]
        wanted = [("ServiceAccount", spec["serviceAccountName"])]
        for volume in spec.get("volumes", []):
            wanted += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
            wanted += [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
        found += ["%s: no %s %s" % (where, *name) for name in wanted if name not in names]
    for item in items:
        if item["kind"] == "Service":
            pods = [template for _, template in pod_templates(items)
                    if item["spec"]["selector"].items() <= template["metadata"]["labels"].items()]
            ports = {port["name"] for template in pods for container in template["spec"]["containers"] for port in container["ports"]}
            found += ["Service: no port %s" % port["targetPort"] for port in item["spec"]["ports"] if port["targetPort"] not in ports]
        if item["kind"] == "MutatingWebhookConfiguration":
            for hook in item["webhooks"]:
                target = hook["clientConfig"]["service"]
                fits = [other for other in items if other["kind"] == "Service" and other["metadata"]["name"] == target["name"]
                        and other["metadata"]["namespace"] == target["namespace"]
                        and target["port"] in [port["port"] for port in other["spec"]["ports"]]]
                found += [] if fits else ["%s: no such service" % hook["name"]]
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            if (item["roleRef"]["kind"], item["roleRef"]["name"]) not in names:
                found.append("%s: no %s" % (item["metadata"]["name"], item["roleRef"]["name"]))
    return found


def right_problems(items):
    """Rights beyond what the registry needs: list and watch, and patch of pods in a Role that has no other use."""
    allowed = {"pods": {"list", "watch", "patch"}, "endpointslices": {"list", "watch"}}
    found = []
    for item in items:
        for rule in item.get("rules", []) if item["kind"] in ("Role", "ClusterRole") else []:
            for name in rule["resources"]:
                extra = set(rule["verbs"]) - allowed.get(name, set())
                if item["kind"] == "ClusterRole":
                    extra |= set(rule["verbs"]) & {"patch"}
                found += ["%s: %s %s" % (item["metadata"]["name"], verb, name) for verb in sorted(extra)]
    return found


def matches(selector, labels):
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        value, there = labels.get(rule["key"]), rule["key"] in labels
        holds = {"In": there and value in rule.get("values", []), "NotIn": not there or value not in rule.get("values", []),
                 "Exists": there, "DoesNotExist": not there}[rule["operator"]]
        if not holds:
            return False
    return True


class Rendered(BlackBox):
    @classmethod
    def setUpClass(cls):
        cls.missing = next((name for name in ("kubectl", "helm") if not tool(name)), None)
        if cls.missing:
            return
        cls.work = tempfile.mkdtemp(prefix="micro-sidecar-k8s-")
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        # Where the script may write, as a user's checkout is.
        for name in ("deploy/k8s", "examples"):
            shutil.copytree(os.path.join(SOURCE_ROOT, name), os.path.join(cls.work, name))
        cls.tree = os.path.join(cls.work, "deploy", "k8s")
        cls.own = os.path.join(cls.tree, "overlays", "injector-own-certificate")
        subprocess.run([os.path.join(cls.own, "certificate")], check=True, stdin=subprocess.DEVNULL)
        cls.overlays = {name: kustomize(os.path.join(cls.tree, "overlays", name)) for name in OVERLAYS}
        everything = os.path.join(cls.tree, "overlays", "everything")
        os.mkdir(everything)
        with open(os.path.join(everything, "kustomization.yaml"), "w") as stream:
            stream.write("resources: [../native]\ncomponents: [../../components/egress-policy, ../../components/prometheus-operator]\n")
        cls.overlays["everything"] = kustomize(everything)
        cls.shop = ["--set", "namespaces[0].name=shop,namespaces[0].serviceAccounts={default,worker}"]
        cls.charts = {
            "defaults": helm(), "namespaces": helm(*cls.shop), "nothing": helm("--set", "injector.enabled=false"),
            "all": helm("--set", "node.enabled=true,podMonitor.enabled=true,sidecar.env.MICRO_LOG_LEVEL=debug,image.pullPolicy=Always",
                        *cls.shop, namespace="mesh"),
            "cert-manager": helm("--set", "injector.certificate.source=certManager"),
            "secret": helm("--set", "injector.certificate.source=secret,injector.certificate.caBundle=Cg=="),
        }

    def setUp(self):
        super().setUp()
        if self.missing:
            self.skipTest("%s is not installed: ./dev interop brings it" % self.missing)

    def all(self):
        return list(self.overlays.items()) + list(self.charts.items())

    def planted(self, overlay, kind, change, name=None):
        """The overlay with one object changed."""
        items = copy.deepcopy(self.overlays[overlay])
        change(one(items, kind, name))
        return items


class Schemas(Rendered):
    def test_every_object_is_valid(self):
        for name, items in self.all():
            self.assertTrue(items or name == "nothing", name)
            # Native sidecars are a field that older clusters do not have.
            old = [] if "native" in name or name == "everything" else ["1.25", "1.28"]
            for version in old + ["1.29", "1.33", "1.37"]:
                for item in items:
                    with self.subTest(overlay=name, version=version, kind=item["kind"]):
                        validate(item, version)

    def test_mistakes_are_found(self):
        def sidecar(item):
            return item["spec"]["template"]["spec"]["initContainers"][0]

        for overlay, kind, name, change in (
                ("native", "Deployment", "hello", lambda d: sidecar(d).update(restartPolcy="Always")),
                ("native", "Deployment", "hello", lambda d: sidecar(d)["ports"][0].update(containerPort="8082")),
                ("native", "Deployment", "hello", lambda d: sidecar(d)["env"][0].update(value=7)),
                ("native", "Deployment", "hello", lambda d: sidecar(d)["securityContext"].update(runAsRoot=False)),
                ("native", "Deployment", "hello", lambda d: d["spec"].pop("selector")),
                ("native", "NetworkPolicy", "micro-sidecar", lambda d: d["spec"].update(ingres=[])),
                ("native", "Role", "micro-sidecar", lambda d: d["rules"][0].update(verbs="list")),
                ("injector-cert-manager", "MutatingWebhookConfiguration", None, lambda d: d["webhooks"][0].update(timeoutSeconds="5s")),
                ("injector-cert-manager", "MutatingWebhookConfiguration", None, lambda d: d["webhooks"][0].pop("sideEffects")),
                ("injector-cert-manager", "Certificate", None, lambda d: d["spec"].update(secret="x")),
                ("everything", "PodMonitor", None, lambda d: d["spec"]["podMetricsEndpoints"][0].update(prot="x")),
                ("native", "Deployment", "hello", lambda d: d.update(apiVersion="apps/v1beta1"))):
            items = self.planted(overlay, kind, change, name)
            with self.assertRaises(Exception, msg=(overlay, kind)):
                for item in items:
                    validate(item, "1.33")

    def test_a_native_sidecar_is_no_field_of_old_clusters(self):
        with self.assertRaises(kubernetes_validate.ValidationError):
            validate(one(self.overlays["native"], "Deployment", "hello"), "1.27")


class Sums(Rendered):
    def test_the_drain_fits_into_the_grace_period(self):
        counted = 0
        for name, items in self.all():
            self.assertEqual(drain_problems(items), [], name)
            counted += sum(bool(variables(c).get("MICRO_SIDECAR_DRAIN")) for _, t in pod_templates(items) for c in ours(t))
        self.assertGreaterEqual(counted, 7)

        def short(item):
            item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 28
        self.assertEqual(drain_problems(self.planted("native", "Deployment", short, "hello")), ["hello: 28 s of 28"])

    def test_pods_may_do_little(self):
        for name, items in self.all():
            self.assertEqual(security_problems(items), [], name)

        def loose(item):
            for container in containers(item["spec"]["template"]):
                del container["securityContext"]["capabilities"], container["resources"]["limits"]
        self.assertEqual(len(security_problems(self.planted("native", "Deployment", loose, "hello"))), 4)

    def test_what_is_named_exists(self):
        for name, items in self.all():
            # Namespaces of a chart's values, and secrets that the user makes, are outside of it.
            left = [text for text in reference_problems(items) if not (name == "secret" and "no Secret" in text)]
            self.assertEqual(left, [], name)

        def spec(item):
            return item["spec"]["template"]["spec"]

        for overlay, kind, name, change in (
                ("native", "Deployment", "hello", lambda d: spec(d)["initContainers"][0]["ports"][1].update(name="x")),
                ("native", "Deployment", "hello", lambda d: spec(d).update(serviceAccountName="x")),
                ("native", "Deployment", "hello", lambda d: spec(d)["volumes"].pop(0)),
                ("native", "Deployment", "hello", lambda d: d["spec"]["template"]["metadata"]["labels"].clear()),
                ("native", "RoleBinding", "micro-sidecar", lambda d: d["roleRef"].update(name="x")),
                ("injector-own-certificate", "Service", None, lambda d: d["metadata"].update(name="x")),
                ("injector-own-certificate", "Secret", None, lambda d: d["metadata"].update(name="x")),
                ("injector-own-certificate", "Service", None, lambda d: d["spec"]["ports"][0].update(targetPort="x"))):
            self.assertTrue(reference_problems(self.planted(overlay, kind, change, name)), (kind, name))

    def test_rights_are_few(self):
        for name, items in self.all():
            self.assertEqual(right_problems(items), [], name)
        reader = one(self.overlays["native"], "Role", "micro-sidecar")
        self.assertEqual(reader["rules"], [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}])
        self.assertTrue(right_problems(self.planted("native", "Role", lambda d: d["rules"][0]["verbs"].append("get"), "micro-sidecar")))
        self.assertTrue(right_problems(self.planted("daemonset", "ClusterRole", lambda d: d["rules"][0]["verbs"].append("patch"))))
        quiet = helm("--set", "namespaces[0].name=shop,namespaces[0].serviceAccounts={default},namespaces[0].register=false")
        self.assertEqual([rule["verbs"] for rule in one(quiet, "Role")["rules"]], [["list", "watch"]])
        # The injector asks the API server nothing.
        for name in ("injector-cert-manager", "injector-own-certificate"):
            self.assertFalse([item for item in self.overlays[name] if "Role" in item["kind"]])
            self.assertIs(one(self.overlays[name], "Deployment")["spec"]["template"]["spec"]["automountServiceAccountToken"], False)

    def test_the_image_is_named_in_one_place(self):
        for name, items in self.all():
            for _, template in pod_templates(items):
                for container in ours(template):
                    self.assertRegex(container["image"], r"^registry\.example/micro-sidecar:\d", name)
        folder = os.path.join(self.tree, "overlays", "injector-cert-manager")
        with open(os.path.join(folder, "kustomization.yaml")) as stream:
            text = stream.read()
        self.addCleanup(lambda: open(os.path.join(folder, "kustomization.yaml"), "w").write(text))
        with open(os.path.join(folder, "kustomization.yaml"), "w") as stream:
            stream.write(text.replace("registry.example/micro-sidecar", "mine.example/x"))
        (container,) = one(kustomize(folder), "Deployment")["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], "mine.example/x:0.1.0")
        self.assertEqual(variables(container)["MICRO_INJECTOR_IMAGE"]["value"], "mine.example/x:0.1.0")
        digest = "sha256:" + "0" * 64
        (container,) = one(helm("--set", "image.digest=" + digest), "Deployment")["spec"]["template"]["spec"]["containers"]
        self.assertEqual(container["image"], "registry.example/micro-sidecar@" + digest)
        self.assertEqual(variables(container)["MICRO_INJECTOR_IMAGE"]["value"], container["image"])

    def test_policies_and_monitors_choose_the_pods_and_their_ports(self):
        items = self.overlays["everything"]
        sidecars = [template for _, template in pod_templates(items)]
        ports = {port["containerPort"] for template in sidecars for item in ours(template) for port in item["ports"]}
        for name in ("micro-sidecar", "micro-sidecar-egress"):
            policy = one(items, "NetworkPolicy", name)
            self.assertTrue(all(matches(policy["spec"]["podSelector"], t["metadata"]["labels"]) for t in sidecars))
        used = {port["port"] for rule in one(items, "NetworkPolicy", "micro-sidecar")["spec"]["ingress"] for port in rule["ports"]}
        self.assertEqual(used, ports)
        monitor = one(items, "PodMonitor")["spec"]
        self.assertTrue(all(matches(monitor["selector"], t["metadata"]["labels"]) for t in sidecars))
        names = {port["name"] for template in sidecars for item in ours(template) for port in item["ports"]}
        self.assertIn(monitor["podMetricsEndpoints"][0]["port"], names)
        for template in sidecars:
            notes = template["metadata"]["annotations"]
            self.assertIn(int(notes["prometheus.io/port"]), ports)


class Webhooks(Rendered):
    def test_which_pods_are_shown_to_the_injector(self):
        for items, own in ((self.overlays["injector-cert-manager"], "micro-system"), (self.charts["all"], "mesh")):
            configuration = one(items, "MutatingWebhookConfiguration")
            for space, switch, label, wanted in (
                    ("shop", "enabled", None, 1), ("shop", "enabled", "enabled", 1), ("shop", "enabled", "disabled", 0),
                    ("shop", None, None, 0), ("shop", None, "enabled", 1), ("shop", None, "disabled", 0),
                    ("shop", "disabled", None, 0), ("shop", "disabled", "enabled", 0), ("kube-system", "enabled", "enabled", 0),
                    ("kube-system", None, "enabled", 0), (own, "enabled", "enabled", 0), (own, None, "enabled", 0)):
                namespace = {"kubernetes.io/metadata.name": space, **({"micro.mu/inject": switch} if switch else {})}
                shown = [hook["name"] for hook in configuration["webhooks"] if matches(hook["namespaceSelector"], namespace)
                         and matches(hook["objectSelector"], {"micro.mu/inject": label} if label else {"app": "x"})]
                self.assertEqual(len(shown), wanted, (space, switch, label, shown))
            for hook in configuration["webhooks"]:
                self.assertEqual((hook["failurePolicy"], hook["sideEffects"], hook["admissionReviewVersions"]), ("Fail", "None", ["v1"]))
                self.assertEqual(hook["rules"][0]["operations"], ["CREATE"])
                self.assertLessEqual(hook["timeoutSeconds"], 10)
        template = one(self.overlays["injected"], "Namespace")
        self.assertEqual(template["metadata"]["labels"]["micro.mu/inject"], "enabled")

    def serve(self, secret, bundle, name):
        """Is the certificate of the manifests, in their volume, one that their API server would take?"""
        with tempfile.TemporaryDirectory() as folder:
            for key in ("tls.crt", "tls.key"):
                with open(os.path.join(folder, key), "wb") as stream:
                    stream.write(base64.b64decode(secret["data"][key]))
            with open(os.path.join(folder, "ca.crt"), "wb") as stream:
                stream.write(base64.b64decode(bundle))
            injector = self.start_process(Injector(folder))
            with contextlib.ExitStack() as stack:
                stream = stack.enter_context(eventually(lambda: self.dial(injector, name), what="a connection that is trusted"))
                self.assertTrue(json.loads(injector.inject(review({"spec": {"containers": [{"name": "a"}]}}), stream)[2]))
            with self.assertRaises(ssl.SSLError):
                self.dial(injector, "another.micro-system.svc")
            self.assertEqual(injector.stop(), 0)

    def dial(self, injector, name):
        import socket
        return injector.context().wrap_socket(socket.create_connection(("127.0.0.1", injector.port), 10), server_hostname=name)

    def test_certificates_are_taken_by_the_webhooks_that_name_them(self):
        for items, space in ((self.overlays["injector-own-certificate"], "micro-system"), (self.charts["all"], "mesh")):
            hooks = one(items, "MutatingWebhookConfiguration")["webhooks"]
            target = hooks[0]["clientConfig"]["service"]
            self.assertEqual({hook["clientConfig"]["caBundle"] for hook in hooks}, {hooks[0]["clientConfig"]["caBundle"]})
            self.serve(one(items, "Secret"), hooks[0]["clientConfig"]["caBundle"], "%s.%s.svc" % (target["name"], target["namespace"]))
            self.assertEqual(target["namespace"], space)
        # cert-manager makes it for the same name.
        for items in (self.overlays["injector-cert-manager"], self.charts["cert-manager"]):
            certificate = one(items, "Certificate")
            self.assertIn(NAME, certificate["spec"]["dnsNames"])
            note = one(items, "MutatingWebhookConfiguration")["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
            self.assertEqual(note, "%s/%s" % (certificate["metadata"]["namespace"], certificate["metadata"]["name"]))

    def test_a_certificate_made_again_is_signed_by_the_same_authority(self):
        def read(name):
            with open(os.path.join(self.own, name)) as stream:
                return stream.read()
        before = {name: read(name) for name in ("ca.crt", "tls.crt", "ca-bundle.yaml")}
        subprocess.run([os.path.join(self.own, "certificate")], check=True, stdin=subprocess.DEVNULL)
        self.assertEqual((read("ca.crt"), read("ca-bundle.yaml")), (before["ca.crt"], before["ca-bundle.yaml"]))
        self.assertNotEqual(read("tls.crt"), before["tls.crt"])

    def resolved(self, container, template):
        """Its variables by name; what an annotation says is put in, and what only a cluster knows stays a reference."""
        result, notes = {}, template["metadata"].get("annotations", {})
        for name, item in variables(container).items():
            value = item.get("value")
            if value is None:
                path = item["valueFrom"]["fieldRef"]["fieldPath"]
                note = re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)
                value = notes.get(note.group(1), "") if note else "<%s>" % path
            result[name] = re.sub(r"\$\((\w+)\)", lambda m: result[m.group(1)], value)
        # A helper of the manifest's, and empty ones that are as good as none.
        return {name: value for name, value in result.items() if value and name != "APP_PORT"}

    def test_the_components_are_what_the_injector_puts_in(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([os.path.join(self.own, "certificate"), folder], check=True, stdin=subprocess.DEVNULL)
            injector = self.start_process(Injector(folder, {"MICRO_INJECTOR_IMAGE": "registry.example/micro-sidecar:0.1.0"}))
            eventually(lambda: injector.ask("GET", "/readyz")[0] == 200)
            for kind, where in (("native", "initContainers"), ("classic", "containers")):
                for name in ("hello", "front"):
                    plain = copy.deepcopy(one(self.overlays["injected"], "Deployment", name)["spec"]["template"])
                    plain["metadata"].setdefault("annotations", {})["micro.mu/native"] = str(kind == "native").lower()
                    response = json.loads(injector.inject(review(plain))[2])["response"]
                    injected = apply(plain, json.loads(base64.b64decode(response["patch"])))
                    written = one(self.overlays[kind], "Deployment", name)["spec"]["template"]
                    (left,), (right,) = ([c for c in t["spec"][where] if c["name"] == "micro-sidecar"] for t in (injected, written))
                    self.assertEqual(self.resolved(left, injected), self.resolved(right, written))
                    for side in (left, right):
                        side.pop("env")
                    self.assertEqual(left, right)
                    self.assertEqual(injected["spec"][where][0]["name"], "micro-sidecar")
                    self.assertEqual(written["spec"][where][0]["name"], "micro-sidecar")
                    volumes = [[v for v in t["spec"]["volumes"] if v["name"] == "micro-sidecar-token"] for t in (injected, written)]
                    self.assertEqual(volumes[0], volumes[1])
                    self.assertEqual(injected["metadata"]["labels"], written["metadata"]["labels"])
                    notes = injected["metadata"]["annotations"]
                    self.assertLessEqual(written["metadata"]["annotations"].items(), notes.items())
                    # The pod that comes out of it is valid as well.
                    validate({"apiVersion": "v1", "kind": "Pod", **injected}, "1.33")


class Chart(Rendered):
    def test_lint(self):
        done = subprocess.run([tool("helm"), "lint", "--strict", CHART], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout.decode())

    def test_wrong_values_are_refused(self):
        for value in ("imagee.tag=1", "injector.failurePolicy=Maybe", "injector.replicas=0", "image.digest=sha256:1",
                      "sidecar.nativ=true", "injector.certificate.source=secret"):
            with self.assertRaises(AssertionError, msg=value):
                helm("--set", value)

    def test_it_makes_what_kustomize_makes(self):
        def plain(item):
            item = copy.deepcopy(item)
            for labels in [item["metadata"].get("labels", {})]:
                for key in ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"):
                    labels.pop(key, None)
            if not item["metadata"].get("labels"):
                item["metadata"].pop("labels", None)
            for hook in item.get("webhooks", []):
                hook["clientConfig"].pop("caBundle", None)
            for _, template in pod_templates([item]):
                for container in template["spec"]["containers"]:
                    if container["name"] == "injector":
                        # The chart spells the injector's own defaults out.
                        container["env"] = [pair for pair in container["env"] if not re.search("SCRAPE|REQUEST|LIMIT", pair["name"])]
            return item

        for left, right in ((self.overlays["injector-cert-manager"], self.charts["cert-manager"]),
                            (self.overlays["injector-own-certificate"], self.charts["defaults"]),
                            (self.overlays["daemonset"], helm("--set", "injector.enabled=false,node.enabled=true"))):
            ours_, theirs = ({(item["kind"], item["metadata"]["name"]): plain(item) for item in items} for items in (left, right))
            ours_.pop(("Namespace", "micro-system"))  # Helm's --create-namespace
            for key in ours_.keys() & theirs.keys() & {("Secret", "micro-sidecar-injector-tls")}:
                del ours_[key], theirs[key]
            self.assertEqual(ours_.keys(), theirs.keys())
            for key, item in ours_.items():
                self.assertEqual(item, theirs[key], key)

    def test_the_injector_starts_with_the_chart_s_settings(self):
        (container,) = one(self.charts["all"], "Deployment")["spec"]["template"]["spec"]["containers"]
        environment = {item["name"]: item["value"] for item in container["env"]}
        self.assertIn("MICRO_INJECTOR_ENV", environment)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([os.path.join(self.own, "certificate"), folder], check=True, stdin=subprocess.DEVNULL)
            injector = self.start_process(Injector(folder, environment))
            eventually(lambda: injector.ask("GET", "/readyz")[0] == 200)
            response = json.loads(injector.inject(review({"spec": {"containers": [{"name": "a"}]}}))[2])["response"]
            (sidecar,) = apply({"spec": {"containers": [{"name": "a"}]}}, json.loads(base64.b64decode(response["patch"])))["spec"]["initContainers"]
            self.assertIn({"name": "MICRO_LOG_LEVEL", "value": "debug"}, sidecar["env"])
            self.assertEqual(sidecar["imagePullPolicy"], "Always")


class Example(Rendered):
    """The two services of the native overlay, as two pods would run them: the containers' own commands, settings and hooks,
    with other ports, since both are on one host here."""

    def start_pod(self, name, cluster, address):
        template = one(self.overlays["native"], "Deployment", name)["spec"]["template"]
        (sidecar,), (app,) = template["spec"]["initContainers"], template["spec"]["containers"]
        ports = dict(zip(("8081", "8082", "8083", template["metadata"]["annotations"]["micro.mu/app-port"]), map(str, free_ports(4))))
        fields = {"metadata.name": name + "-1", "metadata.namespace": "micro-example", "status.podIP": "127.0.0.1",
                  "metadata.uid": "uid", "spec.nodeName": "node", "spec.serviceAccountName": "micro-app"}
        notes = template["metadata"]["annotations"]
        cluster.put("pods", cluster_pod(name + "-1", namespace="micro-example", annotations=dict(notes)))

        def environment(container):
            result = {}
            for key, item in variables(container).items():
                if "value" in item:
                    value = re.sub(r"\$\((\w+)\)", lambda m: result[m.group(1)], item["value"])
                else:
                    path = item["valueFrom"]["fieldRef"]["fieldPath"]
                    note = re.fullmatch(r"metadata\.annotations\['(.*)'\]", path)
                    value = notes.get(note.group(1), "") if note else fields[path]
                result[key] = re.sub(r":(\d+)$", lambda m: ":" + ports.get(m.group(1), m.group(1)), value)
            return result

        settings = environment(sidecar)
        self.assertEqual(settings["MICRO_REGISTRY"], "kubernetes")
        settings["MICRO_REGISTRY"] = "kubernetes:" + address
        process = self.start_process(Process("sidecar of " + name, [BINARY], settings))
        admin = int(ports["8083"])
        for probe in ("startupProbe", "livenessProbe"):
            eventually(lambda: ask(admin, "GET", sidecar[probe]["httpGet"]["path"]).status == 200, what=probe)
        code = {"hello": ("python", "hello.py"), "front": ("node", "front.js")}[name]
        self.assertEqual(app["command"][1], "/app/" + code[1])
        program = [shutil.which(app["command"][0]), os.path.join(SOURCE_ROOT, "examples", *code)]
        self.start_process(Process(name, program, environment(app)))
        eventually(lambda: ask(admin, "GET", sidecar["readinessProbe"]["httpGet"]["path"]).status == 200, what="readiness")
        return process, settings, sidecar, ports

    def test_two_services_in_two_languages(self):
        for program in ("node", "python3"):
            if not shutil.which(program):
                self.skipTest("%s is not installed" % program)
        roles = [rule for item in self.overlays["native"] if item["kind"] == "Role" for rule in item["rules"] if "pods" in rule["resources"]]
        granted = {verb for rule in roles for verb in rule["verbs"]}
        cluster = self.start_server(Cluster(denied={"get", "list", "watch", "patch", "update"} - granted))
        address = "http://127.0.0.1:%d" % cluster.port
        hello, settings, sidecar, ports = self.start_pod("hello", cluster, address)
        front, _, _, front_ports = self.start_pod("front", cluster, address)
        key = "micro.mu/service-go.micro.srv.hello"
        entry = json.loads(eventually(lambda: cluster.annotations("hello-1", namespace="micro-example").get(key), what="the registration"))
        self.assertEqual(entry["nodes"][0]["id"], "go.micro.srv.hello-hello-1")
        self.assertEqual(entry["nodes"][0]["address"], "127.0.0.1:" + ports["8082"])

        def greet():
            return ask(int(front_ports["8081"]), "POST", "/front/front/greet", {"name": "World"})

        eventually(lambda: greet().status == 200, 10, "the call through two sidecars")
        self.assertEqual(greet().json(), {"greeting": "front says: Hello World"})
        # The end of a pod: the preStop hook, in which calls are still served, then the signal.
        program, *words = sidecar["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual((program, words), ("/micro-sidecar", ["drain", "5s"]))
        status, _, errors = command("drain", "0s", environment=settings)
        self.assertEqual((status, errors), (0, ""))
        self.assertNotIn(key, cluster.annotations("hello-1", namespace="micro-example"))
        self.assertEqual(cluster.annotations("hello-1", namespace="micro-example")["micro.mu/service-name"], "go.micro.srv.hello")
        self.assertEqual(ask(int(ports["8083"]), "GET", "/readyz").status, 503)
        self.assertEqual(ask(int(ports["8083"]), "GET", "/livez").status, 200)
        # The app's own calls go on, and those of callers that have not heard.
        asked = {"service": "go.micro.srv.front", "method": "Debug.Health", "request": {}}
        self.assertEqual(ask(int(ports["8081"]), "POST", "/rpc", asked).json(), {"status": "ok"})
        late = {"service": "go.micro.srv.hello", "method": "Say.Hello", "address": "127.0.0.1:" + ports["8082"], "request": {"name": "b"}}
        self.assertEqual(ask(int(front_ports["8081"]), "POST", "/rpc", late).json(), {"msg": "Hello b"})
        hello.send_signal(signal.SIGTERM)
        self.assertEqual(hello.wait(), 0)
        self.assertEqual(front.stop(), 0)
