"""A go-micro peer for mDNS tests, written from the description of the protocol and sharing no code with the sidecar.

    go_peer.py serve PORT DOMAIN SERVICE NODE-PORT     answers and announces one node until stdin ends, then says goodbye
    go_peer.py find PORT DOMAIN SERVICE [--strict]     asks once, waits 100 ms, prints "id address version" for each node
    go_peer.py list PORT DOMAIN                        prints the services' names

`--strict` drops replies that do not echo the question, as go-micro does from v2.9.1 on.
"""

import json
import random
import select
import socket
import struct
import sys
import time
import zlib

GROUP = "224.0.0.251"


def encode_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"


def decode_name(data, offset):
    labels, end = [], None
    while True:
        length = data[offset]
        if length == 0:
            return ".".join(labels) + ".", end or offset + 1
        if length & 0xC0:
            end = end or offset + 2
            offset = (length & 0x3F) << 8 | data[offset + 1]
            continue
        labels.append(data[offset + 1 : offset + 1 + length].decode())
        offset += 1 + length


def record(owner, kind, ttl, data):
    return encode_name(owner) + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def payload(service):
    text = json.dumps({"Service": service, "Version": "9.9", "Endpoints": None, "Metadata": {"made": "by python"}})
    digits = zlib.compress(text.encode()).hex().encode()
    pieces = [digits[at : at + 255] for at in range(0, len(digits), 255)]
    return b"".join(bytes([len(piece)]) + piece for piece in pieces)


def parse(data):
    ident, flags, questions, *counts = struct.unpack(">6H", data[:12])
    offset, asked, records = 12, [], []
    for _ in range(questions):
        name, offset = decode_name(data, offset)
        asked.append((name, struct.unpack(">H", data[offset : offset + 2])[0]))
        offset += 4
    for section, count in enumerate(counts):
        for _ in range(count):
            name, offset = decode_name(data, offset)
            kind, _, ttl, length = struct.unpack(">HHIH", data[offset : offset + 10])
            offset += 10
            if section != 1:
                records.append((name, kind, ttl, offset, length))
            offset += length
    return flags, asked, records


def multicast_socket(port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("", port))
    for _, name in socket.if_nameindex():
        request = struct.pack("4s4si", socket.inet_aton(GROUP), b"\0\0\0\0", socket.if_nametoindex(name))
        try:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        except OSError:
            pass
    return listener


def serve(port, domain, service, node_port):
    browse = "%s.%s." % (service, domain)
    instance = "%s-py.%s" % (service, browse)
    listed = "%s._services.%s." % (service, domain)
    listener = multicast_socket(port)

    def records(ttl):
        return [
            record(instance, 33, ttl, struct.pack(">HHH", 10, 1, node_port) + encode_name("pyhost.")),
            record("pyhost.", 1, ttl, socket.inet_aton("127.0.0.1")),
            record(instance, 16, ttl, payload(service)),
        ]

    def announce(ttl):
        listener.sendto(struct.pack(">6H", 0, 0x8000, 0, 3, 0, 0) + b"".join(records(ttl)), (GROUP, port))

    announcements = [0.0, 1.0, 2.0]
    started = time.monotonic()
    print("ready", flush=True)
    while True:
        elapsed = time.monotonic() - started
        if announcements and elapsed >= announcements[0]:
            announcements.pop(0)
            announce(120)
        wait = max(0, announcements[0] - elapsed) if announcements else None
        readable, _, _ = select.select([listener, sys.stdin], [], [], wait)
        if sys.stdin in readable:
            announce(0)
            return
        if listener not in readable:
            continue
        data, source = listener.recvfrom(65536)
        _, asked, _ = parse(data)
        for name, kind in asked:
            if kind not in (12, 255):
                continue
            if name == browse:
                answers = [record(browse, 12, 120, encode_name(instance))] + records(120)
            elif name == "_services.%s." % domain:
                answers = [
                    record(name, 12, 120, encode_name(listed)),
                    record(listed, 33, 120, struct.pack(">HHH", 10, 1, 9999) + encode_name("pyhost.")),
                    record("pyhost.", 1, 120, b"\0\0\0\0"),
                    record(listed, 16, 120, b""),
                ]
            else:
                continue
            # Without the question, as versions before v2.9.1 reply.
            listener.sendto(struct.pack(">6H", 0, 0x8400, 0, len(answers), 0, 0) + b"".join(answers), source)


def ask(port, name):
    asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    question = struct.pack(">6H", random.randrange(65536), 0, 1, 0, 0, 0) + encode_name(name) + struct.pack(">HH", 12, 1)
    asker.sendto(question, (GROUP, port))
    deadline = time.monotonic() + 0.1
    while True:
        asker.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data = asker.recv(65536)
        except TimeoutError:
            return
        yield data
        if time.monotonic() >= deadline:
            return


def find(port, domain, service, strict):
    browse = "%s.%s." % (service, domain)
    suffix = "." + browse
    table, order = {}, []
    for data in ask(port, browse):
        _, asked, records = parse(data)
        if strict and (not asked or asked[0][0] != browse):
            continue
        last = None
        for name, kind, ttl, offset, length in records:
            if kind == 12:
                target, _ = decode_name(data, offset)
                last = table.setdefault(target, {"name": target})
            elif kind == 33:
                target, _ = decode_name(data, offset + 6)
                last = table.setdefault(name, {"name": name})
                table[target] = last
                last["port"] = struct.unpack(">H", data[offset + 4 : offset + 6])[0]
            elif kind == 1:
                last = table.setdefault(name, {"name": name})
                last["address"] = socket.inet_ntoa(data[offset : offset + 4])
            elif kind == 16:
                last = table.setdefault(name, {"name": name})
                text, at = b"", offset
                while at < offset + length:
                    text += data[at + 1 : at + 1 + data[at]]
                    at += 1 + data[at]
                last["text"] = text
            if last is not None:
                last["ttl"] = ttl
        # Only the last entry of a packet counts.
        if last and last.get("port") and "address" in last and "text" in last and last["name"] not in order:
            order.append(last["name"])
    for name in sorted(order):
        entry = table[name]
        fields = json.loads(zlib.decompress(bytes.fromhex(entry["text"].decode())))
        if entry["ttl"] > 0 and fields["Service"] == service:
            print(name.removesuffix(suffix), "%s:%d" % (entry["address"], entry["port"]), fields["Version"])


def list_services(port, domain):
    listed = "_services.%s." % domain
    names = set()
    for data in ask(port, listed):
        for name, kind, _, offset, _ in parse(data)[2]:
            if name == listed and kind == 12:
                names.add(decode_name(data, offset)[0].removesuffix("." + listed))
    for name in sorted(names):
        print(name)


if __name__ == "__main__":
    verb, at_port = sys.argv[1], int(sys.argv[2])
    if verb == "serve":
        serve(at_port, sys.argv[3], sys.argv[4], int(sys.argv[5]))
    elif verb == "find":
        find(at_port, sys.argv[3], sys.argv[4], "--strict" in sys.argv)
    else:
        list_services(at_port, sys.argv[3])
