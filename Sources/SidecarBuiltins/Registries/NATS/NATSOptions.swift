// Settings of the `nats` registry.

import SidecarCore

struct NATSOptions {
  /// Where queries and changes go.
  struct Subjects: Equatable {
    var query: String
    var watch: String
    /// Of the plug-ins of every version, and of the core from v5.7 on.
    static let plugin = Subjects(query: "micro.registry.nats.query", watch: "micro.registry.nats.watch")
    static let core = Subjects(query: "micro.nats.query", watch: "micro.nats.watch")
  }

  let servers: [ServerAddress]
  let settings: NATSSettings
  let subjects: [Subjects]
  let addressForm: NodeAddressForm
  /// How long answers to a query are gathered; go-micro's own default is 100 ms.
  let windowNanoseconds: Int64
  /// A node that was not heard of so long is asked for.
  let probeNanoseconds: Int64

  init(_ environment: PluginEnvironment) throws(ConfigurationError) {
    let options = try RegistryOptions(
      environment, of: "nats", defaultServers: ["127.0.0.1:4222"], defaultPort: 4222,
      options: [
        "user", "password", "password_file", "token", "token_file", "tls", "subjects", "address_form", "window_ms",
        "probe_seconds",
      ] + TLSSource.options)
    servers = options.servers
    for server in servers where ![nil, "nats", "tls"].contains(server.scheme) || !server.path.isEmpty {
      throw ConfigurationError("registry nats: \(server) is no server; expected host:port, nats://host or tls://host")
    }
    // A certificate makes no sense without TLS.
    let isSecure =
      try options.flag("tls") || servers.contains { $0.scheme == "tls" } || options["cert_file"] != nil
      || options["ca_file"] != nil
    settings = NATSSettings(
      servers: servers,
      credentials: { () throws(ConfigurationError) in
        var found: [(key: String, value: String)] = []
        if let token = try options.secret("token") { found.append(("auth_token", token)) }
        if let user = options["user"] { found.append(("user", user)) }
        if let password = try options.secret("password") { found.append(("pass", password)) }
        return found
      },
      tls: isSecure ? try TLSSource(options, driver: environment.driver) : nil, name: "micro-sidecar")
    switch try options.choice("subjects", of: ["both", "plugin", "core"]) {
    case "plugin": subjects = [.plugin]
    case "core": subjects = [.core]
    default: subjects = [.plugin, .core]
    }
    addressForm = try options.choice("address_form", of: ["joined", "split"]) == "split" ? .split : .joined
    windowNanoseconds = Int64(try options.number("window_ms", in: 1...10_000, default: 100)) * 1_000_000
    probeNanoseconds = Int64(try options.number("probe_seconds", in: 1...3600, default: 45)) * 1_000_000_000
  }
}
