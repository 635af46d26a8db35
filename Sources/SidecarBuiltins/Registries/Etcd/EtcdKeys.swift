// Where go-micro keeps services in etcd, and what one watch knows of them.
//
//   /micro/registry/SERVICE/NODE   go-micro's own registry, from v1.12 on (registry/etcd/etcd.go @ v1.14.0)
//   /micro-registry/SERVICE/NODE   the plug-ins: etcd (v2 API) and etcdv3 (go-plugins registry/etcdv3 @ v0.16.0)
//
// The value is the JSON of the service with that one node. `/` in names is written as `-`.

import SidecarCore

enum EtcdKeys {
  static let core = "/micro/registry/"
  static let plugin = "/micro-registry/"
  /// Both are read; for a node under both, what stands under the first counts.
  static let all = [core, plugin]

  /// The key of a node. `.` and `..` as a name would lead elsewhere, as Go joins paths.
  static func key(_ prefix: String, _ service: ServiceName, _ id: String) throws(RegistryError) -> String {
    for part in [service, id] where part.isEmpty || part == "." || part == ".." {
      throw .invalid("\"\(part)\" cannot be the name of a service or node in etcd")
    }
    return folder(prefix, service) + segment(id)
  }

  /// What the keys of a service's nodes begin with.
  static func folder(_ prefix: String, _ service: ServiceName) -> String { prefix + segment(service) + "/" }

  /// The service's part of a key; nil for a key that is not of this form.
  static func serviceSegment(_ key: String) -> String? {
    for prefix in all where key.hasPrefix(prefix) {
      let parts = key.dropFirst(prefix.count).split(separator: "/", omittingEmptySubsequences: false)
      return parts.count == 2 && !parts[0].isEmpty && !parts[1].isEmpty ? String(parts[0]) : nil
    }
    return nil
  }

  private static func segment(_ text: String) -> String {
    String(text.map { $0 == "/" ? "-" : $0 })
  }
}

/// The keys one watch knows, and the services they make.
struct EtcdPicture {
  /// Keys held; further ones are left out.
  static let keysMax = 200_000

  private var entries: [String: Service] = [:]
  private var keysOfName: [ServiceName: Set<String>] = [:]

  /// The service at `key` is now this; nil: it is gone. The events that follow from it.
  mutating func set(_ key: String, _ service: Service?) -> [RegistryEvent] {
    let old = entries[key]
    guard old != service, service == nil || entries.count < Self.keysMax || old != nil else { return [] }
    // An entry may change its name in place, then two services change.
    let names = Set([old?.name, service?.name].compactMap { $0 })
    let before = names.map { ($0, services($0)) }
    if let old { keysOfName[old.name]?.remove(key) }
    if let old, keysOfName[old.name]?.isEmpty == true { keysOfName[old.name] = nil }
    entries[key] = service
    if let service { keysOfName[service.name, default: []].insert(key) }
    return before.flatMap { name, old in ServiceChanges.events(from: old, to: services(name)) }
  }

  mutating func removeAll() { self = EtcdPicture() }

  var all: [Service] { keysOfName.keys.sorted().flatMap(services) }

  /// The versions of a service, each node once.
  func services(_ name: ServiceName) -> [Service] {
    guard let keys = keysOfName[name] else { return [] }
    // `/micro/registry/` sorts after `/micro-registry/`, and what stands there counts.
    return Self.merge(keys.sorted(by: >).compactMap { entries[$0] })
  }

  /// Entries of one service, of one node each, as its versions, sorted: of two with the same id the first counts.
  static func merge(_ entries: [Service]) -> [Service] {
    var versions: [String: Service] = [:]
    var seen: Set<String> = []
    for entry in entries {
      for node in entry.nodes where seen.insert(node.id).inserted {
        if versions[entry.version] == nil {
          versions[entry.version] = entry
          versions[entry.version]?.nodes = []
        }
        versions[entry.version]?.nodes.append(node)
      }
    }
    return versions.values.sorted { $0.version < $1.version }.map { service in
      var service = service
      service.nodes.sort { $0.id < $1.id }
      return service
    }
  }
}

/// The settings that both APIs of etcd share.
///
///   etcd:10.0.0.1:2379+10.0.0.2:2379?user=app&password_file=/run/secrets/etcd
///
///   user, password, password_file   else ETCD_USERNAME and ETCD_PASSWORD
///   write         where entries are written: core, plugin or both (etcd: core, etcdv3: plugin)
///   address_form  joined (host:port in one, for go-micro from v1.8 on) or split (up to v1.7)
///   ca_file, ca_path, cert_file, key_file, server_name, verify      TLS, for https://
///
/// Threading: the control loop.
final class EtcdOptions {
  let endpoints: [HTTPEndpoint]
  let tls: TLSSource
  let prefixes: [String]
  let addressForm: NodeAddressForm
  let options: RegistryOptions
  private let driver: any HostDriver

  init(_ environment: PluginEnvironment, _ name: String, writes: String) throws(ConfigurationError) {
    driver = environment.driver
    options = try RegistryOptions(
      environment, of: name, defaultServers: ["127.0.0.1:2379"], defaultPort: 2379,
      options: ["user", "password", "password_file", "write", "address_form"] + TLSSource.options)
    // A certificate makes no sense without TLS.
    let usesTLS = options["cert_file"] != nil || options["ca_file"] != nil
    var endpoints: [HTTPEndpoint] = []
    for server in options.servers { endpoints.append(try HTTPEndpoint(server, isTLS: usesTLS)) }
    self.endpoints = endpoints
    tls = try TLSSource(options, driver: driver)
    switch try options.choice("write", of: ["core", "plugin", "both"]) ?? writes {
    case "core": prefixes = [EtcdKeys.core]
    case "plugin": prefixes = [EtcdKeys.plugin]
    default: prefixes = EtcdKeys.all
    }
    addressForm = try options.choice("address_form", of: ["joined", "split"]) == "split" ? .split : .joined
  }

  /// Nil: without authentication.
  func credentials() throws(ConfigurationError) -> (user: String, password: String)? {
    let user = options["user"] ?? driver.environmentVariable("ETCD_USERNAME") ?? ""
    guard !user.isEmpty else { return nil }
    return (user, try options.secret("password") ?? driver.environmentVariable("ETCD_PASSWORD") ?? "")
  }
}
