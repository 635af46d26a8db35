"""`./dev bench --translation`: what gRPC and translation cost, beside Envoy and beside a call that needs neither.

One order of 20 fields and 1 KB, sent and echoed. Four calls, by h2load, each through a sidecar of its own:

    JSON → JSON                a node that takes JSON: nothing is translated
    JSON → protobuf            a node that takes protobuf only: both ways translated
    gRPC → gRPC                passed through, as by Envoy's router
    JSON → gRPC                translated, as by Envoy's grpc_json_transcoder

The nodes that speak gRPC are a sidecar before the same plain node: fast enough that what is measured is busy. Contenders take
turns, as in `bench.py`; the ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import struct
import subprocess
import sys

from contenders import Contender, Envoy, Node, Sidecar

HERE = os.path.dirname(os.path.abspath(__file__))
DESCRIPTORS = os.path.join(os.path.dirname(HERE), "Tests", "Fixtures", "protobuf", "order.binpb")
SERVICE, METHOD = "shop", "Orders.Echo"
TRANSLATED_MAX = 1.35  # JSON → protobuf, as a share of JSON → JSON
GRPC_MAX, TRANSCODED_MAX = 0.6, 0.4  # as shares of Envoy

ORDER = {
    "orderId": "ord_01HZX3V5T8K9Q2W4E6R8T0Y2U4",
    "customerId": "7203894512",
    "customerName": "Margarethe Lindqvist",
    "email": "margarethe.lindqvist@example.com",
    "status": "SHIPPED",
    "total": 1284.57,
    "currency": "EUR",
    "isGift": True,
    "shippingAddress": {"street": "Kungsgatan 44, 3rd floor", "city": "Stockholm", "zip": "111 35", "country": "SE"},
    "items": [
        {"sku": "LAMP-0042-BRASS", "quantity": 2, "price": 449.5},
        {"sku": "CABLE-USB-C-2M", "quantity": 5, "price": 12.99},
        {"sku": "SHELF-OAK-120", "quantity": 1, "price": 320.62},
    ],
    "createdAt": "2024-05-01T12:34:56.789Z",
    "retryCount": 3,
    "sequenceNumber": "184467440737095516",
    "userAgent": "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0",
    "tags": ["express", "fragile", "repeat-customer"],
    "labels": {"region": "eu-north", "channel": "web"},
    "note": "Please ring the bell twice and leave the parcel with the concierge if nobody answers.",
    "discount": 0.25,
    "signature": "3q2+7wABAgMEBQYHCAkKCwwNDg8=",
    "traceId": "9223372036854775807",
}


def describe(folder):
    """The descriptor set with a service in it, and the order as protobuf."""
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    with open(DESCRIPTORS, "rb") as stream:
        files = descriptor_pb2.FileDescriptorSet.FromString(stream.read())
    order = next(file for file in files.file if file.package == "shop")
    order.service.add(name="Orders").method.add(name="Echo", input_type=".shop.Order", output_type=".shop.Order")
    path = os.path.join(folder, "orders.binpb")
    with open(path, "wb") as stream:
        stream.write(files.SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))()
    return path, json_format.ParseDict(ORDER, message).SerializeToString()


class EchoNode(Node):
    """A node that answers every request with the order, in one form."""

    def __init__(self, folder, name, program, kind, reply):
        self.name = name
        super().__init__(folder, program)
        self.kind, self.reply = kind, reply

    def command(self):
        return [self.program, "--port", str(self.port), "--type", self.kind, "--reply-hex", self.reply.hex()]


class Relay(Sidecar):
    """A sidecar between the load and a node."""

    def __init__(self, folder, name, binary, node_port, metadata, descriptors, environment=None):
        self.name = name
        super().__init__(folder, node_port, binary)
        self.metadata, self.descriptors, self.more = metadata, descriptors, environment or {}

    def environment(self):
        node = {"id": SERVICE + "-1", "address": "127.0.0.1:%d" % self.node_port, "metadata": self.metadata}
        services = [{"name": SERVICE, "version": "latest", "nodes": [node]}]
        return dict(
            super().environment(),
            MICRO_REGISTRY="file:" + self.write("services.json", json.dumps(services)),
            MICRO_DESCRIPTORS=self.descriptors,
            MICRO_SIDECAR_WORKERS="1",
            **self.more,
        )

    def is_ready(self):
        return Contender.is_listening(self)


class EnvoyGRPC(Envoy):
    """Envoy before a node that speaks gRPC, with its transcoder or without."""

    def __init__(self, folder, name, node_port, program, descriptors=None):
        self.name = name
        super().__init__(folder, node_port, program)
        self.descriptors = descriptors

    def filters(self):
        if not self.descriptors:
            return super().filters()
        transcoder = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
            "proto_descriptor": self.descriptors,
            "services": ["shop.Orders"],
            "auto_mapping": True,
        }
        return [{"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder}] + super().filters()

    def cluster(self):
        options = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        return dict(super().cluster(), typed_extension_protocol_options={name: options})

    def is_ready(self):
        return Contender.is_listening(self)


class Call:
    """One kind of call through one contender."""

    def __init__(self, name, contender, path, kind, body, requests, cores):
        self.name, self.contender, self.cpu = name, contender, []
        # The reply is the same order; its JSON may leave out blanks and write numbers otherwise.
        self.reply_bytes = len(body) * 9 // 10
        self.requests, self.cores = requests, cores
        body_file = contender.write("frame" if kind == "application/grpc" else "document", body)
        self.command = ["h2load", "-n", str(requests), "-d", body_file, "-H", "content-type: " + kind]
        # As many calls at once either way.
        self.command += ["-c", "4", "-m", "8", "-H", "te: trailers"] if kind == "application/grpc" else ["--h1", "-c", "32"]
        self.command.append("http://127.0.0.1:%d%s" % (contender.port, path))

    def measure(self, keep):
        before = self.contender.cpu_seconds()
        done = subprocess.run(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            preexec_fn=lambda: os.sched_setaffinity(0, self.cores),
        )
        # A gRPC error is a success to HTTP, but it brings no message.
        data = re.search(r"\((\d+)\) data", done.stdout)
        has_all = data and int(data.group(1)) >= self.requests * self.reply_bytes
        if " %d succeeded," % self.requests not in done.stdout or not has_all:
            raise SystemExit("%s: %s\n%s" % (self.name, done.stdout[-1500:], self.contender.log_text()))
        if keep:
            self.cpu.append((self.contender.cpu_seconds() - before) * 100_000 / self.requests)

    def median(self):
        return statistics.median(self.cpu)

    def share_of(self, other):
        return statistics.median(mine / its for mine, its in zip(self.cpu, other.cpu))


def translation(arguments, programs, envoy, folder, measured, others):
    """Runs the calls in turns: (table, [(sentence, held)])."""
    descriptors, message = describe(folder)
    text = json.dumps(ORDER, separators=(",", ":")).encode()
    program = os.path.join(programs, "bench-node")
    binary = os.path.abspath(arguments.binary)
    frames = {"protocol": "mucp", "transport": "http", "server": "mucp"}
    json_node = EchoNode(folder, "json-node", program, "application/json", text)
    proto_node = EchoNode(folder, "protobuf-node", program, "application/protobuf", message)
    behind = {
        "MICRO_SERVER_NAME": SERVICE,
        "MICRO_APP_ADDRESS": "127.0.0.1:%d" % json_node.port,
        "MICRO_SERVER_ADDRESS": "127.0.0.1:0",
    }
    grpc_node = Relay(folder, "grpc-node", binary, json_node.port, frames, descriptors, behind)
    started = []

    def start(contender, cores):
        contender.start(cores)
        started.append(contender)
        return contender

    try:
        for node in (json_node, proto_node, grpc_node):
            start(node, others)
        # Its framework side, which the system chose.
        port = grpc_node.framework_port()
        as_json = Relay(folder, "to-json", binary, json_node.port, frames, descriptors)
        as_proto = Relay(
            folder, "to-protobuf", binary, proto_node.port, dict(frames, **{"content-type": "application/protobuf"}), descriptors
        )
        as_grpc = Relay(folder, "to-grpc", binary, port, {"protocol": "grpc"}, descriptors)
        for sidecar in (as_json, as_proto, as_grpc):
            start(sidecar, measured)
        path, grpc_path, frame = "/shop/Orders.Echo", "/shop.Orders/Echo", struct.pack(">BI", 0, len(message)) + message
        count = arguments.requests
        calls = [
            Call("JSON → JSON", as_json, path, "application/json", text, count, others),
            Call("JSON → protobuf", as_proto, path, "application/json", text, count, others),
            Call("gRPC → gRPC", as_grpc, grpc_path, "application/grpc", frame, count, others),
            Call("JSON → gRPC", as_grpc, path, "application/json", text, count, others),
        ]
        if envoy:
            router = start(EnvoyGRPC(folder, "envoy-router", port, envoy), measured)
            transcoder = start(EnvoyGRPC(folder, "envoy-transcoder", port, envoy, descriptors), measured)
            calls.append(Call("gRPC → gRPC, Envoy", router, grpc_path, "application/grpc", frame, count, others))
            calls.append(Call("JSON → gRPC, Envoy", transcoder, grpc_path, "application/json", text, count, others))
        for turn in range(arguments.rounds + 1):
            for call in calls:
                print("round %d of %d: %s" % (turn, arguments.rounds, call.name), file=sys.stderr)
                call.measure(keep=turn > 0)  # round 0 warms up
    finally:
        for contender in reversed(started):
            contender.stop()

    plain, translated, passed, transcoded = calls[:4]
    references = {plain: None, translated: (plain, TRANSLATED_MAX)}
    if envoy:
        references.update({passed: (calls[4], GRPC_MAX), transcoded: (calls[5], TRANSCODED_MAX)})
    rows = ["| call | CPU s per 100k calls | spread | ÷ compared with |", "| --- | --- | --- | --- |"]
    held = []
    for call in calls:
        compared = references.get(call)
        share = "%.2f × %s" % (call.share_of(compared[0]), compared[0].name) if compared else ""
        rows.append("| %s | %.2f | %.2f–%.2f | %s |" % (call.name, call.median(), min(call.cpu), max(call.cpu), share))
        if compared:
            held.append(
                ("%s costs %s (at most %.2f)" % (call.name, share, compared[1]), call.share_of(compared[0]) <= compared[1])
            )
    return "\n".join(rows), held
