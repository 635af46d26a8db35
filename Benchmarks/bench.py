#!/usr/bin/env python3
"""`./dev bench`: what a request through the sidecar costs, beside HAProxy, nginx, Envoy and a bare connection.

    bench.py --binary SIDECAR [--venv FOLDER] [--rounds 9] [--requests 50000] [--idle 5000] [--only NAME,...] [--write]

All contenders forward the same POST to the same node and run at once; the load visits them in turn (A B C A B C …), so
that whatever else the machine does touches them alike. The measured process has the last core to itself, load and node
share the others. CPU is what the kernel charged the process (all threads), per 100,000 requests; the median round is
shown with the spread, and the median of the rounds' ratios. Compare the ratios: absolute numbers are this machine's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import tempfile

from contenders import Envoy, HAProxy, Nginx, Node, ObservedSidecar, Sidecar
from resilience import CALLS_PER_SECOND, resilience
from translation import translation

HERE = os.path.dirname(os.path.abspath(__file__))
DOCUMENT = os.path.join(os.path.dirname(HERE), "docs", "benchmarks.md")
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")
RESILIENCE_MARKS = ("<!-- resilience: begin -->", "<!-- resilience: end -->")
TRANSLATION_MARKS = ("<!-- translation: begin -->", "<!-- translation: end -->")
CPU_MAX = {"HAProxy": 1.0, "Envoy": 0.5}  # what the sidecar may cost, as a share of each
OBSERVED_CPU_MAX = 1.12  # with access log and traces, as a share of itself without
IDLE_KILOBYTES_MAX = 3.0
RESIDENT_MEGABYTES_MAX = 12.0


class Results:
    def __init__(self):
        self.cpu, self.user_share, self.p50, self.p99, self.rate = [], [], [], [], []
        self.fresh_kilobytes = self.loaded_kilobytes = self.idle_kilobytes = 0

    def cpu_median(self):
        return statistics.median(self.cpu)

    def share_of(self, other):
        """This one's CPU as a share of another's: the median over rounds, since what disturbs a round disturbs both."""
        return statistics.median(mine / its for mine, its in zip(self.cpu, other.cpu))


def load(program, cores, contender, requests, connections):
    output = subprocess.run(
        [program, "--port", str(contender.port), "--requests", str(requests), "--connections", str(connections)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    if output.returncode:
        raise SystemExit("%s: %s\n%s" % (contender.name, output.stderr, contender.log_text()))
    return json.loads(output.stdout)


def measure(program, cores, contender, results, arguments):
    cpu, (user, system) = contender.cpu_seconds(), contender.user_share()
    took = load(program, cores, contender, arguments.requests, arguments.connections)
    cpu_after, (user_after, system_after) = contender.cpu_seconds(), contender.user_share()
    results.cpu.append((cpu_after - cpu) * 100_000 / arguments.requests)
    ticks = (user_after - user) + (system_after - system)
    results.user_share.append((user_after - user) / ticks if ticks else 0)
    results.p50.append(took["p50"])
    results.p99.append(took["p99"])
    results.rate.append(took["requests"] / took["seconds"])


def measure_idle(program, cores, contender, count):
    """Kilobytes per connection that has made one request and then waits."""
    before = contender.anonymous_kilobytes()
    holder = subprocess.Popen(
        [program, "--port", str(contender.port), "--idle", str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    holder.stdout.readline()
    after = contender.anonymous_kilobytes()
    holder.communicate()
    if holder.returncode:
        raise SystemExit("%s did not hold %d idle connections:\n%s" % (contender.name, count, contender.log_text()))
    return (after - before) / count


def instructions(kind, binary, node_program, load_program, folder):
    """User instructions per request, by callgrind: the difference between a long and a short run, so that the start does
    not count. Repeatable to a few in a thousand whatever else the machine does."""
    counts = {}
    for requests in (2_000, 12_000):
        place = os.path.join(folder, kind.__name__, str(requests))
        os.makedirs(place)
        node = Node(place, node_program)
        sidecar = kind(place, node.port, binary)
        out = os.path.join(place, "callgrind.out")
        sidecar.prefix = ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + out]
        try:
            node.start(os.sched_getaffinity(0))
            sidecar.start(os.sched_getaffinity(0))
            load(load_program, os.sched_getaffinity(0), sidecar, requests, 32)
        finally:
            sidecar.stop()
            node.stop()
        with open(out) as stream:
            counts[requests] = next(int(line.split()[1]) for line in stream if line.startswith(("summary:", "totals:")))
    return (counts[12_000] - counts[2_000]) / 10_000


def row(contender, r, ours, idle):
    name = "**%s**" % contender.name if contender.name == "micro-sidecar" else contender.name
    latency = "%d / %d" % (statistics.median(r.p50), statistics.median(r.p99))
    rate = "{:,.0f}".format(statistics.median(r.rate))
    if contender.name == "bare":
        return [name, "", "", "", latency, rate, "", "", ""]
    cpu = r.cpu_median()
    return [
        "%s %s" % (name, contender.version()),
        "%.2f (%.2f)" % (cpu, cpu * statistics.median(r.user_share)),
        "%.2f–%.2f" % (min(r.cpu), max(r.cpu)),
        "%.2f" % ours.share_of(r) if ours else "",
        latency,
        rate,
        "%.1f" % (r.fresh_kilobytes / 1024),
        "%.1f" % (r.loaded_kilobytes / 1024),
        "%.2f" % r.idle_kilobytes if idle else "",
    ]


def table(contenders, results, arguments):
    head = ["", "CPU s per 100k requests (user part)", "spread", "sidecar ÷ this", "p50 / p99 µs", "requests/s"]
    head += ["fresh RSS MB", "RSS MB after the load", "KB per idle connection"]
    ours = results.get("micro-sidecar")
    rows = [head, ["---"] * len(head)]
    rows += [row(contender, results[contender.name], ours, arguments.idle) for contender in contenders]
    return "\n".join("| %s |" % " | ".join(cells) for cells in rows)


def verdicts(results, idle):
    """What must hold, and whether it does: (sentence, held)."""
    ours = results.get("micro-sidecar")
    if ours is None:
        return []
    found = []
    for name, share_max in CPU_MAX.items():
        if name in results:
            share = ours.share_of(results[name])
            found.append(("CPU is %.2f × %s (at most %.1f)" % (share, name, share_max), share <= share_max))
    observed = results.get(ObservedSidecar.name)
    if observed:
        share = observed.share_of(ours)
        found.append(("access log and traces make CPU %.2f × (at most %.2f)" % (share, OBSERVED_CPU_MAX), share <= OBSERVED_CPU_MAX))
    megabytes = ours.fresh_kilobytes / 1024
    found.append(
        ("idle RSS is %.1f MB (at most %.0f)" % (megabytes, RESIDENT_MEGABYTES_MAX), megabytes <= RESIDENT_MEGABYTES_MAX)
    )
    if idle:
        per = ours.idle_kilobytes
        found.append(
            ("%.2f KB per idle connection (at most %.0f)" % (per, IDLE_KILOBYTES_MAX), per <= IDLE_KILOBYTES_MAX)
        )
    return found


def machine():
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return "%s, %d cores, Linux %s" % (model or platform.machine(), os.cpu_count(), platform.release().split("-")[0])


def write_document(text, marks):
    with open(DOCUMENT) as stream:
        document = stream.read()
    before, rest = document.split(marks[0])
    after = rest.split(marks[1])[1]
    with open(DOCUMENT, "w") as stream:
        stream.write("%s%s\n%s\n%s%s" % (before, marks[0], text, marks[1], after))


def parse_arguments():
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__.split("\n")[0])
    parser.add_argument("--binary", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--venv", default="", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=50_000, help="per round and contender")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--idle", type=int, default=5000, help="idle connections to measure memory with; 0: none")
    parser.add_argument("--only", default="", help="contenders, by name and comma")
    parser.add_argument("--instructions", action="store_true", help="only count the sidecar's instructions per request")
    parser.add_argument("--translation", action="store_true", help="gRPC and JSON ⇄ protobuf instead of plain calls")
    parser.add_argument("--resilience", action="store_true", help="nodes that are slow, break, die and restart")
    parser.add_argument("--write", action="store_true", help="update docs/benchmarks.md")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bound of ours does not hold")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    all_cores = sorted(os.sched_getaffinity(0))
    measured, others = {all_cores[-1]}, set(all_cores[:-1]) or {all_cores[-1]}
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print("warning: load average is %.1f; trust the ratios, not the numbers" % busy, file=sys.stderr)
    programs = os.path.join(HERE, ".build", "release")
    load_program = os.path.join(programs, "bench-load")

    if arguments.resilience:
        with tempfile.TemporaryDirectory() as folder:
            text, judged = resilience(arguments, programs, Envoy.find(arguments.venv), folder, measured, others)
        text = "%s; %d rounds, %s calls a second through each proxy.\n\n%s" % (
            machine(), arguments.rounds, "{:,}".format(CALLS_PER_SECOND), text
        )
        return conclude(text, judged, RESILIENCE_MARKS, arguments)
    if arguments.translation:
        with tempfile.TemporaryDirectory() as folder:
            envoy = Envoy.find(arguments.venv)
            if not envoy:
                print("Envoy is not installed, so nothing is compared with it", file=sys.stderr)
            text, judged = translation(arguments, programs, envoy, folder, measured, others)
        text = "%s; %d rounds of %s calls, 32 at once.\n\n%s" % (
            machine(), arguments.rounds, "{:,}".format(arguments.requests), text
        )
        return conclude(text, judged, TRANSLATION_MARKS, arguments)
    if arguments.instructions:
        with tempfile.TemporaryDirectory() as folder:
            node_program = os.path.join(programs, "bench-node")
            plain, observed = (
                instructions(kind, os.path.abspath(arguments.binary), node_program, load_program, folder)
                for kind in (Sidecar, ObservedSidecar)
            )
        print("%.0f user instructions per request, %.0f with access log and traces (%.2f ×)" % (plain, observed, observed / plain))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        node = Node(folder, os.path.join(programs, "bench-node"))
        binary = os.path.abspath(arguments.binary)
        contenders = [node, Sidecar(folder, node.port, binary), ObservedSidecar(folder, node.port, binary)]
        left_out = []
        for kind in (HAProxy, Nginx):
            contenders.append(kind(folder, node.port)) if kind.program else left_out.append(kind.name)
        envoy = Envoy.find(arguments.venv)
        contenders.append(Envoy(folder, node.port, envoy)) if envoy else left_out.append(Envoy.name)
        only = [name.strip().lower() for name in arguments.only.split(",") if name.strip()]
        contenders = [c for c in contenders if not only or c is node or c.name.lower() in only]
        if left_out:
            print("not installed, so not in the table: " + ", ".join(left_out), file=sys.stderr)

        results = {contender.name: Results() for contender in contenders}
        try:
            for contender in contenders:
                contender.start(others if contender is node else measured)
            time.sleep(2)  # what is fresh but settled
            for contender in contenders:
                results[contender.name].fresh_kilobytes = contender.resident_kilobytes()
            for turn in range(arguments.rounds + 1):
                for contender in contenders:
                    print("round %d of %d: %s" % (turn, arguments.rounds, contender.name), file=sys.stderr)
                    kept = results[contender.name] if turn else Results()  # round 0 warms up
                    measure(load_program, others, contender, kept, arguments)
            for contender in contenders:
                results[contender.name].loaded_kilobytes = contender.resident_kilobytes()
                if arguments.idle and contender is not node:
                    print("idle connections: " + contender.name, file=sys.stderr)
                    kilobytes = measure_idle(load_program, others, contender, arguments.idle)
                    results[contender.name].idle_kilobytes = kilobytes
        finally:
            for contender in reversed(contenders):
                contender.stop()

        settings = "\n".join("- %s: %s" % (c.name, c.setting) for c in contenders)
        text = "%s; %d rounds of %s requests, %d connections; %s idle connections.\n\n%s\n\n%s" % (
            machine(),
            arguments.rounds,
            "{:,}".format(arguments.requests),
            arguments.connections,
            "{:,}".format(arguments.idle),
            table(contenders, results, arguments),
            settings,
        )
    return conclude(text, verdicts(results, arguments.idle), MARKS, arguments)


def conclude(text, judged, marks, arguments):
    print(text)
    for sentence, held in judged:
        print("%s %s" % ("holds:" if held else "BROKEN:", sentence))
    if arguments.write:
        write_document(text, marks)
    return 1 if arguments.check and not all(held for _, held in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
