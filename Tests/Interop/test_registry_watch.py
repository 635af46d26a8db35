"""The registry as a stream: over Server-Sent Events, lines and WebSockets, filtered; what a slow watcher sees; bridges
between registries; `register` and `deregister`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import unittest

from sidecar import BlackBox, command, eventually, free_port, service, write_registry

try:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect
except ImportError:
    connect = None


def node(name, number, **metadata):
    return {"id": "%s-%d" % (name, number), "address": "10.9.0.%d:80" % (number % 250 + 1), "metadata": metadata}


def seen(event):
    """A short form of an event: action, service and the ids of its nodes."""
    found = event["Service"]
    return (event["Action"], found and found["name"], sorted(each["id"] for each in (found or {}).get("nodes") or []))


class Watch:
    """Reads the events of one watch, in either form that plain HTTP has."""

    def __init__(self, port, query="", accept="text/event-stream", receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(
            ("GET /registry%s HTTP/1.0\r\nHost: x\r\nAccept: %s\r\n\r\n" % (query, accept)).encode())
        self.stream = self.socket.makefile("rb")
        self.head = []
        while (line := self.stream.readline().strip()):
            self.head.append(line.decode())

    def next(self):
        while True:
            line = self.stream.readline()
            if not line:
                raise EOFError
            if line.startswith(b"data: "):
                line = line[6:]
            if line.startswith(b"{"):
                return json.loads(line)

    def until(self, action, name=None):
        """Events up to the first of that action."""
        events = []
        while True:
            events.append(self.next())
            if events[-1]["Action"] == action and (name is None or events[-1]["Service"]["name"] == name):
                return events

    def close(self):
        self.stream.close()
        self.socket.close()


class RegistryWatch(BlackBox):
    def watch(self, *arguments, **options):
        watch = Watch(*arguments, **options)
        self.addCleanup(watch.close)
        return watch

    def begin(self, *services):
        return self.start(services=list(services))

    def test_what_is_there_and_every_change_as_events_and_lines(self):
        first, second = service("one", node("one", 1)), service("two", node("two", 1), node("two", 2))
        sidecar = self.begin(first, second)
        eventually(lambda: len(sidecar.get("/registry").json()) == 2)
        for accept in ("text/event-stream", "application/x-ndjson"):
            watch = self.watch(sidecar.port, accept=accept)
            self.assertIn("HTTP/1.1 200 OK", watch.head[0])
            self.assertIn("Content-Type: " + accept, watch.head)
            initial = [seen(event) for event in watch.until("synced")]
            self.assertEqual(
                sorted(initial[:-1]), [("create", "one", ["one-1"]), ("create", "two", ["two-1", "two-2"])])
            self.assertEqual(initial[-1], ("synced", None, []))
            sidecar.write_registry([service("two", node("two", 2, zone="b"), node("two", 3))])
            events = [watch.next(), watch.next(), watch.next()]
            self.assertEqual(
                sorted(seen(event) for event in events),
                [("delete", "one", ["one-1"]), ("delete", "two", ["two-1"]), ("update", "two", ["two-2", "two-3"])])
            changed = next(event for event in events if event["Action"] == "update")["Service"]["nodes"]
            self.assertEqual(next(each for each in changed if each["id"] == "two-2")["metadata"], {"zone": "b"})
            sidecar.write_registry([first, second])
            watch.until("create", "one")
            eventually(lambda: len(sidecar.get("/registry").json()) == 2)
            watch.close()

    def test_filters(self):
        sidecar = self.begin(service("a.one", node("a.one", 1)), service("a.two", node("a.two", 1)))
        eventually(lambda: len(sidecar.get("/registry").json()) == 2)
        by_name = self.watch(sidecar.port, "?service=a.two")
        by_prefix = self.watch(sidecar.port, "?service=a.*&initial=false")
        self.assertEqual([seen(event)[1] for event in by_name.until("synced")], ["a.two", None])
        sidecar.write_registry([service("b", node("b", 1)), service("a.three", node("a.three", 1))])
        self.assertEqual(seen(by_name.next()), ("delete", "a.two", ["a.two-1"]))
        self.assertEqual(
            sorted(seen(by_prefix.next())[:2] for _ in range(3)),
            [("create", "a.three"), ("delete", "a.one"), ("delete", "a.two")])
        answer = sidecar.get("/registry?initial=perhaps", headers={"Accept": "text/event-stream"})
        self.assert_error(answer, 400, "initial is true or false, not perhaps")

    def test_versions_are_told_apart(self):
        old, new = node("v", 1), node("v", 2)
        sidecar = self.begin(service("v", old, version="1"))
        eventually(lambda: sidecar.get("/registry").json())
        watch = self.watch(sidecar.port)
        watch.until("synced")
        sidecar.write_registry([service("v", old, version="1"), service("v", new, version="2")])
        event = watch.next()
        self.assertEqual((seen(event), event["Service"]["version"]), (("create", "v", ["v-2"]), "2"))
        sidecar.write_registry([service("v", new, version="2")])
        event = watch.next()
        self.assertEqual((seen(event), event["Service"]["version"]), (("delete", "v", ["v-1"]), "1"))

    @unittest.skipUnless(connect, "the Python package `websockets` is not installed")
    def test_websocket_as_in_2018(self):
        """Changes only, unless asked; the frames are what a go-micro `sidecar` registry reads."""
        sidecar = self.begin(service("one", node("one", 1)))
        eventually(lambda: sidecar.get("/registry").json())
        url = "ws://127.0.0.1:%d/registry" % sidecar.port
        with connect(url) as plain, connect(url + "?initial=true&service=on*") as asking:
            self.assertEqual(seen(json.loads(asking.recv(timeout=10))), ("create", "one", ["one-1"]))
            self.assertEqual(seen(json.loads(asking.recv(timeout=10))), ("synced", None, []))
            # The second watch has begun, so the first, which was opened before it, has too.
            sidecar.write_registry([service("two", *[node("two", number) for number in range(400)])])
            told, events = set(), []
            while len(told) < 400:
                text = plain.recv(timeout=10)
                self.assertLess(len(text), 16384, "the plug-in's limit for a frame")
                events.append(json.loads(text))
                if events[-1]["Action"] != "delete":
                    told.update(seen(events[-1])[2])
            self.assertTrue(all(set(event) == {"Action", "Service"} for event in events))
            self.assertEqual(seen(json.loads(asking.recv(timeout=10))), ("delete", "one", ["one-1"]))

    def test_a_slow_watcher_costs_little_and_ends_with_the_right_picture(self):
        def state(round_):
            return [service("s%d" % number, *[node("s%d" % number, each, round=str(round_)) for each in range(20)])
                    for number in range(200)]

        sidecar = self.begin(*state(0))
        eventually(lambda: len(sidecar.get("/registry").json()) == 200)
        watch = self.watch(sidecar.port, receive_buffer=8192)
        before = sidecar.anonymous_kilobytes()
        for round_ in range(1, 6):
            sidecar.write_registry(state(round_))
            eventually(lambda: sidecar.get("/registry?service=s199").json()[0]["nodes"][0]["metadata"]["round"]
                       == str(round_))
        self.assertLess(sidecar.anonymous_kilobytes() - before, 16000)
        picture = {}
        while len(picture) < 4000 or set(picture.values()) != {"5"}:
            event = watch.next()
            for each in (event["Service"] or {}).get("nodes") or []:
                picture[each["id"]] = each["metadata"]["round"]
        self.assertEqual(len(picture), 4000)

    def test_a_watch_ends_in_order_when_the_sidecar_stops(self):
        sidecar = self.begin(service("one", node("one", 1)))
        watch = self.watch(sidecar.port)
        watch.until("synced")
        sidecar.send_signal(15)
        with contextlib.suppress(EOFError):
            while True:
                watch.next()
        self.assertEqual(sidecar.wait(5), 0, "it does not wait for watchers")


class Bridge(BlackBox):
    def test_a_file_into_memory_by_flag(self):
        """What came over the bridge is marked, and leaves with its source; the registries' states are told apart."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "services.json")
        write_registry(path, [service("one", node("one", 1))])
        sidecar = self.start(registry="memory,file:" + path, command=("--bridge", "file->memory"))

        def mirrored():
            return [each["id"] for entry in sidecar.get("/registry?service=one").json() for each in entry["nodes"]
                    if each["metadata"].get("micro-sidecar-origin") == "file:" + path]

        eventually(lambda: mirrored() == ["one-1"])
        write_registry(path, [service("one", node("one", 1), node("one", 2))])
        eventually(lambda: mirrored() == ["one-1", "one-2"])
        write_registry(path, [])
        eventually(lambda: sidecar.get("/registry").json() == [])

    def test_a_bridge_to_nowhere_is_refused(self):
        status, _, errors = command("--bridge", "memory->consul", environment={"MICRO_REGISTRY": "memory"})
        self.assertEqual(status, 64)
        self.assertIn("consul is not one of MICRO_REGISTRY", errors)


class RegisterCommand(BlackBox):
    def test_through_a_sidecar_that_runs(self):
        sidecar = self.start(registry="memory")
        place = {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % sidecar.port}
        text = json.dumps(service("told", node("told", 1)))
        for verb, count in (("register", 1), ("deregister", 0)):
            self.assertEqual(command(verb, "service", text, environment=place), (0, "ok\n", ""))
            eventually(lambda: len(sidecar.get("/registry").json()) == count)

    def test_without_one_a_registry_that_forgets_says_so(self):
        place = {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % free_port(), "MICRO_REGISTRY": "memory"}
        for verb, text, expected in (
            ("register", json.dumps(service("told", node("told", 1))), "start a sidecar first"),
            ("register", '{"name":"told"}', "has no nodes"),
            ("deregister", '{"name":"told"}', "names its nodes"),
        ):
            status, _, errors = command(verb, "service", text, environment=place)
            self.assertEqual(status, 1)
            self.assertIn(expected, errors)

    def test_what_is_no_service(self):
        for text in ('{"name":7}', "{", '{"nodes":[]}'):
            status, _, errors = command("register", "service", text)
            self.assertEqual(status, 64, text)
            self.assertIn("this is not a service", errors)
