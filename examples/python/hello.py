#!/usr/bin/env python3
"""A go-micro service written as a plain HTTP server: Say.Hello, with nothing but the standard library.

Serve:   MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 \\
           micro-sidecar run -- python3 hello.py
Call:    python3 hello.py call World          (through the sidecar at localhost:8081)
"""

import json
import os
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def say_hello(request):
    return {"msg": "Hello " + str(request.get("name") or "World")}


METHODS = {"/Say/Hello": say_hello}  # the framework's call Say.Hello arrives as POST /Say/Hello


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        method = METHODS.get(self.path)
        if method is None:
            return self.reply(404, {"detail": "no method " + self.path})
        try:
            request = json.loads(body or b"{}")
        except ValueError as error:
            return self.reply(400, {"detail": "not JSON: %s" % error})
        self.reply(200, method(request if isinstance(request, dict) else {}))

    def do_GET(self):
        self.reply(200, {"status": "ok"})  # for MICRO_APP_HEALTH=/health

    def reply(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *values):
        sys.stderr.write("hello.py: %s\n" % (format % values))


def call(name):
    sidecar = os.environ.get("MICRO_SIDECAR_ADDRESS", "localhost:8081")
    request = urllib.request.Request(
        "http://%s/hello/say/hello" % sidecar,
        data=json.dumps({"name": name}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(json.load(answer)["msg"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["call"]:
        call(" ".join(sys.argv[2:]) or "World")
    else:
        host, port = os.environ.get("MICRO_APP_ADDRESS", "127.0.0.1:9090").rsplit(":", 1)
        try:
            ThreadingHTTPServer((host, int(port)), App).serve_forever()
        except KeyboardInterrupt:
            pass
