#!/usr/bin/env python3
"""Writes a container image as one tar that `docker load` and `podman load` take, without a container engine.

    image.py BINARY OUTPUT [TAG]

The image holds the binary, the shared libraries it names and the dynamic loader, and nothing else: no shell, no package
manager. It runs as user 65532. The same binary gives the same bytes: times and owners are fixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile

USER = 65532
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def libraries(binary):
    """Paths the dynamic loader would open, and the loader itself."""
    shown = subprocess.run(["ldd", binary], stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    if "not found" in shown:
        raise SystemExit("a library of the binary is missing here:\n" + shown)
    return sorted(set(re.findall(r"(/\S+) \(0x", shown)) | loaded_later())


def loaded_later():
    """TLS is loaded when it is first used, so the loader does not name it."""
    known = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, universal_newlines=True, check=True).stdout
    found = {name: path for name, path in re.findall(r"(lib(?:ssl|crypto)\.so\.3) \(.*\) => (/\S+)", known)}
    if len(found) < 2:
        raise SystemExit("OpenSSL 3 is missing here, which the image needs for TLS: install libssl3")
    return set(found.values())


def entry(archive, name, data, mode=0o644):
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


def tar(fill):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return buffer.getvalue()


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


def layer(binary):
    def fill(archive):
        files = {"micro-sidecar": (read(binary), 0o755)}
        for path in libraries(binary):
            files[path.lstrip("/")] = (read(path), 0o755)
        files["etc/passwd"] = (b"micro:x:%d:%d::/:/sbin/nologin\n" % (USER, USER), 0o644)
        files["etc/nsswitch.conf"] = (b"hosts: files dns\n", 0o644)
        folders = sorted({os.path.dirname(name)[:end] for name in files for end in ends(os.path.dirname(name))} - {""})
        for folder in folders + ["tmp"]:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(info)
        for name in sorted(files):
            entry(archive, name, *files[name])

    return tar(fill)


def ends(folder):
    """Where each of a folder's ancestors ends in its path, and where it itself does."""
    return [place for place, character in enumerate(folder) if character == "/"] + [len(folder)]


def main():
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    binary, output = sys.argv[1:3]
    tag = sys.argv[3] if len(sys.argv) > 3 else "micro-sidecar:latest"
    content = layer(binary)
    digest = hashlib.sha256(content).hexdigest()
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Entrypoint": ["/micro-sidecar"],
            "User": "%d:%d" % (USER, USER),
            "ExposedPorts": {"8081/tcp": {}, "8083/tcp": {}},
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }
    described = json.dumps(config, sort_keys=True).encode()
    config_name = hashlib.sha256(described).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [tag], "Layers": [digest + "/layer.tar"]}]

    def fill(archive):
        entry(archive, config_name, described)
        entry(archive, digest + "/layer.tar", content)
        entry(archive, "manifest.json", json.dumps(manifest).encode())

    with open(output, "wb") as stream:
        stream.write(tar(fill))
    print("%s: %s, %.1f MB; try: docker load -i %s" % (output, tag, len(content) / 1e6, output))


if __name__ == "__main__":
    main()
