"""Restart in place: a new process serves at the same sockets, and nobody notices: callers on connections that stay, callers
that dial anew, streams, watchers of the registry, the supervisor; and what happens when the new process cannot serve."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import sys
import threading
import time

import grpc
from gomicro import App, Client, Node, greeter, hello_app
from gomicro_streams import StreamNode, echo
from grpcpeer import GRPCNode, Reply, Request
from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, ask, command, eventually, free_port, service
from test_grpc_streams import Caller
from test_registry_watch import Watch, seen
from test_streams import streaming_service

try:
    from websockets.sync.client import connect
except ImportError:
    connect = None

HELLO = "go.micro.srv.hello"
TALK = "go.micro.srv.talk"
GREET = "go.micro.srv.greet"


def successors(sidecar):
    """Ids of the processes that the first one has started and that run the same program."""
    with open("/proc/%d/task/%d/children" % (sidecar.pid, sidecar.pid)) as stream:
        found = [int(pid) for pid in stream.read().split()]
    return [pid for pid in found if os.path.realpath("/proc/%d/exe" % pid) == os.path.realpath(BINARY)]


def restart(sidecar):
    return command("restart", environment={"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % sidecar.admin_port}, timeout=90)


class Load:
    """Calls on threads until it is stopped; `failed` has what no caller should see."""

    def __init__(self):
        self.ended, self.failed, self.done, self.threads = threading.Event(), [], {}, []

    def add(self, name, make_call):
        """`make_call()` gives a function that makes a call and raises where it fails."""
        self.done[name] = 0

        def work():
            call = make_call()
            while not self.ended.is_set():
                try:
                    call()
                    self.done[name] += 1
                except Exception as error:  # noqa: BLE001 - whatever it is, a call was lost
                    self.failed.append("%s: %r" % (name, error))
                    return

        self.threads.append(threading.Thread(target=work))
        self.threads[-1].start()

    def passes(self, calls=20):
        """Waits until each kind has made that many more calls, or one has failed."""
        before = dict(self.done)
        eventually(
            lambda: self.failed or all(self.done[name] >= before[name] + calls for name in before), 20, "calls of every kind")

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def expect(answer, wanted):
    if answer != wanted:
        raise AssertionError(repr(answer))


class KeepAlive:
    """A client that keeps its connection until the reply says that it ends, as HTTP/1.1 has it."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def __call__(self):
        self.connection.request("POST", "/hello/say/hello", b"{}", {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        expect((reply.status, json.loads(reply.read())), (200, {"msg": "Hello World"}))


class Chat:
    """A gRPC stream of both directions that stays open."""

    def __init__(self, port):
        self.caller = Caller(port, GREET + ".Say")
        self.requests = queue.Queue()
        self.replies = self.caller.Chat(iter(self.requests.get, None), timeout=120)
        self.number = 0

    def turn(self):
        self.number += 1
        self.requests.put(Request(name="n", big_number=self.number))
        return next(self.replies).big_number == self.number

    def end(self):
        self.requests.put(None)
        rest = list(self.replies)
        self.caller.close()
        return rest


class Restarts(BlackBox):
    def begin(self, **options):
        """An app behind a sidecar that registers it at a peer, and nodes that the sidecar calls."""
        self.app = self.start_server(App(hello_app))
        talk = self.start_server(StreamNode(echo).start())
        greet = self.start_server(GRPCNode())
        nodes = [dict(streaming_service(talk, "Chat.Talk"), name=TALK), service(GREET, greet.registration())]
        self.peer = self.start(registry="memory")
        environment = dict({"MICRO_SIDECAR_RESTART_DRAIN": "20s"}, **options.pop("environment", {}))
        folder_file = os.path.join(self.make_folder(), "nodes.json")
        with open(folder_file, "w") as stream:
            json.dump(nodes, stream)
        registry = "proxy:127.0.0.1:%d,file:%s" % (self.peer.port, folder_file)
        sidecar = self.start(registry=registry, name=HELLO, app=self.app.port, environment=environment, **options)
        eventually(lambda: self.registered(), what="registration")
        return sidecar

    def make_folder(self):
        import tempfile

        folder = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(folder.cleanup)
        return folder.name

    def registered(self):
        answer = self.peer.get("/registry?service=" + HELLO)
        return answer.json()[0]["nodes"] if answer.status == 200 else []

    def test_no_call_is_lost_and_no_stream_is_cut(self):
        sidecar = self.begin()
        ids = [node["id"] for node in self.registered()]
        watch = Watch(self.peer.port, "?service=" + HELLO)
        self.addCleanup(watch.close)
        events = []

        def follow():
            try:
                while True:
                    events.append(seen(watch.next()))
            except (EOFError, OSError, ValueError):
                pass

        threading.Thread(target=follow, daemon=True).start()
        chat = Chat(sidecar.port)
        self.assertTrue(chat.turn())
        socket_ = None
        if connect:
            socket_ = connect("ws://127.0.0.1:%d/talk/chat/talk" % sidecar.port, close_timeout=1)
            self.addCleanup(socket_.close)
        load = Load()
        self.addCleanup(load.stop)
        for _ in range(2):
            load.add("app, connections that stay", lambda: KeepAlive(sidecar.port))
        load.add("app, a connection for each call", lambda: lambda: KeepAlive(sidecar.port)())
        for generation, kind in (("v0.14", "application/json"), ("micro", "application/json")):
            load.add(
                "framework, one connection, " + generation,
                lambda: (lambda client: lambda: expect(
                    client.call("Say.Hello", {"name": "a"}), ({"msg": "Hello a"}, None)))(
                        Client(sidecar.server_port, generation, kind)))
        load.add("framework, through the registry", lambda: lambda: expect(
            self.peer.post("/hello/say/hello", {}).status, 200))
        caller = Caller(sidecar.port, GREET + ".Say")
        self.addCleanup(caller.close)
        load.add("gRPC", lambda: lambda: caller.Hello(Request(name="a"), timeout=10))
        load.passes()
        pids = []
        for turn in range(2):
            if turn == 0:
                os.kill(sidecar.pid, signal.SIGUSR2)
                eventually(lambda: "the new process serves" in sidecar.text(), 60, "the first restart")
            else:
                status, text, errors = restart(sidecar)
                self.assertEqual((status, text), (0, "a new process serves\n"), errors)
            self.assertTrue(sidecar.is_running(), "its id stands for the sidecar")
            pids.append(max(successors(sidecar)))
            load.passes()
            self.assertTrue(chat.turn(), "the stream goes on at the process that took it")
            if socket_:
                socket_.send(json.dumps({"turn": turn}))
                self.assertEqual(json.loads(socket_.recv(5))["turn"], turn)
        load.stop()
        self.assertEqual(load.failed, [])
        self.assertNotEqual(*pids)
        self.assertEqual([node["id"] for node in self.registered()], ids, "one and the same node")
        self.assertEqual([event for event in events if event[0] == "delete"], [])
        self.assertEqual(chat.end(), [])
        if socket_:
            socket_.close()
        eventually(lambda: len(successors(sidecar)) == 1, 30, "the end of what was replaced")
        self.assertEqual(sidecar.admin("/readyz").status, 200)
        sidecar.send_signal(signal.SIGTERM)
        self.assertEqual(sidecar.wait(15), 0)
        self.assertEqual(self.registered(), [])
        self.assertFalse(os.path.exists("/proc/%d" % pids[-1]), "nothing is left behind")

    def test_more_workers_and_fewer(self):
        file = os.path.join(self.make_folder(), "settings.json")

        def write(workers):
            with open(file, "w") as stream:
                json.dump({"sidecar": {"workers": workers}}, stream)

        write(1)
        sidecar = self.begin(environment={"MICRO_CONFIG": file})
        load = Load()
        self.addCleanup(load.stop)
        for _ in range(3):
            load.add("connections for each call", lambda: lambda: KeepAlive(sidecar.port)())
        for workers in (3, 2):
            write(workers)
            self.assertEqual(restart(sidecar)[0], 0)
            load.passes()
            self.assertIn("workers=%d\n" % workers, sidecar.text())
        load.stop()
        self.assertEqual(load.failed, [])

    def test_what_was_registered_by_http_goes_on_and_ends_in_time(self):
        sidecar = self.begin()
        for name, ttl in (("lasting", None), ("passing", "4s")):
            entry = {"name": name, "nodes": [{"id": name + "-1", "address": "127.0.0.1:9"}]}
            self.assertEqual(sidecar.post("/registry" + ("?ttl=" + ttl if ttl else ""), entry).status, 200)
        self.assertEqual(restart(sidecar)[0], 0)
        self.assertEqual(self.peer.get("/registry?service=lasting").status, 200)
        self.assertEqual(self.peer.get("/registry?service=passing").status, 200)
        eventually(lambda: self.peer.get("/registry?service=passing").status == 404, 10, "the end of its ttl")
        self.assertEqual(self.peer.get("/registry?service=lasting").status, 200)
        self.assertEqual(sidecar.ask("DELETE", "/registry", {"name": "lasting", "nodes": [{"id": "lasting-1"}]}).status, 200)
        self.assertEqual(self.peer.get("/registry?service=lasting").status, 404)

    def test_what_has_left_the_registry_stays_out(self):
        sidecar = self.begin()
        self.assertEqual(sidecar.admin("/drain", "POST").status, 200)
        self.assertEqual(restart(sidecar)[0], 0)
        self.assertEqual(sidecar.admin("/readyz").status, 503)
        self.assertEqual(self.registered(), [])
        late = Client(sidecar.server_port, "micro", "application/json")
        self.addCleanup(late.close)
        self.assertEqual(late.call("Say.Hello", {"name": "a"}), ({"msg": "Hello a"}, None), "a caller that has not heard")

    def test_a_unix_socket(self):
        path = os.path.join(self.make_folder(), "sidecar.socket")
        sidecar = self.begin(environment={"MICRO_SIDECAR_ADDRESS": "unix:" + path})

        def get():
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(10)
                peer.connect(path)
                peer.sendall(b"GET /registry HTTP/1.0\r\n\r\n")
                return peer.makefile("rb").readline()

        for _ in range(2):
            self.assertEqual(restart(sidecar)[0], 0)
            self.assertIn(b"200", get())
        self.assertEqual(sidecar.stop(), 0)
        self.assertFalse(os.path.exists(path), "whoever serves last takes the path away")


class Failures(BlackBox):
    """A new process that cannot serve changes nothing."""

    def begin(self, **settings):
        self.file = os.path.join(self.make_folder(), "settings.json")
        self.write({})
        node = self.start_server(Node(greeter))
        sidecar = self.start(
            services=[service(HELLO, node.registration())], environment=dict({"MICRO_CONFIG": self.file}, **settings))
        self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)
        return sidecar

    make_folder = Restarts.make_folder

    def write(self, settings):
        with open(self.file, "w") as stream:
            json.dump(settings, stream)

    def assert_serves(self, sidecar):
        self.assertEqual(sidecar.post("/hello/say/hello", {}).status, 200)
        self.assertEqual(sidecar.admin("/readyz").status, 200)

    def test_a_setting_that_is_wrong(self):
        for _ in range(2):  # the second time from a successor
            sidecar = self.begin()
            self.assertEqual(restart(sidecar)[0], 0)
            self.write({"sidecar": {"workers": "many"}})
            status, _, errors = restart(sidecar)
            self.assertEqual(status, 1)
            self.assertIn("ended with status 64 before it served", errors)
            self.assertIn("workers", sidecar.text())
            self.assert_serves(sidecar)
            self.write({})
            self.assertEqual(restart(sidecar)[0], 0)
            self.assert_serves(sidecar)
            self.assertEqual(sidecar.stop(), 0)

    def test_another_address(self):
        sidecar = self.begin(MICRO_SIDECAR_HOSTS="x")
        other = free_port()
        self.write({"server_name": "me", "app_address": "127.0.0.1:%d" % other})
        status, _, errors = restart(sidecar)
        self.assertEqual(status, 1, errors)
        self.assertIn("a restart in place keeps its addresses", sidecar.text())
        self.assert_serves(sidecar)

    def test_the_process_that_serves_dies(self):
        sidecar = self.begin()
        self.assertEqual(restart(sidecar)[0], 0)
        (pid,) = eventually(lambda: successors(sidecar))
        os.kill(pid, signal.SIGKILL)
        self.assertEqual(sidecar.wait(10), 128 + signal.SIGKILL, "whoever watches the first must hear of it")

    def test_the_first_process_dies(self):
        sidecar = self.begin()
        self.assertEqual(restart(sidecar)[0], 0)
        (pid,) = eventually(lambda: successors(sidecar))
        sidecar.kill()
        eventually(lambda: not os.path.exists("/proc/%d" % pid), 10, "the end of its successor")
        with self.assertRaises(OSError):
            ask(sidecar.port, "GET", "/registry")

    def test_a_signal_to_the_whole_group_is_one_signal(self):
        sidecar = self.begin()
        self.assertEqual(restart(sidecar)[0], 0)
        sidecar.expected_end = True
        os.killpg(sidecar.pid, signal.SIGTERM)
        self.assertEqual(sidecar.wait(10), 0)
        self.assertNotIn("second signal", sidecar.text())

    def test_get_and_strangers_restart_nothing(self):
        sidecar = self.begin()
        self.assertEqual(sidecar.admin("/restart").status, 405)
        answer = ask(sidecar.admin_port, "POST", "/restart", headers={"Origin": "http://evil.example"})
        self.assertEqual(answer.status, 403)
        self.assertEqual(successors(sidecar), [])
        status, _, errors = command("restart", environment={"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % free_port()})
        self.assertEqual(status, 69)
        self.assertIn("no sidecar at", errors)


class RunApp(BlackBox):
    """`run -- CMD`: the app stays while its sidecar is replaced."""

    def begin(self):
        port, name = free_port(), "go.micro.srv.hello"
        self.peer = self.start(registry="memory")
        program = os.path.join(SOURCE_ROOT, "examples", "python", "hello.py")
        sidecar = self.start(
            command=["run", "--", sys.executable, program], registry="proxy:127.0.0.1:%d" % self.peer.port, name=name, app=port)
        eventually(lambda: self.peer.post("/hello/say/hello", {}).status == 200, 15, "a call to the app")
        return sidecar

    def children(self, sidecar):
        with open("/proc/%d/task/%d/children" % (sidecar.pid, sidecar.pid)) as stream:
            return set(map(int, stream.read().split())) - set(successors(sidecar))

    def test_the_app_is_the_same_and_its_status_is_the_sidecars(self):
        sidecar = self.begin()
        (app,) = self.children(sidecar)
        for _ in range(2):
            self.assertEqual(restart(sidecar)[0], 0)
            self.assertEqual(self.peer.post("/hello/say/hello", {}).status, 200)
        self.assertEqual(self.children(sidecar), {app})
        os.kill(app, signal.SIGKILL)
        self.assertEqual(sidecar.wait(15), 128 + signal.SIGKILL)
        self.assertEqual(self.peer.get("/registry?service=go.micro.srv.hello").status, 404)

    def test_sigterm_reaches_the_app_after_its_calls(self):
        sidecar = self.begin()
        self.assertEqual(restart(sidecar)[0], 0)
        sidecar.send_signal(signal.SIGTERM)
        self.assertIn(sidecar.wait(15), (0, 128 + signal.SIGTERM))
        self.assertEqual(self.peer.get("/registry?service=go.micro.srv.hello").status, 404)


class OverMDNS(BlackBox):
    def test_a_watcher_on_the_same_host_sees_no_end(self):
        app = self.start_server(App(hello_app))
        name = "go.micro.srv.restart%d" % os.getpid()
        watcher = self.start(registry="mdns")
        sidecar = self.start(registry="mdns", name=name, app=app.port)
        eventually(lambda: watcher.get("/registry?service=" + name).status == 200, 10, "registration")
        watch = Watch(watcher.port, "?service=" + name)
        self.addCleanup(watch.close)
        watch.until("synced")
        for _ in range(2):
            self.assertEqual(restart(sidecar)[0], 0)
        sidecar.stop()
        events = [seen(event) for event in watch.until("delete", name)]
        self.assertEqual([event[0] for event in events].count("delete"), 1, "only the last end is one: %r" % events)
        eventually(lambda: watcher.get("/registry?service=" + name).status == 404, 10, "deregistration")
