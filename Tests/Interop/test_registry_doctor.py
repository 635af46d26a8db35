"""`doctor` names the cause and the next step for registries that speak protocols of their own."""

from __future__ import annotations

from registrypeers import RegistryBlackBox
from sidecar import command, free_port


class Doctor(RegistryBlackBox):
    def test_servers_that_are_not_there(self):
        port = free_port()
        for registry, advice in (
            ("nats:127.0.0.1:%d" % port, "start it there"),
            ("gossip:127.0.0.1:%d" % port, "none of the members"),
            ("dns:127.0.0.1:%d?timeout_ms=100" % port, "port 53"),
        ):
            _, output, errors = command("doctor", environment={"MICRO_REGISTRY": registry})
            self.assertIn(advice, output + errors, registry)
