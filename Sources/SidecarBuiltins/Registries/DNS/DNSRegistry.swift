// The `dns` registry: services found by SRV records, or by A and AAAA records and a known port. It can only be read.
//
//   dns:10.0.0.2+10.0.0.3:5353?domain=service.consul
//   dns:?query=_http._tcp.{service}.shop.svc.cluster.local      another name for SRV than _{service}._tcp.{domain}
//   dns:?domain=internal&port=8080                              where there is no SRV: addresses of {service}.internal
//
// DNS cannot list what is there, nor tell of changes. So a name is known from the first look-up, or because `services`
// names it, and asked again when four fifths of its TTL have passed; what changed is told to the watches. A name that is
// gone is forgotten until somebody looks it up. A service written `host:port` means the addresses of that host, as in
// go-micro's dns selector.

import SidecarCore

/// Threading: the loop of its environment, as all registries.
public final class DNSRegistry: Registry, @unchecked Sendable {
  /// Names asked again and again; further ones are found by look-ups and not watched.
  public static let namesMax = 4096
  /// Names remembered as not there.
  static let negativesMax = 4096
  /// Nodes of one service; DNS messages hold few more.
  static let nodesPerServiceMax = 512

  public let name: String
  public var mayForget: Bool { false }
  private let options: DNSOptions
  private let driver: any HostDriver
  private let log: any LogSink
  private let client: DNSClient
  private let content: WatchedServices
  private let garbage: GarbageLog
  /// When each known name is to be asked again.
  private var due: [ServiceName: Instant] = [:]
  private var negatives: [ServiceName: Instant] = [:]
  private let wake: LoopGate
  private var task: Task<Void, Never>?

  public init(environment: PluginEnvironment) throws(ConfigurationError) {
    driver = environment.driver
    log = environment.log
    options = try DNSOptions(environment)
    name = "dns:" + options.servers.map(\.description).joined(separator: "+")
    client = DNSClient(servers: options.servers, driver: driver, tryNanoseconds: options.tryNanoseconds)
    content = WatchedServices(driver: driver, cause: "no DNS server has answered yet")
    garbage = GarbageLog(registry: name, log: log)
    wake = LoopGate(driver: driver)
    for service in options.services { due[service] = driver.now }
    // Nothing asked for is nothing missing.
    if options.services.isEmpty { content.inSync() }
  }

  deinit { task?.cancel() }

  public var skipped: SkippedEntries { garbage.skipped(with: content) }

  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) { throw .readOnly }
  public func deregister(_ service: Service) async throws(RegistryError) { throw .readOnly }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    start()
    if content.contains(name), content.outage == nil { return content[name] }
    if let until = negatives[name], until > driver.now { throw .notFound(name) }
    do throws(DNSFailure) {
      let found = try await find(name)
      apply(found, of: name)
      if found.nodes.isEmpty { throw DNSFailure(servers: [], isReachable: true) }
      return [service(name, found)]
    } catch {
      if error.servers.isEmpty { throw .notFound(name) }
      throw .unavailable("dns: \(error.description)")
    }
  }

  public func list() async throws(RegistryError) -> [ServiceName] {
    start()
    return content.names
  }

  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    start()
    if case .service(let name) = scope, due[name] == nil, due.count < Self.namesMax {
      due[name] = driver.now
      wake.open()
    }
    try await content.watch(scope, onEvent: onEvent)
  }

  /// What a look-up of `name`, or of the domain itself, says of each server.
  func check(_ server: Destination) async -> DNSFailure? {
    let client = DNSClient(servers: [server], driver: driver, tryNanoseconds: options.tryNanoseconds)
    guard let probe = try? DNSName(options.domain.isEmpty ? "localhost" : options.domain) else { return nil }
    do throws(DNSFailure) {
      _ = try await client.ask(probe, .soa)
      return nil
    } catch {
      return error
    }
  }
  var servers: [Destination] { client.servers }

  // MARK: Asking again

  private func start() {
    guard task == nil else { return }
    task = startTask(on: driver) { [weak self] in
      while !Task.isCancelled {
        guard let wait = await self?.refreshDue() else { return }
        _ = await wait.gate.wait(until: wait.until)
      }
    }
  }

  /// Asks for every name that is due; when the next one will be.
  private func refreshDue() async -> (gate: LoopGate, until: Instant) {
    let now = driver.now
    let names = due.filter { $0.value <= now }.keys.sorted()
    let round = Round()
    // The tasks of the group share this loop. They give no values to the group: with values of this type, optimised code of
    // Swift 6.3 takes the first one for the group's end.
    await withTaskGroup(of: Void.self) { group in
      for name in names {
        group.addTask { [self] in
          do throws(DNSFailure) {
            let found = try await find(name)
            round.answered = true
            apply(found, of: name)
          } catch {
            round.answered = round.answered || error.isReachable
            round.failure = error
            due[name] = driver.now.advanced(byNanoseconds: options.retryNanoseconds)
          }
        }
      }
    }
    if round.answered {
      content.inSync()
    } else if let failure = round.failure {
      content.lost(.unavailable("dns: \(failure.description)"))
    }
    return (wake, due.values.min() ?? .distantFuture)
  }

  /// What came of asking for all names that were due. Touched on the loop only.
  private final class Round: @unchecked Sendable {
    var failure: DNSFailure?
    var answered = false
  }

  /// Four fifths of the time an answer holds.
  private func nextDue(_ ttl: UInt32) -> Instant {
    driver.now.advanced(byNanoseconds: Int64(ttl) * 800_000_000)
  }

  private func apply(_ found: Found, of name: ServiceName) {
    content.replace(name, with: found.nodes.isEmpty ? [] : [service(name, found)])
    guard found.nodes.isEmpty else {
      negatives[name] = nil
      if due[name] != nil || due.count < Self.namesMax { due[name] = nextDue(found.ttl) }
      wake.open()
      return
    }
    due[name] = options.services.contains(name) ? nextDue(found.ttl) : nil
    if negatives.count >= Self.negativesMax { negatives = negatives.filter { $0.value > driver.now } }
    if negatives.count < Self.negativesMax {
      negatives[name] = driver.now.advanced(byNanoseconds: Int64(found.ttl) * 1_000_000_000)
    }
  }

  // MARK: Finding nodes

  private struct Found: Sendable {
    var nodes: [Node] = []
    var ttl: UInt32
  }

  private func service(_ name: ServiceName, _ found: Found) -> Service {
    Service(name: name, version: options.version, nodes: found.nodes)
  }

  private func find(_ name: ServiceName) async throws(DNSFailure) -> Found {
    if let (host, port) = SocketAddress.splitHostPort(name), let host = dnsName(host, of: name) {
      return try await addresses(of: host, port: port, name)
    }
    var found = Found(ttl: DNSTimes.negativeDefault)
    if let query = dnsName(options.srvName(name), of: name) {
      found = try await targets(at: query, name)
    }
    if found.nodes.isEmpty, options.port > 0, let host = dnsName(options.hostName(name), of: name) {
      found = try await addresses(of: host, port: options.port, name)
    }
    return found
  }

  private func dnsName(_ text: String, of service: ServiceName) -> DNSName? {
    do throws(WireError) {
      return try DNSName(text)
    } catch {
      garbage.leftOut(service, because: "it is no DNS name: \(error.rule)")
      return nil
    }
  }

  /// The targets of the lowest priority, which RFC 2782 has clients use while it can be reached.
  private func targets(at query: DNSName, _ service: ServiceName) async throws(DNSFailure) -> Found {
    let answer = try await client.ask(query, .srv)
    var found = Found(ttl: answer.ttl)
    var lowest = UInt16.max
    for record in answer.records {
      if case .srv(let priority, _, _, _) = record.data { lowest = min(lowest, priority) }
    }
    for record in answer.records {
      guard case .srv(lowest, let weight, let port, let target) = record.data else { continue }
      guard port > 0, target != .root else {
        garbage.leftOut("\(service) \(target)", because: "an SRV record names no port or no target")
        continue
      }
      let sent = answer.additionals.filter { $0.name.folded == target.folded }
      var group: Found
      if sent.contains(where: { $0.type == .a || $0.type == .aaaa }) {
        group = nodes(sent, port: port, service)
      } else {
        group = try await addresses(of: target, port: port, service)
      }
      if weight > 0 { for index in group.nodes.indices { group.nodes[index].metadata["weight"] = "\(weight)" } }
      found.ttl = min(found.ttl, group.ttl)
      found.nodes += group.nodes
    }
    found.nodes = Self.distinct(found.nodes)
    return found
  }

  private func addresses(of host: DNSName, port: UInt16, _ service: ServiceName) async throws(DNSFailure) -> Found {
    if let literal = SocketAddress(host: host.description, port: port) {
      return Found(nodes: [node(literal, service)], ttl: DNSTimes.ttlMax)
    }
    let ipv4 = try await client.ask(host, .a)
    // A host without IPv4 is worth a second question.
    let answer = ipv4.records.isEmpty ? try await client.ask(host, .aaaa) : ipv4
    var found = nodes(answer.records, port: port, service)
    found.ttl = min(found.ttl, answer.ttl)
    return found
  }

  private func nodes(_ records: [DNSRecord], port: UInt16, _ service: ServiceName) -> Found {
    var found = Found(ttl: DNSTimes.ttlMax)
    for record in records {
      switch record.data {
      case .a(let address): found.nodes.append(node(.ipv4(address: address, port: port), service))
      case .aaaa(let high, let low): found.nodes.append(node(.ipv6(high: high, low: low, zone: 0, port: port), service))
      case .ptr, .cname, .srv, .txt, .other: continue
      }
      found.ttl = min(found.ttl, max(record.ttl, DNSTimes.ttlMin))
    }
    found.nodes = Self.distinct(found.nodes)
    return found
  }

  private func node(_ address: SocketAddress, _ service: ServiceName) -> Node {
    Node(id: "\(service)-\(address)", address: "\(address)", metadata: options.metadata)
  }

  private static func distinct(_ nodes: [Node]) -> [Node] {
    var seen: Set<String> = []
    return Array(nodes.filter { seen.insert($0.id).inserted }.prefix(nodesPerServiceMax))
  }
}
