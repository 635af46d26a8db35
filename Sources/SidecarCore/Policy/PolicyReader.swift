// Reads trees of configuration strictly: what is not known, of the wrong type or out of range is noted with its place, and
// reading goes on, so that everything wrong is said at once.

/// One thing that is wrong in the policies.
package struct PolicyProblem: Hashable, Sendable, CustomStringConvertible {
  /// As in `policies[2].limits.pending`.
  package var place: String
  /// A sentence without a full stop.
  package var message: String
  package var description: String { "\(place): \(message)" }
}

/// A field as the parser asks for it.
package struct PolicyField: Sendable {
  package enum Form: Sendable {
    case value(SettingShape, expected: String)
    /// A mapping, or one of `words` in its place.
    case mapping(words: [String])
    /// A list, or one of `words` in its place.
    case list(limit: Int, words: [String])
    /// A mapping of texts.
    case texts
  }
  /// As in `policies[0].limits.pending`; every list has one element.
  package var place: String
  package var form: Form
  package var isRequired = false
}

/// Collects what is wrong; or, for the schema and the reference, what is asked for: then every mapping and list is there
/// and holds nothing, and each question is noted.
final class PolicyComplaints {
  /// Beyond these a file is no configuration, and nobody reads more.
  static let countMax = 100
  private(set) var list: [PolicyProblem] = []
  /// Nil: problems are collected.
  private(set) var fields: [PolicyField]?

  init(describing: Bool = false) { fields = describing ? [] : nil }

  /// Whether the question was noted rather than to be answered.
  func note(_ place: String, _ form: PolicyField.Form, isRequired: Bool = false) -> Bool {
    if fields == nil { return false }
    fields?.append(PolicyField(place: place, form: form, isRequired: isRequired))
    return true
  }

  func add(_ place: String, _ message: String) {
    guard list.count < Self.countMax else { return }
    list.append(PolicyProblem(place: place, message: message))
  }

  /// Values end up on terminals and in logs.
  static func quoted(_ text: String) -> String {
    let shown = text.unicodeScalars.prefix(120).map { $0.value < 0x20 || $0.value == 0x7F ? "\u{FFFD}" : Character($0) }
    return "\"\(String(shown))\""
  }

  static func shown(_ value: JSONValue) -> String {
    switch value {
    case .null: "nothing"
    case .bool(let value): value ? "true" : "false"
    case .number(let digits): quoted(digits)
    case .string(let text): quoted(text)
    case .array: "a list"
    case .object: "a mapping"
    }
  }
}

/// One mapping, read key by key; `close` names the keys that nobody asked for. A key of the value null is as good as none.
struct PolicyReader {
  let place: String
  let complaints: PolicyComplaints
  private let members: [JSONValue.Member]
  private var asked: Set<String> = []

  /// Nil, and a complaint, for what is no mapping.
  init?(_ value: JSONValue, at place: String, _ complaints: PolicyComplaints) {
    self.place = place
    self.complaints = complaints
    if complaints.note(place, .mapping(words: [])) {
      members = []
      return
    }
    guard case .object(let members) = value else {
      complaints.add(place, "found \(PolicyComplaints.shown(value)), expected a mapping")
      return nil
    }
    self.members = members
    var seen: Set<String> = []
    for member in members where !seen.insert(Setting.folded(member.key)).inserted {
      complaints.add("\(place).\(member.key)", "is there twice")
    }
  }

  func placeOf(_ key: String) -> String { place.isEmpty ? key : "\(place).\(key)" }

  func complain(_ key: String, _ message: String) { complaints.add(placeOf(key), message) }

  mutating func member(_ key: String) -> JSONValue? {
    asked.insert(key)
    guard let value = members.first(where: { Setting.folded($0.key) == key })?.value, value != .null else { return nil }
    return value
  }

  /// The value of `key`; nil when there is none, or, with a complaint, when it is not of its kind.
  mutating func value<Value>(_ key: String, _ kind: SettingKind<Value>) -> Value? {
    if complaints.note(placeOf(key), .value(kind.shape, expected: kind.expected)) { return nil }
    return member(key).flatMap { read($0, kind, at: placeOf(key)) }
  }

  /// The same for a key that must be there; `missing` completes "is missing".
  mutating func required<Value>(_ key: String, _ kind: SettingKind<Value>, _ missing: String = "") -> Value? {
    if complaints.note(placeOf(key), .value(kind.shape, expected: kind.expected), isRequired: true) { return nil }
    if member(key) == nil { complain(key, "is missing" + missing) }
    return value(key, kind)
  }

  func read<Value>(_ value: JSONValue, _ kind: SettingKind<Value>, at place: String) -> Value? {
    if complaints.note(place, .value(kind.shape, expected: kind.expected)) { return nil }
    let raw: RawSetting?
    switch value {
    case .null: raw = nil
    case .bool(let value): raw = .text(value ? "true" : "false")
    case .number(let digits): raw = .text(digits)
    case .string(let text): raw = .text(text)
    case .array, .object: raw = nil
    }
    guard let raw, let parsed = try? kind.parse(raw) else {
      complaints.add(place, "found \(PolicyComplaints.shown(value)), expected \(kind.expected)")
      return nil
    }
    return parsed
  }

  /// The mapping of `key`, or what a lone word stands for.
  enum Part {
    case absent
    case mapping(PolicyReader)
    case word(String)
  }

  /// `words`: what may stand instead of a mapping. YAML's `off` and `false` are both `off`.
  mutating func part(_ key: String, words: [String] = ["off"]) -> Part {
    if complaints.note(placeOf(key), .mapping(words: words)) {
      return PolicyReader(.null, at: placeOf(key), complaints).map { .mapping($0) } ?? .absent
    }
    guard let value = member(key) else { return .absent }
    var word: String?
    switch value {
    case .bool(false): word = "off"
    case .string(let text): word = text.lowercased()
    case .null, .bool, .number, .array, .object: break
    }
    if let word, words.contains(word) { return .word(word) }
    guard case .object = value, let reader = PolicyReader(value, at: placeOf(key), complaints) else {
      complain(key, "found \(PolicyComplaints.shown(value)), expected a mapping or \(words.joined(separator: " or "))")
      return .absent
    }
    return .mapping(reader)
  }

  /// The elements of the list of `key` with their places; nil when there is none. `words`: what the caller takes instead.
  mutating func list(
    _ key: String, upTo limit: Int, of what: String, words: [String] = []
  ) -> [(value: JSONValue, place: String)]? {
    if complaints.note(placeOf(key), .list(limit: limit, words: words)) { return [(.null, placeOf(key) + "[0]")] }
    guard let value = member(key) else { return nil }
    guard case .array(let elements) = value else {
      complain(key, "found \(PolicyComplaints.shown(value)), expected a list of \(what)")
      return nil
    }
    guard elements.count <= limit else {
      complain(key, "found a list of \(elements.count), expected at most \(limit) \(what)")
      return nil
    }
    return elements.enumerated().map { ($1, "\(placeOf(key))[\($0)]") }
  }

  /// Keys and texts of the mapping of `key`.
  mutating func texts(_ key: String) -> [(key: String, value: String)]? {
    if complaints.note(placeOf(key), .texts) { return nil }
    guard let value = member(key) else { return nil }
    guard case .object(let members) = value else {
      complain(key, "found \(PolicyComplaints.shown(value)), expected a mapping of texts")
      return nil
    }
    return members.compactMap { member in
      read(member.value, .text, at: "\(placeOf(key)).\(member.key)").map { (member.key, $0) }
    }
  }

  /// Keys that belong elsewhere, and why they are refused here.
  mutating func refuse(_ keys: [String], _ why: String) {
    for key in keys where member(key) != nil { complain(key, why) }
  }

  /// Nothing more is asked.
  func close() {
    for member in members where !asked.contains(Setting.folded(member.key)) {
      let near = NearestName.of(member.key, among: asked).map { "; did you mean \($0)?" } ?? ""
      complain(member.key, "no such field\(near)")
    }
  }
}

// MARK: Kinds that only policies have

extension SettingKind<Int64> {
  /// A Go duration, in nanoseconds.
  static func nanoseconds(from least: Duration = .milliseconds(1), upTo most: Duration = .seconds(86_400))
    -> SettingKind
  {
    let kind = SettingKind<Duration>.duration(from: least, upTo: most)
    return SettingKind(
      kind.expected, shape: kind.shape,
      parse: { (raw) throws(SettingMismatch) in try kind.parse(raw).saturatingNanoseconds },
      format: { kind.format(.nanoseconds($0)) })
  }
}

extension SettingKind<Double> {
  /// A plain decimal number.
  static func number(_ range: ClosedRange<Double>) -> SettingKind {
    .scalar(
      "a number from \(plain(range.lowerBound)) to \(plain(range.upperBound))", shape: .number(range),
      format: { plain($0) },
      read: { text in decimal(text).flatMap { range.contains($0) ? $0 : nil } })
  }

  /// A part of a whole: `0.2` or `20%`.
  static func share(upTo most: Double = 1) -> SettingKind {
    .scalar(
      "a share from 0 to \(plain(most)), such as 0.2 or 20%", shape: .share(upTo: most), format: { plain($0) },
      read: { text in
        let number = text.hasSuffix("%") ? decimal(text.dropLast()).map { $0 / 100 } : decimal(text)
        return number.flatMap { $0 >= 0 && $0 <= most ? $0 : nil }
      })
  }

  private static func decimal(_ text: some StringProtocol) -> Double? {
    guard text.utf8.count <= 24, text.utf8.allSatisfy({ DecimalNumber.isDigit($0) || $0 == UInt8(ascii: ".") }) else {
      return nil
    }
    return Double(text)
  }

  private static func plain(_ number: Double) -> String {
    let text = "\(number)"
    return text.hasSuffix(".0") ? String(text.dropLast(2)) : text
  }
}

extension SettingKind<Bool> {
  static var flag: SettingKind {
    .scalar(
      "true or false", shape: .flag, format: { $0 ? "true" : "false" },
      read: { $0 == "true" ? true : $0 == "false" ? false : nil })
  }
}

extension SettingKind<Wildcard> {
  /// A name in which `*` stands for any text.
  static var wildcard: SettingKind {
    let name = SettingKind<String>.name
    return SettingKind(
      "a name, in which * stands for any text", shape: name.shape,
      parse: { (raw) throws(SettingMismatch) in Wildcard(try name.parse(raw)) }, format: { $0.pattern })
  }
}

extension SettingKind<CallPriority> {
  static var priority: SettingKind {
    .scalar(
      CallPriority.allCases.map(\.word).joined(separator: ", "), shape: .words(CallPriority.allCases.map(\.word)),
      format: { $0.word },
      read: { CallPriority(word: $0.lowercased()) })
  }
}
