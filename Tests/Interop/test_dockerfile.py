"""The Dockerfile, step by step and without an engine: its steps are carried out in a Debian of the test's own (only `./dev
build` is not, whose product is the binary under test), and what the last stage holds is started as an engine would: as PID 1
of a namespace, without privileges, on a root that cannot be written."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile

from gomicro import Node, greeter
from kubernetesapi import Cluster, pod
from registrypeers import certificates
from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, ask, eventually, free_ports

DOCKERFILE = os.path.join(SOURCE_ROOT, "Dockerfile")
INSTRUCTIONS = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
SERVICE = "go.micro.srv.greeter"


class Stage:
    def __init__(self, base, name):
        self.base, self.name, self.steps = base, name, []

    def of(self, instruction):
        return [text for name, text in self.steps if name == instruction]


def parse(text):
    """(arguments before the first stage with their defaults, stages). An error names the line."""
    lines, arguments, stages, pending, start = text.split("\n"), {}, [], "", 0
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        start = start if pending else number
        pending += line.rstrip("\\") if line.endswith("\\") else line
        if line.endswith("\\"):
            pending += "\n"
            continue
        name, _, rest = pending.strip().partition(" ")
        pending, rest = "", rest.strip()
        if name not in INSTRUCTIONS or not rest:
            raise ValueError("line %d: %s is no instruction known here" % (start, name))
        if name == "FROM":
            match = re.fullmatch(r"(\S+)(?: AS (\w+))?", rest)
            if not match:
                raise ValueError("line %d: FROM %s" % (start, rest))
            base = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m.group(1)], match.group(1))
            stages.append(Stage(base, match.group(2) or str(len(stages))))
        elif name == "ARG" and not stages:
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif not stages:
            raise ValueError("line %d: %s before the first FROM" % (start, name))
        else:
            if name == "COPY" and "--from=" in rest:
                source = re.search(r"--from=(\S+)", rest).group(1)
                if source not in [stage.name for stage in stages[:-1]]:
                    raise ValueError("line %d: there is no stage %s before this one" % (start, source))
            stages[-1].steps.append((name, rest))
    return arguments, stages


def ignored(path):
    """Whether .dockerignore leaves `path` out of the context: the last pattern that matches it, or a folder of it, decides."""
    result = False
    with open(os.path.join(SOURCE_ROOT, ".dockerignore")) as stream:
        for pattern in stream.read().split("\n"):
            if not pattern or pattern.startswith("#"):
                continue
            keeps, pattern = pattern.startswith("!"), pattern.lstrip("!")
            parts = path.split("/")
            if any(fnmatch.fnmatchcase("/".join(parts[:end]), pattern) for end in range(1, len(parts) + 1)):
                result = not keeps
    return result


def packages(stage):
    """What the stage's RUN steps install, by name."""
    found = []
    for text in stage.of("RUN"):
        for command in re.split(r"&&|;", text):
            words = command.split()
            if "apt-get" in words and "install" in words:
                found += [word for word in words[words.index("install") + 1:] if not word.startswith("-")]
    return found


def copy_context(sources, target):
    """What COPY takes of the context. Returns the files, relative to the context."""
    taken = []
    for source in sources:
        whole = os.path.join(SOURCE_ROOT, source)
        names = [source] if os.path.isfile(whole) else [
            os.path.relpath(os.path.join(folder, name), SOURCE_ROOT) for folder, _, files in os.walk(whole) for name in files]
        names = [name for name in names if not ignored(name)]
        if not names:
            raise ValueError("COPY %s: nothing of it is in the context" % source)
        for name in names:
            inside = name if os.path.isfile(whole) and len(sources) == 1 else os.path.relpath(
                name, "." if os.path.isfile(whole) else source)
            path = target if os.path.isfile(whole) and not target.endswith("/") and len(sources) == 1 else os.path.join(target, inside)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shutil.copy2(os.path.join(SOURCE_ROOT, name), path)
            taken.append(name)
    return taken


class Contained(Process):
    """A program as PID 1 of a namespace, chrooted, as a user without privileges, on a root that is read-only."""

    SCRIPT = """
      mount --bind "$1" "$1" && mount -t proc proc "$1/proc" && mount -o remount,bind,ro "$1" &&
      root=$1 user=$2; shift 2; exec chroot --userspec="$user" "$root" "$@"
    """

    @classmethod
    def command(cls, root, user, command):
        return ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", cls.SCRIPT,
                "sh", root, user] + command

    def __init__(self, root, user, command, environment):
        super().__init__("the image's program", self.command(root, user, command), environment)

    def inner(self):
        with open("/proc/%d/task/%d/children" % (self.pid, self.pid)) as stream:
            return int(stream.read().split()[0])

    def status(self, row):
        with open("/proc/%d/status" % self.inner()) as stream:
            return next(line.split(":", 1)[1].split() for line in stream if line.startswith(row + ":"))

    def send_signal(self, number):
        self.expected_end = True
        if self.is_running():
            os.kill(self.inner(), number)

    def kill(self):
        # `--kill-child` is forgotten with the change of the user: the program itself, and with it all of its namespace.
        if self.is_running():
            with contextlib.suppress(IndexError, FileNotFoundError, ProcessLookupError):
                os.kill(self.inner(), signal.SIGKILL)
        super().kill()


class Parsing(BlackBox):
    def setUp(self):
        super().setUp()
        with open(DOCKERFILE) as stream:
            self.text = stream.read()
        self.arguments, self.stages = parse(self.text)

    def test_mistakes_are_found(self):
        for mistake in (
                self.text.replace("--from=build", "--from=builder"), self.text.replace("WORKDIR", "WORKDRI"),
                self.text.replace("FROM scratch", "FROM scratch OF"), self.text.replace("ARG SWIFT_IMAGE", "ENV SWIFT_IMAGE")):
            self.assertNotEqual(mistake, self.text)
            with self.assertRaises((ValueError, KeyError)):
                parse(mistake)
        for path, wanted in (("Package.swift", False), ("Sources/x/y.swift", False), (".git/config", True), (".build/x", True),
                             ("Tests/Interop/sidecar.py", True), ("Tests/SidecarCoreTests/x.swift", False), ("docs/x.md", True)):
            self.assertEqual(ignored(path), wanted, path)
        with self.assertRaises(ValueError):
            copy_context(["docs"], "/nonexistent")

    def test_the_base_is_pinned_by_version(self):
        for stage in self.stages:
            if stage.base != "scratch":
                self.assertRegex(stage.base, r"^[a-z]+:\d+\.\d+\.\d+-bookworm$", "a version in full, or a digest")
        self.assertEqual(self.stages[-1].base, "scratch")

    def test_a_digest_can_be_given(self):
        pinned = self.text.replace("ARG SWIFT_IMAGE=", "ARG SWIFT_IMAGE=example/swift@sha256:0#", 1)
        self.assertTrue(parse(pinned)[1][0].base.startswith("example/swift@sha256:0"))

    def test_packages_exist_in_debian(self):
        if not shutil.which("apt-cache"):
            self.skipTest("there is no apt here")
        names = packages(self.stages[0])
        self.assertGreater(len(names), 5)

        def missing(names):
            shown = subprocess.run(["apt-cache", "policy"] + names, stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
            known = re.findall(r"^(\S+):\n(?:.*\n)?  Candidate: (?!\(none\))", shown, re.M)
            return sorted(set(names) - set(known))

        self.assertEqual(missing(names), [])
        self.assertEqual(missing(["libuv1-dev", "libuv2-dvel"]), ["libuv2-dvel"])

    def test_the_context_holds_what_the_manifest_names(self):
        with tempfile.TemporaryDirectory() as folder:
            for text in self.stages[0].of("COPY"):
                *sources, target = shlex.split(text)
                copy_context(sources, os.path.join(folder, target[2:] if target.startswith("./") else target))
            self.assertTrue(os.access(os.path.join(folder, "dev"), os.X_OK))
            with open(os.path.join(folder, "Package.swift")) as stream:
                manifest = stream.read()
            folders = re.findall(r'path: "([^"]+)"', manifest) + [
                ("Tests/" if kind == "testTarget" else "Sources/") + name
                for kind, name, rest in re.findall(r'\.(\w*[tT]arget|systemLibrary)\(\s*name: "([^"]+)"((?:[^()]|\([^()]*\))*)\)', manifest)
                if "path:" not in rest]
            self.assertGreater(len(folders), 15)
            self.assertEqual([name for name in folders if not os.listdir(os.path.join(folder, name))], [])

    def test_the_image_without_an_engine_is_the_same(self):
        """deploy/image.py writes its configuration by hand."""
        last = self.stages[-1]
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "image.tar")
            subprocess.run([sys.executable, os.path.join(SOURCE_ROOT, "deploy", "image.py"), BINARY, path], check=True,
                           stdout=subprocess.DEVNULL)
            with tarfile.open(path) as archive:
                (manifest,) = json.load(archive.extractfile("manifest.json"))
                config = json.load(archive.extractfile(manifest["Config"]))["config"]
        self.assertEqual([config["User"]], last.of("USER"))
        self.assertEqual(config["Entrypoint"], json.loads(last.of("ENTRYPOINT")[0]))
        self.assertEqual([config["StopSignal"]], last.of("STOPSIGNAL"))
        self.assertEqual(sorted(config["ExposedPorts"]), sorted(port + "/tcp" for port in last.of("EXPOSE")[0].split()))
        options, _, command = last.of("HEALTHCHECK")[0].partition(" CMD ")
        health = config["Healthcheck"]
        self.assertEqual(health["Test"], ["CMD"] + json.loads(command))
        for name, key in (("interval", "Interval"), ("timeout", "Timeout"), ("start-period", "StartPeriod")):
            self.assertIn("--%s=%ds" % (name, health[key] // 1_000_000_000), options)
        self.assertIn("--retries=%d" % health["Retries"], options)
        variables = dict(text.partition("=")[::2] for text in last.of("ARG"))
        labels = dict(re.findall(r'(\S+)="([^"]*)"', last.of("LABEL")[0]))
        filled = {key: re.sub(r"\$\{(\w+)\}", lambda m: variables[m.group(1)], value) for key, value in labels.items()}
        # Revision and time of making are only known to whoever builds.
        self.assertEqual(config["Labels"], {key: value for key, value in filled.items() if value})
        version = subprocess.run([BINARY, "version"], stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
        self.assertEqual(version.split()[1], variables["VERSION"])


class Final(BlackBox):
    """The last stage's files, made once for all tests of this class."""

    @classmethod
    def setUpClass(cls):
        cls.missing = None
        if os.geteuid() != 0:
            cls.missing = "changing the root needs root"
        elif not shutil.which("mmdebstrap"):
            cls.missing = "mmdebstrap is not installed"
        if cls.missing:
            return
        with open(DOCKERFILE) as stream:
            cls.stages = parse(stream.read())[1]
        cls.work = tempfile.mkdtemp(prefix="micro-sidecar-image-")
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        os.chmod(cls.work, 0o755)
        debian = cls.debian(packages(cls.stages[0]))
        cls.carry_out(cls.stages[0], debian)
        cls.root = os.path.join(cls.work, "final")
        for text in cls.stages[-1].of("COPY"):
            _, source, target = text.split()
            shutil.copytree(debian + source, cls.root + target, symlinks=True, dirs_exist_ok=True)
        for folder in ("proc", "dev", "sys"):  # an engine makes these where it mounts them
            os.mkdir(os.path.join(cls.root, folder))
        os.chmod(cls.root, 0o755)

    @classmethod
    def debian(cls, names):
        """A Debian of the base's release with those packages, kept for the next run."""
        release = cls.stages[0].base.rsplit("-", 1)[1]
        key = hashlib.sha256(" ".join([release] + sorted(names)).encode()).hexdigest()[:16]
        folder = os.path.join(SOURCE_ROOT, ".build", "debian", key)
        if not os.path.exists(folder):
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            sources = [path for path in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
                       if os.path.exists(path) and os.path.getsize(path)][:1]
            subprocess.run(["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", "--include=" + ",".join(names), release,
                            folder + ".new"] + sources, check=True, stdin=subprocess.DEVNULL)
            os.rename(folder + ".new", folder)
        for left in ("src", "image"):
            shutil.rmtree(os.path.join(folder, left), ignore_errors=True)
        return folder

    @classmethod
    def carry_out(cls, stage, root):
        folder = "/"
        for name, text in stage.steps:
            if name == "WORKDIR":
                folder = text
                os.makedirs(root + folder, exist_ok=True)
            elif name == "COPY":
                *sources, target = shlex.split(text)
                whole = root + os.path.join(folder, target[2:] if target.startswith("./") else target)
                copy_context(sources, whole)
            elif name == "RUN" and text == "./dev build":
                product = os.path.join(root + folder, ".build", "release")
                os.makedirs(product)
                shutil.copy2(BINARY, product)
            elif name == "RUN" and "apt-get" in text:
                pass  # what it installs is what the Debian was made with
            elif name == "RUN":
                environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
                subprocess.run(["chroot", root, "sh", "-ec", "cd %s; %s" % (folder, text.replace("\n", " "))], check=True,
                               env=environment, stdin=subprocess.DEVNULL)
            elif name != "ARG":
                raise ValueError("%s in the stage %s" % (name, stage.name))

    def setUp(self):
        super().setUp()
        if self.missing:
            self.skipTest(self.missing)
        self.last = self.stages[-1]
        self.user = self.last.of("USER")[0]
        self.program = json.loads(self.last.of("ENTRYPOINT")[0])
        self.port, self.server_port, self.admin = free_ports(3)
        self.environment = {
            "MICRO_REGISTRY": "memory", "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % self.port,
            "MICRO_SERVER_ADDRESS": "127.0.0.1:%d" % self.server_port, "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % self.admin}

    def run_image(self, environment=None, arguments=()):
        self.environment.update(environment or {})
        process = self.start_process(Contained(self.root, self.user, self.program + list(arguments), self.environment))
        eventually(lambda: ask(self.admin, "GET", "/readyz").status == 200, what="readiness")
        return process

    def health(self):
        """The HEALTHCHECK's own command, as an engine runs it."""
        command = json.loads(self.last.of("HEALTHCHECK")[0].partition(" CMD ")[2])
        done = subprocess.run(
            Contained.command(self.root, self.user, command), env=dict(self.environment, PATH=os.environ["PATH"]), timeout=10,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode

    def test_it_holds_the_program_and_what_that_needs(self):
        names = sorted(os.path.relpath(os.path.join(folder, name), self.root)
                       for folder, _, files in os.walk(self.root) for name in files)
        allowed = r"micro-sidecar|etc/(passwd|group|nsswitch\.conf|ssl/certs/ca-certificates\.crt)|usr/lib/ssl/cert\.pem|(usr/)?lib(64)?/.*\.so\S*"
        self.assertEqual([name for name in names if not re.fullmatch(allowed, name)], [])
        self.assertTrue(any("libssl.so.3" in name for name in names), names)
        size = sum(os.lstat(os.path.join(self.root, name)).st_size for name in names)
        self.assertLess(size, 30e6, names)
        loose = [name for name in names if os.lstat(os.path.join(self.root, name)).st_mode & 0o22 and not os.path.islink(os.path.join(self.root, name))]
        self.assertEqual(loose, [], "writable for others")

    def test_it_is_pid_1_without_privileges_on_a_read_only_root(self):
        process = self.run_image()
        self.assertEqual(process.status("NSpid")[-1], "1")
        self.assertEqual(process.status("Uid"), [self.user.split(":")[0]] * 4)
        self.assertEqual(process.status("Gid"), [self.user.split(":")[1]] * 4)
        self.assertEqual(int(process.status("CapEff")[0], 16), 0)
        with open("/proc/%d/mountinfo" % process.inner()) as stream:
            (options,) = [line.split()[5] for line in stream if line.split()[4] == "/"]
        self.assertIn("ro", options.split(","))
        for number in (signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            self.assertEqual(process.wait(), 0)
            process = self.run_image()

    def test_the_health_check(self):
        self.assertEqual(self.health(), 69, "nothing runs")
        process = self.run_image()
        self.assertEqual(self.health(), 0)
        self.assertEqual(ask(self.admin, "POST", "/drain").status, 200)
        self.assertEqual(self.health(), 1)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(self.health(), 69)

    def test_sigterm_takes_the_app_out_of_the_registry(self):
        app = self.start_server(Node(greeter))
        cluster = self.start_server(Cluster())
        cluster.put("pods", pod("me"))
        process = self.run_image({
            "MICRO_REGISTRY": "kubernetes:http://127.0.0.1:%d?pod=me" % cluster.port, "MICRO_SERVER_NAME": SERVICE,
            "MICRO_APP_ADDRESS": "127.0.0.1:%d" % app.port, "MICRO_APP_PROTOCOL": "mucp"})
        eventually(lambda: cluster.annotations("me").get("micro.mu/service-" + SERVICE), what="the registration")
        answer = ask(self.port, "POST", "/rpc", {"service": SERVICE, "method": "Say.Hello", "request": {"name": "a"}})
        self.assertEqual(answer.json(), {"msg": "Hello a"})
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(), 0)
        self.assertEqual((cluster.annotations("me"), cluster.labels("me")), ({}, {}))

    def test_tls_trusts_the_image_s_authorities(self):
        with tempfile.TemporaryDirectory() as folder:
            made = certificates(folder)
            cluster = self.start_server(Cluster(certificate=(made["server"], made["server_key"])))
            registry = {"MICRO_REGISTRY": "kubernetes:https://127.0.0.1:%d?pod=me" % cluster.port}
            process = self.start_process(Contained(self.root, self.user, self.program, dict(self.environment, **registry)))
            eventually(lambda: "signed by nobody we trust" in process.text(), what="OpenSSL's refusal")
            process.stop()
            # The same image with one authority more.
            other = os.path.join(self.work, "with-authority")
            shutil.copytree(self.root, other, symlinks=True)
            bundle = os.path.join(other, "etc/ssl/certs/ca-certificates.crt")
            with open(bundle, "a") as stream, open(made["ca"]) as authority:
                self.assertGreater(os.path.getsize(bundle), 100_000)
                stream.write(authority.read())
            process = self.start_process(Contained(other, self.user, self.program, dict(self.environment, **registry)))
            eventually(lambda: ask(self.admin, "GET", "/readyz").status == 200, what="a registry over TLS")
            self.assertEqual(process.stop(), 0)
