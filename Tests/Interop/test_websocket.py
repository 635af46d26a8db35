"""WebSockets with real peers: the Python package `websockets` as client of the local API and as the app behind a sidecar,
and a browser."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.parse

from gomicro import Connection, NodeError
from gomicro_streams import ClientStream, StreamEnded, StreamNode, count_down, echo
from sidecar import BlackBox, eventually, free_port, service
from test_streams import HELLO, LineApp, streaming_service

try:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect
    from websockets.sync.server import serve
except ImportError:
    connect = None

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_websockets = unittest.skipUnless(connect, "the Python package `websockets` is not installed")


def failing(code, detail):
    return NodeError(json.dumps({"id": HELLO, "code": code, "detail": detail, "status": "x"}))


def closed(socket_, timeout=10):
    """Reads to the end; the peer's code and reason."""
    while True:
        try:
            socket_.recv(timeout=timeout)
        except ConnectionClosed as end:
            return (end.rcvd.code, end.rcvd.reason) if end.rcvd else None


@needs_websockets
class FromTheApp(BlackBox):
    def begin(self, handler=echo, *endpoints, **options):
        self.node = self.start_server(StreamNode(handler).start())
        return self.start(services=[streaming_service(self.node, *(endpoints or ("Chat.Talk",)))], **options)

    def dial(self, sidecar, path="/hello/chat/talk", **options):
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        url = "ws://127.0.0.1:%d%s" % (sidecar.port, path)
        return stack.enter_context(connect(url, max_size=None, close_timeout=1, **options))

    def test_text_is_json_and_the_empty_message_ends_the_requests(self):
        sidecar = self.begin()
        with self.dial(sidecar, additional_headers={"X-User": "ann"}) as talk:
            for number in range(5):
                talk.send(json.dumps({"n": number}))
                self.assertEqual(json.loads(talk.recv(timeout=10)), {"n": number})
            talk.send("")
            self.assertEqual(closed(talk), (1000, ""))
        self.assertEqual(self.node.streams[0].headers["x-user"], "ann")
        eventually(lambda: sidecar.metric("micro_sidecar_requests_in_flight") == 0)

    def test_binary_is_protobuf(self):
        """Said by the subprotocol: nothing has to be translated then."""
        with self.dial(self.begin(), subprotocols=["proto"]) as talk:
            for message in (b"\x0a\x01a", b"", b"\x0a\x01b" * 1000):
                talk.send(message)
                self.assertEqual(talk.recv(timeout=10), message)

    def test_binary_that_needs_a_descriptor(self):
        with self.dial(self.begin()) as talk:
            talk.send(b"\x0a\x01a")
            code, reason = closed(talk)
        self.assertEqual(code, 4415)
        self.assertIn("descriptor", reason)

    def test_messages_of_all_sizes_whole_and_in_fragments(self):
        with self.dial(self.begin()) as talk:
            for size in (1, 100, 125, 126, 5000, 65535, 65536, 1_000_000):
                text = json.dumps({"data": "ü" * (size // 2)}, ensure_ascii=False)
                talk.send(text)
                self.assertEqual(json.loads(talk.recv(timeout=10)), json.loads(text))
                talk.send([text[: len(text) // 3], text[len(text) // 3 :]])
                self.assertEqual(json.loads(talk.recv(timeout=10)), json.loads(text))

    def test_one_request_and_many_replies(self):
        sidecar = self.begin(count_down, "Clock.Down")
        with self.dial(sidecar, "/hello/clock/down") as clock:
            clock.send('{"from": 3}')
            self.assertEqual([json.loads(clock.recv(timeout=10))["number"] for _ in range(3)], [3, 2, 1])
            self.assertEqual(closed(clock), (1000, ""))

    def test_the_service_named_by_headers_or_in_the_query(self):
        sidecar = self.begin()
        named = {"Micro-Service": HELLO, "Micro-Endpoint": "Chat.Talk"}
        for path, headers in (("/", named), ("/?" + urllib.parse.urlencode(named), {})):
            with self.subTest(path), self.dial(sidecar, path, additional_headers=headers) as talk:
                talk.send("[1]")
                self.assertEqual(talk.recv(timeout=10), "[1]")

    def test_a_subprotocol_settles_the_form_of_the_replies(self):
        def greet(stream):
            stream.send(b"\x0a\x01a" if "protobuf" in stream.kind else {"n": 1})
            stream.receive()

        sidecar = self.begin(greet)
        with self.dial(sidecar, subprotocols=["other", "json"]) as talk:
            self.assertEqual(talk.subprotocol, "json")
        with self.dial(sidecar, subprotocols=["proto"]) as talk:
            self.assertEqual(talk.subprotocol, "proto")
            talk.send(b"")
            self.assertEqual(talk.recv(timeout=10), b"\x0a\x01a")

    def test_what_fails_before_the_upgrade_is_a_plain_answer(self):
        sidecar = self.start(services=[streaming_service_at(free_port(), "A.B", name="go.micro.srv.dead")])
        for path, status in (("/nobody/chat/talk", 404), ("/dead/a/b", 503)):
            with self.subTest(path), self.assertRaises(InvalidStatus) as caught:
                self.dial(sidecar, path)
            answer = caught.exception.response
            self.assertEqual(answer.status_code, status)
            self.assertEqual(json.loads(answer.body)["code"], status)

    def test_a_wrong_handshake(self):
        sidecar = self.begin()
        key = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        answer = sidecar.get("/hello/chat/talk", {**key, "Sec-WebSocket-Version": "8"})
        self.assert_error(answer, 426, "must be 13")
        self.assertEqual(answer.headers["Sec-WebSocket-Version"], "13")
        self.assert_error(sidecar.get("/hello/chat/talk", {**key, "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x"}), 400)

    def test_pages_of_foreign_origin(self):
        sidecar = self.begin(environment={"MICRO_SIDECAR_CORS": "https://shop.example"})
        with self.dial(sidecar, origin="https://shop.example") as talk:
            talk.send("1")
            self.assertEqual(talk.recv(timeout=10), "1")
        with self.assertRaises(InvalidStatus) as caught:
            self.dial(sidecar, origin="https://evil.example")
        self.assertEqual(caught.exception.response.status_code, 403)

    def test_errors_are_close_codes(self):
        def fail(stream):
            stream.send({"n": 1})
            raise failing(409, "changed " * 40)

        with self.dial(self.begin(fail)) as talk:
            self.assertEqual(talk.recv(timeout=10), '{"n": 1}')
            code, reason = closed(talk)
        self.assertEqual(code, 4409)
        self.assertTrue(reason.startswith("changed changed"))
        self.assertLessEqual(len(reason.encode()), 123)

    def test_a_callers_mistakes(self):
        sidecar = self.begin(environment={"MICRO_SIDECAR_MAX_BODY": "100000"})
        for messages, code in (
            (["{"], 4400), (["", "{}"], 4400), (["x" * 100001], 1009), ([b"x" * 100001], 1009),
        ):
            with self.subTest(code), self.dial(sidecar) as talk:
                for message in messages:
                    talk.send(message)
                self.assertEqual(closed(talk)[0], code)

    def test_a_client_that_leaves_ends_the_stream_at_the_node(self):
        for leave in (lambda talk: talk.close(), lambda talk: talk.socket.shutdown(socket.SHUT_RDWR)):
            ended = threading.Event()

            def wait(stream, ended=ended):
                stream.send({"n": 1})
                stream.receive(timeout=30)
                ended.set()

            talk = self.dial(self.begin(wait))
            talk.send("{}")
            talk.recv(timeout=10)
            leave(talk)
            self.assertTrue(ended.wait(10))

    def test_a_slow_reader_stops_a_fast_writer(self):
        sent = [0]

        def flood(stream):
            stream.receive()
            while True:
                stream.send({"data": "x" * 60000})
                sent[0] += 60000

        sidecar = self.begin(flood, "Data.Flood")
        before = sidecar.anonymous_kilobytes()
        talk = self.dial(sidecar, "/hello/data/flood", max_queue=1)
        talk.send("{}")
        talk.recv(timeout=10)
        seen = -1
        while seen != sent[0]:  # until the writer is stopped
            seen = sent[0]
            time.sleep(0.3)  # between two looks
        self.assertLess(sidecar.anonymous_kilobytes() - before, 4000)
        self.assertLess(seen, 40_000_000)
        for _ in range(200):
            self.assertEqual(len(talk.recv(timeout=10)), 60012)
        eventually(lambda: sent[0] > seen, what="the writer going on")

    def test_a_slow_node_stops_a_fast_client(self):
        go_on, done, pushed = threading.Event(), threading.Event(), [0]

        def sleepy(stream):
            stream.inbox.maxsize = 2
            stream.receive()
            go_on.wait(60)
            while stream.receive() is not None:
                pass
            done.set()

        sidecar = self.begin(sleepy, "Data.Sink")
        before = sidecar.anonymous_kilobytes()
        talk = self.dial(sidecar, "/hello/data/sink", ping_interval=None)
        text = json.dumps({"data": "x" * 60000})

        def push():
            for _ in range(1000):
                talk.send(text)
                pushed[0] += len(text)
            talk.send("")

        pusher = threading.Thread(target=push, daemon=True)
        pusher.start()
        seen = -1
        while seen != pushed[0]:  # until the client is stopped
            seen = pushed[0]
            time.sleep(0.3)  # between two looks
        self.assertLess(seen, 40_000_000)
        self.assertLess(sidecar.anonymous_kilobytes() - before, 4000)
        go_on.set()
        self.assertTrue(done.wait(60))
        pusher.join(10)
        self.assertEqual(closed(talk)[0], 1000)

    def test_a_stopping_sidecar_says_that_it_goes(self):
        sidecar = self.begin()
        talk = self.dial(sidecar)
        talk.send("{}")
        talk.recv(timeout=10)
        sidecar.send_signal(15)
        self.assertEqual(closed(talk)[0], 1001)
        self.assertEqual(sidecar.wait(), 0)

    def test_pings(self):
        with self.dial(self.begin()) as talk:
            self.assertTrue(talk.ping().wait(10))

    def test_silence_is_broken_by_pings_and_ended_after_two(self):
        sidecar = self.begin(environment={"MICRO_SIDECAR_PING_INTERVAL": "1s"})
        raw = Connection.to(sidecar.port)
        raw.send(
            b"GET /hello/chat/talk HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        self.assertIn(b" 101 ", raw.until(b"\r\n\r\n"))
        self.assertEqual(raw.exactly(2), b"\x89\x00")
        self.assertEqual(raw.exactly(2), b"\x89\x00")
        self.assertEqual(raw.exactly(4)[2:], (1008).to_bytes(2, "big"))


class TalkApp:
    """An app whose streams are WebSockets, on the package `websockets`."""

    def __init__(self):
        self.paths, self.headers, self.ends, self.messages = [], [], [], []
        self.server = serve(self.talk, "127.0.0.1", 0, process_request=self.admit, max_size=None)
        self.port = self.server.socket.getsockname()[1]

    def start(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()

    def admit(self, connection, request):
        if request.path == "/Chat/Secret":
            return connection.respond(403, '{"id":"chat","code":403,"detail":"not you","status":"Forbidden"}')
        if request.path == "/Chat/Missing":
            return connection.respond(404, "no such stream")

    def talk(self, connection):
        self.paths.append(connection.request.path)
        self.headers.append(connection.request.headers)
        try:
            if connection.request.path == "/Chat/Fail":
                connection.recv()
                connection.send('{"n": 1}')
                return connection.close(4409, "changed")
            if connection.request.path == "/Chat/Crash":
                raise RuntimeError("on purpose")
            if connection.request.path == "/Chat/Noise":
                return connection.send("no json")
            while True:
                message = connection.recv()
                self.messages.append(message)
                if message == "":
                    return  # the package sends a Close with 1000
                connection.send(message)
        except ConnectionClosed as end:
            self.ends.append(end.rcvd.code if end.rcvd else None)


@needs_websockets
class ToTheApp(BlackBox):
    def begin(self, streams="Chat.Talk", app=None):
        self.app = self.start_server(app or TalkApp())
        return self.start(name=HELLO, app=self.app.port, environment={"MICRO_APP_STREAMS": streams}).server_port

    def test_messages_both_ways_and_the_callers_end(self):
        port = self.begin()
        for number, (kind, messages) in enumerate((
            ("application/json", [{"n": 1}, {"data": "ü" * 100000}]), ("application/json-rpc", [{"n": 1}]),
            ("application/protobuf", [b"\x0a\x01a"]),
        )):
            with self.subTest(kind):
                stream = ClientStream(port, "micro", kind, "Chat.Talk", headers={"X-User": "bob"})
                for message in messages:
                    stream.post(message)
                    self.assertEqual(stream.receive(), message)
                stream.end()
                with self.assertRaises(StreamEnded):
                    stream.receive()
                stream.close()
                self.assertEqual(self.app.paths[number], "/Chat/Talk")
                self.assertEqual(self.app.headers[number]["X-User"], "bob")
                self.assertEqual(self.app.messages[-1], "")

    def test_a_caller_that_leaves_closes_the_apps_websocket(self):
        stream = ClientStream(self.begin(), "micro", "application/json", "Chat.Talk")
        stream.post({"n": 1})
        stream.receive()
        stream.close()
        self.assertEqual(eventually(lambda: self.app.ends), [1001])

    def test_the_apps_refusals_and_errors(self):
        port = self.begin("Chat.Fail=websocket,Chat.Crash=websocket,Chat.Noise=websocket,Chat.Secret=websocket,Chat.Missing=websocket")
        for endpoint, replies, code, detail in (
            ("Chat.Fail", [{"n": 1}], 409, "changed"), ("Chat.Crash", [], 502, "1011"), ("Chat.Noise", [], 502, "not JSON"),
            ("Chat.Secret", [], 403, "not you"), ("Chat.Missing", [], 404, "no such stream"),
        ):
            with self.subTest(endpoint):
                stream = ClientStream(port, "micro", "application/json", endpoint)
                stream.post({})
                for reply in replies:
                    self.assertEqual(stream.receive(), reply)
                with self.assertRaises(NodeError) as caught:
                    stream.receive()
                error = json.loads(str(caught.exception))
                self.assertEqual(error["code"], code, error)
                self.assertIn(detail, error["detail"])
                stream.close()

    def test_an_app_without_websockets_is_asked_for_lines(self):
        port = self.begin("Chat.Talk", app=LineApp())
        for _ in range(2):
            stream = ClientStream(port, "micro", "application/json", "Chat.Talk", headers={"X-User": "bob"})
            stream.post({"n": 1})
            self.assertEqual(stream.receive(), {"n": 1, "user": "bob"})
            stream.close()

    def test_through_two_sidecars(self):
        """A WebSocket at both ends, the framework's frames between."""
        self.begin()
        behind = self.processes[-1]
        front = self.start(services=[streaming_service_at(behind.server_port, "Chat.Talk")])
        with connect("ws://127.0.0.1:%d/hello/chat/talk" % front.port) as talk:
            for message in ('{"n":1}', "[" + "1," * 50000 + "1]"):
                talk.send(message)
                self.assertEqual(json.loads(talk.recv(timeout=10)), json.loads(message))
            talk.send("")
            self.assertEqual(closed(talk), (1000, ""))


def streaming_service_at(port, *endpoints, name=HELLO):
    return service(name, port, endpoints=[{"name": name, "metadata": {"stream": "true"}} for name in endpoints])


PAGE = """<!doctype html><title>waiting</title><script>
const done = (what) => fetch("/result", {method: "POST", body: JSON.stringify(what)});
const heard = [];
%s
</script>"""

TALK = """
const talk = new WebSocket("ws://127.0.0.1:PORT/?Micro-Service=go.micro.srv.hello&Micro-Endpoint=Chat.Talk", ["json"]);
talk.onopen = () => { talk.send('{"n":1}'); talk.send('{"n":2,"text":"größe"}'); };
talk.onmessage = (event) => { heard.push(event.data); if (heard.length == 2) talk.send(""); };
talk.onclose = (event) => done({heard, code: event.code, clean: event.wasClean, protocol: talk.protocol});
"""

EVENTS = """
const source = new EventSource("http://127.0.0.1:PORT/hello/clock/down?from=3");
source.onmessage = (event) => heard.push(JSON.parse(event.data).number);
source.addEventListener("end", () => { source.close(); done({heard}); });
source.onerror = () => done({heard, failed: true});
"""


class InABrowser(BlackBox):
    def browse(self, script):
        """Serves a page with `script`, opens it in Chromium and returns what it reported."""
        if not CHROMIUM:
            self.skipTest("chromium is not installed: WebSocket and EventSource were not tried in a browser")
        results, there = [], threading.Event()

        class Pages(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = (PAGE % script).encode() if self.path == "/" else b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                results.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()
                there.set()

            def log_message(self, *_):
                pass

        pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        self.addCleanup(pages.server_close)
        self.addCleanup(pages.shutdown)
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-browser-", ignore_cleanup_errors=True) as folder:
            browser = subprocess.Popen(
                [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-dev-shm-usage", "--no-proxy-server", "--user-data-dir=" + folder,
                 "http://127.0.0.1:%d/" % pages.server_address[1]],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.assertTrue(there.wait(60), "the page reported nothing")
            finally:
                browser.terminate()
                browser.wait(10)
        return results[0]

    def test_a_page_talks_over_a_websocket(self):
        node = self.start_server(StreamNode(echo).start())
        sidecar = self.start(services=[streaming_service(node, "Chat.Talk")])
        result = self.browse(TALK.replace("PORT", str(sidecar.port)))
        self.assertEqual([json.loads(text) for text in result["heard"]], [{"n": 1}, {"n": 2, "text": "größe"}])
        self.assertEqual((result["code"], result["clean"], result["protocol"]), (1000, True, "json"))

    def test_a_page_reads_events(self):
        node = self.start_server(StreamNode(count_down).start())
        sidecar = self.start(services=[streaming_service(node, "Clock.Down")])
        self.assertEqual(self.browse(EVENTS.replace("PORT", str(sidecar.port))), {"heard": [3, 2, 1]})
