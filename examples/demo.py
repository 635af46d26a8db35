#!/usr/bin/env python3
"""`./dev demo`: Hello World through two sidecars that find each other over mDNS, and what failure looks like.

    demo.py BINARY

Starts examples/python/hello.py with a sidecar, a second sidecar as the caller, and shows four calls. Waits for readiness,
never for a time; stops what it started, by process id; exits 1 when an answer is not the expected one.
"""

import atexit
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

READY_SECONDS_MAX = 10
HERE = os.path.dirname(os.path.abspath(__file__))

started = []  # (what, process, log file)
failures = []


def say(text=""):
    print(text, flush=True)


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(preferred=()):
    """A preferred port if it is free, else any below the range the kernel hands to outgoing connections."""
    candidates = list(preferred) + random.sample(range(20000, 30000), 50)
    return next(port for port in candidates if is_free(port))


def start(what, command, **environment):
    log = tempfile.TemporaryFile()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MICRO_")}
    process = subprocess.Popen(
        command, env=dict(clean, **environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    started.append((what, process, log))
    return process


def stop(process):
    """SIGTERM, so that a sidecar leaves the registry; SIGKILL only when that is not enough."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@atexit.register
def clean_up():
    for _, process, _ in reversed(started):
        stop(process)


def give_up(reason):
    say("demo failed: " + reason)
    for what, _, log in started:
        log.seek(0)
        say("--- log of %s\n%s" % (what, log.read().decode(errors="replace")))
    sys.exit(1)


def wait_until(ready, what, process):
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not ready():
        if process.poll() is not None:
            give_up("%s ended with status %d" % (what, process.returncode))
        if time.monotonic() > deadline:
            give_up("%s was not ready within %d s" % (what, READY_SECONDS_MAX))
        time.sleep(0.01)  # between two polls


def answers(port, path):
    def ask():
        shown = subprocess.run(
            ["curl", "-s", "-o", os.devnull, "-w", "%{http_code}", "http://127.0.0.1:%d%s" % (port, path)],
            stdout=subprocess.PIPE,
        )
        return shown.stdout == b"200"

    return ask


def show(title, command, expected):
    """Runs and prints a command as a person would type it; `expected` judges (exit status, output)."""
    say("\n" + title)
    say("$ " + " ".join("'%s'" % word if set(word) & set(' {"') else word for word in command))
    begun = time.monotonic()
    command = [binary if word == "micro-sidecar" else word for word in command]
    if command[0] == "curl":
        command[1:1] = ["-sS", "-m", "10"]
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, MICRO_SIDECAR_ADDRESS="127.0.0.1:%d" % caller_port),
    )
    output = result.stdout.decode(errors="replace").strip()
    say("%s\n  (%d ms)" % (output, (time.monotonic() - begun) * 1000))
    if not expected(result.returncode, output):
        failures.append(title)
        say("  ^ not what was expected")


def greets(status, output):
    try:
        return status == 0 and json.loads(output)["msg"] == "Hello World"
    except (ValueError, KeyError, TypeError):
        return False


def is_error(*codes):
    def judge(status, output):
        try:
            error = json.loads(output)
            return error["code"] in codes and bool(error["id"]) and bool(error["detail"]) and bool(error["status"])
        except (ValueError, KeyError, TypeError):
            return False

    return judge


binary = os.path.abspath(sys.argv[1])
begun = time.monotonic()
app_port, inside_port, inside_admin, caller_admin = (free_port() for _ in range(4))
caller_port = free_port(preferred=[8081])

say("An app: examples/python/hello.py, a plain http.server on port %d, with a sidecar beside it" % app_port)
app = start("hello.py", [sys.executable, HERE + "/python/hello.py"], MICRO_APP_ADDRESS="127.0.0.1:%d" % app_port)
wait_until(answers(app_port, "/health"), "hello.py", app)
inside = start(
    "the app's sidecar",
    [binary],
    MICRO_SERVER_NAME="go.micro.srv.hello",
    MICRO_APP_ADDRESS="127.0.0.1:%d" % app_port,
    MICRO_SIDECAR_ADDRESS="127.0.0.1:%d" % inside_port,
    MICRO_ADMIN_ADDRESS="127.0.0.1:%d" % inside_admin,
)
taken = "" if caller_port == 8081 else " (8081 is taken)"
say("A second sidecar, for the caller, on port %d%s; the two find each other over mDNS" % (caller_port, taken))
caller = start(
    "the caller's sidecar",
    [binary],
    MICRO_SIDECAR_ADDRESS="127.0.0.1:%d" % caller_port,
    MICRO_ADMIN_ADDRESS="127.0.0.1:%d" % caller_admin,
)
wait_until(answers(inside_admin, "/readyz"), "the app's sidecar", inside)
wait_until(answers(caller_admin, "/readyz"), "the caller's sidecar", caller)

here = "localhost:%d" % caller_port
show("A path is a service and a method", ["curl", here + "/hello/say/hello"], greets)
show("The same with a request", ["curl", here + "/hello/say/hello", "-d", '{"name":"World"}'], greets)
show(
    "What is out there",
    ["micro-sidecar", "list", "services"],
    lambda status, output: status == 0 and "go.micro.srv.hello" in output.split(),
)
show(
    "A call by name, as the 2018 sidecar had it",
    ["curl", here + "/rpc", "-H", "Content-Type: application/json", "-d"]
    + ['{"service":"go.micro.srv.hello","method":"Say.Hello","request":{"name":"World"}}'],
    greets,
)
show("A service that nobody runs", ["curl", here + "/nobody/say/hello", "-d", "{}"], is_error(404))
stop(app)
show("The app is dead, its sidecar is not", ["curl", here + "/hello/say/hello", "-d", "{}"], is_error(500, 502, 503))

if failures:
    give_up("; ".join(failures))
clean_up()
say("\nAll as expected in %.1f s; everything that was started is stopped." % (time.monotonic() - begun))
