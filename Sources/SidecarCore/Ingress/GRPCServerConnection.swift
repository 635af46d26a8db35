// HTTP/2 on our two listeners: gRPC of the app's own clients (`localhost:8081`), and of the framework's gRPC clients and
// other sidecars. A connection comes here once it has begun with HTTP/2's preface (`CallerConnection.handOver`).
//
// Each stream is one call (`GRPCServerStream`), but for what the sidecar answers itself: health (`grpc.health.v1`),
// Debug.Health and Debug.Stats. HTTP/2 that is not gRPC is answered with 415: the local HTTP API is HTTP/1's.

final class GRPCServerConnection: HTTP2Connection, ListedConnection {
  enum Side {
    /// The app's clients: to any service.
    case app
    /// The framework's: to the app.
    case framework
  }

  /// Nanoseconds a connection of the framework may be idle at least; see `InboundConnection`.
  private static let frameworkIdleMin: Int64 = 75_000_000_000

  var listIndex = -1
  let side: Side
  /// Streams that want to hear of the app's health.
  private var watchers: [GRPCHealthWatch] = []

  init(worker: Worker, stream: ByteStream, side: Side) {
    self.side = side
    super.init(worker: worker, stream: stream, role: .server, isOpened: true)
  }

  override var idleTimeout: Int64 {
    let timeout = worker.settings.downstreamIdleTimeout
    return side == .app ? timeout : max(timeout, Self.frameworkIdleMin)
  }

  override func ended(_ end: StreamEnd) { worker.remove(self) }

  override func opened(_ stream: HTTP2Stream, _ head: HTTP2Fields) -> (any HTTP2StreamHandler)? {
    guard let format = GRPCMetadata.format(head), let path = head.path,
      let method = head.method
    else {
      return refuse(stream, status: "415", "HTTP/2 is for gRPC here: application/grpc; the HTTP API speaks HTTP/1.1\n")
    }
    guard ASCIIText.equals(method, "POST") else {
      return refuse(stream, status: "405", "gRPC calls are POST\n")
    }
    if side == .framework, TransportMessage.isPath(path) {
      return openTransport(stream)
        ?? refuse(stream, status: "503", "no more connections are taken\n")
    }
    let call = GRPCServerStream(self, stream, format)
    call.begin(path, head)
    return call
  }

  /// Answers what is no gRPC call, and counts it.
  private func refuse(_ stream: HTTP2Stream, status: StaticString, _ text: StaticString) -> any HTTP2StreamHandler {
    let list = session.takeList()
    list.append(":status", status)
    list.append("content-type", "text/plain; charset=utf-8")
    stream.respond(list)
    stream.send(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    stream.finish()
    let handle = side == .app ? worker.unroutedHandle : worker.inboundHandle
    worker.metrics.record(handle, .failed(.unsupportedMediaType), latency: 0)
    return IgnoredHTTP2Stream.shared
  }

  // MARK: Health

  func add(_ watch: GRPCHealthWatch) { watchers.append(watch) }
  func remove(_ watch: GRPCHealthWatch) { watchers.removeAll { $0 === watch } }

  /// The app's health has changed.
  func healthChanged() {
    for watch in watchers { watch.tell() }
  }

  /// Watches never end by themselves, and nobody is served here any longer.
  func endWatches() {
    let all = watchers
    watchers = []
    for watch in all { watch.end() }
  }
}

/// Hears a stream that has been answered already.
private final class IgnoredHTTP2Stream: HTTP2StreamHandler {
  nonisolated(unsafe) static let shared = IgnoredHTTP2Stream()
  func http2Stream(_ stream: HTTP2Stream, received fields: HTTP2Fields, kind: HTTP2Stream.HeadKind) {}
  func http2Stream(_ stream: HTTP2Stream, received bytes: UnsafeRawBufferPointer) { stream.consumed(bytes.count) }
  func http2StreamEnded(_ stream: HTTP2Stream) {}
  func http2StreamDrained(_ stream: HTTP2Stream) {}
  func http2StreamClosed(_ stream: HTTP2Stream, _ code: HTTP2ErrorCode) {}
}

extension Worker {
  /// A connection of the app or the framework has begun with HTTP/2's preface, or with a part of it.
  func takeOverHTTP2(
    _ stream: ByteStream, side: GRPCServerConnection.Side, initial bytes: UnsafeRawBufferPointer
  ) {
    let connection = GRPCServerConnection(worker: self, stream: stream, side: side)
    add(connection)
    stream.handler = connection
    connection.receive(bytes)
    if isDraining { connection.closeWhenIdle() }
  }
}
