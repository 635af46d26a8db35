// The selectors `named` (also `mercury`), `static` and `dns`, which are no strategies but places where nodes are found.

import SidecarCore

/// Nodes that follow from the service's name alone: one for each service, which is never asked whether it is there.
///
/// Threading: the loop of its environment, as all registries.
public final class NamedNodes: Registry, @unchecked Sendable {
  enum Rule: Equatable, Sendable {
    /// The name itself is the address (go-plugins selector/named and selector/mercury).
    case name
    /// `name.domain:port`; a name that is `host:port` already stays as it is (go-plugins selector/static @ v0.16.0, go-micro
    /// selector/static @ v0.20 … v2.9).
    case host(domain: String, port: UInt16)
  }

  public static let portDefault: UInt16 = 8080

  public let name: String
  private let rule: Rule
  private let driver: any Driver

  init(_ name: String, _ rule: Rule, driver: any Driver) {
    self.name = name
    self.rule = rule
    self.driver = driver
  }

  /// `static:domain=shop.local,port=9090`; both may be left out. Errors: anything else.
  static func rule(argument: String?) throws(ConfigurationError) -> Rule {
    var domain = ""
    var port = portDefault
    for part in (argument ?? "").split(separator: ",") {
      if part.hasPrefix("domain=") {
        domain = String(part.dropFirst(7))
        while domain.first == "." { domain.removeFirst() }
      } else if part.hasPrefix("port="), let number = UInt16(part.dropFirst(5)), number > 0 {
        port = number
      } else {
        throw ConfigurationError(
          "selector static: found \"\(part)\", expected domain=NAME and port=NUMBER, such as static:domain=shop.local,port=9090"
        )
      }
    }
    return .host(domain: domain, port: port)
  }

  static func refuseArgument(_ argument: String?, of name: String) throws(ConfigurationError) {
    guard let argument else { return }
    throw ConfigurationError("selector \(name): takes no argument, found \"\(argument)\"")
  }

  func address(of service: ServiceName) -> String {
    switch rule {
    case .name: return service
    case .host(let domain, let port):
      if SocketAddress.splitHostPort(service) != nil { return service }
      return (domain.isEmpty ? service : "\(service).\(domain)") + ":\(port)"
    }
  }

  public var mayForget: Bool { false }
  public func register(_ service: Service, ttl: Duration?) async throws(RegistryError) { throw .readOnly }
  public func deregister(_ service: Service) async throws(RegistryError) { throw .readOnly }

  public func lookup(_ name: ServiceName) async throws(RegistryError) -> [Service] {
    let address = address(of: name)
    return [Service(name: name, version: "", nodes: [Node(id: address, address: address)])]
  }

  public func list() async throws(RegistryError) -> [ServiceName] { [] }

  /// Nothing ever changes.
  public func watch(
    _ scope: WatchScope, onEvent: @escaping @Sendable (RegistryEvent) async -> Void
  ) async throws(RegistryError) {
    await onEvent(.snapshot([]))
    while !Task.isCancelled { await driver.pause(nanoseconds: 3_600_000_000_000) }
    throw .unavailable("cancelled")
  }
}

extension DNSRegistry {
  /// As a selector: the registry of that name, in the domain that go-micro's has (go-plugins selector/dns @ v0.16.0).
  static func nodeSource(_ environment: PluginEnvironment) throws(ConfigurationError) -> DNSRegistry {
    var argument = environment.argument ?? ""
    if !argument.contains("domain=") { argument += (argument.contains("?") ? "&" : "?") + "domain=micro.local" }
    return try DNSRegistry(
      environment: PluginEnvironment(driver: environment.driver, log: environment.log, argument: argument))
  }
}
