/// What a plug-in may use of its surroundings. A plug-in opens no sockets and reads no clock itself.
///
/// Threading: made on the control loop; `driver` must be touched only there. `executor` runs a plug-in's `async` code on
/// that loop, so code under it may use `driver` directly.
public struct PluginEnvironment: @unchecked Sendable {
  public let driver: any HostDriver
  public let log: any LogSink
  /// This plug-in's own settings: what follows the colon of `file:services.yaml`, and the address list.
  public let argument: String?
  public let addresses: [String]
  /// Takes note of certificates that a plug-in uses.
  package var certificates = CertificateTable()

  public init(driver: any HostDriver, log: any LogSink, argument: String? = nil, addresses: [String] = []) {
    self.driver = driver
    self.log = log
    self.argument = argument
    self.addresses = addresses
  }
}

public enum LogLevel: Int, Comparable, Sendable, CaseIterable {
  case trace, debug, info, warning, error
  public static func < (a: LogLevel, b: LogLevel) -> Bool { a.rawValue < b.rawValue }
}

/// Takes log lines. Any thread. A line is a sentence and fields; lines above the configured level cost one comparison.
public protocol LogSink: Sendable {
  var level: LogLevel { get }
  func log(_ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)])
}

extension LogSink {
  public func error(_ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)] = []) {
    log(.error, message(), fields())
  }
  public func warning(_ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)] = []) {
    log(.warning, message(), fields())
  }
  public func info(_ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)] = []) {
    log(.info, message(), fields())
  }
  public func debug(_ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)] = []) {
    log(.debug, message(), fields())
  }
}

/// Drops every line.
public struct NoLog: LogSink {
  public init() {}
  public var level: LogLevel { .error }
  public func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {}
}
