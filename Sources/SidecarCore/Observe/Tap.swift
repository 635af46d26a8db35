// Looking on: each request that ends, as one line of JSON, to whoever asks at the admin listener. Nothing is kept and nothing
// waits for a looker-on: what does not fit is lost, and the looker-on told how much.

/// Which requests a looker-on wants. All that are given must hold.
package struct TapFilter: Equatable, Sendable {
  /// A name, or its beginning followed by `*`.
  package var service: String?
  package var endpoint: String?
  package var node: String?
  package var direction: CallDirection?
  /// `404`, a class such as `5xx`, `ok`, `error`, or a reason such as `overloaded`.
  package var status: String?

  package init() {}

  /// Lines a second of one looker-on, over all workers, unless it asks for another number.
  package static let rateDefault = 1000
  /// What the query of `/tap` may say.
  package static let names = ["service", "endpoint", "node", "direction", "status", "rate"]

  /// Nil: there is a filter of that name.
  package static func complaint(about name: String) -> String? {
    if names.contains(name) { return nil }
    let near = NearestName.of(name, among: names).map { "; did you mean \($0)?" }
    return "there is no filter \(name.prefix(64))\(near ?? ", only " + names.joined(separator: ", "))"
  }

  /// Of the query of `/tap`. Errors: a name it does not know, a direction or a status that no call can have.
  package init(query fields: JSONValue) throws(WireError) {
    for member in fields.objectValue ?? [] {
      if let complaint = Self.complaint(about: member.key) { throw WireError(complaint) }
    }
    func text(_ name: String) -> String? {
      guard let text = fields[name]?.stringValue, !text.isEmpty else { return nil }
      return String(text.prefix(256))
    }
    service = text("service")
    endpoint = text("endpoint")
    node = text("node")
    status = text("status")?.lowercased()
    if let status { try Self.check(status: status) }
    switch text("direction") {
    case nil: break
    case "in": direction = .in
    case "out": direction = .out
    case let other?: throw WireError("direction is in or out, not \(other)")
    }
  }

  private static func check(status: String) throws(WireError) {
    let isNumber =
      status.utf8.count == 3 && "1"..."5" ~= status.prefix(1) && (status.hasSuffix("xx") || Int(status) != nil)
    let words = MetricOutcome.labels + ["error"]
    guard !isNumber, !words.contains(status) else { return }
    let near = NearestName.of(status, among: words).map { "; did you mean \($0)?" } ?? ""
    throw WireError("no call ends with status \(status.prefix(64))\(near)")
  }

  func wants(_ notes: CallNotes, _ call: CallEnd) -> Bool {
    if let direction, direction != call.direction { return false }
    if let service, !Self.matches(service, call.service) { return false }
    if let endpoint, !Self.matches(endpoint, call.endpoint) { return false }
    if let node {
      guard let met = notes.node?.node, met.id == node || met.address == node else { return false }
    }
    guard let status else { return true }
    switch status {
    case "ok": return call.outcome == .ok
    case "error": return call.outcome != .ok
    default: break
    }
    if status.utf8.count == 3, status.hasSuffix("xx"), let digit = status.first?.wholeNumberValue {
      return notes.status / 100 == digit
    }
    return Int(status) == notes.status || status == call.outcome.label
  }

  private static func matches(_ wanted: String, _ name: UnsafeRawBufferPointer) -> Bool {
    if wanted.utf8.last == UInt8(ascii: "*") { return name.starts(with: wanted.utf8.dropLast()) }
    return name.elementsEqual(wanted.utf8)
  }
}

/// What of a tapped request's head and bodies is shown. Made only while somebody looks on.
final class TapCapture {
  /// Header lines shown of one request.
  static let headersMax = 64
  /// Bytes of one value shown.
  static let valueMax = 256
  /// A body larger than this is shown by its size only.
  static let parsedMax = 64 * 1024

  fileprivate var headers: [(name: String, value: String)] = []
  fileprivate var request: String?
  fileprivate var reply: String?

  init(_ head: HTTP1Head) {
    for field in head.fields.prefix(Self.headersMax) { take(head.name(field), head.value(field)) }
  }

  init(_ fields: HTTP2Fields) {
    for index in 0..<min(fields.count, Self.headersMax) where !fields.isPseudo(index) {
      take(fields.name(index), fields.value(index))
    }
  }

  private func take(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
    headers.append(
      (
        String(decoding: name, as: UTF8.self).lowercased(),
        String(decoding: value.prefix(Self.valueMax), as: UTF8.self)
      ))
  }

  func takeRequest(_ body: UnsafeRawBufferPointer, _ settings: TapSettings) {
    if settings.bodyBytes > 0 { request = Self.show(body, settings) }
  }

  func takeReply(_ body: UnsafeRawBufferPointer, _ settings: TapSettings) {
    if settings.bodyBytes > 0 { reply = Self.show(body, settings) }
  }

  /// JSON with its secrets masked, cut; of anything else only the size, since nothing could be masked in it.
  private static func show(_ body: UnsafeRawBufferPointer, _ settings: TapSettings) -> String {
    if body.isEmpty { return "" }
    guard body.count <= parsedMax, let value = try? JSONValue(parsing: body) else { return "(\(body.count) bytes)" }
    let text = settings.masked(value, depth: 0).text()
    guard text.utf8.count > settings.bodyBytes else { return text }
    return String(decoding: text.utf8.prefix(settings.bodyBytes), as: UTF8.self) + "…"
  }
}

/// What looking on may show.
package struct TapSettings: Sendable {
  /// Bytes of a body shown; 0: bodies are not.
  package var bodyBytes = 0
  /// Further names, lower case, of headers and of members of JSON whose values are not shown.
  package var masked: Set<String> = []
  package init() {}

  static let mask = "(masked)"
  private static let words = [
    "authorization", "cookie", "token", "secret", "password", "passwd", "api-key", "apikey", "api_key", "credential",
    "private-key", "private_key", "session",
  ]

  /// Whether a value of that name may be a secret.
  func isSecret(_ name: String) -> Bool {
    let name = name.lowercased()
    return masked.contains(name) || Self.words.contains { name.contains($0) }
  }

  func masked(_ value: JSONValue, depth: Int) -> JSONValue {
    switch value {
    case .object(let members):
      return .object(
        members.map { member in
          JSONValue.Member(
            member.key, isSecret(member.key) || depth > 32 ? .string(Self.mask) : masked(member.value, depth: depth + 1)
          )
        })
    case .array(let elements): return .array(elements.map { masked($0, depth: depth + 1) })
    default: return value
    }
  }
}

/// One looker-on, on one worker. Loop-confined.
final class Tap {
  static let rateMax = 10_000
  /// Bytes of lines that wait on a worker to be handed over.
  static let bytesMax = 256 * 1024
  static let interval: Int64 = 50_000_000

  let id: Int
  private let filter: TapFilter
  private let perSecond: Int
  private var line = CallLine()
  private var buffer = ByteBuffer()
  private var lost = 0
  private var second: Int64 = 0
  private var inSecond = 0
  private unowned(unsafe) let worker: Worker
  private lazy var timer = LoopTimer { [unowned self] in handOver() }

  init(id: Int, filter: TapFilter, perSecond: Int, worker: Worker) {
    self.id = id
    self.filter = filter
    self.perSecond = perSecond
    self.worker = worker
  }

  func offer(_ notes: CallNotes, _ call: CallEnd, _ worker: Worker) {
    guard filter.wants(notes, call) else { return }
    if buffer.isEmpty, lost == 0 { worker.timers.arm(timer, after: Self.interval, from: worker.driver.now) }
    let time = worker.driver.unixNanoseconds
    if time / 1_000_000_000 != second {
      second = time / 1_000_000_000
      inSecond = 0
    }
    inSecond += 1
    guard inSecond <= perSecond, buffer.count < Self.bytesMax else {
      lost += 1
      return
    }
    line.appendJSON(notes, call, unixNanoseconds: time, now: worker.driver.now, to: buffer)
    if let tapped = notes.tapped { append(tapped) }
    buffer.append(0x0A as UInt8)
  }

  /// Puts head and bodies before the brace that ends the line.
  private func append(_ tapped: TapCapture) {
    buffer.truncate(to: buffer.count - 1)
    buffer.append(",\"headers\":{")
    var seen: Set<String> = []
    for (name, value) in tapped.headers where seen.insert(name).inserted {
      if seen.count > 1 { buffer.append(",") }
      JSONText.append(name, escaping: .plain, into: buffer)
      buffer.append(":")
      let shown = worker.settings.tap.isSecret(name) ? TapSettings.mask : value
      JSONText.append(shown, escaping: .plain, into: buffer)
    }
    buffer.append("}")
    for (name, body) in [("request", tapped.request), ("reply", tapped.reply)] {
      guard let body else { continue }
      buffer.append(",\"\(name)\":")
      JSONText.append(body, escaping: .plain, into: buffer)
    }
    buffer.append("}")
  }

  private func handOver() {
    guard !buffer.isEmpty || lost > 0 else { return }
    let lines = TapLines(id: id, lines: Array(buffer.bytes), lost: lost)
    buffer.removeAll()
    lost = 0
    worker.give(lines)
  }

  func end() { timer.cancel() }
}

/// Lines for one looker-on, whole ones, and how many are missing.
package struct TapLines: Sendable {
  package var id: Int
  package var lines: [UInt8]
  package var lost: Int
}
