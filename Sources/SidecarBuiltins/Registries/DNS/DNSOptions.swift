// Settings of the `dns` registry; without servers those of /etc/resolv.conf.

import SidecarCore

struct DNSOptions {
  static let resolvConfPath = "/etc/resolv.conf"

  /// Addresses; never empty.
  let servers: [Destination]
  /// Without a dot at either end; may be empty.
  let domain: String
  /// Of A and AAAA records; 0: only SRV records count.
  let port: UInt16
  /// Names asked for from the start.
  let services: [ServiceName]
  let version: String
  /// Of each node.
  let metadata: [String: String]
  /// How long one server may take.
  let tryNanoseconds: Int64
  /// When a question that no server answered is asked again.
  let retryNanoseconds: Int64 = 1_000_000_000
  private let query: String

  init(_ environment: PluginEnvironment) throws(ConfigurationError) {
    let found = Self.resolvConf(environment.driver)
    let options = try RegistryOptions(
      environment, of: "dns", defaultServers: found.servers, defaultPort: 53,
      options: ["domain", "port", "query", "services", "version", "protocol", "timeout_ms"])
    var servers: [Destination] = []
    for server in options.servers {
      guard let address = SocketAddress(host: server.host, port: server.port) else {
        throw ConfigurationError("registry dns: \(server) is a name; a DNS server is named by its address")
      }
      servers.append(.address(address))
    }
    self.servers = servers
    // go-micro's dns selector has `local` where nothing is said (selector/dns @ v1.18.0).
    domain = Self.trimmed(options["domain"] ?? found.domain ?? "local")
    port = UInt16(try options.number("port", in: 1...65535, default: 0))
    query = Self.trimmed(options["query"] ?? "_{service}._tcp.{domain}")
    services = (options["services"] ?? "").split(separator: "+").map(String.init)
    version = options["version"] ?? "latest"
    metadata = (try options.choice("protocol", of: ["grpc", "mucp", "http"])).map { ["protocol": $0] } ?? [:]
    tryNanoseconds = Int64(try options.number("timeout_ms", in: 10...60_000, default: 1000)) * 1_000_000
    guard query.contains("{service}") else {
      throw ConfigurationError("registry dns: option query is \"\(query)\", expected {service} in it")
    }
    guard services.count <= DNSRegistry.namesMax else {
      throw ConfigurationError("registry dns: more than \(DNSRegistry.namesMax) services")
    }
  }

  func srvName(_ service: ServiceName) -> String { Self.filled(query, service, domain) }
  func hostName(_ service: ServiceName) -> String { domain.isEmpty ? service : "\(service).\(domain)" }

  private static func filled(_ pattern: String, _ service: ServiceName, _ domain: String) -> String {
    var text = ""
    var rest = pattern[...]
    while let open = rest.firstIndex(of: "{") {
      text += rest[..<open]
      rest = rest[open...]
      if rest.hasPrefix("{service}") {
        text += service
        rest = rest.dropFirst(9)
      } else if rest.hasPrefix("{domain}") {
        text += domain
        rest = rest.dropFirst(8)
      } else {
        text += "{"
        rest = rest.dropFirst()
      }
    }
    return trimmed(text + rest)
  }

  private static func trimmed(_ text: String) -> String {
    var text = text[...]
    while text.last == "." { text.removeLast() }
    while text.first == "." { text.removeFirst() }
    return String(text)
  }

  /// `nameserver`, `domain` and the first of `search` (resolv.conf(5)); this host when there is no such file.
  static func resolvConf(_ driver: any HostDriver) -> (servers: [String], domain: String?) {
    var servers: [String] = []
    var domain: String?
    let bytes = (try? driver.readFile(resolvConfPath, limit: 64 << 10)) ?? []
    for line in String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline) {
      let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
      guard words.count >= 2 else { continue }
      switch words[0] {
      case "nameserver": servers.append(words[1].contains(":") ? "[\(words[1])]" : String(words[1]))
      case "domain", "search": domain = String(words[1])
      default: break
      }
    }
    return (servers.isEmpty ? ["127.0.0.1"] : Array(servers.prefix(3)), domain)
  }
}
