"""Who takes part in `./dev bench`: how each is configured to forward the same POST to the same node, and started.

Every contender runs one worker thread, keeps connections alive on both sides, and writes no access log.
"""

from __future__ import annotations

import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

START_SECONDS_MAX = 20


def free_port():
    """Below the range the kernel hands to outgoing connections, so that no connection of ours takes it first."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Contender:
    """A process that takes requests on `port`. `folder` is its own, for configuration and log."""

    name = ""
    setting = ""  # what the table says about how it runs
    prefix = []  # a program that runs it, such as a profiler

    def __init__(self, folder, node_port):
        self.folder = os.path.join(folder, re.sub(r"\W+", "-", self.name))
        os.makedirs(self.folder)
        self.node_port = node_port
        self.port = free_port()
        self.process = None
        self.log = os.path.join(self.folder, "log")

    def command(self):
        """The command line; writes the configuration it names."""
        raise NotImplementedError

    def environment(self):
        return {}

    def version(self):
        return ""

    def start(self, cores):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.prefix + self.command(),
                env=dict(clean, **self.environment()),
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("%s did not start:\n%s" % (self.name, self.log_text()))
            time.sleep(0.02)  # between two polls

    def is_listening(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def is_ready(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                body = b'{"name":"World"}'
                connection.sendall(
                    b"POST /bench/say/hello HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
                )
                return connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def log_text(self):
        with open(self.log, errors="replace") as log:
            return log.read()[-4000:]

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w" if isinstance(text, str) else "wb") as stream:
            stream.write(text)
        return path

    # What the kernel says of it; a contender is one process with any number of threads.

    def cpu_seconds(self):
        total = 0
        for path in glob.glob("/proc/%d/task/*/schedstat" % self.process.pid):
            with open(path) as stream:
                total += int(stream.read().split()[0])
        return total / 1e9

    def user_share(self):
        """User time and system time in clock ticks, from which the split of `cpu_seconds` is taken."""
        with open("/proc/%d/stat" % self.process.pid) as stream:
            fields = stream.read().rsplit(") ", 1)[1].split()
        return int(fields[11]), int(fields[12])

    def resident_kilobytes(self):
        return self._status("VmRSS")

    def anonymous_kilobytes(self):
        """Resident memory without the program's code, which comes and goes with what is mapped."""
        return self._status("RssAnon")

    def _status(self, row):
        with open("/proc/%d/status" % self.process.pid) as stream:
            return int(re.search(row + r":\s+(\d+)", stream.read()).group(1))


class Node(Contender):
    """The upstream itself; as a contender it is the bare connection."""

    name = "bare"
    setting = "no proxy: straight to the node"

    def __init__(self, folder, program):
        super().__init__(folder, 0)
        self.program = program

    def command(self):
        return [self.program, "--port", str(self.port)]


class Sidecar(Contender):
    name = "micro-sidecar"
    setting = "JSON call to a go-micro node from a file registry, 1 worker, all features on"

    def __init__(self, folder, node_port, binary):
        super().__init__(folder, node_port)
        self.binary = binary
        self.admin_port = free_port()

    def version(self):
        shown = subprocess.run([self.binary, "version"], stdout=subprocess.PIPE, universal_newlines=True)
        return re.search(r"\d+(\.\d+)+|$", shown.stdout).group()

    def environment(self):
        node = {
            "id": "go.micro.srv.bench-1",
            "address": "127.0.0.1:%d" % self.node_port,
            "metadata": {"protocol": "mucp", "transport": "http", "server": "mucp"},
        }
        services = [{"name": "go.micro.srv.bench", "version": "latest", "nodes": [node]}]
        return {
            "MICRO_REGISTRY": "file:" + self.write("services.json", json.dumps(services)),
            "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % self.port,
            "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % self.admin_port,
        }

    def command(self):
        return [self.binary]

    def framework_port(self):
        """The port of the framework's side, which its first log line tells."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not (found := re.search(r"framework_side=\S*:(\d+)", self.log_text())):
            if time.monotonic() > deadline:
                raise SystemExit("%s serves no framework side:\n%s" % (self.name, self.log_text()))
            time.sleep(0.02)  # between two polls
        return int(found.group(1))


class ObservedSidecar(Sidecar):
    name = "micro-sidecar observed"
    setting = "the same, with an access log to a file and one call in a hundred traced to an OTLP collector"

    def environment(self):
        return dict(
            super().environment(),
            MICRO_ACCESS_LOG=os.path.join(self.folder, "access.log"),
            # The node takes any POST.
            MICRO_TRACE_ENDPOINT="http://127.0.0.1:%d/v1/traces" % self.node_port,
            MICRO_TRACE_SAMPLE="0.01",
        )


class HAProxy(Contender):
    name = "HAProxy"
    setting = "plain HTTP forwarding, nbthread 1, http-reuse always, no log"
    program = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def version(self):
        shown = subprocess.run([self.program, "-v"], stdout=subprocess.PIPE, universal_newlines=True).stdout
        return re.search(r"version (\d+\.\d+\.\d+)", shown).group(1)

    def command(self):
        path = self.write(
            "haproxy.cfg",
            """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 1s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend in
  bind 127.0.0.1:%d
  default_backend out
backend out
  server node 127.0.0.1:%d
"""
            % (self.port, self.node_port),
        )
        return [self.program, "-db", "-f", path]


class Nginx(Contender):
    name = "nginx"
    setting = "proxy_pass, one process, keepalive 64, no log"
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

    def version(self):
        shown = subprocess.run([self.program, "-v"], stderr=subprocess.PIPE, universal_newlines=True).stderr
        return re.search(r"nginx/(\d+\.\d+\.\d+)", shown).group(1)

    def command(self):
        path = self.write(
            "nginx.conf",
            """
daemon off;
master_process off;
pid %(folder)s/pid;
error_log stderr error;
worker_rlimit_nofile 18000;
events { worker_connections 8000; }
http {
  access_log off;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  client_body_temp_path %(folder)s/body;
  proxy_temp_path %(folder)s/proxy;
  fastcgi_temp_path %(folder)s/fastcgi;
  uwsgi_temp_path %(folder)s/uwsgi;
  scgi_temp_path %(folder)s/scgi;
  upstream node { server 127.0.0.1:%(node)d; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location / { proxy_pass http://node; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
"""
            % {"folder": self.folder, "port": self.port, "node": self.node_port},
        )
        return [self.program, "-e", "stderr", "-p", self.folder, "-c", path]


class Envoy(Contender):
    name = "Envoy"
    setting = "plain HTTP router, concurrency 1, no access log, no admin"

    def __init__(self, folder, node_port, program):
        super().__init__(folder, node_port)
        self.program = program

    @staticmethod
    def find(venv):
        found = glob.glob(os.path.join(venv, "lib*/python*/site-packages/envoy/_bin/envoy"))
        return os.path.abspath(found[0]) if found else None

    def version(self):
        shown = subprocess.run([self.program, "--version"], stdout=subprocess.PIPE, universal_newlines=True).stdout
        return re.search(r"/(\d+\.\d+\.\d+)", shown).group(1)

    def filters(self):
        router = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}
        return [{"name": "envoy.filters.http.router", "typed_config": router}]

    def routes(self):
        return [{"match": {"prefix": "/"}, "route": {"cluster": "node"}}]

    def cluster(self):
        endpoint = {"endpoint": {"address": self.at(self.node_port)}}
        return {
            "name": "node",
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [{"max_connections": 20000, "max_pending_requests": 20000}]},
            "load_assignment": {"cluster_name": "node", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }

    @staticmethod
    def at(port):
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def command(self):
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": self.routes()}]},
            "http_filters": self.filters(),
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        listener = {"name": "in", "address": self.at(self.port), "filter_chains": [chain]}
        bootstrap = {"static_resources": {"listeners": [listener], "clusters": [self.cluster()]}}
        path = self.write("envoy.json", json.dumps(bootstrap))
        return [self.program, "-c", path, "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
