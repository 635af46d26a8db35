"""Runs the real binary for a black-box test: free ports, readiness by asking, an end by process id, logs on failure.

`BlackBox` is the test case to derive from. Whatever it starts is stopped with the test, and a sidecar that died without
being told to is a failure of the test that had it, whatever the test was about.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BINARY = os.path.abspath(os.environ.get("MICRO_SIDECAR_BINARY", ".build/release/micro-sidecar"))
SOURCE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LONG = bool(os.environ.get("MICRO_TEST_LONG"))
READY_SECONDS_MAX = 10
ANSWER_SECONDS_MAX = 10


HANDED_OUT = set()  # a port that a test was given may be bound much later


def free_port():
    """Below the range the kernel hands to outgoing connections, so that none of ours takes it before it is bound."""
    if len(HANDED_OUT) > 15000:
        HANDED_OUT.clear()
    while True:
        port = random.randrange(12000, 32000)
        if port in HANDED_OUT:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                HANDED_OUT.add(port)
                return port
            except OSError:
                continue


def free_ports(count):
    """That many, all different."""
    found = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def eventually(condition, within=5.0, what="the condition"):
    """Asks until `condition()` is true and returns what it returned; an exception in it counts as not yet."""
    deadline = time.monotonic() + within
    while True:
        error = None
        try:
            value = condition()
            if value:
                return value
        except (OSError, AssertionError, ValueError, KeyError, http.client.HTTPException) as caught:
            error = caught
        if time.monotonic() > deadline:
            raise AssertionError("%s did not come true within %.1f s (%s)" % (what, within, error or "false"))
        time.sleep(0.01)  # between two polls


class Answer:
    """An HTTP reply: `status`, `headers` (case-insensitive), `body`, and `json()`."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return "<%d %r %r>" % (self.status, dict(self.headers.items()), self.body[:600])


def ask(port, method, path, body=None, headers=None, host="127.0.0.1"):
    """One request on a connection of its own. A dict or list becomes a JSON body."""
    headers = dict(headers or {})
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
    if isinstance(body, str):
        body = body.encode()
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS_MAX)
    try:
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        return Answer(reply.status, reply.headers, reply.read())
    finally:
        connection.close()


class Process:
    """A child process with its output in an unlinked file."""

    def __init__(self, what, command, environment=None, user=None):
        self.what = what
        self.log = tempfile.TemporaryFile()
        self.expected_end = False
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
        # A crash must end the process at once: the backtracer stops and asks.
        clean.update({"SWIFT_BACKTRACE": "enable=no"})
        clean.update(environment or {})
        self.process = subprocess.Popen(
            command, env=clean, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True,
            user=user,
        )
        self.pid = self.process.pid

    def text(self):
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def is_running(self):
        return self.process.poll() is None

    def send_signal(self, number):
        self.expected_end = True
        if self.is_running():
            self.process.send_signal(number)

    def wait(self, seconds=10):
        """The exit status; an AssertionError when it does not end in time."""
        self.expected_end = True
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s did not end within %s s" % (self.what, seconds)) from None

    def stop(self):
        self.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        finally:
            self.kill()

    def kill(self):
        self.expected_end = True
        if self.is_running():
            self.process.kill()
        self.process.wait()

    def anonymous_kilobytes(self):
        """The program's own memory: what grows by what it does, without the code that is mapped at the moment."""
        return self._status("RssAnon")

    def resident_kilobytes(self):
        return self._status("VmRSS")

    def resident_kilobytes_peak(self):
        return self._status("VmHWM")

    def _status(self, row):
        with open("/proc/%d/status" % self.pid) as status:
            return int(next(line.split()[1] for line in status if line.startswith(row)))


class Sidecar(Process):
    """The binary, serving. `port` is the app's side, `server_port` the framework's, `admin_port` the operator's.

    `services` fill a registry file of its own (see `write_registry`); `registry` overrides MICRO_REGISTRY; `app` is the
    port of the app beside it and `name` what it is registered as. Anything else goes in by `environment`.
    """

    def __init__(self, services=None, registry=None, name=None, app=None, environment=None, command=(), folder=None, user=None
    ):
        self.port, self.server_port, self.admin_port = free_ports(3)
        # Ours goes away with the object; one that was given is the giver's.
        self.own_folder = None if folder else tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.folder = folder or self.own_folder.name
        self.registry_file = os.path.join(self.folder, "services.json")
        settings = {
            "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % self.port,
            "MICRO_SERVER_ADDRESS": "127.0.0.1:%d" % self.server_port,
            "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % self.admin_port,
        }
        if registry is None:
            write_registry(self.registry_file, services or [])
            registry = "file:" + self.registry_file
        settings["MICRO_REGISTRY"] = registry
        if name:
            settings["MICRO_SERVER_NAME"] = name
        if app:
            settings["MICRO_APP_ADDRESS"] = "127.0.0.1:%d" % app
        settings.update(environment or {})
        if user is not None:
            os.chmod(self.folder, 0o755)
        super().__init__("micro-sidecar", [BINARY] + list(command), settings, user)

    def wait_until_ready(self):
        def ready():
            if not self.is_running():
                return True  # the test sees it at its first request, with the log
            return self.admin("/readyz").status == 200

        eventually(ready, READY_SECONDS_MAX, "readiness")
        return self

    def ask(self, method, path, body=None, headers=None):
        return ask(self.port, method, path, body, headers)

    def post(self, path, body=None, headers=None):
        return self.ask("POST", path, body, headers)

    def get(self, path, headers=None):
        return self.ask("GET", path, None, headers)

    def admin(self, path, method="GET"):
        return ask(self.admin_port, method, path)

    def rpc(self, service, endpoint, request, headers=None):
        return self.post("/rpc", {"service": service, "method": endpoint, "request": request}, headers)

    def write_registry(self, services):
        write_registry(self.registry_file, services)

    def metric(self, name):
        """The sum over all series of one metric, 0 when there is none."""
        total = 0.0
        for line in self.admin("/metrics").body.decode().splitlines():
            if line.startswith((name + "{", name + " ")):
                total += float(line.rsplit(" ", 1)[1])
        return total


def service(name, *nodes, version="latest", endpoints=(), metadata=None):
    """A registry entry; nodes are ports, or dicts as the registry has them. The default node is of the Micro-* kind."""
    entries = []
    for index, node in enumerate(nodes):
        if not isinstance(node, dict):
            node = {
                "id": "%s-%d" % (name, index),
                "address": "127.0.0.1:%d" % node,
                "metadata": {"protocol": "mucp", "server": "mucp", "transport": "http"},
            }
        entries.append(node)
    return {
        "name": name,
        "version": version,
        "metadata": metadata or {},
        "endpoints": [endpoint if isinstance(endpoint, dict) else {"name": endpoint} for endpoint in endpoints],
        "nodes": entries,
    }


def write_registry(path, services):
    """Beside and renamed over, as an editor or a deployment tool would."""
    with open(path + ".new", "w") as stream:
        json.dump(services, stream)
    os.rename(path + ".new", path)


def command(*arguments, environment=None, timeout=20):
    """Runs a verb of the binary to its end: (exit status, standard output, standard error)."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
    clean.update({"SWIFT_BACKTRACE": "enable=no"})
    clean.update(environment or {})
    done = subprocess.run(
        [BINARY] + list(arguments),
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout,
        universal_newlines=True,
    )
    return done.returncode, done.stdout, done.stderr


class BlackBox(unittest.TestCase):
    """A test of the running binary. `start…` things are stopped with the test, last started first."""

    maxDiff = 4000

    def setUp(self):
        self.processes = []

    def start_process(self, process):
        self.processes.append(process)
        self.addCleanup(self.end, process)
        return process

    def start(self, wait=True, **options):
        sidecar = self.start_process(Sidecar(**options))
        return sidecar.wait_until_ready() if wait else sidecar

    def start_server(self, server):
        """A fake app or node from gomicro.py; stopped after the sidecars."""
        self.addCleanup(server.stop)
        return server.start()

    def end(self, process):
        died = not process.is_running() and not process.expected_end
        process.kill() if not isinstance(process, Sidecar) or died else process.stop()
        if died:
            self.fail("%s ended by itself with status %d" % (process.what, process.process.returncode))

    def explain(self):
        """What the processes of this test wrote, for whoever reads the failure."""
        return "".join("--- output of %s (pid %d)\n%s" % (p.what, p.pid, p.text()[-6000:]) for p in self.processes)

    def assert_error(self, answer, code, detail=None, identity=None):
        """The framework's error JSON, with all four keys, and the HTTP status that goes with it."""
        self.assertEqual(answer.status, code, answer)
        error = answer.json()
        self.assertEqual(sorted(error), ["code", "detail", "id", "status"], answer)
        self.assertEqual(error["code"], code, answer)
        self.assertTrue(error["status"], answer)
        self.assertTrue(error["id"], answer)
        if identity:
            self.assertEqual(error["id"], identity, answer)
        if detail:
            self.assertIn(detail, error["detail"], answer)
        return error


def run_together(count, work):
    """`work(index)` on `count` threads at once; returns what each returned, raises the first exception."""
    results, errors = [None] * count, []

    def one(index):
        try:
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


if not os.access(BINARY, os.X_OK):
    sys.exit("no binary at %s: run ./dev build" % BINARY)
