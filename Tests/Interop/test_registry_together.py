"""Registries together, with real servers: bridges between two, and a start while one is down."""

from __future__ import annotations

import os
import signal
import tempfile

from gomicro import App
from registrypeers import RegistryBlackBox
from sidecar import eventually
from test_registry_consul import Consul

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
        self.assertEqual(len(self.listed(second, HELLO)), 1)
        # The second keeps what the registry forgot until it has heard of it again, as the one without a past does.
        eventually(lambda: len(self.listed(blind, HELLO)) == 1, 5, "the app in the registry again")
        eventually(lambda: "has forgotten a node" not in second.text() or second.metric("micro_sidecar_registry_events_total") > 1, 5,
                   "the second hears of it")
        provider.stop()
        eventually(lambda: not self.listed(second, HELLO), 5, "the app's end")
