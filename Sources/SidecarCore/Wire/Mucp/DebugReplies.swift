// What every go-micro service answers to Debug.Health and Debug.Stats (debug/service/proto/debug.proto @ v1.18.0,
// v2.9.1). Field numbers moved by one at v1.18 (trap 25); a request does not say which it wants, so the new layout is
// sent. The JSON names are the same in all.

package enum DebugReplies {
  package enum Method: Sendable { case health, stats }

  /// Whether an endpoint is one of the built-in two.
  package static func method(_ endpoint: UnsafeRawBufferPointer) -> Method? {
    if ASCIIText.equals(endpoint, "Debug.Health") { return .health }
    return ASCIIText.equals(endpoint, "Debug.Stats") ? .stats : nil
  }

  /// The numbers of Debug.Stats.
  package struct Stats: Equatable, Sendable {
    /// When they were taken, seconds since 1970.
    package var timestamp: UInt64
    /// When the service started, seconds since 1970.
    package var started: UInt64
    /// Seconds.
    package var uptime: UInt64
    /// Bytes of heap, or of resident memory.
    package var memory: UInt64
    /// Goroutines, or threads.
    package var threads: UInt64
    /// Nanoseconds spent collecting garbage.
    package var gc: UInt64
    package var requests: UInt64
    package var errors: UInt64

    package init(
      timestamp: UInt64, started: UInt64, uptime: UInt64, memory: UInt64, threads: UInt64, gc: UInt64 = 0,
      requests: UInt64, errors: UInt64
    ) {
      self.timestamp = timestamp
      self.started = started
      self.uptime = uptime
      self.memory = memory
      self.threads = threads
      self.gc = gc
      self.requests = requests
      self.errors = errors
    }

    fileprivate var fields: [(StaticString, UInt64)] {
      [
        ("timestamp", timestamp), ("started", started), ("uptime", uptime), ("memory", memory), ("threads", threads),
        ("gc", gc), ("requests", requests), ("errors", errors),
      ]
    }
  }

  /// Writes the payload `{"status":"ok"}`; for bytes, as protobuf.
  package static func health(format: PayloadFormat, into buffer: ByteBuffer) {
    switch format {
    case .json: buffer.append("{\"status\":\"ok\"}")
    case .protobuf, .bytes: buffer.append("\n\u{2}ok")
    }
  }

  /// Writes the payload of Debug.Stats; for bytes, as protobuf.
  package static func stats(_ stats: Stats, format: PayloadFormat, into buffer: ByteBuffer) {
    switch format {
    case .json:
      var separator = UInt8(ascii: "{")
      for (name, value) in stats.fields {
        buffer.append(separator)
        buffer.append(UInt8(ascii: "\""))
        buffer.append(name)
        buffer.append("\":")
        buffer.append(decimal: value)
        separator = UInt8(ascii: ",")
      }
      buffer.append(UInt8(ascii: "}"))
    case .protobuf, .bytes:
      for (index, field) in stats.fields.enumerated() {
        ProtobufWriter.field(UInt64(index + 1), varint: field.1, into: buffer)
      }
    }
  }
}
