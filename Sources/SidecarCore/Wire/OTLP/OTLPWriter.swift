// Spans as OTLP's protobuf: an ExportTraceServiceRequest (opentelemetry-proto v1, trace/v1/trace.proto, and
// collector/trace/v1/trace_service.proto). Written by hand: a dozen fields, no descriptor needed.

package enum OTLPWriter {
  /// The whole request. `service` and `instance` say who we are.
  package static func request(_ spans: [SpanRecord], service: String, instance: String, version: String) -> [UInt8] {
    var resource = OTLPMessage()
    resource.message(1) { $0.attribute("service.name", service) }
    if !instance.isEmpty { resource.message(1) { $0.attribute("service.instance.id", instance) } }
    resource.message(1) { $0.attribute("telemetry.sdk.name", "micro-sidecar") }
    resource.message(1) { $0.attribute("telemetry.sdk.version", version) }
    var scope = OTLPMessage()
    scope.text(1, "micro-sidecar")
    scope.text(2, version)
    var scoped = OTLPMessage()
    scoped.bytes(1, scope.bytes)
    for span in spans { scoped.message(2) { write(span, into: &$0) } }
    var all = OTLPMessage()
    all.message(1) {
      $0.bytes(1, resource.bytes)
      $0.bytes(2, scoped.bytes)
    }
    return all.bytes
  }

  private static func write(_ span: SpanRecord, into out: inout OTLPMessage) {
    out.bytes(1, bigEndian(span.traceHigh) + bigEndian(span.traceLow))
    out.bytes(2, bigEndian(span.id))
    if span.parent != 0 { out.bytes(4, bigEndian(span.parent)) }
    out.text(5, span.service.isEmpty ? "request" : span.service + "/" + span.endpoint)
    // SPAN_KIND_SERVER, SPAN_KIND_CLIENT
    out.number(6, span.direction == .in ? 2 : 3)
    out.fixed64(7, UInt64(max(span.startedUnix, 0)))
    out.fixed64(8, UInt64(max(span.endedUnix, span.startedUnix, 0)))
    out.message(9) { $0.attribute("rpc.system", "go-micro") }
    if !span.service.isEmpty {
      out.message(9) { $0.attribute("rpc.service", span.service) }
      out.message(9) { $0.attribute("rpc.method", span.endpoint) }
    }
    out.message(9) { $0.attribute("micro.dialect", span.dialect) }
    out.message(9) { $0.attribute("micro.reason", span.reason) }
    out.message(9) { $0.attribute("micro.status", span.status) }
    if span.attempts > 0 { out.message(9) { $0.attribute("micro.attempts", span.attempts) } }
    if !span.node.isEmpty {
      out.message(9) { $0.attribute("micro.node", span.node) }
      out.message(9) { $0.attribute("server.address", span.address) }
    }
    for event in span.events {
      out.message(11) {
        $0.fixed64(1, UInt64(max(event.unixNanoseconds, 0)))
        $0.text(2, event.name)
        if !event.node.isEmpty { $0.message(3) { $0.attribute("micro.node", event.node) } }
      }
    }
    if span.isError {
      out.message(15) {
        $0.text(2, span.reason)
        $0.number(3, 2)
      }
    }
    // Its parent is remote.
    out.fixed32(16, 0x0000_0101)
  }

  private static func bigEndian(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value &>> UInt64(56 - $0 * 8)) }
  }
}

/// A protobuf message being written.
private struct OTLPMessage {
  var bytes: [UInt8] = []

  private mutating func varint(_ value: UInt64) {
    var value = value
    while value >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value &>>= 7
    }
    bytes.append(UInt8(value))
  }

  private mutating func tag(_ field: UInt64, _ type: UInt64) { varint(field &<< 3 | type) }

  mutating func number(_ field: UInt64, _ value: UInt64) {
    tag(field, 0)
    varint(value)
  }

  mutating func fixed64(_ field: UInt64, _ value: UInt64) {
    tag(field, 1)
    for shift in stride(from: 0 as UInt64, to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value &>> shift)) }
  }

  mutating func fixed32(_ field: UInt64, _ value: UInt32) {
    tag(field, 5)
    for shift in stride(from: 0 as UInt32, to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value &>> shift)) }
  }

  mutating func bytes(_ field: UInt64, _ value: [UInt8]) {
    tag(field, 2)
    varint(UInt64(value.count))
    bytes += value
  }

  mutating func text(_ field: UInt64, _ value: String) { bytes(field, Array(value.utf8)) }

  mutating func message(_ field: UInt64, _ write: (inout OTLPMessage) -> Void) {
    var inner = OTLPMessage()
    write(&inner)
    bytes(field, inner.bytes)
  }

  /// A KeyValue with a text.
  mutating func attribute(_ name: String, _ value: String) {
    text(1, name)
    message(2) { $0.text(1, value) }
  }

  /// A KeyValue with a whole number.
  mutating func attribute(_ name: String, _ value: Int) {
    text(1, name)
    message(2) { $0.number(3, UInt64(bitPattern: Int64(value))) }
  }
}
