#!/usr/bin/env python3
"""Writes a container image as one tar that `docker load` and `podman load` take, without a container engine.

    image.py BINARY OUTPUT [TAG]
    image.py --tree BINARY FOLDER     the image's files in a folder, as the Dockerfile has it

The image holds the binary, the shared libraries it names, the dynamic loader and the authorities of ca-certificates, and
nothing else: no shell, no package manager. It runs as user 65532. The same binary gives the same bytes: times and owners are
fixed. What it is started with and says of itself is that of the Dockerfile; a test compares the two.
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
import tempfile

USER = 65532
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
SECOND = 1_000_000_000  # durations of an image's configuration are nanoseconds
VERSION = "0.1.0"
LABELS = {
    "title": "micro-sidecar",
    "description": "Makes any HTTP, gRPC or WebSocket app a member of a go-micro system",
    "licenses": "Apache-2.0",
    "version": VERSION,
}


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


def stripped(binary):
    """The binary without its symbols, which are more than half of it and which nothing in the image could show."""
    with tempfile.TemporaryDirectory() as folder:
        smaller = os.path.join(folder, "micro-sidecar")
        subprocess.run(["strip", "-o", smaller, binary], check=True)
        return read(smaller)


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


def tree(binary):
    """The files of the image: path → (content, mode), and the symbolic links: path → target."""
    files = {"micro-sidecar": (stripped(binary), 0o755)}
    for path in libraries(binary):
        files[path.lstrip("/")] = (read(path), 0o755)
    files["etc/passwd"] = (b"micro:x:%d:%d::/:/sbin/nologin\n" % (USER, USER), 0o644)
    files["etc/group"] = (b"micro:x:%d:\n" % USER, 0o644)
    files["etc/nsswitch.conf"] = (b"hosts: files dns\n", 0o644)
    if not os.path.exists(AUTHORITIES):
        raise SystemExit("the authorities that TLS trusts are missing here: install ca-certificates")
    files[AUTHORITIES.lstrip("/")] = (read(AUTHORITIES), 0o644)
    # Where Debian's OpenSSL looks (`openssl version -d`).
    return files, {"usr/lib/ssl/cert.pem": AUTHORITIES}


def layer(binary):
    def fill(archive):
        files, links = tree(binary)
        folders = sorted({os.path.dirname(name)[:end] for name in {**files, **links} for end in ends(os.path.dirname(name))} - {""})
        for folder in folders + ["tmp"]:
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(info)
        for name in sorted(files):
            entry(archive, name, *files[name])
        for name in sorted(links):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, links[name]
            archive.addfile(info)

    return tar(fill)


def write_tree(binary, folder):
    files, links = tree(binary)
    for name, (data, mode) in files.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as stream:
            stream.write(data)
        os.chmod(path, mode)
    for name, target in links.items():
        os.makedirs(os.path.dirname(os.path.join(folder, name)), exist_ok=True)
        os.symlink(target, os.path.join(folder, name))
    os.mkdir(os.path.join(folder, "tmp"))
    os.chmod(os.path.join(folder, "tmp"), 0o1777)


def ends(folder):
    """Where each of a folder's ancestors ends in its path, and where it itself does."""
    return [place for place, character in enumerate(folder) if character == "/"] + [len(folder)]


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--tree":
        return write_tree(sys.argv[2], sys.argv[3])
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
            "ExposedPorts": {"8081/tcp": {}, "8082/tcp": {}, "8083/tcp": {}},
            "StopSignal": "SIGTERM",
            "Labels": {"org.opencontainers.image." + name: value for name, value in LABELS.items()},
            "Healthcheck": {
                "Test": ["CMD", "/micro-sidecar", "ready"],
                "Interval": 10 * SECOND,
                "Timeout": 3 * SECOND,
                "StartPeriod": 10 * SECOND,
                "Retries": 3,
            },
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
