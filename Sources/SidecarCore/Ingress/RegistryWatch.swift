// `GET /registry` as a stream, over a WebSocket, Server-Sent Events or NDJSON: what the sidecar knows of the registries, and
// every change, each message as the 2018 sidecar wrote it: `{"Action":"create","Service":{…}}` (go-micro registry/watcher.go
// @ v0.14.0; toolkit handler/registry @ v0.16.0).
//
// A watch keeps what it has told as references to the entries the worker holds anyway, and the names that changed since.
// A reader that is slow costs no more than that: it misses steps in between, never the last state.

/// Which services a watch tells of, and from when.
struct RegistryWatchRequest {
  /// A name, or its beginning before a final `*`; nil: all.
  var service: String?
  /// Begin with what is there: a `create` for each, then `{"Action":"synced","Service":null}`.
  var isInitial: Bool

  /// Reads `service` and `initial` of a query. WebSockets began with changes only in 2018 and still do, unless they ask.
  init(query: JSONValue, defaultInitial: Bool) throws(SidecarError) {
    service = query["service"]?.stringValue
    switch query["initial"]?.stringValue {
    case nil, "": isInitial = defaultInitial
    case "true", "1": isInitial = true
    case "false", "0": isInitial = false
    case .some(let text): throw SidecarError(.badRequest, "initial is true or false, not \(text.prefix(40))")
    }
  }

  func includes(_ name: ServiceName) -> Bool {
    guard let service, !service.isEmpty else { return true }
    return service.last == "*" ? name.utf8.starts(with: service.dropLast().utf8) : name == service
  }
}

/// The end that answers such a watch. Loop-confined.
final class RegistryWatch: StreamCallee {
  /// Bytes of a message before its service's nodes are told in several: the 2018 plug-in reads frames of 16 KiB at most.
  private static let messageBytesMax = 15 << 10
  /// Nodes told in one turn of the loop, which calls share.
  private static let nodesPerTurn = 64

  private unowned let call: StreamCall
  private let worker: Worker
  private let request: RegistryWatchRequest
  /// What the watcher knows.
  private var told: [ServiceName: ServiceEntry] = [:]
  /// Names to be compared with what is known now, in no order.
  private var changed: Set<ServiceName> = []
  private var hasConnected = false
  private var owesSynced: Bool
  private var isCongested = false
  private var isFlushing = false
  private var isOver = false

  init(_ call: StreamCall, worker: Worker, _ request: RegistryWatchRequest) {
    self.call = call
    self.worker = worker
    self.request = request
    owesSynced = request.isInitial
    for entry in worker.entries.values where request.includes(entry.name) {
      if request.isInitial { changed.insert(entry.name) } else { told[entry.name] = entry }
    }
    worker.add(self)
    worker.driver.later { [self] in
      guard !isOver else { return }
      hasConnected = true
      call.calleeConnected()
      flush()
    }
  }

  // MARK: StreamCallee

  func format(for caller: PayloadFormat) -> PayloadFormat { .json }
  /// What a watcher says is nothing to us.
  func send(_ message: UnsafeRawBufferPointer) -> WriteState { .open }
  func finishSending() {}

  func resumeReplies() {
    isCongested = false
    flushLater()
  }

  func abandon() {
    guard !isOver else { return }
    isOver = true
    worker.remove(self)
  }

  // MARK: From the worker

  /// What is known of `name` may have changed.
  func entryChanged(_ name: ServiceName) {
    guard request.includes(name) else { return }
    changed.insert(name)
    flushLater()
  }

  /// The worker takes no more: the watch ends in order.
  func end() {
    guard !isOver else { return }
    abandon()
    call.calleeEnded(nil)
  }

  private func flushLater() {
    guard hasConnected, !isFlushing else { return }
    isFlushing = true
    worker.driver.later { [self] in
      isFlushing = false
      flush()
    }
  }

  private func flush() {
    var room = Self.nodesPerTurn
    while !isOver, !isCongested, let name = changed.first {
      guard room > 0 else { return flushLater() }
      changed.removeFirst()
      let old = told[name]
      let new = worker.entry(name)
      guard old !== new else { continue }
      told[name] = new
      room -= 1 + tell(old?.versions ?? [], new?.versions ?? [])
    }
    guard owesSynced, !isOver, !isCongested else { return }
    owesSynced = false
    send("synced", nil)
  }

  /// Tells the difference; how many nodes were told.
  private func tell(_ old: [Service], _ new: [Service]) -> Int {
    var count = 0
    for service in new {
      let known = old.first { $0.version == service.version }
      var event = service
      if let known, known.metadata == service.metadata, known.endpoints == service.endpoints {
        let before = Set(known.nodes)
        event.nodes.removeAll { before.contains($0) }
        if event.nodes.isEmpty { continue }
      }
      count += tellNodes(known == nil ? "create" : "update", event)
    }
    for service in old {
      var event = service
      if let now = new.first(where: { $0.version == service.version }) {
        let left = Set(now.nodes.map(\.id))
        event.nodes.removeAll { left.contains($0.id) }
        if event.nodes.isEmpty { continue }
      }
      count += tellNodes("delete", event)
    }
    return count
  }

  /// One event, or several with a part of the nodes each, so that none is too long.
  private func tellNodes(_ action: String, _ service: Service) -> Int {
    var part = service
    part.nodes = []
    var bytes = 0
    for node in service.nodes {
      let size =
        64 + node.id.utf8.count + node.address.utf8.count
        + node.metadata.reduce(0) { $0 + 8 + $1.key.utf8.count + $1.value.utf8.count }
      if bytes + size > Self.messageBytesMax, !part.nodes.isEmpty {
        send(action, part)
        part.nodes = []
        bytes = 0
        // The first has told what the nodes share.
        part.endpoints = []
        part.metadata = [:]
      }
      part.nodes.append(node)
      bytes += size
    }
    send(action, part)
    return service.nodes.count
  }

  private func send(_ action: String, _ service: Service?) {
    guard !isOver else { return }
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    JSONValue.object([.init("Action", .string(action)), .init("Service", service?.json() ?? .null)]).write(into: out)
    switch call.calleeSent(out.bytes, .json) {
    case .open: break
    case .congested: isCongested = true
    case .closed: abandon()
    }
  }
}
