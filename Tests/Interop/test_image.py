"""The container image: unpacked and run in a changed root, which is most of what a container engine would do."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import tarfile
import tempfile

from sidecar import BINARY, SOURCE_ROOT, BlackBox, Process, ask, eventually, free_port


class Image(BlackBox):
    def build(self, folder):
        path = os.path.join(folder, "image.tar")
        program = os.path.join(SOURCE_ROOT, "deploy", "image.py")
        subprocess.run([sys.executable, program, BINARY, path], check=True, stdout=subprocess.DEVNULL)
        with open(path, "rb") as stream:
            return path, stream.read()

    def test_the_same_binary_gives_the_same_image(self):
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            self.assertEqual(self.build(one)[1], self.build(two)[1])

    def test_it_serves_from_its_own_root_without_privileges(self):
        if os.geteuid() != 0:
            self.skipTest("changing the root needs root")
        with tempfile.TemporaryDirectory() as folder:
            path, _ = self.build(folder)
            with tarfile.open(path) as archive:
                archive.extractall(folder)
            with open(os.path.join(folder, "manifest.json")) as stream:
                (manifest,) = json.load(stream)
            with open(os.path.join(folder, manifest["Config"])) as stream:
                config = json.load(stream)["config"]
            root = os.path.join(folder, "root")
            with tarfile.open(os.path.join(folder, manifest["Layers"][0])) as archive:
                archive.extractall(root)
            for place in (folder, root):
                os.chmod(place, 0o755)
            self.assertFalse(glob.glob(os.path.join(root, "bin", "*sh")), "there is a shell in the image")
            admin = free_port()
            environment = {
                "MICRO_REGISTRY": "memory",
                "MICRO_SIDECAR_ADDRESS": "127.0.0.1:%d" % free_port(),
                "MICRO_ADMIN_ADDRESS": "127.0.0.1:%d" % admin,
            }
            command = ["chroot", "--userspec=" + config["User"], root] + config["Entrypoint"]
            process = self.start_process(Process("micro-sidecar in its image", command, environment))
            eventually(lambda: ask(admin, "GET", "/readyz").status == 200)
            self.assertEqual(process.stop(), 0)
