"""The configuration: `check-config`, the JSON Schema beside what the program takes, secrets in files, the manual page, and
completion as a shell carries it out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import unittest

from sidecar import SOURCE_ROOT, BlackBox, ask, command, eventually

try:
    import jsonschema
except ImportError:  # said by the test that needs it
    jsonschema = None

DOCS = os.path.join(SOURCE_ROOT, "docs")

GOOD = [
    {},
    None,
    {"server_name": "hello"},
    {"server": {"name": "hello", "version": 1.5, "metadata": {"zone": "a", "canary": True}}},
    {"server": {"metadata": "zone=a,team=b"}, "server_id": None},
    {"registry": ["memory", "mdns"], "registry_address": "h:1,h:2"},
    {"registry": {"address": ["h:1"]}, "log": {"level": "WARN", "format": "json"}},
    {"sidecar": {"max_body": "8 MiB", "drain": "1m30s", "workers": 2, "cors": []}},
    {"sidecar": {"max_body": 8192, "workers": "auto", "memory_limit": "off", "hedge": "p95"}},
    {"client": {"request": {"timeout": "250ms"}, "retries": "3", "pool_ttl": ".5s"}, "register_ttl": "90s"},
    {"admin_address": "off", "app_concurrency": "adaptive", "trace_sample": 0.01},
    {"admin_address": False, "sidecar_retry_budget": "20%", "sidecar_hedge": False, "app_health": "grpc", "app_address": "h:1"},
    {"policies": [{"service": "a.*", "limits": {"in_flight": 10}, "split": False}]},
    {"policies": [{"service": "a", "endpoint": "B.*", "hedge": {"after": "p95"}, "retry_codes": [500, "503"]}]},
    {"policies": [{"service": "a", "ejection": "off", "affinity": {"header": "X-User"}, "timeout": "1s"}]},
    {"policies": [{"service": "a", "split": [{"weight": 1, "version": "2"}, {"weight": 2, "labels": {"a": "b"}}]}]},
    {"policies": [{"service": "a", "health_check": {"probe": "http", "path": "/x"}, "priority": "high"}]},
    {"inbound": {"rate_limits": [{"rate": 5}, {"endpoint": "A.*", "caller": "*", "rate": 1.5, "burst": 3}]}},
    {"policies": None, "inbound": None},
]

BAD = [
    [],
    "server_name",
    {"server_nmae": "hello"},
    {"server": {"nmae": "hello"}},
    {"server": "hello"},
    {"config": "other.yaml"},
    {"log_level": "loud"},
    {"log": {"level": ["info"]}},
    {"client_retries": 101},
    {"client_retries": 1.5},
    {"client_retries": "many"},
    {"client_request_timeout": "5"},
    {"client_request_timeout": "soon"},
    {"sidecar_max_body": "4m"},
    {"sidecar_max_body": 10},
    {"sidecar_address": "127.0.0.1"},
    {"app_address": "http://127.0.0.1:9090"},
    {"server_name": "two words"},
    {"server_metadata": {"a": {"b": "c"}}},
    {"trace_sample": 2},
    {"admin_open_metrics": "maybe"},
    {"trace_endpoint": "127.0.0.1:4318"},
    {"policies": {"service": "a"}},
    {"policies": [{"limits": {"in_flight": 10}}]},
    {"policies": [{"service": "a", "limits": {"in_flight": "lots"}}]},
    {"policies": [{"service": "a", "limits": "off"}]},
    {"policies": [{"service": "a", "lmits": {"in_flight": 1}}]},
    {"policies": [{"service": "a", "endpoint": "B.C", "selector": "random"}]},
    {"policies": [{"service": "a", "retry_codes": [399]}]},
    {"policies": [{"service": "a", "split": [{"version": "2"}]}]},
    {"policies": [{"service": "a", "mirror": {"share": 0.5}}]},
    {"policies": [{"service": "a", "hedge": {"before": "1s"}}]},
    {"policies": [{"service": "a", "priority": "urgent"}]},
    {"policies": [{"service": "a", "health_check": {"probe": "smtp"}}]},
    {"policies": [{"service": "a", "rate_limit": {"rate": -1}}]},
    {"inbound": {"rate_limits": [{"endpoint": "A.B"}]}},
    {"inbound": {"limits": []}},
]


class Written(unittest.TestCase):
    """What the release binary prints is what the repository has."""

    def test_documents_are_current(self):
        for name, arguments in (
            ("configuration.md", ("config", "--reference")),
            ("configuration.schema.json", ("config", "--schema")),
            ("micro-sidecar.1", ("man",)),
        ):
            with self.subTest(name), open(os.path.join(DOCS, name), encoding="utf-8") as stream:
                status, text, _ = command(*arguments)
                self.assertEqual(status, 0)
                self.assertEqual(stream.read(), text, "micro-sidecar %s > docs/%s" % (" ".join(arguments), name))

    def test_the_manual_page_has_no_mistakes(self):
        if not shutil.which("groff"):
            self.skipTest("groff is not installed")
        done = subprocess.run(
            ["groff", "-man", "-ww", "-Tutf8", "-z", os.path.join(DOCS, "micro-sidecar.1")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, check=False,
        )
        self.assertEqual((done.returncode, done.stdout), (0, ""))


class Checking(BlackBox):
    def check(self, text, *arguments, environment=None):
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-test-") as folder:
            path = os.path.join(folder, "sidecar.yaml")
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(text)
            status, out, err = command("check-config", path, *arguments, environment=environment)
            return status, out.replace(path, "FILE"), err.replace(path, "FILE")

    def test_the_schema_and_the_program_agree(self):
        if jsonschema is None:
            self.skipTest("jsonschema is not installed")
        schema = json.loads(command("config", "--schema")[1])
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for documents, status in ((GOOD, 0), (BAD, 64)):
            for document in documents:
                with self.subTest(document=document):
                    self.assertEqual(validator.is_valid(document), status == 0)
                    found, _, said = self.check(json.dumps(document), environment={"MICRO_REGISTRY": "memory"})
                    self.assertEqual(found, status, said)

    def test_every_mistake_is_told_with_its_line(self):
        status, out, err = self.check(
            "server:\n  nmae: hello\npolicies:\n- service: a\n  limits:\n    in_flight: lots\n",
            environment={"MICRO_LOG_LEVEL": "loud", "MICRO_REGISTRY": "consul:h?tokn=sesame"},
        )
        self.assertEqual((status, out), (64, ""))
        lines = err.splitlines()
        self.assertEqual(len(lines), 5, err)
        self.assertIn("error: file FILE:2: server.nmae: no such setting; did you mean server_name?", lines)
        self.assertTrue(any(x.startswith("error: file FILE:6: policies[0].limits.in_flight: ") for x in lines), err)
        self.assertTrue(any(x.startswith("error: environment MICRO_LOG_LEVEL: found ") for x in lines), err)
        self.assertTrue(any('"tokn" is no option of it' in x for x in lines), err)
        self.assertNotIn("sesame", err)
        self.assertEqual(lines[-1], "4 problems; a sidecar with these settings would not start")

    def test_a_broken_file_is_told_with_line_and_column(self):
        status, _, err = self.check("a: 1\nb: [\n")
        self.assertEqual(status, 64)
        self.assertRegex(err, r"error: file FILE:\d+: column \d+: ")

    def test_machines_get_json(self):
        status, out, err = self.check("server_nmae: hello\n", "-o", "json")
        self.assertEqual((status, err), (64, ""))
        (problem,) = json.loads(out)["problems"]
        self.assertEqual((problem["source"], problem["file"], problem["line"]), ("file", "FILE", 1))
        status, out, _ = self.check("server_name: hello\nregistry: memory\n", "-o", "json")
        self.assertEqual(status, 0)
        self.assertEqual(json.loads(out)["settings"], {"flag": 0, "environment": 0, "file": 2})

    def test_a_good_file_is_summed_up(self):
        status, out, err = self.check("server_name: hello\nregistry: memory\npolicies:\n- {service: a, retries: 2}\n")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out, "FILE is good; settings: 0 by flag, 0 by environment, 2 by file; policies: 1\n")

    def test_what_a_start_refuses_is_refused(self):
        for environment in (
            {"MICRO_ADMIN_ADDRESS": "0.0.0.0:8083"},
            {"MICRO_ADMIN_TOKEN": "a", "MICRO_ADMIN_TOKEN_FILE": "/dev/null"},
            {"MICRO_DESCRIPTORS": "/nowhere.binpb"},
            {"MICRO_SIDECAR_NAMESPCE": "x"},
        ):
            with self.subTest(environment):
                self.assertEqual(command("check-config", environment=environment)[0], 64)
        self.assertEqual(command("check-config", "/nowhere/sidecar.yaml")[0], 64)

    def test_nothing_is_made_or_bound(self):
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-test-") as folder:
            environment = {
                "MICRO_REGISTRY": "memory", "MICRO_ACCESS_LOG": os.path.join(folder, "access"),
                "MICRO_SIDECAR_SNAPSHOT": os.path.join(folder, "snapshot"),
                "MICRO_SIDECAR_ADDRESS": "unix:" + os.path.join(folder, "socket"),
            }
            self.assertEqual(command("check-config", environment=environment)[0], 0)
            self.assertEqual(os.listdir(folder), [])


class Secrets(BlackBox):
    def test_a_token_is_replaced_without_a_restart(self):
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-test-") as folder:
            path = os.path.join(folder, "token")

            def write(text):
                with open(path + ".new", "w", encoding="utf-8") as stream:
                    stream.write(text)
                os.replace(path + ".new", path)

            def status(token):
                return ask(sidecar.admin_port, "GET", "/nodes", headers={"Authorization": "Bearer " + token}).status

            write("first\n")
            sidecar = self.start(registry="memory", environment={"MICRO_ADMIN_TOKEN_FILE": path})
            self.assertEqual((status("first"), status("second")), (200, 401))
            write("second\n")
            eventually(lambda: status("second") == 200, what="the new token")
            self.assertEqual(status("first"), 401)
            write("\n")  # refused: the one before stays
            eventually(lambda: "is empty" in sidecar.text(), what="a line about the empty file")
            self.assertEqual(status("second"), 200)

    def test_values_are_never_shown(self):
        with tempfile.NamedTemporaryFile("w") as stream:
            stream.write("sesame\n")
            stream.flush()
            environment = {
                "MICRO_ADMIN_TOKEN_FILE": stream.name, "MICRO_SIDECAR_FAULT_HEADER_FILE": stream.name,
                "MICRO_REGISTRY": "consul:h?token=sesame&dc=eu,nats:h?password=sesame",
                "MICRO_REGISTRY_ADDRESS": "etcd://root:sesame@h:2379",
            }
            for arguments in (("config",), ("config", "-o", "json")):
                status, out, err = command(*arguments, environment=environment)
                self.assertEqual((status, err), (0, ""))
                self.assertNotIn("sesame", out)
                self.assertIn("dc=eu", out)
            shown = {row["key"]: row for row in json.loads(out)["settings"]}
            self.assertEqual(shown["MICRO_ADMIN_TOKEN"]["value"], "***")
            self.assertEqual(shown["MICRO_ADMIN_TOKEN"]["source"], "file")
            self.assertIn(stream.name, shown["MICRO_ADMIN_TOKEN"]["from"])


class Completion(unittest.TestCase):
    BASH = r"""
source /dev/stdin <<< "$SCRIPT"
complete -p micro-sidecar || exit 1
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_micro_sidecar 2> /dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""

    def complete(self, *words):
        """What bash offers for the last of `words`."""
        script = command("completion", "bash")[1]
        done = subprocess.run(
            ["bash", "-c", self.BASH, "bash", "micro-sidecar", *words], env=dict(os.environ, SCRIPT=script),
            stdout=subprocess.PIPE, universal_newlines=True, check=True,
        )
        registered, *offers = done.stdout.splitlines()
        self.assertEqual(registered, "complete -F _micro_sidecar micro-sidecar")
        return [offer for offer in offers if offer]

    def test_bash_offers_what_can_follow(self):
        self.assertIn("check-config", self.complete(""))
        self.assertEqual(self.complete("conf"), ["config"])
        self.assertEqual(self.complete("list", ""), ["services"])
        self.assertEqual(self.complete("completion", ""), ["bash", "zsh", "fish"])
        self.assertIn("settings", self.complete("help", "s"))
        self.assertEqual(self.complete("tap", "ser"), ["service="])

    def test_bash_offers_flags_and_their_values(self):
        self.assertIn("--server_name", self.complete("--serv"))
        self.assertEqual(self.complete("call", "a", "B.C", "--meta"), ["--metadata"])
        self.assertEqual(self.complete("list", "--meta"), [])
        self.assertEqual(self.complete("--log_format", ""), ["text", "json"])
        self.assertEqual(self.complete("--log_format", "=", "j"), ["json"])
        self.assertEqual(self.complete("--log_format", "="), ["text", "json"])
        self.assertEqual(self.complete("config", "-o", "j"), ["json"])
        self.assertIn("mdns", self.complete("--registry", "m"))
        self.assertEqual(self.complete("--server_name", ""), [])

    def test_a_flags_value_is_no_command(self):
        self.assertEqual(self.complete("--server_name", "list", "conf"), ["config"])
        self.assertEqual(self.complete("--server_name", "=", "list", "conf"), ["config"])
        self.assertEqual(self.complete("--log_level", "info", "list", ""), ["services"])

    def test_bash_offers_files(self):
        with tempfile.TemporaryDirectory(prefix="micro-sidecar-test-") as folder:
            path = os.path.join(folder, "sidecar.yaml")
            with open(path, "w", encoding="utf-8"):
                pass
            self.assertEqual(self.complete("check-config", folder + "/s"), [path])
            self.assertEqual(self.complete("--config", folder + "/s"), [path])
            self.assertEqual(self.complete("--admin_token_file", "=", folder + "/s"), [path])

    def test_scripts_are_read_without_complaint(self):
        for shell in ("bash", "zsh", "fish"):
            script = command("completion", shell)[1]
            with self.subTest(shell):
                if not shutil.which(shell):
                    continue
                done = subprocess.run(
                    [shell, "-n"], input=script, stderr=subprocess.PIPE, universal_newlines=True, check=False
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""))
