// What Consul's HTTP API says, as far as a registry needs it. Entries that break a rule are skipped one by one; a reply
// that is no JSON is an error.

import SidecarCore

/// `GET /v1/health/service/NAME`: the instances of one service.
struct ConsulService {
  /// One for each version, sorted, nodes sorted by id. Instances with a critical check are left out.
  var versions: [Service] = []
  /// The agents that have instances, critical ones too.
  var agents: Set<String> = []
  /// The highest index of an instance or check.
  var modifyIndex: UInt64 = 0
  /// Of its own checks, those of agents not counted.
  var checks = ConsulHealth.Mark()
  /// Entries that could not be read.
  var broken = 0

  init(_ name: ServiceName, _ body: [UInt8], tags: inout ConsulTags) throws(WireError) {
    guard let entries = try JSONValue(parsing: body).arrayValue else { throw WireError("an array is expected") }
    var found: [String: Service] = [:]
    var seen: Set<String> = []
    for entry in entries {
      let service = entry["Service"]
      guard let service, let id = service["ID"]?.stringValue, !id.isEmpty else {
        broken += 1
        continue
      }
      if let agent = entry["Node"]?["Node"]?.stringValue { agents.insert(agent) }
      modifyIndex = max(modifyIndex, service["ModifyIndex"]?.uint64Value ?? 0)
      var isCritical = false
      for check in entry["Checks"]?.arrayValue ?? [] {
        let index = check["ModifyIndex"]?.uint64Value ?? 0
        modifyIndex = max(modifyIndex, index)
        if check["ServiceName"]?.stringValue?.isEmpty == false { checks.add(index) }
        if check["Status"]?.stringValue == "critical" { isCritical = true }
      }
      // The same id at two agents: a node that moved, whose old agent has not noticed.
      guard !isCritical, seen.insert(id).inserted else { continue }
      let content = tags.decode((service["Tags"]?.arrayValue ?? []).compactMap(\.stringValue))
      broken += content.broken
      var host = service["Address"]?.stringValue ?? ""
      if host.isEmpty { host = entry["Node"]?["Address"]?.stringValue ?? "" }
      let port = service["Port"]?.intValue ?? 0
      // Somebody else's service has no tags of ours, but may have Meta.
      var metadata = content.metadata
      if metadata.isEmpty {
        for member in service["Meta"]?.objectValue ?? [] { metadata[member.key] = member.value.stringValue ?? "" }
      }
      let node = Node(id: id, address: port > 0 ? Node.join(host: host, port: port) : host, metadata: metadata)
      found[
        content.version, default: Service(name: name, version: content.version, endpoints: content.endpoints)
      ].nodes.append(node)
    }
    versions = found.values.sorted { $0.version < $1.version }
    for index in versions.indices { versions[index].nodes.sort { $0.id < $1.id } }
  }
}

extension ConsulService {
  /// Nothing that `health` shows has changed since this was looked up, or before.
  func agrees(with health: ConsulHealth, _ name: ServiceName) -> Bool {
    checks == health.services[name] ?? ConsulHealth.Mark()
      && agents.allSatisfy { health.agents[$0]?.modifyIndex ?? 0 <= modifyIndex }
  }
}

/// A reply about all services. Ten thousand checks are several megabytes, so it is read as it comes, one member or element
/// at a time.
protocol ConsulOverview {
  static var container: JSONPieces.Container { get }
  init()
  /// An element of the array, or an object with a member of the object.
  mutating func add(_ piece: UnsafeRawBufferPointer) throws(WireError)
}

extension ConsulOverview {
  init(_ body: [UInt8]) throws(WireError) {
    let reader = ConsulOverviewReader<Self>()
    reader.begin()
    reader.take(body)
    self = try reader.finish()
  }
}

/// Reads one. Threading: one loop.
final class ConsulOverviewReader<Overview: ConsulOverview>: HTTPBodyReader {
  private var pieces = JSONPieces(Overview.container)
  private var overview = Overview()
  private var failure: WireError?
  /// Bytes of the reply.
  private(set) var byteCount = 0

  func begin() {
    pieces = JSONPieces(Overview.container)
    overview = Overview()
    failure = nil
    byteCount = 0
  }

  func take(_ part: [UInt8]) {
    byteCount += part.count
    guard failure == nil else { return }
    let result = part.withUnsafeBytes { bytes in
      Result { () throws(WireError) in
        try pieces.read(bytes) { piece throws(WireError) in try overview.add(piece) }
      }
    }
    if case .failure(let error) = result { failure = error }
  }

  /// What was read, once all has come.
  func finish() throws(WireError) -> Overview {
    if let failure { throw failure }
    try pieces.finish()
    return overview
  }
}

/// `GET /v1/catalog/services`: names, and a mark for each that changes with its tags.
struct ConsulCatalog: ConsulOverview {
  static var container: JSONPieces.Container { .object }
  var services: [ServiceName: UInt64] = [:]

  mutating func add(_ bytes: UnsafeRawBufferPointer) throws(WireError) {
    var scanner = JSONScanner(bytes)
    try scanner.enterObject()
    while let member = try scanner.nextMember() {
      services[ConsulText.string(bytes, member.key, isEscaped: member.keyIsEscaped)] = Self.mark(bytes, member.value)
    }
    try scanner.expectEnd()
  }

  /// FNV-1a of the tags as they are written.
  private static func mark(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in bytes[range] { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    return hash
  }
}

/// `GET /v1/health/state/any`: for each service, and for each agent's own checks, what tells that something changed.
/// Indices only rise, so the number of checks and the highest of their indices change with every change.
struct ConsulHealth: ConsulOverview {
  static var container: JSONPieces.Container { .array }
  struct Mark: Equatable {
    var count = 0
    var modifyIndex: UInt64 = 0

    mutating func add(_ index: UInt64) {
      count += 1
      modifyIndex = max(modifyIndex, index)
    }
  }
  var services: [ServiceName: Mark] = [:]
  var agents: [String: Mark] = [:]

  mutating func add(_ bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.first == UInt8(ascii: "{") else {
      try JSONScanner.validate(bytes)
      return
    }
    var check = JSONScanner(bytes)
    try check.enterObject()
    var service = ""
    var agent = ""
    var index: UInt64 = 0
    while let member = try check.nextMember() {
      if ConsulText.equal(bytes, member.key, "ServiceName") {
        service = ConsulText.string(bytes, quoted: member.value)
      } else if ConsulText.equal(bytes, member.key, "Node") {
        agent = ConsulText.string(bytes, quoted: member.value)
      } else if ConsulText.equal(bytes, member.key, "ModifyIndex") {
        index = UInt64(String(decoding: UnsafeRawBufferPointer(rebasing: bytes[member.value]), as: UTF8.self)) ?? 0
      }
    }
    try check.expectEnd()
    if service.isEmpty {
      agents[agent, default: Mark()].add(index)
    } else {
      services[service, default: Mark()].add(index)
    }
  }
}

private enum ConsulText {
  static func equal(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>, _ text: StaticString) -> Bool {
    range.count == text.utf8CodeUnitCount
      && bytes[range].elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// A string with its quotes; empty for what is none.
  static func string(_ bytes: UnsafeRawBufferPointer, quoted range: Range<Int>) -> String {
    guard range.count >= 2, bytes[range.lowerBound] == UInt8(ascii: "\"") else { return "" }
    let content = (range.lowerBound + 1)..<(range.upperBound - 1)
    return string(bytes, content, isEscaped: bytes[content].contains(UInt8(ascii: "\\")))
  }

  static func string(_ bytes: UnsafeRawBufferPointer, _ content: Range<Int>, isEscaped: Bool) -> String {
    guard isEscaped else { return String(decoding: UnsafeRawBufferPointer(rebasing: bytes[content]), as: UTF8.self) }
    let buffer = ByteBuffer()
    JSONText.unescape(bytes, content, into: buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }
}
