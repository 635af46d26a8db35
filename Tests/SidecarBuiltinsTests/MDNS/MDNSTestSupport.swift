import Foundation
import SidecarCore
import SidecarUV
import Synchronization
import Testing

@testable import SidecarBuiltins

/// Collects log lines.
final class LogCollector: LogSink {
  let lines = Mutex<[String]>([])
  var level: LogLevel { .debug }
  func log(_ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]) {
    let line = "\(level) \(message()) \(fields().map { "\($0)=\($1)" }.joined(separator: " "))"
    lines.withLock { $0.append(line) }
  }
  var text: String { lines.withLock { $0.joined(separator: "\n") } }
}

/// A registry on a loop of its own, as a process would have it.
struct RegistryProcess: Sendable {
  let registry: MDNSRegistry
  let log = LogCollector()
  private let thread: UVThread

  init(_ options: MDNSOptions) throws {
    let made = Mutex<MDNSRegistry?>(nil)
    let ready = DispatchSemaphore(value: 0)
    let log = log
    thread = try UVThread.start(name: "registry") { driver in
      made.withLock { $0 = MDNSRegistry(PluginEnvironment(driver: driver, log: log), options) }
      ready.signal()
    }
    ready.wait()
    registry = made.withLock { $0! }
  }

  func stop() async {
    await registry.close()
    kill()
  }

  /// Ends the loop without a word to anyone, as a crash does.
  func kill() {
    thread.stop()
    thread.join()
  }
}

/// A folder that goes away with the test.
final class TemporaryFolder: Sendable {
  let path: String
  init() throws {
    path = NSTemporaryDirectory() + "mdns-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    try FileManager.default.setAttributes([.posixPermissions: 0o700], ofItemAtPath: path)
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }
}

func makeService(
  _ name: String, id: String = "1", address: String = "127.0.0.1:9000", version: String = "latest",
  metadata: [String: String] = ["protocol": "mucp"], serviceMetadata: [String: String] = [:]
) -> Service {
  Service(
    name: name, version: version, metadata: serviceMetadata,
    endpoints: [
      Endpoint(name: "Say.Hello", request: Value(name: "Request", type: "Request"), metadata: ["stream": "false"])
    ],
    nodes: [Node(id: "\(name)-\(id)", address: address, metadata: metadata)])
}

/// A service name that no other test and no other run uses.
func uniqueName(_ base: String = "srv") -> String { "test.\(base)-\(String(UInt64.random(in: 0 ... .max), radix: 36))" }

/// What a watch reports, to wait for.
actor EventLog {
  private(set) var events: [RegistryEvent] = []
  private var waiters: [(@Sendable ([RegistryEvent]) -> Bool, CheckedContinuation<Void, Never>)] = []

  func append(_ event: RegistryEvent) {
    events.append(event)
    let met = waiters.filter { $0.0(events) }
    waiters.removeAll { $0.0(events) }
    for waiter in met { waiter.1.resume() }
  }

  func wait(until condition: @escaping @Sendable ([RegistryEvent]) -> Bool) async {
    if condition(events) { return }
    await withCheckedContinuation { waiters.append((condition, $0)) }
  }
}

/// As the system says it, without a domain.
func hostName() -> String {
  var name = [CChar](repeating: 0, count: 256)
  guard gethostname(&name, name.count - 1) == 0 else { return "" }
  return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
