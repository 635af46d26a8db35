"""A Eureka server by its public REST API (Eureka wiki, "Eureka REST operations"): registrations with leases, heartbeats that
answer 404 for who is not known, deltas with the hash of all, names in capitals. Of two bodies for one instance the one with the
later `lastDirtyTimestamp` is kept, as Netflix's server does."""

from __future__ import annotations

import collections
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Eureka:
    def __init__(self, port=0, base="/eureka/v2", delta=True, password=None):
        self.lock = threading.RLock()
        self.apps = collections.defaultdict(dict)  # APP → id → instance
        self.texts = {}  # the same as JSON, by app and id
        self.statuses = collections.Counter()
        self.leases = {}
        self.changes = []
        self.requests = []
        self.connections = []
        self.stopped = threading.Event()
        eureka = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *arguments):
                pass

            def setup(self):
                super().setup()
                with eureka.lock:
                    eureka.connections.append(self.connection)

            def answer(self, code, body=None):
                data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
                self.send_response(code)
                if data:
                    self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = urlsplit(self.path).path
                eureka.requests.append("%s %s" % (self.command, path))
                if password and self.headers.get("Authorization") != password:
                    return self.answer(401, {"error": "Unauthorized"})
                if not path.startswith(base + "/apps"):
                    return self.answer(404, {"error": "Not Found"})
                if self.headers.get("Accept") != "application/json":
                    return self.answer(406)
                parts = [unquote(part) for part in path[len(base):].strip("/").split("/")][1:]
                with eureka.lock:
                    self.answer(*eureka.handle(self.command, parts, body))

            do_GET = do_POST = do_PUT = do_DELETE = handle_any

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass

        self.delta = delta
        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]

    def handle(self, method, parts, body):
        if method == "GET" and not parts:
            return 200, self.applications(self.texts)
        if method == "GET" and parts == ["delta"]:
            if not self.delta:
                return 403, None
            found = collections.defaultdict(dict)
            for _, name, identity, text in self.changes:
                found[name][identity] = text
            return 200, self.applications(found)
        name = parts[0].upper()
        if method == "POST" and len(parts) == 1:
            self.put(json.loads(body)["instance"])
            return 204, None
        if len(parts) != 2 or parts[1] not in self.apps.get(name, {}):
            return 404, None
        if method == "PUT":
            duration, _ = self.leases[(name, parts[1])]
            self.leases[(name, parts[1])] = (duration, time.monotonic() + duration)
        if method == "DELETE":
            self.remove(name, parts[1])
        return 200, None

    def put(self, instance):
        with self.lock:
            name = instance["app"].upper()
            old = self.apps[name].get(instance["instanceId"])
            if old and int(old.get("lastDirtyTimestamp", 0)) > int(instance.get("lastDirtyTimestamp", 0)):
                instance = old
            instance = dict(instance, app=name)
            self.apps[name][instance["instanceId"]] = instance
            self.texts.setdefault(name, {})[instance["instanceId"]] = json.dumps(instance)
            self.statuses[instance["status"]] += 1
            if old:
                self.statuses[old["status"]] -= 1
            duration = float(instance.get("leaseInfo", {}).get("durationInSecs", 90))
            self.leases[(name, instance["instanceId"])] = (duration, time.monotonic() + duration)
            self.changed(instance, "MODIFIED" if old else "ADDED")

    def remove(self, name, identity):
        with self.lock:
            old = self.apps[name].pop(identity)
            self.statuses[old["status"]] -= 1
            del self.texts[name][identity]
            self.changed(old, "DELETED")
            if not self.apps[name]:
                del self.apps[name], self.texts[name]
            del self.leases[(name, identity)]

    def changed(self, instance, action):
        text = json.dumps(dict(instance, actionType=action))
        self.changes.append((time.monotonic() + 180, instance["app"].upper(), instance["instanceId"], text))

    def applications(self, apps):
        """As bytes: ten thousand instances are written too slowly one by one."""
        code = "".join("%s_%d_" % pair for pair in sorted(self.statuses.items()) if pair[1])
        found = ",".join('{"name":%s,"instance":[%s]}' % (json.dumps(name), ",".join(texts.values())) for name, texts in apps.items())
        return ('{"applications":{"versions__delta":"1","apps__hashcode":"%s","application":[%s]}}' % (code, found)).encode()

    def names(self):
        with self.lock:
            return sorted(self.apps)

    def start(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        threading.Thread(target=self.expire, daemon=True).start()
        return self

    def expire(self):
        while not self.stopped.wait(0.05):
            with self.lock:
                self.changes = [change for change in self.changes if change[0] > time.monotonic()]
                for (name, identity), (_, due) in list(self.leases.items()):
                    if due < time.monotonic():
                        self.remove(name, identity)

    def stop(self):
        if self.stopped.is_set():
            return
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()
        with self.lock:
            for connection in self.connections:
                with contextlib.suppress(OSError):  # its client has gone
                    connection.shutdown(2)


def instance(app, number, version="1", status="UP", **extra):
    """As go-micro's plug-in writes one."""
    return dict({
        "instanceId": "10.8.0.%d:%s-%d" % (number, app, number), "hostName": "10.8.0.%d" % number, "app": app,
        "ipAddr": "10.8.0.%d" % number, "status": status, "port": {"$": 80, "@enabled": "true"},
        "metadata": {"version": version, "instanceId": "%s-%d" % (app, number), "endpoints": "[]",
                     "metadata": '{"zone":"a"}'},
    }, **extra)
