// The types a setting's value can have: how each is read, what to say when it cannot be, and how it is printed.

/// A value as its source gives it, before it has a type.
package enum RawSetting: Sendable, Equatable {
  /// From a flag, the environment, or a scalar of a file.
  case text(String)
  /// A sequence of scalars of a file.
  case list([String])
  /// A mapping of scalars of a file.
  case map([Pair])

  package struct Pair: Sendable, Equatable {
    package var key: String
    package var value: String
    package init(_ key: String, _ value: String) {
      self.key = key
      self.value = value
    }
  }
}

/// A value is not of its setting's kind; `expected` completes "expected …".
package struct SettingMismatch: Error, Equatable, Sendable {
  package var expected: String
  package init(_ expected: String) { self.expected = expected }
}

/// One type of setting. Closures rather than a protocol, so that a kind can be made with bounds and combined.
package struct SettingKind<Value: Sendable>: Sendable {
  /// Completes "expected …"; the same words stand in the help.
  package let expected: String
  /// Takes more than one value: a flag given again adds to what it had, where others take the last.
  package let isList: Bool
  /// What a file's value looks like.
  package let shape: SettingShape
  package let parse: @Sendable (RawSetting) throws(SettingMismatch) -> Value
  /// What `parse` reads back to the same value; nil when there is no value.
  package let format: @Sendable (Value) -> String?

  init(
    _ expected: String, isList: Bool = false, shape: SettingShape = .text,
    parse: @escaping @Sendable (RawSetting) throws(SettingMismatch) -> Value,
    format: @escaping @Sendable (Value) -> String?
  ) {
    self.expected = expected
    self.isList = isList
    self.shape = shape
    self.parse = parse
    self.format = format
  }

  /// A kind written as one text; `read` gives nil for what is not of the kind.
  static func scalar(
    _ expected: String, shape: SettingShape = .text, format: @escaping @Sendable (Value) -> String?,
    read: @escaping @Sendable (String) -> Value?
  ) -> SettingKind {
    SettingKind(
      expected, shape: shape,
      parse: { (raw) throws(SettingMismatch) in
        guard case .text(let text) = raw, let value = read(text) else { throw SettingMismatch(expected) }
        return value
      },
      format: format)
  }

  /// The same kind with a value that may be missing; an empty text is no value.
  var optional: SettingKind<Value?> {
    SettingKind<Value?>(
      expected, isList: isList, shape: shape == .text ? .text : .either([shape, .pattern("^$")]),
      parse: { (raw) throws(SettingMismatch) in raw == .text("") ? nil : try self.parse(raw) },
      format: { $0.flatMap(self.format) })
  }
}

// MARK: Texts and numbers

extension SettingKind<String> {
  /// Text of at most 1024 bytes without control characters.
  static var text: SettingKind {
    .scalar("text of at most 1024 bytes", format: { $0 }, read: { isPrintable($0, upTo: 1024) ? $0 : nil })
  }

  /// A service's name, or a part of one. It becomes a path segment and a DNS label, so white space and `/` are refused.
  static var name: SettingKind {
    .scalar(
      "a name of at most 255 bytes without spaces and slashes, such as go.micro.srv.greeter",
      shape: .pattern("^[^ /]{1,255}$"), format: { $0 },
      read: { text in
        isPrintable(text, upTo: 255) && !text.utf8.contains { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "/") }
          ? text : nil
      })
  }

  /// `host:port`, `[v6]:port` or a bare host: what is written into a registry.
  static var advertised: SettingKind {
    .scalar(
      "a host or host:port that other services can dial, such as 10.0.0.5:9090", format: { $0 },
      read: { text in
        if SocketAddress.splitHostPort(text) != nil { return Destination(text).map { _ in text } }
        return Destination(text + ":1") != nil || SocketAddress(host: text, port: 1) != nil ? text : nil
      })
  }

  /// A literal IP address.
  static var ipAddress: SettingKind {
    .scalar("an IP address", format: { $0 }, read: { SocketAddress(host: $0, port: 0) != nil ? $0 : nil })
  }

  fileprivate static func isPrintable(_ text: String, upTo bytesMax: Int) -> Bool {
    !text.isEmpty && text.utf8.count <= bytesMax && !text.utf8.contains { $0 < 0x20 || $0 == 0x7F }
  }
}

extension SettingKind<Int> {
  static func integer(_ range: ClosedRange<Int>) -> SettingKind {
    .scalar(
      "a whole number from \(range.lowerBound) to \(range.upperBound)", shape: .integer(range), format: { "\($0)" },
      read: { Int($0).flatMap { range.contains($0) ? $0 : nil } })
  }

  static func byteSize(_ range: ClosedRange<Int>) -> SettingKind {
    .scalar(
      "a size from \(ByteSize.format(range.lowerBound)) to \(ByteSize.format(range.upperBound)), such as 4MiB or 65536",
      shape: .size(range), format: { ByteSize.format($0) },
      read: { ByteSize.parse($0).flatMap { range.contains($0) ? $0 : nil } })
  }
}

extension SettingKind<Duration> {
  /// A Go duration. The upper bound keeps a slip of the keyboard from meaning "never".
  static func duration(from least: Duration = .milliseconds(1), upTo most: Duration = .seconds(86_400)) -> SettingKind {
    .scalar(
      "a duration with its unit from \(GoDuration.format(least)) to \(GoDuration.format(most)), such as 25s, 250ms or "
        + "1m30s",
      shape: .duration(allowsZero: least <= .zero), format: { GoDuration.format($0) },
      read: { GoDuration.parse($0).flatMap { $0 >= least && $0 <= most ? $0 : nil } })
  }

  /// go-micro's TTLs are plain numbers of seconds; `90s` says the same and is taken too.
  static func seconds(_ range: ClosedRange<Int>) -> SettingKind {
    .scalar(
      "whole seconds from \(range.lowerBound) to \(range.upperBound), such as 90",
      shape: .either([.integer(range), .duration(allowsZero: false)]), format: { "\($0.components.seconds)" },
      read: { text in
        let duration = Int(text).map { Duration.seconds($0) } ?? GoDuration.parse(text)
        guard let duration, duration.components.attoseconds == 0,
          let seconds = Int(exactly: duration.components.seconds), range.contains(seconds)
        else { return nil }
        return duration
      })
  }
}

extension SettingKind where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
  /// One of a few words, letters in any case.
  static var word: SettingKind {
    .scalar(
      Value.allCases.map(\.rawValue).joined(separator: " or "), shape: .words(Value.allCases.map(\.rawValue)),
      format: { $0.rawValue },
      read: { Value(rawValue: $0.lowercased()) })
  }
}

extension SettingKind<LogLevel> {
  /// go-micro's words; its `fatal` shows the same lines as `error`.
  static var logLevel: SettingKind {
    .scalar(
      "trace, debug, info, warn or error", shape: .words(LogLevel.allCases.map(\.word) + ["warning", "fatal"]),
      format: { $0.word },
      read: { text in
        switch text.lowercased() {
        case "warning": .warning
        case "fatal": .error
        case let word: LogLevel.allCases.first { $0.word == word }
        }
      })
  }
}

extension LogLevel {
  /// As go-micro's logger and MICRO_LOG_LEVEL spell it.
  package var word: String {
    switch self {
    case .trace: "trace"
    case .debug: "debug"
    case .info: "info"
    case .warning: "warn"
    case .error: "error"
    }
  }
}

// MARK: Lists

extension SettingKind<[String]> {
  /// Texts with commas between them; white space around each is dropped, empty ones too.
  static func list(of what: String) -> SettingKind {
    SettingKind(
      "a comma-separated list of \(what)", isList: true, shape: .list,
      parse: { (raw) throws(SettingMismatch) in
        switch raw {
        case .text(let text): SettingText.split(text)
        case .list(let elements): elements
        case .map: throw SettingMismatch("a comma-separated list of \(what)")
        }
      },
      format: { $0.isEmpty ? nil : $0.joined(separator: ",") })
  }
}

extension SettingKind<[PluginChoice]> {
  static var plugins: SettingKind {
    let names = SettingKind<[String]>.list(
      of: "registries, each a name or name:argument, such as mdns,file:services.yaml")
    return SettingKind(
      names.expected, isList: true, shape: .list,
      parse: { (raw) throws(SettingMismatch) in
        let choices = try names.parse(raw).map { PluginChoice($0) }
        guard !choices.isEmpty, choices.allSatisfy({ !$0.name.isEmpty }) else { throw SettingMismatch(names.expected) }
        return choices
      },
      format: { $0.map(\.description).joined(separator: ",") })
  }
}

extension SettingKind<[BridgeChoice]> {
  static var bridges: SettingKind {
    let pairs = SettingKind<[String]>.list(
      of: "source->target, two names of MICRO_REGISTRY, such as consul->kubernetes")
    return SettingKind(
      pairs.expected, isList: true, shape: .list,
      parse: { (raw) throws(SettingMismatch) in
        try pairs.parse(raw).map { text throws(SettingMismatch) in
          guard let bridge = BridgeChoice(text) else { throw SettingMismatch(pairs.expected) }
          return bridge
        }
      },
      format: { $0.isEmpty ? nil : $0.map(\.description).joined(separator: ",") })
  }
}

extension SettingKind<[String: String]> {
  /// `key=value` pairs with commas between them, or a mapping in a file. Cut at the first `=`, as go-micro does; a pair
  /// without one is refused, where go-micro drops it silently.
  static var pairs: SettingKind {
    let expected = "comma-separated key=value pairs, such as zone=a,team=payments"
    return SettingKind(
      expected, isList: true, shape: .pairs,
      parse: { (raw) throws(SettingMismatch) in
        var pairs: [String: String] = [:]
        func add(_ key: String, _ value: String) throws(SettingMismatch) {
          guard !key.isEmpty else { throw SettingMismatch(expected) }
          if pairs.updateValue(value, forKey: key) != nil { throw SettingMismatch(expected + ", each key once") }
        }
        func add(_ element: String) throws(SettingMismatch) {
          guard let equals = element.firstIndex(of: "=") else { throw SettingMismatch(expected) }
          try add(
            SettingText.trimmed(element[..<equals]), SettingText.trimmed(element[element.index(after: equals)...]))
        }
        switch raw {
        case .text(let text): for element in SettingText.split(text) { try add(element) }
        case .list(let elements): for element in elements { try add(element) }
        case .map(let members): for member in members { try add(member.key, member.value) }
        }
        return pairs
      },
      format: { pairs in
        pairs.isEmpty
          ? nil : pairs.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }.joined(separator: ",")
      })
  }
}

package enum SettingText {
  package static func trimmed(_ text: some StringProtocol) -> String {
    func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte &- 0x09 < 5 }
    var bytes = Array(text.utf8)[...]
    while let first = bytes.first, isSpace(first) { bytes.removeFirst() }
    while let last = bytes.last, isSpace(last) { bytes.removeLast() }
    return String(decoding: bytes, as: UTF8.self)
  }

  package static func split(_ text: String) -> [String] {
    text.split(separator: ",").map { trimmed($0) }.filter { !$0.isEmpty }
  }
}

// MARK: Addresses

extension SettingKind<SocketAddress> {
  private static var listenPattern: String { "^(unix:.+|.*:[0-9]{1,5})$" }

  /// Where to listen. `localhost` is 127.0.0.1 without a lookup.
  static var listenAddress: SettingKind {
    .scalar(
      "an address to listen on: host:port with an IP address, :port or unix:/path", shape: .pattern(listenPattern),
      format: { $0.description },
      read: { text in
        if let address = SocketAddress(text) { return address }
        guard let (host, port) = SocketAddress.splitHostPort(text), host.lowercased() == "localhost" else { return nil }
        return .loopback(port: port)
      })
  }
}

extension SettingKind<SocketAddress?> {
  /// Where to listen, or `off`.
  static var listenAddressOrOff: SettingKind {
    let address = SettingKind<SocketAddress>.listenAddress
    return SettingKind(
      address.expected + "; or off", shape: .either([.words(["off"]), address.shape]),
      parse: { (raw) throws(SettingMismatch) in
        if case .text(let text) = raw, ["off", "false"].contains(text.lowercased()) { return nil }
        guard let value = try? address.parse(raw) else { throw SettingMismatch(address.expected + "; or off") }
        return value
      },
      format: { $0?.description ?? "off" })
  }
}

extension SettingKind<Destination> {
  static var destination: SettingKind {
    .scalar(
      "an address to dial: host:port or unix:/path, without http://",
      shape: .pattern("^(unix:.+|(?!https?://).*:[0-9]{1,5})$"), format: { $0.description },
      read: { Destination($0) })
  }
}

extension SettingKind<AppHealthCheck> {
  static var healthCheck: SettingKind {
    .scalar(
      "a path on the app such as /healthz, a URL such as http://127.0.0.1:9090/healthz, or grpc",
      format: { $0.description },
      read: { AppHealthCheck($0) })
  }
}
