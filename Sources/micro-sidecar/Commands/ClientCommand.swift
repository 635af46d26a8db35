// The commands that ask: they talk to the sidecar that runs here; where none does they start one of their own inside
// this process, on a port of its own, for as long as the question takes.

import SidecarBuiltins
import SidecarCore
import SidecarUV

/// Runs one asking command. Threading: its own loop, on the calling thread.
final class ClientCommand: @unchecked Sendable {
  /// Nanoseconds beyond the call's own time that an answer may take.
  private static let grace: Int64 = 2_000_000_000

  private let command: Command
  private let output: OutputFormat
  let settings: Settings
  let plugins: PluginTable
  private(set) var code = ExitCode.ok

  init(_ command: Command, _ output: OutputFormat, _ settings: Settings, _ plugins: PluginTable) {
    self.command = command
    self.output = output
    self.settings = settings
    self.plugins = plugins
  }

  func run() -> Int32 {
    runOnLoop { [self] driver in
      await carryOut(driver)
      return code
    }.rawValue
  }

  private func carryOut(_ driver: UVDriver) async {
    if case .tap(let filters) = command {
      let failure = await TapCommand(settings, output, driver).run(filters)
      if let failure {
        Terminal.error(failure + "\n")
        code = .unavailable
      }
      return
    }
    if command == .doctor {
      let findings = await Doctor(settings: settings, plugins: plugins, driver: driver).examine()
      Terminal.print(Formats.findings(findings, output, Terminal.style))
      code = findings.contains { $0.verdict == .problem } ? .failed : .ok
      return
    }
    do throws(LocalFailure) {
      switch command {
      case .register(let service): return try await register(service, driver)
      case .deregister(let service): return try await deregister(service, driver)
      default: break
      }
      let peer = try await SidecarPeer.find(settings, plugins, driver)
      try await ask(peer)
      await peer.close()
    } catch {
      Terminal.error("\(error.message)\n")
      code = .unavailable
    }
  }

  private func ask(_ peer: SidecarPeer) async throws(LocalFailure) {
    switch command {
    case .listServices:
      let reply = try await peer.send("GET", "/registry")
      guard let list = JSONValue.parsed(reply.body)?.arrayValue else { return fail(reply) }
      Terminal.print(Formats.services(list.compactMap { $0["name"]?.stringValue }, output))
    case .getService(let name):
      guard let versions = try await versions(of: name, peer) else { return }
      Terminal.print(Formats.service(versions, output))
    case .call(let call): try await self.call(call, peer)
    case .health(let service?, let address): try await health(service, address, peer)
    case .health(nil, _):
      let reply = try await peer.send("GET", "/health")
      let isHealthy = reply.status == 200
      let status = isHealthy ? "ok" : String(decoding: reply.body, as: UTF8.self).trimmingLineEnd
      Terminal.print(Formats.health(status: status, isHealthy: isHealthy, output, Terminal.style))
      code = isHealthy ? .ok : .failed
    case .explain(let service, let endpoint): try await explain(service, endpoint, peer)
    case .serve, .run, .tap, .register, .deregister, .doctor, .ready, .drain, .restart, .injector, .config,
      .checkConfig,
      .completion, .manual, .version, .help:
      break
    }
  }

  func fail(_ reply: LocalReply) { fail(String(decoding: reply.body, as: UTF8.self).trimmingLineEnd) }

  func fail(_ message: String) {
    Terminal.error(message + "\n")
    code = .failed
  }

  private func versions(of name: ServiceName, _ peer: SidecarPeer) async throws(LocalFailure) -> [Service]? {
    let reply = try await peer.send("GET", "/registry?service=" + percentEncode(name))
    guard reply.status == 200, let list = JSONValue.parsed(reply.body)?.arrayValue else {
      fail(reply)
      return nil
    }
    var services: [Service] = []
    for value in list {
      do throws(WireError) { services.append(try Service(json: value)) } catch {
        throw LocalFailure(message: "the registry's answer cannot be read: \(error)")
      }
    }
    return services
  }

  private func call(_ call: CallArguments, _ peer: SidecarPeer) async throws(LocalFailure) {
    let reply = try await rpc(call.service, call.endpoint, call.request, call.address, call.metadata, peer)
    if reply.status == 200 {
      Terminal.print(Formats.reply(reply.body, output))
    } else {
      let error = reply.body.withUnsafeBytes { MicroError(parsing: $0) }
      Terminal.print(Formats.failure(call, error, output))
      code = .failed
    }
  }

  private func rpc(
    _ service: ServiceName, _ endpoint: String, _ request: String, _ address: String?, _ metadata: [FlagValue],
    _ peer: SidecarPeer
  ) async throws(LocalFailure) -> LocalReply {
    var body = "{\"service\":\(quoted(service)),\"endpoint\":\(quoted(endpoint)),\"request\":\(request)"
    if let address { body += ",\"address\":\(quoted(address))" }
    body += "}"
    return try await peer.send(
      "POST", "/rpc", fields: [("Content-Type", "application/json")] + metadata.map { ($0.flag, $0.value) },
      body: Array(body.utf8), timeout: settings.requestTimeout.saturatingNanoseconds + Self.grace)
  }

  private func explain(_ service: ServiceName, _ endpoint: String, _ peer: SidecarPeer) async throws(LocalFailure) {
    // A path as a call would have it, or names.
    let query =
      service.hasPrefix("/")
      ? "path=" + percentEncode(service) : "service=\(percentEncode(service))&endpoint=\(percentEncode(endpoint))"
    let reply = try await peer.send("GET", "/explain?" + query)
    guard reply.status == 200, let explanation = JSONValue.parsed(reply.body) else { return fail(reply) }
    Terminal.print(Formats.explanation(explanation, output, Terminal.style))
  }

  /// Asks Debug.Health of every node, all at once.
  private func health(_ service: ServiceName, _ address: String?, _ peer: SidecarPeer) async throws(LocalFailure) {
    var asked: [(version: String, node: Node)] = []
    if let address {
      asked = [("", Node(id: address, address: address))]
    } else {
      guard let versions = try await versions(of: service, peer) else { return }
      for version in versions { asked += version.nodes.map { (version.version, $0) } }
    }
    var nodes: [Formats.NodeHealth] = []
    for (version, node) in asked {
      let reply = try await rpc(service, "Debug.Health", "{}", node.address, [], peer)
      let status = JSONValue.parsed(reply.body)?["status"]?.stringValue
      let isHealthy = reply.status == 200 && status == "ok"
      let detail = JSONValue.parsed(reply.body)?["detail"]?.stringValue ?? "status \(reply.status)"
      nodes.append(
        Formats.NodeHealth(
          version: version, id: node.id, address: node.address,
          status: isHealthy ? "ok" : reply.status == 200 ? status ?? "no status" : detail, isHealthy: isHealthy))
    }
    Terminal.print(Formats.health(service: service, nodes, output, Terminal.style))
    if nodes.isEmpty || nodes.contains(where: { !$0.isHealthy }) { code = .failed }
  }

  private func quoted(_ text: String) -> String {
    let buffer = ByteBuffer()
    JSONValue.string(text).write(into: buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }
}

/// Unreserved bytes of a URL as they are, all others as `%XX` (RFC 3986 §2).
func percentEncode(_ text: String) -> String {
  text.utf8.map { byte in
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
      UInt8(ascii: "~"):
      String(Unicode.Scalar(byte))
    default:
      "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
    }
  }.joined()
}

/// A value that stays on one loop, carried through code that the compiler cannot place there.
struct LoopValue<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}

extension JSONValue {
  static func parsed(_ bytes: [UInt8]) -> JSONValue? { try? JSONValue(parsing: bytes) }
}

extension String {
  var trimmingLineEnd: String { hasSuffix("\n") ? String(dropLast()) : self }
}
