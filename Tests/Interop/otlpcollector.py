"""A trace collector: takes spans by OTLP/HTTP and reads them with OpenTelemetry's own protobuf classes."""

from __future__ import annotations

import collections
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Span = collections.namedtuple("Span", "resource trace id parent kind name attributes events error start end")


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


class Collector:
    """`spans` in the order they came; `answers`: statuses to give first, one each."""

    def __init__(self, answers=()):
        self.spans, self.answers, self.requests = [], list(answers), 0
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests += 1
                status = collector.answers.pop(0) if collector.answers else 200
                if status == 200:
                    assert self.path == "/v1/traces", self.path
                    assert self.headers["Content-Type"] == "application/x-protobuf"
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]

    def take(self, request):
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(Span(
                        attributes(resource.resource.attributes), span.trace_id.hex(), span.span_id.hex(),
                        span.parent_span_id.hex(), span.kind, span.name, attributes(span.attributes),
                        [(event.name, attributes(event.attributes)) for event in span.events],
                        span.status.code == 2, span.start_time_unix_nano, span.end_time_unix_nano))

    @property
    def url(self):
        return "http://127.0.0.1:%d/v1/traces" % self.port

    def start(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
