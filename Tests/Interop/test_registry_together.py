"""Registries together, with real servers: bridges between two, a start while one is down, and calls while one is away."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time

from gomicro import App
from registrypeers import RegistryBlackBox
from sidecar import LONG, eventually
from test_registry_consul import Consul
from test_registry_etcd import Etcd

HELLO = "go.micro.srv.hello"
ORIGIN = "micro-sidecar-origin"


class Together(RegistryBlackBox):
    def serve(self, **options):
        return self.start_process(Consul(**options)).wait_until_ready()

    def place(self, server):
        return "consul:127.0.0.1:%d" % server.port

    def beside_app(self, server):
        app = self.start_server(App())
        sidecar = self.start(registry=self.place(server), name=HELLO, app=app.port)
        eventually(lambda: server.health(HELLO), what="the app in its registry")
        return sidecar

    def test_bridges_both_ways_between_two_consuls(self):
        """Each side's app is called from the other side, nothing is mirrored twice, and what ends leaves both."""
        first, second = self.serve(), self.serve()
        places = [self.place(first), self.place(second)]
        bridge = "%s->%s" % tuple(places) + "," + "%s->%s" % tuple(reversed(places))
        between = self.start(registry=",".join(places), environment={"MICRO_SIDECAR_BRIDGE": bridge})
        provider = self.beside_app(first)
        caller = self.start(registry=places[1])
        eventually(lambda: caller.rpc(HELLO, "Say.Hello", {"name": "J"}).status == 200, 10, "a call over the bridge")
        (entry,) = second.health(HELLO)
        self.assertEqual(entry["Service"]["Meta"][ORIGIN], places[0])
        (native,) = first.health(HELLO)
        self.assertNotIn(ORIGIN, native["Service"]["Meta"])
        provider.stop()
        eventually(lambda: not second.health(HELLO), 10, "the mirrored node's end")
        self.assertEqual(first.health(HELLO), [])
        again = self.beside_app(second)
        eventually(lambda: first.health(HELLO), 10, "the other way")
        between.stop()
        self.assertEqual(first.health(HELLO), [], "a bridge that stops takes its nodes along")
        self.assertEqual(len(second.health(HELLO)), 1)
        again.stop()

    def test_a_start_while_the_registry_is_down(self):
        server = self.serve()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        snapshot = {"MICRO_SIDECAR_SNAPSHOT": os.path.join(folder.name, "registry.json")}
        app = self.start_server(App())
        provider = self.start(registry=self.place(server), name=HELLO, app=app.port)
        first = self.start(registry=self.place(server), environment=snapshot)
        eventually(lambda: self.listed(first, HELLO))
        first.stop()
        self.assertEqual(os.stat(snapshot["MICRO_SIDECAR_SNAPSHOT"]).st_mode & 0o777, 0o600)
        server.send_signal(signal.SIGKILL)
        server.wait()
        second = self.start(registry=self.place(server), environment=snapshot)
        self.assertEqual(second.rpc(HELLO, "Say.Hello", {"name": "J"}).status, 200)
        self.assertEqual(second.metric("micro_sidecar_registry_up"), 0)
        # Without it there is nobody to call.
        blind = self.start(registry=self.place(server), wait=False)
        eventually(lambda: blind.get("/registry").status == 200)
        self.assert_error(blind.rpc(HELLO, "Say.Hello", {"name": "J"}), 404)
        # It comes back empty; the app is in it again, and the second sidecar follows the registry's own word.
        self.start_process(Consul(port=server.port)).wait_until_ready()
        eventually(lambda: second.metric("micro_sidecar_registry_up") == 1, 5, "the watch")
        eventually(lambda: len(self.listed(second, HELLO)) == 1, 5, "the app in the registry again")
        provider.stop()
        eventually(lambda: not self.listed(second, HELLO), 5, "the app's end")


class Calls(threading.Thread):
    """Calls again and again until it is stopped; what failed is kept."""

    def __init__(self, sidecar):
        super().__init__(daemon=True)
        self.sidecar, self.count, self.failed = sidecar, 0, []
        self.ends = threading.Event()
        self.start()

    def run(self):
        while not self.ends.wait(0.002):
            try:
                answer = self.sidecar.rpc(HELLO, "Say.Hello", {"name": "J"})
                if answer.status != 200:
                    self.failed.append(answer)
            except OSError as error:
                self.failed.append(error)
            self.count += 1

    def stop(self):
        self.ends.set()
        self.join(10)


class Outage(RegistryBlackBox):
    """A registry is killed under load and comes back empty: no call fails, and two seconds later all is as before."""

    AWAY_SECONDS = 30 if LONG else 3

    def check(self, name, server, make_again):
        server = self.start_process(server).wait_until_ready()
        place = "%s:127.0.0.1:%d" % (name, server.port)
        for _ in range(2):
            app = self.start_server(App())
            self.start(registry=place, name=HELLO, app=app.port)
        caller = self.start(registry=place)
        eventually(lambda: len(self.addresses(caller, HELLO)) == 2)
        calls = [Calls(caller) for _ in range(4)]
        try:
            server.send_signal(signal.SIGKILL)
            server.wait()
            ends = time.monotonic() + self.AWAY_SECONDS
            eventually(lambda: caller.metric("micro_sidecar_registry_up") == 0)
            eventually(lambda: time.monotonic() > ends, self.AWAY_SECONDS + 1)
            again = self.start_process(make_again(server)).wait_until_ready()
            back = time.monotonic()
            fresh = self.start(registry=place)
            eventually(lambda: len(self.addresses(fresh, HELLO)) == 2, 10, "both apps in the registry")
            eventually(lambda: caller.metric("micro_sidecar_registry_up") == 1, 10, "the caller's watch")
            took = time.monotonic() - back
        finally:
            for each in calls:
                each.stop()
        self.assertEqual([failed for each in calls for failed in each.failed], [])
        count = sum(each.count for each in calls)
        self.assertGreater(count, 100 * self.AWAY_SECONDS)
        print("        %s away for %d s: %d calls, none failed; back after %.2f s" % (name, self.AWAY_SECONDS, count, took))
        # Two seconds, and what the machine needs to start a sidecar beside the load.
        self.assertLess(took, 3)
        again.stop()

    def test_consul(self):
        self.check("consul", Consul(), lambda before: Consul(port=before.port))

    def test_etcd(self):
        self.check("etcd", Etcd(), lambda before: Etcd(ports=before.ports))
