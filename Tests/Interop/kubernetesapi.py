"""A Kubernetes API server as far as the registry needs one: pods and EndpointSlices with resource versions, lists in pages
(`limit`, `continue`, 410 when the pages' version is compacted), watches (ADDED, MODIFIED, DELETED, bookmarks, an ERROR event
with 410 for a version that is gone, `timeoutSeconds`), label selectors, strategic merge patches of metadata (nulls remove;
a patch that changes nothing makes no version), dry runs, bearer tokens, RBAC by verb, TLS.

What the API says is from its reference and concepts pages (kubernetes.io/docs/reference/using-api/api-concepts)."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import queue
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PATHS = {"/api/v1": "pods", "/apis/discovery.k8s.io/v1": "endpointslices"}


def status(code, reason, message):
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
            "reason": reason, "code": code}


def pod(name, namespace="default", phase="Running", ready=True, labels=None, annotations=None, padding=0):
    """A pod with the bulk a real one has, `padding` bytes of it."""
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": "uid-" + name, "labels": labels or {},
                     "annotations": annotations or {}, "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": "y" * padding}}]},
        "spec": {"containers": [{"name": "app", "image": "app:1", "env": [{"name": "A", "value": "b"}]}]},
        "status": {"phase": phase, "podIP": "10.1.1.1",
                   "conditions": [{"type": "Initialized", "status": "True"},
                                  {"type": "Ready", "status": "True" if ready else "False"}]},
    }


def service_pod(name, service, **options):
    """A pod as go-micro's plug-in marks it."""
    key = service["name"]
    return pod(name, labels={"micro.mu/type": "service", "micro.mu/selector-" + key: "service"},
               annotations={"micro.mu/service-" + key: json.dumps(service)}, **options)


def endpoint(address, target, ready=True, zone=None, terminating=False):
    return {"addresses": [address], "conditions": {"ready": ready, "serving": ready, "terminating": terminating},
            "targetRef": {"kind": "Pod", "name": target}, "zone": zone}


def endpoint_slice(name, service, *endpoints, ports=({"name": "http", "port": 8080, "protocol": "TCP"},), labels=None):
    return {"metadata": {"name": name, "namespace": "default",
                         "labels": dict({"kubernetes.io/service-name": service}, **(labels or {}))},
            "addressType": "IPv4", "endpoints": list(endpoints), "ports": list(ports)}


class Cluster:
    def __init__(self, port=0, token=None, certificate=None, denied=()):
        self.lock = threading.RLock()
        self.version = 1000
        self.objects = {"pods": {}, "endpointslices": {}}
        self.history = []  # (version, kind, type, object)
        self.oldest = 0  # versions up to here are compacted
        self.watchers = []
        self.connections = []
        self.requests = []
        self.token, self.denied = token, set(denied)
        self.stopped = False
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *arguments):
                pass

            def setup(self):
                super().setup()
                with cluster.lock:
                    cluster.connections.append(self.connection)

            def answer(self, code, body):
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def fail(self, code, reason, message):
                self.answer(code, status(code, reason, message))

            def allowed(self, verb, kind, namespace):
                if cluster.token is not None and self.headers.get("Authorization") != "Bearer " + cluster.token:
                    self.fail(401, "Unauthorized", "Unauthorized")
                    return False
                if verb in cluster.denied:
                    self.fail(403, "Forbidden", '%s is forbidden: User "system:serviceaccount:%s:default" cannot %s resource '
                              '"%s" in API group "" in the namespace "%s"' % (kind, namespace, verb, kind, namespace))
                    return False
                return True

            def target(self):
                """(kind, namespace or None, name or None, query) or None."""
                url = urlsplit(self.path)
                for root, kind in PATHS.items():
                    if url.path.startswith(root + "/"):
                        parts = url.path[len(root) + 1:].strip("/").split("/")
                        namespace = None
                        if parts[0] == "namespaces" and len(parts) > 1:
                            namespace, parts = parts[1], parts[2:]
                        if parts and parts[0] == kind:
                            query = {key: values[-1] for key, values in parse_qs(url.query).items()}
                            return kind, namespace, parts[1] if len(parts) > 1 else None, query
                return None

            def do_GET(self):
                cluster.requests.append("GET " + self.path)
                if self.path == "/version":
                    return self.answer(200, {"major": "1", "minor": "29"})
                found = self.target()
                if not found or found[2]:
                    return self.fail(404, "NotFound", "the server could not find the requested resource")
                kind, namespace, _, query = found
                if query.get("watch") in ("true", "1"):
                    if self.allowed("watch", kind, namespace):
                        self.watch(kind, namespace, query)
                elif self.allowed("list", kind, namespace):
                    self.list(kind, namespace, query)

            def list(self, kind, namespace, query):
                with cluster.lock:
                    version, start = cluster.version, ""
                    if "continue" in query:
                        version, start = json.loads(base64.b64decode(query["continue"]))
                        if version < cluster.oldest:
                            return self.fail(410, "Expired", "The provided continue parameter is too old")
                    # Later pages show the first one's version, which objects of these tests do not need to be kept for.
                    names = sorted(name for name in cluster.objects[kind] if name > start)
                    items = [cluster.objects[kind][name] for name in names]
                    items = [item for item in items if cluster.selects(query, namespace, item)]
                    limit = int(query.get("limit", 0)) or len(items)
                    metadata = {"resourceVersion": str(version)}
                    if len(items) > limit:
                        last = items[limit - 1]["metadata"]
                        token = json.dumps([version, last["namespace"] + "/" + last["name"]]).encode()
                        metadata["continue"] = base64.b64encode(token).decode()
                        metadata["remainingItemCount"] = len(items) - limit
                    data = {"kind": "List", "metadata": metadata, "items": items[:limit]}
                self.answer(200, data)

            def watch(self, kind, namespace, query):
                events = queue.Queue()
                with cluster.lock:
                    since = int(query.get("resourceVersion") or cluster.version)
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    if since < cluster.oldest or since > cluster.version:
                        error = status(410, "Expired", "too old resource version: %d" % since)
                        if since > cluster.version:
                            error = status(504, "Timeout", "Too large resource version: %d" % since)
                        self.event("ERROR", error)
                        return self.chunk(b"")
                    for version, changed, kind_of_change, item in cluster.history:
                        if version > since and changed == kind:
                            events.put((kind_of_change, item))
                    watcher = (kind, events)
                    cluster.watchers.append(watcher)
                self.wfile.flush()
                end = time.monotonic() + float(query.get("timeoutSeconds", 1800))
                try:
                    while time.monotonic() < end and not cluster.stopped:
                        try:
                            kind_of_change, item = events.get(timeout=min(0.2, max(end - time.monotonic(), 0)))
                        except queue.Empty:
                            continue
                        if kind_of_change == "CLOSE":
                            break
                        if kind_of_change == "RAW":
                            self.chunk(item)
                            continue
                        if kind_of_change == "BOOKMARK":
                            if query.get("allowWatchBookmarks") == "true":
                                self.event("BOOKMARK", item)
                            continue
                        if kind_of_change == "ERROR":
                            self.event("ERROR", item)
                            break
                        # An object that leaves the selection is deleted for this watch.
                        if cluster.selects(query, namespace, item):
                            self.event(kind_of_change, item)
                        elif kind_of_change == "MODIFIED":
                            self.event("DELETED", item)
                    self.chunk(b"")
                except OSError:
                    self.close_connection = True
                finally:
                    with cluster.lock:
                        cluster.watchers.remove(watcher)

            def event(self, kind, item):
                self.chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")

            def chunk(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def do_PATCH(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                cluster.requests.append("PATCH " + self.path)
                kind, namespace, name, query = self.target()
                if not self.allowed("patch", kind, namespace):
                    return
                if self.headers["Content-Type"] != "application/strategic-merge-patch+json":
                    return self.fail(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
                with cluster.lock:
                    key = "%s/%s" % (namespace, name)
                    if key not in cluster.objects[kind]:
                        return self.fail(404, "NotFound", 'pods "%s" not found' % name)
                    item = copy.deepcopy(cluster.objects[kind][key])
                    for part, values in (body.get("metadata") or {}).items():
                        for label, value in values.items():
                            plain = label.split("/")[-1]
                            if len(plain) > 63 or not plain[-1].isalnum():
                                return self.fail(422, "Invalid", "metadata.%s: Invalid value: %r" % (part, label))
                            if value is None:
                                item["metadata"][part].pop(label, None)
                            else:
                                item["metadata"][part][label] = value
                    size = sum(len(k) + len(v) for k, v in item["metadata"]["annotations"].items())
                    if size > 256 << 10:
                        return self.fail(422, "Invalid", "metadata.annotations: Too long: must have at most 262144 bytes")
                    if query.get("dryRun") != "All":
                        item = cluster.put(kind, item)
                self.answer(200, item)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)

    def selects(self, query, namespace, item):
        if namespace is not None and item["metadata"]["namespace"] != namespace:
            return False
        for part in filter(None, query.get("labelSelector", "").split(",")):
            key, _, value = part.partition("=")
            if item["metadata"]["labels"].get(key) != value:
                return False
        return True

    def start(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        if self.stopped:
            return
        self.stopped = True
        self.server.shutdown()
        self.server.server_close()
        self.cut()

    def cut(self):
        """Breaks every connection."""
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):  # its client has gone
                    connection.shutdown(2)
            self.connections = []

    def put(self, kind, item):
        """Creates or replaces; what is stored. A change of nothing makes no version."""
        with self.lock:
            key = item["metadata"]["namespace"] + "/" + item["metadata"]["name"]
            old = self.objects[kind].get(key)
            item = copy.deepcopy(item)
            if old:
                item["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
                if item == old:
                    return old
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            self.objects[kind][key] = item
            self.tell(kind, "MODIFIED" if old else "ADDED", item)
            return item

    def delete(self, kind, name, namespace="default"):
        with self.lock:
            item = copy.deepcopy(self.objects[kind].pop(namespace + "/" + name))
            self.version += 1
            item["metadata"]["resourceVersion"] = str(self.version)
            self.tell(kind, "DELETED", item)

    def tell(self, kind, change, item):
        self.history.append((self.version, kind, change, item))
        for watched, events in self.watchers:
            if watched == kind:
                events.put((change, item))

    def send(self, change, item):
        """Anything to every watch: BOOKMARK, ERROR, RAW bytes, CLOSE."""
        with self.lock:
            for _, events in self.watchers:
                events.put((change, item))

    def bookmark(self):
        self.send("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(self.version)}})

    def compact(self):
        """Everything before now is gone: older watches and pages get 410."""
        with self.lock:
            self.version += 1
            self.oldest = self.version
            self.history = []

    def annotations(self, name, namespace="default"):
        with self.lock:
            return dict(self.objects["pods"][namespace + "/" + name]["metadata"]["annotations"])

    def labels(self, name, namespace="default"):
        with self.lock:
            return dict(self.objects["pods"][namespace + "/" + name]["metadata"]["labels"])
