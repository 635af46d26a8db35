"""The `/registry` of the 2018 toolkit (handler/registry @ v0.16.0), with exactly what it could: names only in the list, 404
and 500 as plain text, and a WebSocket of changes that begins without what is there and only where no service is named."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


def seconds(text):
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"([0-9.]+)(ns|us|ms|s|m|h)", text))


class OldSidecar:
    """`upgrades` False: a proxy in between lets no WebSocket through. `content` may be changed by tests with `put`."""

    def __init__(self, port=0, upgrades=True):
        self.lock = threading.RLock()
        self.services = {}  # (name, version) → service with nodes by id
        self.expiry = {}  # (name, version, id) → time
        self.sockets = []  # handlers of WebSockets
        self.connections = []
        self.requests = []
        self.broken = set()  # names whose look-up answers garbage
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def log_message(self, *arguments):
                pass

            def setup(self):
                super().setup()
                with outer.lock:
                    outer.connections.append(self.connection)

            def answer(self, status, body=b"", kind="application/json"):
                self.send_response(status)
                if body:
                    self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                path = urlsplit(self.path)
                name = parse_qs(path.query).get("service", [""])[0]
                outer.requests.append(("GET", self.path))
                if path.path != "/registry":
                    return self.answer(404, b"404 page not found\n", "text/plain")
                wants = self.headers.get("Upgrade") == "websocket" and self.headers.get("Connection") == "Upgrade"
                if wants and not name and upgrades:
                    return self.watch()
                if not name:
                    return self.answer(200, json.dumps(outer.names()).encode())
                if name in outer.broken:
                    return self.answer(200, b'[{"name":7},{"name":"%s","nodes":"none"},null,"x"]' % name.encode())
                found = outer.find(name)
                if not found:
                    return self.answer(404, b"Service not found\n", "text/plain")
                self.answer(200, json.dumps(found).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(("POST", self.path))
                ttl = parse_qs(urlsplit(self.path).query).get("ttl", [None])[0]
                outer.put(body, ttl and seconds(ttl))
                self.answer(200)

            def do_DELETE(self):
                outer.requests.append(("DELETE", self.path))
                outer.remove(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.answer(200)

            def watch(self):
                key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
                self.end_headers()
                self.wfile.flush()
                with outer.lock:
                    outer.sockets.append(self)
                self.close_connection = True
                while self.rfile.read(1):
                    pass

            def frame(self, opcode, payload):
                size = struct.pack(">B", len(payload)) if len(payload) < 126 else struct.pack(">BH", 126, len(payload))
                self.wfile.write(bytes([0x80 | opcode]) + size + payload)
                self.wfile.flush()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.stopped = threading.Event()

    def start(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        threading.Thread(target=self.expire, daemon=True).start()
        return self

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

    def ping(self):
        with self.lock:
            for socket in self.sockets:
                socket.frame(9, b"")

    def names(self):
        with self.lock:
            return [
                {"name": name, "version": "", "metadata": None, "endpoints": None, "nodes": None}
                for name in sorted({key[0] for key in self.services})
            ]

    def find(self, name):
        with self.lock:
            return [dict(s, nodes=list(s["nodes"].values())) for key, s in self.services.items() if key[0] == name]

    def put(self, body, ttl=None):
        with self.lock:
            key = (body["name"], body.get("version") or "")
            held = self.services.get(key, {"nodes": {}})
            nodes = dict(held["nodes"])
            for node in body["nodes"] or []:
                nodes[node["id"]] = node
                self.expiry[key + (node["id"],)] = ttl and time.monotonic() + ttl
            self.services[key] = dict(body, nodes=nodes)
            self.tell("update" if held["nodes"] else "create", dict(body, nodes=list(nodes.values())))

    def remove(self, body):
        with self.lock:
            key = (body["name"], body.get("version") or "")
            held = self.services.get(key)
            gone = [held["nodes"].pop(node["id"]) for node in body["nodes"] or [] if held and node["id"] in held["nodes"]]
            if held and not held["nodes"]:
                del self.services[key]
            if gone:
                self.tell("delete", dict(body, nodes=gone))

    def tell(self, action, service):
        event = json.dumps({"Action": action, "Service": service}).encode()
        for socket in list(self.sockets):
            try:
                socket.frame(1, event)
            except OSError:
                self.sockets.remove(socket)

    def expire(self):
        while not self.stopped.wait(0.05):
            with self.lock:
                for (name, version, identity), due in list(self.expiry.items()):
                    if due and due < time.monotonic():
                        del self.expiry[(name, version, identity)]
                        self.remove({"name": name, "version": version, "nodes": [{"id": identity}]})
