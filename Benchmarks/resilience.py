"""`./dev bench --resilience`: what callers see of nodes that are slow, break, die and restart, beside Envoy.

Both proxies stand before the same five nodes at the same time, each with its own load of the same rate, so that every fault
meets both. Calls may be repeated (they carry an Idempotency-Key): Envoy has a retry, P2C by least requests and outlier
detection; the sidecar has its defaults, no setting touched. The nodes are fixed in a file: no registry helps.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

from contenders import Envoy, Node, Sidecar

NODES = 5
CALLS_PER_SECOND = 2000


class FaultyNode(Node):
    def __init__(self, folder, program, index):
        self.name = "node-%d" % index
        super().__init__(folder, program)
        self.faults = []
        self.cores = None

    def command(self):
        return super().command() + self.faults

    def run(self, cores, *faults):
        self.cores = cores
        self.faults = list(faults)
        self.start(cores)

    def restart(self, *faults, kill=False, down=0.0):
        """In good order, or by SIGKILL; comes back after `down` seconds."""
        self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self.process.wait()
        if down:
            self.pause(down)
        self.faults = list(faults)
        self.start(self.cores)

    @staticmethod
    def pause(seconds):
        threading.Event().wait(seconds)


class ResilientSidecar(Sidecar):
    setting = "all defaults; nodes from a file"

    def __init__(self, folder, ports, binary):
        super().__init__(folder, 0, binary)
        self.ports = ports

    def environment(self):
        nodes = [
            {
                "id": "go.micro.srv.bench-%d" % index,
                "address": "127.0.0.1:%d" % port,
                "metadata": {"protocol": "mucp", "transport": "http", "server": "mucp"},
            }
            for index, port in enumerate(self.ports)
        ]
        settings = super().environment()
        self.write("services.json", json.dumps([{"name": "go.micro.srv.bench", "version": "latest", "nodes": nodes}]))
        return settings


class ResilientEnvoy(Envoy):
    setting = "LEAST_REQUEST (P2C), outlier detection with its defaults, 1 retry on connect-failure, refused-stream, reset and 5xx"

    def __init__(self, folder, ports, program):
        super().__init__(folder, 0, program)
        self.ports = ports

    def cluster(self):
        cluster = super().cluster()
        endpoints = [{"endpoint": {"address": self.at(port)}} for port in self.ports]
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
        cluster["lb_policy"] = "LEAST_REQUEST"
        cluster["outlier_detection"] = {}
        cluster["circuit_breakers"]["thresholds"][0].update(max_retries=1000, max_requests=20000)
        return cluster

    def routes(self):
        retry = {"retry_on": "connect-failure,refused-stream,reset,5xx", "num_retries": 1}
        return [{"match": {"prefix": "/"}, "route": {"cluster": "node", "timeout": "5s", "retry_policy": retry}}]


class Fault:
    """`during` runs beside the load, `seconds` long."""

    def __init__(self, words, seconds, start=(), during=None):
        self.words, self.seconds, self.start, self.during = words, seconds, start, during


def killed_every_five_seconds(nodes, until):
    while time.monotonic() + 2 < until:
        nodes[0].restart(kill=True, down=1.0)
        FaultyNode.pause(max(min(4.0, until - time.monotonic() - 2), 0))


def rolling_restart(nodes, until):
    FaultyNode.pause(1)
    for node in nodes:
        node.restart(down=0.5)
        FaultyNode.pause(1)


FAULTS = [
    Fault("no fault", 10),
    Fault("one of five nodes answers 200 ms late", 15, ["--delay-ms", "200"]),
    Fault("one of five resets every third connection", 15, ["--reset-every", "3"]),
    Fault("one of five is killed and restarted every 5 s", 20, during=killed_every_five_seconds),
    Fault("all five are restarted, one after the other", 15, during=rolling_restart),
]


def load(program, cores, contender, seconds, seed=1):
    return subprocess.Popen(
        [
            program, "--port", str(contender.port), "--rate", str(CALLS_PER_SECOND), "--seconds", str(seconds),
            "--seed", str(seed),
            "--fields", "Idempotency-Key: bench",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def resilience(arguments, programs, envoy, folder, measured, others):
    """The table, and what has to hold of it."""
    load_program = os.path.join(programs, "bench-load")
    nodes = [FaultyNode(folder, os.path.join(programs, "bench-node"), index) for index in range(NODES)]
    ports = [node.port for node in nodes]
    contenders = [ResilientSidecar(folder, ports, os.path.abspath(arguments.binary))]
    if envoy:
        contenders.append(ResilientEnvoy(folder, ports, envoy))
    rows, judged = [], []
    try:
        for node in nodes:
            node.run(others)
        for contender in contenders:
            contender.start(measured)
        for fault in FAULTS:
            took = {contender.name: [] for contender in contenders}
            for turn in range(arguments.rounds):
                print("%s: round %d of %d" % (fault.words, turn + 1, arguments.rounds), file=sys.stderr)
                nodes[0].restart(*fault.start)
                FaultyNode.pause(2)
                for contender in contenders:  # both have met the faults for a moment, and their connections stand
                    warm = load(load_program, others, contender, 2)
                    warm.communicate()
                # Each has calls of its own rhythm, and the other one's in the next round.
                loads = [
                    (contender, load(load_program, others, contender, fault.seconds, seed=turn + place + 1))
                    for place, contender in enumerate(contenders)
                ]
                if fault.during:
                    fault.during(nodes, time.monotonic() + fault.seconds)
                for contender, process in loads:
                    out, err = process.communicate()
                    if process.returncode or not out:
                        raise SystemExit("%s: %s\n%s" % (contender.name, err, contender.log_text()))
                    took[contender.name].append(json.loads(out))
                    if err.strip():
                        print("  %s, first failure: %s" % (contender.name, err.strip()[:300]), file=sys.stderr)
            rows.append((fault, took))
    finally:
        for process in reversed(nodes + contenders):
            process.stop()
    return describe(rows, contenders), judge(rows, contenders)


def middle(values):
    return sorted(values)[len(values) // 2]


def describe(rows, contenders):
    lines = ["| fault | " + " | ".join("%s: failed of calls | p50 / p99 / p99.9 ms" % c.name for c in contenders) + " |"]
    lines.append("| --- |" + " --- | --- |" * len(contenders))
    for fault, took in rows:
        cells = []
        for contender in contenders:
            runs = took[contender.name]
            cells.append(
                "%d of %s" % (sum(run["failures"] for run in runs), "{:,}".format(sum(run["requests"] for run in runs)))
            )
            cells.append(
                " / ".join("%.2f" % (middle([run[key] for run in runs]) / 1000) for key in ("p50", "p99", "p999"))
            )
        lines.append("| %s | %s |" % (fault.words, " | ".join(cells)))
    lines.append("")
    lines += ["- %s: %s" % (contender.name, contender.setting) for contender in contenders]
    return "\n".join(lines)


def judge(rows, contenders):
    judged = []
    ours = contenders[0].name
    for fault, took in rows:
        failed = sum(run["failures"] for run in took[ours])
        if fault.during is rolling_restart:
            judged.append(("%s: no call of ours failed (%d did)" % (fault.words, failed), failed == 0))
        for other in contenders[1:]:
            theirs = sum(run["failures"] for run in took[other.name])
            judged.append(
                ("%s: failed %d, %s %d" % (fault.words, failed, other.name, theirs), failed <= theirs)
            )
            mine = middle([run["p99"] for run in took[ours]])
            its = middle([run["p99"] for run in took[other.name]])
            judged.append(
                ("%s: p99 %.2f ms, %s %.2f ms" % (fault.words, mine / 1000, other.name, its / 1000), mine < its)
            )
    return judged
