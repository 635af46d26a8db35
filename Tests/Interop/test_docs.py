"""What the documents say of names and places: links lead somewhere, settings exist, quoted messages are in the code."""

from __future__ import annotations

import os
import re
import socket
import unittest

from sidecar import SOURCE_ROOT, BlackBox, ask, command, free_port

FOLDERS = ("docs", "examples", "deploy")
FILES = ("README.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"\bMICRO_[A-Z0-9]+(?:_[A-Z0-9]+)*\b(?!_|\*)")


def read(path):
    with open(os.path.join(SOURCE_ROOT, path), encoding="utf-8") as stream:
        return stream.read()


def documents():
    found = [name for name in FILES]
    for folder in FOLDERS:
        for parent, folders, names in os.walk(os.path.join(SOURCE_ROOT, folder)):
            folders.sort()
            found += [os.path.relpath(os.path.join(parent, n), SOURCE_ROOT) for n in sorted(names) if n.endswith(".md")]
    return found


def sources(*folders):
    text = []
    for folder in folders:
        for parent, _, names in os.walk(os.path.join(SOURCE_ROOT, folder)):
            for name in names:
                if name.endswith((".swift", ".py", ".yaml", ".yml", ".tpl", ".js", ".sh")):
                    text.append(read(os.path.relpath(os.path.join(parent, name), SOURCE_ROOT)))
    return "\n".join(text)


def anchors(text):
    """Of the headings, as the usual renderers make them."""
    found = set()
    for line in FENCE.sub("", text).splitlines():
        if line.startswith("#"):
            title = re.sub(r"[`*]|\]\([^)]*\)|\[", "", line.lstrip("#").strip()).lower()
            found.add(re.sub(r"[^\w\- ]", "", title).replace(" ", "-"))
    return found


class Documents(unittest.TestCase):
    def test_links_lead_somewhere(self):
        broken = []
        for document in documents():
            text = read(document)
            for target in LINK.findall(FENCE.sub("", text)):
                if re.match(r"[a-z]+:", target):
                    continue
                path, _, anchor = target.partition("#")
                place = os.path.normpath(os.path.join(os.path.dirname(document), path)) if path else document
                if not os.path.exists(os.path.join(SOURCE_ROOT, place)):
                    broken.append("%s: %s" % (document, target))
                elif anchor and place.endswith(".md") and anchor not in anchors(read(place)):
                    broken.append("%s: %s has no such heading" % (document, target))
        self.assertEqual(broken, [])

    def test_settings_that_are_named_exist(self):
        known = set(SETTING.findall(sources("Sources", "Tests", "deploy", "Benchmarks", "Fuzz", "examples") + read("dev")))
        known.add("MICRO_X_Y")  # any name, where their spellings are explained
        known |= {name + "_FILE" for name in known}
        unknown = [
            "%s: %s" % (document, name)
            for document in documents()
            for name in sorted(set(SETTING.findall(read(document))))
            if name not in known
        ]
        self.assertEqual(unknown, [])

    def test_quoted_messages_are_in_the_code(self):
        # A literal may go on in the next line, and has interpolations where the document has an ellipsis.
        code = re.sub(r'"\s*\+\s*"', "", sources("Sources"))
        quotes = [line[2:].strip() for line in read("docs/troubleshooting.md").splitlines() if line.startswith("> ")]
        self.assertGreater(len(quotes), 15)
        for quote in quotes:
            for piece in quote.split("…"):
                piece = piece.strip(" :;")
                if len(piece) > 2:
                    self.assertTrue(piece in code, "%s: %r is nowhere in the code" % (quote, piece))

    def test_every_document_can_be_reached_from_the_readme(self):
        seen, waiting = set(), ["README.md"]
        while waiting:
            document = waiting.pop()
            if document in seen:
                continue
            seen.add(document)
            for target in LINK.findall(read(document)):
                path = os.path.normpath(os.path.join(os.path.dirname(document), target.partition("#")[0]))
                if path.endswith(".md") and os.path.exists(os.path.join(SOURCE_ROOT, path)):
                    waiting.append(path)
        missing = [d for d in documents() if d.startswith("docs/") and d not in seen]
        self.assertEqual(missing, [])


class Migration(BlackBox):
    """What docs/migration.md says of paths that are not served."""

    def test_what_is_not_there_says_so(self):
        sidecar = self.start(registry="memory")
        self.assertEqual(sidecar.post("/broker?topic=a", {}).status, 501)
        for method, path in (
            ("POST", "/v1.0/invoke/hello/method/say/hello"), ("POST", "/v1.0/publish/pubsub/topic"),
            ("GET", "/v1.0/healthz"), ("GET", "/v1.0/metadata"), ("POST", "/v1.0/shutdown"),
        ):
            with self.subTest(path):
                status = ask(sidecar.port, method, path, "{}" if method == "POST" else None).status
                self.assertIn(status, (400, 404))
        self.assertTrue(sidecar.is_running())


class Troubleshooting(BlackBox):
    """Messages of docs/troubleshooting.md, brought about as it says."""

    def quoted(self, text):
        """What stands for a name in the document is any text here."""
        for line in read("docs/troubleshooting.md").splitlines():
            pieces = [piece for piece in line[2:].split("…") if line.startswith("> ")]
            if pieces and re.search(".*".join(re.escape(piece) for piece in pieces), text):
                return line[2:]
        self.fail("docs/troubleshooting.md does not quote: " + text)

    def test_a_start_that_fails(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            status, _, said = command(
                environment={
                    "MICRO_REGISTRY": "memory", "MICRO_ADMIN_ADDRESS": "off",
                    "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % taken.getsockname()[1],
                }
            )
        self.assertEqual(status, 71)
        self.assertIn("cannot listen", self.quoted(said))
        status, _, said = command("check-config", environment={"MICRO_SIDECAR_NAMESPCE": "a"})
        self.assertEqual((status, self.quoted(said)), (64, "no such setting"))
        status, _, said = command("check-config", environment={"MICRO_ENABLE_TLS": "true"})
        self.assertEqual(status, 64)
        self.assertIn("TLS on the listeners", self.quoted(said))
        status, _, said = command("check-config", environment={"MICRO_ADMIN_ADDRESS": ":8083"})
        self.assertEqual(status, 64)
        self.assertIn("can be reached from other machines", self.quoted(said))

    def test_calls_that_fail(self):
        sidecar = self.start(
            services=[{"name": "go.micro.srv.gone", "nodes": [{"id": "a", "address": "127.0.0.1:%d" % free_port()}]}]
        )
        answer = sidecar.post("/nowhere/say/hello", {})
        self.assertEqual((answer.status, self.quoted(answer.json()["detail"])), (404, "service …: not found"))
        answer = sidecar.post("/gone/say/hello", {})
        self.assertEqual((answer.status, self.quoted(answer.json()["detail"])), (503, "connection error: …"))

    def test_commands_that_find_nobody(self):
        address = "127.0.0.1:%d" % free_port()
        status, _, said = command("ready", environment={"MICRO_ADMIN_ADDRESS": address})
        self.assertEqual((status, self.quoted(said)), (69, "no sidecar at …: …"))
        sidecar = self.start(registry="memory", environment={"MICRO_ADMIN_TOKEN": "sesame"})
        status, _, said = command("drain", environment={"MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % sidecar.admin_port})
        self.assertEqual(status, 1)
        self.assertIn("Authorization", self.quoted(said))

    def test_an_app_that_is_not_there(self):
        environment = {"MICRO_APP_ADDRESS": "127.0.0.1:%d" % free_port(), "MICRO_REGISTRY": "memory"}
        status, out, _ = command("check-config", environment=environment)
        self.assertEqual(status, 0)
        self.assertIn("MICRO_SERVER_NAME is not", self.quoted(out))
