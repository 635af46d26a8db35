// What a request says about the node it is to go to: the key of an affine call, and the filter of `X-Micro-Select`.

/// Where the keys of a service's calls are found and how they are made.
struct KeyRule {
  let affinity: AffinityKey
  let hash: SelectKeyHash
  private let name: FixedBytes

  init(_ affinity: AffinityKey, _ hash: SelectKeyHash) {
    self.affinity = affinity
    self.hash = hash
    switch affinity {
    case .header(let name), .cookie(let name): self.name = FixedBytes(name)
    }
  }

  /// The key of a request; nil when it has no such header or cookie, or an empty one.
  func key(_ head: HTTP1Head) -> SelectKey? {
    switch affinity {
    case .header:
      for field in head.fields where Scan.equal(head.name(field), ignoringCase: name.span) {
        return key(head.value(field))
      }
    case .cookie:
      guard head.has(.cookie) else { return nil }
      for field in head.fields where field.id == .cookie {
        if let value = Self.cookie(name.span, in: head.value(field)) { return key(value) }
      }
    }
    return nil
  }

  func key(_ head: HTTP2Fields) -> SelectKey? {
    for index in 0..<head.count {
      switch affinity {
      case .header:
        if Scan.equal(head.name(index), ignoringCase: name.span) { return key(head.value(index)) }
      case .cookie:
        // A list of cookies may come as several fields (RFC 9113 §8.2.3).
        guard ASCIIText.equals(head.name(index), "cookie") else { continue }
        if let value = Self.cookie(name.span, in: head.value(index)) { return key(value) }
      }
    }
    return nil
  }

  private func key(_ value: UnsafeRawBufferPointer) -> SelectKey? { value.isEmpty ? nil : hash.key(value) }

  /// The value of the cookie `name` in `a=1; b=2` (RFC 6265 §4.2.1), without quotes around it.
  static func cookie(
    _ name: UnsafeRawBufferPointer, in list: UnsafeRawBufferPointer
  ) -> UnsafeRawBufferPointer? {
    var start = 0
    while start < list.count {
      let end = list[start...].firstIndex(of: UInt8(ascii: ";")) ?? list.count
      let pair = Scan.trimmed(UnsafeRawBufferPointer(rebasing: list[start..<end]))
      start = end + 1
      guard let equals = pair.firstIndex(of: UInt8(ascii: "=")),
        ASCIIText.equals(UnsafeRawBufferPointer(rebasing: pair[..<equals]), name)
      else { continue }
      var value = UnsafeRawBufferPointer(rebasing: pair[(equals + 1)...])
      if value.count >= 2, value.first == UInt8(ascii: "\""), value.last == UInt8(ascii: "\"") {
        value = UnsafeRawBufferPointer(rebasing: value[1..<value.count - 1])
      }
      return value
    }
    return nil
  }
}

extension AffinityKey {
  /// `header=X-User` or `cookie=sid`, as a selector's argument has it. Errors: it is neither.
  public init(argument: String, of selector: String) throws(ConfigurationError) {
    let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    // RFC 9110 §5.6.2: what names of headers and cookies are made of.
    let isName =
      parts.count == 2 && !parts[1].isEmpty && parts[1].utf8.count <= 255
      && parts[1].utf8.allSatisfy { byte in
        byte > 0x20 && byte < 0x7F && !"()<>@,;:\\\"/[]?={}".utf8.contains(byte)
      }
    switch parts.first {
    case "header" where isName: self = .header(parts[1].lowercased())
    case "cookie" where isName: self = .cookie(String(parts[1]))
    default:
      throw ConfigurationError(
        "selector \(selector): found \"\(argument)\", expected header=NAME or cookie=NAME, such as \(selector):header=X-User"
      )
    }
  }
}

extension NodeFilter {
  /// Bytes and conditions that `X-Micro-Select` may have.
  package static let headerMax = 1024
  package static let conditionsMax = 16

  /// Of `version=v2, region=eu`: `version` and `endpoint` mean those, everything else is a label. Errors: it is no such
  /// list, or too long.
  package init(header: UnsafeRawBufferPointer) throws(SidecarError) {
    self.init()
    guard header.count <= Self.headerMax else { throw Self.malformed("has more than \(Self.headerMax) bytes") }
    guard let text = String(validating: header, as: UTF8.self) else { throw Self.malformed("is not UTF-8") }
    var keys: Set<String> = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      let condition = Self.trimmed(part)
      guard let equals = condition.firstIndex(of: "=") else { throw Self.malformed("has a part that is no key=value") }
      let key = String(Self.trimmed(condition[..<equals]))
      let value = String(Self.trimmed(condition[condition.index(after: equals)...]))
      guard !key.isEmpty, !value.isEmpty else { throw Self.malformed("has a part that is no key=value") }
      guard keys.insert(key).inserted else { throw Self.malformed("has a key twice") }
      guard keys.count <= Self.conditionsMax else {
        throw Self.malformed("has more than \(Self.conditionsMax) conditions")
      }
      switch key {
      case "version": version = value
      case "endpoint": endpoint = value
      default: labels.append(Label(key, value))
      }
    }
    labels.sort { ($0.key, $0.value) < ($1.key, $1.value) }
  }

  private static func trimmed(_ text: Substring) -> Substring {
    var text = text
    while text.first == " " || text.first == "\t" { text.removeFirst() }
    while text.last == " " || text.last == "\t" { text.removeLast() }
    return text
  }

  private static func malformed(_ what: String) -> SidecarError {
    SidecarError(
      .badRequest, "X-Micro-Select \(what); expected conditions such as version=v2, region=eu")
  }

  /// Nodes that match both. Contradicting ones match none.
  package mutating func narrow(by other: NodeFilter) {
    if other.isEmpty { return }
    if isEmpty {
      self = other
      return
    }
    if let version = other.version {
      if self.version != nil, self.version != version { isContradictory = true }
      self.version = version
    }
    if let endpoint = other.endpoint {
      if self.endpoint != nil, self.endpoint != endpoint { isContradictory = true }
      self.endpoint = endpoint
    }
    if other.isContradictory { isContradictory = true }
    labels += other.labels.filter { !labels.contains($0) }
    labels.sort { ($0.key, $0.value) < ($1.key, $1.value) }
  }
}
