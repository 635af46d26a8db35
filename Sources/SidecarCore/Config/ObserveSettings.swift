// The kinds of settings that say what is watched and where that goes.

/// Where a log goes.
package enum LogDestination: Hashable, Sendable, CustomStringConvertible {
  case standardOutput, standardError
  case file(String)

  package var description: String {
    switch self {
    case .standardOutput: "stdout"
    case .standardError: "stderr"
    case .file(let path): path
    }
  }
}

/// The URL of a collector, in its parts.
package struct TraceEndpoint: Hashable, Sendable, CustomStringConvertible {
  package var isTLS: Bool
  package var host: String
  package var port: UInt16
  /// Empty, or begins with a slash.
  package var path: String

  package init?(_ text: String) {
    let lower = text.lowercased()
    guard lower.hasPrefix("http://") || lower.hasPrefix("https://") else { return nil }
    isTLS = lower.hasPrefix("https://")
    let rest = text.dropFirst(isTLS ? 8 : 7)
    let slash = rest.firstIndex(of: "/") ?? rest.endIndex
    let authority = String(rest[..<slash])
    path = String(rest[slash...])
    guard !authority.isEmpty, !authority.contains("@"),
      !text.utf8.contains(where: { $0 <= 0x20 || $0 == 0x7F || $0 == UInt8(ascii: "#") || $0 == UInt8(ascii: "?") })
    else { return nil }
    if let (host, port) = SocketAddress.splitHostPort(authority), port != 0 {
      (self.host, self.port) = (host, port)
    } else if Destination(authority + ":1") != nil {
      host = authority.hasPrefix("[") ? String(authority.dropFirst().dropLast()) : authority
      port = isTLS ? 443 : 80
    } else {
      return nil
    }
  }

  package var description: String {
    (isTLS ? "https://" : "http://") + (host.contains(":") ? "[\(host)]" : host) + ":\(port)" + path
  }
}

extension SettingKind<LogDestination> {
  static var logDestination: SettingKind {
    .scalar(
      "stdout, stderr or the path of a file", format: { $0.description },
      read: { text in
        switch text.lowercased() {
        case "stdout": .standardOutput
        case "stderr": .standardError
        default: text.utf8.contains { $0 < 0x20 || $0 == 0x7F } || text.utf8.count > 1024 ? nil : .file(text)
        }
      })
  }
}

extension SettingKind<AccessLogFormat> {
  static var accessLogFormat: SettingKind {
    .scalar(
      "text, json, or a template with fields in braces such as \"{time} {service} {status}\"; fields: "
        + AccessLogField.allCases.map(\.rawValue).joined(separator: ", "),
      format: { $0.description }, read: { AccessLogFormat($0) })
  }
}

extension SettingKind<TraceEndpoint> {
  static var traceEndpoint: SettingKind {
    .scalar(
      "a URL such as http://127.0.0.1:4318/v1/traces", shape: .pattern("^[hH][tT][tT][pP][sS]?://[^ #?@]+$"),
      format: { $0.description }, read: { TraceEndpoint($0) })
  }
}

extension SettingKind<Double> {
  static var share: SettingKind {
    .scalar(
      "a number from 0 to 1, such as 0.01", shape: .number(0...1), format: { $0 == 1 ? "1" : $0 == 0 ? "0" : "\($0)" },
      read: { Double($0).flatMap { $0 >= 0 && $0 <= 1 ? $0 : nil } })
  }
}
