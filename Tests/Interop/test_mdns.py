"""mDNS between sidecars: on one host, on a host without multicast, and across a network of two hosts.

The hosts are network namespaces that the test makes and removes; that needs root and iproute2, and is skipped without.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, ask, eventually, free_port

HELLO_PROGRAM = os.path.join(SOURCE_ROOT, "examples", "python", "hello.py")


class OnOneHost(BlackBox):
    def test_two_sidecars_find_each_other_and_the_second_forgets_the_first(self):
        name = "go.micro.srv.md%d" % (os.getpid() % 100_000)
        short = name.rsplit(".", 1)[1]
        app_port = free_port()
        app = self.start_process(
            Process("hello.py", [sys.executable, HELLO_PROGRAM], {"MICRO_APP_ADDRESS": "127.0.0.1:%d" % app_port})
        )
        eventually(lambda: ask(app_port, "GET", "/health").status == 200)
        environment = {"MICRO_SERVER_ADDRESS": ":0"}
        inside = self.start(registry="mdns", name=name, app=app_port, environment=environment)
        outside = self.start(registry="mdns")
        begun = time.monotonic()
        answer = outside.post("/%s/say/hello" % short, {"name": "a"})
        took = (time.monotonic() - begun) * 1000
        self.assertEqual((answer.status, answer.json()), (200, {"msg": "Hello a"}))
        print("        first call over mDNS: %.1f ms" % took)
        self.assertIn(name, [entry["name"] for entry in outside.get("/registry").json()])
        inside.stop()
        eventually(lambda: outside.post("/%s/say/hello" % short, {}).status == 404, what="the goodbye")

    def test_an_unknown_name_is_told_soon(self):
        sidecar = self.start(registry="mdns")
        begun = time.monotonic()
        self.assert_error(sidecar.post("/nobody%d/say/hello" % os.getpid(), {}), 404)
        self.assertLess(time.monotonic() - begun, 3)


class Namespaces(BlackBox):
    """Network namespaces of the test's own."""

    def run_or_skip(self, *command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True)
        if done.returncode:
            self.skipTest("%s: %s" % (" ".join(command), done.stdout.strip()))

    def make_host(self, name):
        if os.geteuid() != 0 or not shutil.which("ip"):
            self.skipTest("network namespaces need root and iproute2")
        name = "ms%d%s" % (os.getpid() % 100_000, name)
        self.run_or_skip("ip", "netns", "add", name)
        self.addCleanup(subprocess.run, ["ip", "netns", "delete", name])
        self.run_or_skip("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def start_in(self, host, what, command, **environment):
        # A folder of its own, so that there is no rendezvous with another host's.
        folder = tempfile.mkdtemp(prefix="micro-sidecar-host-")
        self.addCleanup(shutil.rmtree, folder, True)
        environment["XDG_RUNTIME_DIR"] = folder
        return self.start_process(Process(what, ["ip", "netns", "exec", host] + command, environment))

    def status_in(self, host, *arguments):
        shown = subprocess.run(
            ["ip", "netns", "exec", host, "curl", "-s", "-m", "5", "-w", "\n%{http_code}", *arguments],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        ).stdout
        body, _, status = shown.rpartition("\n")
        return int(status or 0), body

    def start_app(self, host, name):
        self.start_in(host, "hello.py", [sys.executable, HELLO_PROGRAM], MICRO_APP_ADDRESS="127.0.0.1:9090")
        eventually(lambda: self.status_in(host, "http://127.0.0.1:9090/health")[0] == 200)
        return self.start_in(
            host, "the app's sidecar", [BINARY], MICRO_SERVER_NAME=name, MICRO_APP_ADDRESS="127.0.0.1:9090"
        )


class WithoutMulticast(Namespaces):
    def test_the_demo_works_where_there_is_only_a_loopback_interface(self):
        host = self.make_host("lo")
        demo = os.path.join(SOURCE_ROOT, "examples", "demo.py")
        process = self.start_in(host, "the demo", [sys.executable, demo, BINARY])
        self.assertEqual(process.wait(30), 0)

    def test_doctor_and_the_log_say_what_is_wrong(self):
        host = self.make_host("lo")
        process = self.start_in(host, "doctor", [BINARY, "doctor"])
        process.wait(20)
        self.assertRegex(process.text().lower(), r"warning\s+multicast")
        sidecar = self.start_in(host, "micro-sidecar", [BINARY])
        eventually(lambda: "multicast" in sidecar.text().lower(), what="a word about multicast in the log")


class TwoHosts(Namespaces):
    """On one network."""

    def setUp(self):
        super().setUp()
        self.hosts = [self.make_host(name) for name in ("a", "b")]
        ends = ["v" + host for host in self.hosts]
        self.run_or_skip("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (host, end) in enumerate(zip(self.hosts, ends), 1):
            self.run_or_skip("ip", "link", "set", end, "netns", host)
            self.run_or_skip("ip", "-n", host, "address", "add", "10.99.0.%d/24" % number, "dev", end)
            self.run_or_skip("ip", "-n", host, "link", "set", end, "up")


class AcrossHosts(TwoHosts):
    def test_a_service_on_one_host_is_called_from_the_other_and_says_goodbye(self):
        here, there = self.hosts
        inside = self.start_app(here, "go.micro.srv.hello")
        self.start_in(there, "the caller's sidecar", [BINARY])
        for host in self.hosts:
            eventually(lambda: self.status_in(host, "http://127.0.0.1:8083/readyz")[0] == 200)

        def call():
            return self.status_in(there, "http://127.0.0.1:8081/hello/say/hello", "-d", '{"name":"there"}')

        status, body = eventually(lambda: (lambda got: got if got[0] == 200 else None)(call()), what="a call across")
        self.assertEqual(json.loads(body), {"msg": "Hello there"})
        _, listed = self.status_in(there, "http://127.0.0.1:8081/registry?service=go.micro.srv.hello")
        self.assertIn("10.99.0.1", listed)
        self.assertEqual(inside.stop(), 0)
        eventually(lambda: call()[0] == 404, what="the goodbye")
