"""Start, readiness, registration and its end, signals, drain, `run -- CMD`, and what happens when the app or registry goes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time

from gomicro import App, Connection, Node, greeter, hello_app, json_reply
from sidecar import BINARY, LONG, SOURCE_ROOT, BlackBox, Process, Sidecar, command, eventually, free_port, service

HELLO = "go.micro.srv.hello"
NOBODY = 65534


class Held(BlackBox):
    """A node whose calls wait until the test lets them go."""

    def setUp(self):
        super().setUp()
        self.release = threading.Event()
        self.arrived = threading.Event()
        self.addCleanup(self.release.set)

    def handler(self, call):
        self.arrived.set()
        self.release.wait(20)
        return {"msg": "late"}

    def call_in_flight(self, sidecar):
        """Starts a call and returns once it has reached the node: (thread, list that gets the answer)."""
        answers = []

        def work():
            try:
                answers.append(sidecar.post("/hello/say/hello", {}))
            except OSError as error:
                answers.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        self.assertTrue(self.arrived.wait(10), "the call did not reach the node")
        return thread, answers


class Signals(Held):
    def sidecar_with_a_call(self, **options):
        node = self.start_server(Node(self.handler))
        environment = {"MICRO_CLIENT_REQUEST_TIMEOUT": "20s"}
        sidecar = self.start(services=[service(HELLO, node.registration())], environment=environment, **options)
        thread, answers = self.call_in_flight(sidecar)
        self.addCleanup(thread.join)
        return sidecar, thread, answers

    def test_an_idle_sidecar_ends_with_status_0(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            sidecar = self.start()
            sidecar.send_signal(number)
            self.assertEqual(sidecar.wait(5), 0)

    def test_a_call_in_flight_is_finished_first(self):
        sidecar, thread, answers = self.sidecar_with_a_call()
        sidecar.send_signal(signal.SIGTERM)
        eventually(lambda: sidecar.admin("/readyz").status == 503, what="not ready while draining")
        self.assertEqual(sidecar.admin("/livez").status, 200)
        self.assertTrue(sidecar.is_running())
        self.release.set()
        thread.join(10)
        self.assertEqual(answers[0].json(), {"msg": "late"})
        self.assertEqual(sidecar.wait(5), 0)

    def test_a_second_signal_ends_it_at_once(self):
        sidecar, thread, answers = self.sidecar_with_a_call()
        sidecar.send_signal(signal.SIGTERM)
        eventually(lambda: sidecar.admin("/readyz").status == 503)
        sidecar.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        status = sidecar.wait(5)
        self.assertLess(time.monotonic() - begun, 2)
        self.assertNotEqual(status, 0, "calls were cut off, so this is not a clean end")

    def test_the_drain_has_an_end(self):
        node = self.start_server(Node(self.handler))
        environment = {"MICRO_CLIENT_REQUEST_TIMEOUT": "20s", "MICRO_SIDECAR_DRAIN": "300ms"}
        sidecar = self.start(services=[service(HELLO, node.registration())], environment=environment)
        thread, _ = self.call_in_flight(sidecar)
        sidecar.send_signal(signal.SIGTERM)
        sidecar.wait(5)
        self.release.set()
        thread.join(10)

    def test_idle_keep_alive_connections_do_not_hold_it_up(self):
        sidecar = self.start()
        connections = [Connection.to(sidecar.port) for _ in range(20)]
        for connection in connections:
            self.addCleanup(connection.close)
            connection.send(b"GET /registry HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.read()
        sidecar.send_signal(signal.SIGTERM)
        self.assertEqual(sidecar.wait(5), 0)

    def test_shutdown_by_http(self):
        sidecar = self.start()
        sidecar.expected_end = True
        self.assertEqual(sidecar.admin("/shutdown").status, 405, "GET must not stop anything")
        self.assertLess(sidecar.admin("/shutdown", "POST").status, 300)
        self.assertEqual(sidecar.wait(5), 0)


class Registration(BlackBox):
    """The sidecar's own view of the memory registry, in which it registers the app."""

    def registered(self, sidecar):
        answer = sidecar.get("/registry?service=" + HELLO)
        return answer.json()[0]["nodes"] if answer.status == 200 else []

    def test_the_app_is_registered_as_a_go_micro_node(self):
        app = self.start_server(App(hello_app))
        sidecar = self.start(
            name=HELLO,
            app=app.port,
            registry="memory",
            environment={"MICRO_SERVER_VERSION": "2", "MICRO_SERVER_METADATA": "zone=a,tier=b"},
        )
        eventually(lambda: self.registered(sidecar), what="registration")
        (found,) = sidecar.get("/registry?service=" + HELLO).json()
        self.assertEqual((found["name"], found["version"]), (HELLO, "2"))
        (node,) = found["nodes"]
        self.assertTrue(node["id"].startswith(HELLO + "-"), node)
        self.assertIn(str(sidecar.server_port), str((node["address"], node.get("port"))))
        self.assertEqual(node["metadata"]["zone"], "a")
        self.assertEqual(node["metadata"]["tier"], "b")
        self.assertEqual(node["metadata"]["protocol"], "mucp")
        self.assertEqual(node["metadata"]["transport"], "http")

    def test_the_app_calls_itself_through_the_registry(self):
        app = self.start_server(App(hello_app))
        sidecar = self.start(name=HELLO, app=app.port, registry="memory")
        eventually(lambda: self.registered(sidecar))
        self.assertEqual(sidecar.post("/hello/say/hello", {"name": "a"}).json(), {"msg": "Hello a"})

    def test_health_decides_about_registration(self):
        status = [503]
        app = self.start_server(App(lambda method, path, *_: json_reply(status[0], {})))
        sidecar = self.start(
            name=HELLO,
            app=app.port,
            registry="memory",
            environment={
                "MICRO_APP_HEALTH": "/health",
                "MICRO_APP_HEALTH_PERIOD": "50ms",
                "MICRO_APP_HEALTH_FAILURES": "3",
            },
        )
        eventually(lambda: len(app.requests) >= 3)
        self.assertEqual(self.registered(sidecar), [])
        status[0] = 200
        eventually(lambda: self.registered(sidecar), what="registration of a healthy app")
        status[0] = 500
        eventually(lambda: not self.registered(sidecar), what="its end when unhealthy")
        status[0] = 200
        eventually(lambda: self.registered(sidecar), what="its return")

    def test_without_a_name_nothing_is_registered(self):
        sidecar = self.start(registry="memory")
        self.assertEqual(sidecar.get("/registry").json(), [])


class Run(BlackBox):
    """`micro-sidecar run -- CMD…`"""

    def start_run(self, *command, **options):
        return self.start(command=["run", "--"] + list(command), registry="memory", **options)

    def test_it_ends_with_the_apps_status(self):
        for status in (0, 3, 77):
            sidecar = self.start(wait=False, command=["run", "--", "sh", "-c", "exit %d" % status], registry="memory")
            self.assertEqual(sidecar.wait(10), status)

    def test_an_app_killed_by_a_signal_is_128_and_the_signal(self):
        sidecar = self.start(wait=False, command=["run", "--", "sh", "-c", "kill -KILL $$"], registry="memory")
        self.assertEqual(sidecar.wait(10), 128 + signal.SIGKILL)

    def test_a_command_that_does_not_exist(self):
        sidecar = self.start(wait=False, command=["run", "--", "/no/such/program"], registry="memory")
        self.assertEqual(sidecar.wait(10), 127)
        self.assertIn("/no/such/program", sidecar.text())

    def test_arguments_arrive_as_they_are(self):
        script = "import json,sys; print(json.dumps(sys.argv[1:]))"
        arguments = ["a b", "--flag", "", "ü", "--"]
        sidecar = self.start(
            wait=False, command=["run", "--", sys.executable, "-c", script] + arguments, registry="memory"
        )
        self.assertEqual(sidecar.wait(10), 0)
        self.assertIn(json.dumps(arguments), sidecar.text())

    def test_signals_are_forwarded(self):
        script = (
            "import signal,sys,time\n"
            "signal.signal(signal.SIGTERM, lambda *_: (print('told to stop', flush=True), sys.exit(5)))\n"
            "print('app is up', flush=True)\n"
            "time.sleep(60)\n"
        )
        sidecar = self.start_run(sys.executable, "-c", script)
        eventually(lambda: "app is up" in sidecar.text())
        sidecar.send_signal(signal.SIGTERM)
        self.assertEqual(sidecar.wait(10), 5)
        self.assertIn("told to stop", sidecar.text())

    def test_the_app_is_registered_while_it_lives_and_not_longer(self):
        # Seen from a second sidecar, since the first ends with its app. Both share mDNS on this machine.
        port = free_port()
        program = os.path.join(SOURCE_ROOT, "examples", "python", "hello.py")
        name = "go.micro.srv.run%d" % os.getpid()
        watcher = self.start(registry="mdns")
        inside = self.start(
            command=["run", "--", sys.executable, program], registry="mdns", name=name, app=port
        )
        short = name.rsplit(".", 1)[1]
        eventually(lambda: watcher.post("/%s/say/hello" % short, {}).status == 200, what="a call to the app")
        (child,) = [int(pid) for pid in children_of(inside.pid)]
        os.kill(child, signal.SIGKILL)
        self.assertEqual(inside.wait(10), 128 + signal.SIGKILL)
        eventually(lambda: watcher.get("/registry?service=" + name).status == 404, what="deregistration")

    def test_calls_work_from_inside(self):
        node = self.start_server(Node(greeter))
        script = (
            "import os,sys,urllib.request\n"
            "request = urllib.request.Request('http://' + os.environ['MICRO_SIDECAR_ADDRESS'] + '/hello/say/hello', b'{}')\n"
            "for attempt in range(200):\n"
            "  try: print(urllib.request.urlopen(request).read().decode()); sys.exit(0)\n"
            "  except OSError: __import__('time').sleep(0.02)\n"
            "sys.exit(9)\n"
        )
        sidecar = self.start(
            wait=False,
            command=["run", "--", sys.executable, "-c", script],
            services=[service(HELLO, node.registration())],
        )
        self.assertEqual(sidecar.wait(15), 0)
        self.assertIn("Hello World", sidecar.text())


def children_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as stream:
        return stream.read().split()


class RegistryOutage(BlackBox):
    def setUp(self):
        super().setUp()
        self.node = self.start_server(Node(greeter))
        self.sidecar = self.start(services=[service(HELLO, self.node.registration())])
        self.assertEqual(self.sidecar.post("/hello/say/hello", {}).status, 200)

    def assert_still_serving_for(self, calls):
        for turn in range(calls):
            self.assertEqual(self.sidecar.post("/hello/say/hello", {}).status, 200)

    def test_a_removed_file_leaves_the_last_snapshot(self):
        os.remove(self.sidecar.registry_file)
        eventually(lambda: "registry" in self.sidecar.text().lower(), what="a word about it in the log")
        self.assert_still_serving_for(20)
        self.assertEqual(self.sidecar.admin("/readyz").status, 200)

    def test_garbage_in_the_file_leaves_the_last_snapshot(self):
        for garbage in (b"{", b"\x00\xff\xfe", b"services: [", b'[{"name":[]}]', b"[" * 10_000, b""):
            with open(self.sidecar.registry_file, "wb") as stream:
                stream.write(garbage)
            self.assert_still_serving_for(5)
        other = self.start_server(Node(lambda call: {"msg": "other"}))
        self.sidecar.write_registry([service(HELLO, other.registration())])
        eventually(
            lambda: self.sidecar.post("/hello/say/hello", {}).json() == {"msg": "other"}, what="the mended file in use"
        )

    def test_changes_of_the_file_are_followed(self):
        other = self.start_server(Node(lambda call: {"msg": "other"}))
        self.sidecar.write_registry([service(HELLO, other.registration())])
        eventually(lambda: self.sidecar.post("/hello/say/hello", {}).json() == {"msg": "other"})
        self.sidecar.write_registry([])
        eventually(lambda: self.sidecar.post("/hello/say/hello", {}).status == 404)

    def test_a_registry_entry_with_garbage_in_it(self):
        bad = {"id": "bad", "address": "not an address\r\nX: y", "metadata": {"a\r\nb": "c\x00"}}
        self.sidecar.write_registry([service(HELLO, self.node.registration(), bad)])
        good = sum(self.sidecar.post("/hello/say/hello", {}).status == 200 for _ in range(20))
        self.assertGreater(good, 0)
        self.assertEqual(self.sidecar.admin("/livez").status, 200)


class Failover(BlackBox):
    """Load on three nodes while one after the other is killed and restarted: no call fails that another node could take."""

    def test_nodes_killed_and_restarted_under_load(self):
        seconds, pause = (60.0, 5.0) if LONG else (8.0, 1.0)
        nodes = [self.start_server(Node(greeter)) for _ in range(3)]
        ports = [node.port for node in nodes]
        sidecar = self.start(services=[service(HELLO, *(node.registration() for node in nodes))])
        stop = threading.Event()
        done, failed = [0], []

        def caller(index):
            while not stop.is_set():
                if index % 2:
                    answer = sidecar.get("/hello/say/hello?name=%d" % index)  # harmless twice, so it never fails
                    may_fail = False
                else:
                    answer = sidecar.post("/hello/say/hello", {"name": str(index)})
                    # Broken with the request sent means it may have run: that, and nothing else, may fail.
                    may_fail = answer.status != 200 and answer.json()["id"] == "go.micro.client.transport"
                done[0] += 1
                if answer.status != 200 and not may_fail:
                    failed.append(answer)

        def killer():
            turn = 0
            while not stop.wait(pause / 2):
                which = turn % 3
                nodes[which].stop()
                if stop.wait(pause / 2):
                    break
                nodes[which] = Node(greeter, port=ports[which]).start()
                self.addCleanup(nodes[which].stop)
                turn += 1

        threads = [threading.Thread(target=caller, args=(index,)) for index in range(8)] + [threading.Thread(target=killer)]
        for thread in threads:
            thread.start()
        threading.Event().wait(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertGreater(done[0], 100)
        self.assertEqual(failed, [], "%d of %d calls failed" % (len(failed), done[0]))


class ManySidecars(BlackBox):
    def test_two_sidecars_cannot_share_a_port_and_the_second_says_so(self):
        first = self.start()
        environment = {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % first.port}
        second = self.start(wait=False, environment=environment)
        self.assertEqual(second.wait(10), 71)
        self.assertIn(str(first.port), second.text())
        self.assertEqual(first.get("/registry").status, 200)


class Hooks(BlackBox):
    """`ready`, `wait` and `drain`: what a container engine runs beside a sidecar."""

    def verb(self, sidecar, *words):
        return command(*words, environment={"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % sidecar.admin_port})

    def test_ready_and_wait(self):
        sidecar = self.start()
        self.assertEqual(self.verb(sidecar, "ready"), (0, "ready\n", ""))
        self.assertEqual(self.verb(sidecar, "wait"), (0, "", ""))
        # A listener on all addresses is asked on loopback.
        everywhere = {"MICRO_ADMIN_ADDRESS": "0.0.0.0:%d" % sidecar.admin_port}
        self.assertEqual(command("ready", environment=everywhere)[0], 0)
        self.assertEqual(command("ready", environment={"MICRO_ADMIN_ADDRESS": "off"})[0], 64)
        sidecar.stop()
        status, _, errors = self.verb(sidecar, "ready")
        self.assertEqual(status, 69)
        self.assertIn("connection refused", errors)
        begun = time.monotonic()
        status, _, errors = self.verb(sidecar, "wait", "300ms")
        self.assertEqual(status, 69)
        self.assertIn("takes no calls: connection refused", errors)
        self.assertGreaterEqual(time.monotonic() - begun, 0.3)

    def test_wait_ends_when_the_sidecar_comes(self):
        port = free_port()
        waiting = self.start_process(Process("wait", [BINARY, "wait", "30s"], {"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % port}))
        self.start(environment={"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % port}, wait=False)
        self.assertEqual(waiting.wait(10), 0)

    def test_ready_says_what_is_missing(self):
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        sidecar = self.start(registry="consul:127.0.0.1:%d" % silent.getsockname()[1], wait=False)
        eventually(lambda: sidecar.admin("/startupz").status == 200)
        status, _, errors = self.verb(sidecar, "ready")
        self.assertEqual(status, 1)
        self.assertIn("waiting for consul", errors)
        self.assertEqual(self.verb(sidecar, "wait")[0], 0, "calls are taken all the same")

    def test_drain_leaves_the_registry_and_goes_on_serving(self):
        app = self.start_server(App(hello_app))
        peer = self.start(registry="memory")
        registry = "proxy:127.0.0.1:%d" % peer.port
        sidecar = self.start(registry=registry, name=HELLO, app=app.port)
        eventually(lambda: peer.post("/hello/say/hello", {}).status == 200, what="the app through its peer")
        begun = time.monotonic()
        self.assertEqual(self.verb(sidecar, "drain", "500ms"), (0, "", ""))
        self.assertGreaterEqual(time.monotonic() - begun, 0.5)
        self.assertEqual(sidecar.admin("/readyz").status, 503)
        self.assertEqual(sidecar.admin("/livez").status, 200)
        self.assertEqual(peer.get("/registry?service=" + HELLO).status, 404)
        late = {"service": HELLO, "method": "Say.Hello", "address": "127.0.0.1:%d" % sidecar.server_port, "request": {}}
        self.assertEqual(peer.post("/rpc", late).status, 200, "a caller that has not heard")
        # Nothing is registered any more, and a second time changes nothing.
        self.assertEqual(sidecar.post("/registry", {"name": "x", "nodes": [{"id": "1", "address": "127.0.0.1:1"}]}).status, 503)
        self.assertEqual(self.verb(sidecar, "drain"), (0, "", ""))
        self.assertEqual(sidecar.admin("/drain").status, 405, "GET must not change anything")
        self.assertTrue(sidecar.is_running())
        self.assertEqual(sidecar.stop(), 0)
        self.assertEqual(self.verb(sidecar, "drain")[0], 69)


class Resources(BlackBox):
    """What control groups allow, told by a folder that looks like the kernel's."""

    def groups(self, **files):
        root = tempfile.TemporaryDirectory(prefix="micro-sidecar-test-")
        self.addCleanup(root.cleanup)
        for name, text in files.items():
            path = os.path.join(root.name, name.replace("__", "/").replace("_max", ".max"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as stream:
                stream.write(text + "\n")
        return {"MICRO_SIDECAR_CGROUP_ROOT": root.name}

    def threads(self, sidecar):
        names = []
        for task in os.listdir("/proc/%d/task" % sidecar.pid):
            with open("/proc/%d/task/%s/comm" % (sidecar.pid, task)) as stream:
                names.append(stream.read().strip())
        return sum(name.startswith("worker-") for name in names)

    def test_workers_are_the_quota_rounded_and_one_at_least(self):
        for quota, wanted in (("30000 100000", 1), ("250000 100000", 3), ("max 100000", 1)):
            with self.subTest(quota):
                sidecar = self.start(environment=self.groups(cpu_max=quota))
                self.assertEqual(self.threads(sidecar), wanted)
                sidecar.stop()
        environment = dict(self.groups(cpu_max="400000 100000"), MICRO_SIDECAR_WORKERS="2")
        self.assertEqual(self.threads(self.start(environment=environment)), 2, "what is set counts first")

    def test_new_calls_are_refused_before_the_kernel_ends_the_process(self):
        node = self.start_server(Node(greeter))
        # An idle sidecar has less; a hundred bodies that are not whole yet take it above the limit.
        sidecar = self.start(
            services=[service(HELLO, node.registration())], environment=self.groups(memory_max=str(64 << 20)))
        self.assertEqual(sidecar.metric("micro_sidecar_memory_limit_bytes"), 64 << 20)
        held = []
        for _ in range(30):
            connection = socket.create_connection(("127.0.0.1", sidecar.port))
            self.addCleanup(connection.close)
            connection.sendall(b"POST /hello/say/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n" + b" " * 2_900_000)
            held.append(connection)
        answer = eventually(lambda: (lambda a: a.status == 503 and a)(sidecar.post("/hello/say/hello", {})), 10, "refusal")
        self.assertIn("memory is nearly used up", answer.json()["detail"])
        self.assertEqual(answer.headers["Retry-After"], "1")
        self.assertEqual(sidecar.metric("micro_sidecar_memory_short"), 1)
        self.assertEqual(sidecar.admin("/livez").status, 200)
        for connection in held:
            connection.close()
        eventually(lambda: sidecar.post("/hello/say/hello", {}).status == 200, 10, "calls again")

    def test_no_core_is_dumped_unless_it_is_wanted(self):
        # A process that may not be dumped has its files in /proc given to root, which is to be seen for any other user.
        for wanted in (False, True):
            sidecar = Sidecar(
                environment={"MICRO_SIDECAR_CORE_DUMPS": "true" if wanted else "false"}, user=NOBODY if os.geteuid() == 0 else None)
            self.start_process(sidecar).wait_until_ready()
            owner = os.stat("/proc/%d/environ" % sidecar.pid).st_uid
            self.assertEqual(owner != 0, wanted)
            sidecar.stop()


class ExitStatus(BlackBox):
    """The table of docs/lifecycle.md."""

    def status(self, *words, **settings):
        return command(*words, environment=dict({"MICRO_REGISTRY": "memory", "MICRO_ADMIN_ADDRESS": "off"}, **settings))[0]

    def test_every_status_and_its_cause(self):
        self.assertEqual(self.status("version"), 0)
        self.assertEqual(self.status("nosuchverb"), 64)
        self.assertEqual(self.status(MICRO_SIDECAR_WORKERS="none"), 64)
        self.assertEqual(self.status("list", "services", MICRO_PROXY_ADDRESS="127.0.0.1:%d" % free_port()), 69)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = "127.0.0.1:%d" % taken.getsockname()[1]
            self.assertEqual(self.status(MICRO_SIDECAR_ADDRESS=address), 71)
            self.assertEqual(self.status(MICRO_SIDECAR_ADDRESS="127.0.0.1:0", MICRO_ADMIN_ADDRESS=address), 71)
        run = {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:0"}
        self.assertEqual(self.status("run", "--", "/no/such/program", **run), 127)
        self.assertEqual(self.status("run", "--", "/etc/passwd", **run), 126)
        self.assertEqual(self.status("run", "--", "sh", "-c", "exit 9", **run), 9)
        self.assertEqual(self.status("run", "--", "sh", "-c", "kill -TERM $$", **run), 128 + signal.SIGTERM)

    def test_the_help_lists_what_the_documentation_lists(self):
        listed = {line.split()[0] for line in command("help")[1].split("Exit status")[1].splitlines() if line.strip()}
        with open(os.path.join(SOURCE_ROOT, "docs", "lifecycle.md")) as stream:
            table = stream.read().split("## Exit status")[1]
        documented = {
            number for line in table.splitlines() if line.startswith("| ") for number in re.findall(r"\b\d+\b", line.split("|")[1])}
        self.assertEqual(listed - documented, set())


class Orders(BlackBox):
    """Who starts and stops first, app or sidecar, and what callers see of it: nothing."""

    def setUp(self):
        super().setUp()
        self.peer = self.start(registry="memory")
        self.ports = [free_port() for _ in range(2)]
        self.ended, self.failed, self.done = threading.Event(), [], 0

    def sidecar(self, index):
        return self.start(
            wait=False, registry="proxy:127.0.0.1:%d" % self.peer.port, name=HELLO, app=self.ports[index],
            environment={"MICRO_APP_HEALTH": "/health", "MICRO_APP_HEALTH_PERIOD": "100ms"})

    def app(self, index):
        return self.start_server(App(hello_app, port=self.ports[index]))

    def nodes(self):
        answer = self.peer.get("/registry?service=" + HELLO)
        return len(answer.json()[0]["nodes"]) if answer.status == 200 else 0

    def load(self):
        def work():
            while not self.ended.is_set():
                answer = self.peer.post("/hello/say/hello", {"name": "a"})
                self.done += 1
                if answer.status != 200:
                    self.failed.append(answer)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        self.addCleanup(lambda: [self.ended.set()] + [thread.join() for thread in threads])

    def more_calls(self):
        goal = self.done + 30
        eventually(lambda: self.failed or self.done >= goal, 10, "calls")

    def test_the_app_first_the_sidecar_first_and_both(self):
        self.app(0)
        self.sidecar(0)  # the app was there
        eventually(lambda: self.nodes() == 1, what="the first, whose app was there before it")
        second = self.sidecar(1).wait_until_ready()  # ready without its app
        self.assertEqual(self.nodes(), 1)
        self.assertEqual(second.post("/hello/say/hello", {}).status, 200, "its calls work without an app")
        self.app(1)
        eventually(lambda: self.nodes() == 2, what="the second, whose app came later")

    def test_rolling_restarts_of_sidecar_and_app_in_every_order_lose_no_call(self):
        apps = [self.app(0), self.app(1)]
        sidecars = [self.sidecar(0), self.sidecar(1)]
        eventually(lambda: self.nodes() == 2, what="both")
        self.load()
        self.more_calls()

        def stop_sidecar(index):
            sidecars[index].send_signal(signal.SIGTERM)
            self.assertEqual(sidecars[index].wait(15), 0)
            self.assertEqual(self.nodes(), 1, "nothing of it is left behind")

        def start_sidecar(index):
            sidecars[index] = self.sidecar(index)

        def drain(index):
            self.assertEqual(sidecars[index].admin("/drain", "POST").status, 200)
            self.more_calls()

        def stop_app(index):
            apps[index].stop()

        def start_app(index):
            apps[index] = self.app(index)

        orders = [
            (stop_sidecar, start_sidecar),
            (stop_sidecar, stop_app, start_app, start_sidecar),
            (stop_sidecar, stop_app, start_sidecar, start_app),
            # The app may end first only once callers do not come any more: that is what the drain is for.
            (drain, stop_app, stop_sidecar, start_app, start_sidecar),
            (drain, stop_app, stop_sidecar, start_sidecar, start_app),
            (drain, stop_sidecar, start_sidecar),
        ]
        for turn, order in enumerate(orders):
            index = turn % 2
            for step in order:
                step(index)
                self.more_calls()
            eventually(lambda: self.nodes() == 2, what="both again after " + ", ".join(step.__name__ for step in order))
            self.more_calls()
        self.ended.set()
        self.assertEqual(self.failed, [], "%d of %d calls failed" % (len(self.failed), self.done))

    def test_a_job_ends_with_all_that_belongs_to_it(self):
        job = (
            "import os, urllib.request\n"
            "call = urllib.request.Request('http://%s/hello/say/hello' % os.environ['MICRO_SIDECAR_ADDRESS'], b'{}')\n"
            "print(urllib.request.urlopen(call).read().decode())\n"
        )
        self.app(0)
        self.sidecar(0)
        eventually(lambda: self.nodes() == 1)
        registry = "proxy:127.0.0.1:%d" % self.peer.port
        around = self.start(wait=False, command=["run", "--", sys.executable, "-c", job], registry=registry)
        self.assertEqual(around.wait(15), 0)
        self.assertIn("Hello World", around.text())
        # Beside it, ended by its last act.
        beside = self.start(registry=registry)
        done = self.start_process(
            Process("job", [sys.executable, "-c", job + (
                "urllib.request.urlopen(urllib.request.Request('http://127.0.0.1:%d/shutdown', b''))\n" % beside.admin_port
            )], {"MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % beside.port}))
        self.assertEqual(done.wait(15), 0, done.text())
        self.assertEqual(beside.wait(15), 0)
