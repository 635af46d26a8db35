"""Real registry servers for tests, and the registry rules run against them. A server that is not installed skips loudly."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest

from sidecar import BINARY, SOURCE_ROOT, BlackBox

CONFORMANCE = os.path.join(os.path.dirname(BINARY), "registry-conformance")

# From a change in a registry to the worker's snapshot, the median of several.
CHANGE_MILLISECONDS_MAX = 20


def program(name, package):
    """The path of a server's program; a skipped test where there is none."""
    unpacked = os.path.join(SOURCE_ROOT, ".build", name, "usr", "bin")
    found = shutil.which(name, path=":".join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", unpacked]))
    if not found:
        raise unittest.SkipTest("there is no %s here (Debian package %s)" % (name, package))
    return found


class RegistryBlackBox(BlackBox):
    def assert_rules_hold(self, registry, *options, seconds=120):
        """Every rule of `RegistryConformance` that applies, against the registry as in MICRO_REGISTRY."""
        done = subprocess.run(
            [CONFORMANCE, registry, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "SWIFT_BACKTRACE": "enable=no"},
            timeout=seconds,
            universal_newlines=True,
        )
        held = sum(line.startswith("ok ") for line in done.stdout.splitlines())
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-3000:])
        self.assertGreater(held, 0, "no rule was run")
        return held

    def assert_many_rule_holds(self, registry, *options, writers=()):
        """A thousand services of ten nodes, each of `writers` with its share of them."""
        apart = [word for writer in writers for word in ("--apart", writer)]
        held = self.assert_rules_hold(registry, "--rule", "many services", "--patience", "60", *options, *apart, seconds=300)
        self.assertEqual(held, 1)

    def listed(self, sidecar, name):
        """The versions of a service that the sidecar's `/registry` shows; empty when it knows none."""
        answer = sidecar.get("/registry?service=" + name)
        return answer.json() if answer.status == 200 else []

    def skipped(self, sidecar, cause):
        """Entries of the sidecar's one registry that were not taken over, as its metrics tell."""
        name = "micro_sidecar_registry_entries_skipped_total{registry="
        rows = [line for line in sidecar.admin("/metrics").body.decode().splitlines() if line.startswith(name) and 'cause="%s"' % cause in line]
        self.assertEqual(len(rows), 1, rows)
        return int(rows[0].rsplit(" ", 1)[1])

    def addresses(self, sidecar, name):
        return sorted(node["address"] for service in self.listed(sidecar, name) for node in service["nodes"] or [])


def recorded(name, direction=">>>", connection=1):
    """The bytes one side sent in a recording of Tests/Fixtures/registry, as one piece per write."""
    pieces, wanted, taking = [], "=== TCP connection %d:" % connection, False
    with open(os.path.join(SOURCE_ROOT, "Tests", "Fixtures", "registry", name + ".txt")) as lines:
        inside = False
        for line in lines:
            if line.startswith("==="):
                inside = line.startswith(wanted)
            elif line.startswith("---"):
                taking = inside and direction in line and line.rstrip().endswith("bytes")
                if taking:
                    pieces.append(b"")
            elif taking and line.startswith("  "):
                pieces[-1] += bytes.fromhex(line[8:58])
    assert pieces, "nothing recorded"
    return pieces


def connections(name):
    """The numbers of the connections in a recording."""
    with open(os.path.join(SOURCE_ROOT, "Tests", "Fixtures", "registry", name + ".txt")) as lines:
        return [int(line.split(":")[0].split()[-1]) for line in lines if line.startswith("=== TCP connection")]


def certificates(folder, days=2):
    """An authority, a server's certificate for 127.0.0.1 and localhost, and a client's; paths by what they are."""
    program("openssl", "openssl")
    paths = {name: os.path.join(folder, name + ".pem") for name in ("ca", "ca_key", "server", "server_key", "client", "client_key")}

    def openssl(*arguments):
        done = subprocess.run(["openssl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]
    openssl("req", "-x509", *key, paths["ca_key"], "-out", paths["ca"], "-days", str(days), "-subj", "/CN=the test's authority")
    for name, usage in (("server", "serverAuth,clientAuth"), ("client", "clientAuth")):
        request = os.path.join(folder, name + ".csr")
        extensions = os.path.join(folder, name + ".ext")
        with open(extensions, "w") as stream:
            stream.write("subjectAltName=DNS:localhost,DNS:server.dc1.consul,IP:127.0.0.1\nextendedKeyUsage=%s\n" % usage)
        openssl("req", "-new", *key, paths[name + "_key"], "-out", request, "-subj", "/CN=" + name)
        openssl("x509", "-req", "-in", request, "-CA", paths["ca"], "-CAkey", paths["ca_key"], "-CAcreateserial",
                "-out", paths[name], "-days", str(days), "-extfile", extensions)
    return paths


def recorded_datagrams(name):
    """The datagrams of a recording, in order."""
    found, inside = [], False
    with open(os.path.join(SOURCE_ROOT, "Tests", "Fixtures", "registry", name + ".txt")) as lines:
        for line in lines:
            if line.startswith(("===", "---")):
                inside = line.startswith("=== UDP")
                if inside:
                    found.append(b"")
            elif inside and line.startswith("  "):
                found[-1] += bytes.fromhex(line[8:58])
    assert found, "nothing recorded"
    return found
