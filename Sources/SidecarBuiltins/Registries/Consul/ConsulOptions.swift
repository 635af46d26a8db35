// The settings of the consul registry: its options, and the environment of Consul's own tools.
//
//   consul:10.0.0.1:8500+10.0.0.2?dc=eu&token_file=/run/secrets/consul
//
//   dc, ns              data centre and namespace
//   token, token_file   ACL token; the file is read anew for each call, so that the token can rotate
//   auth, auth_file     user:password for HTTP's basic authentication
//   consistency         stale (any server answers: the default, as in go-micro from v0.15), default, consistent
//   deregister_after    seconds a critical entry stays; go-micro's: ttl + 5 s, at least 65 s
//   tags                further tags of our entries, with commas between them; they stand after go-micro's
//   ca_file, ca_path, cert_file, key_file, server_name, verify   TLS, for https:// or CONSUL_HTTP_SSL
//
// Where an option is missing: CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_AUTH,
// CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH, CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY,
// CONSUL_TLS_SERVER_NAME, CONSUL_NAMESPACE.

import SidecarCore

/// Threading: the control loop.
final class ConsulOptions {
  let endpoints: [HTTPEndpoint]
  let tls: TLSSource
  let deregisterAfter: Int?
  let ownTags: [String]
  /// `dc`, `ns` and how consistent reads are; added to every read.
  let readQuery: [(String, String?)]
  let writeQuery: [(String, String?)]
  let options: RegistryOptions
  private let driver: any HostDriver

  init(_ environment: PluginEnvironment) throws(ConfigurationError) {
    let driver = environment.driver
    self.driver = driver
    func variable(_ name: String) -> String? { driver.environmentVariable(name).flatMap { $0.isEmpty ? nil : $0 } }
    options = try RegistryOptions(
      environment, of: "consul", defaultServers: ["127.0.0.1:8500"], defaultPort: 8500,
      options: [
        "dc", "ns", "token", "token_file", "auth", "auth_file", "consistency", "deregister_after", "tags",
      ] + TLSSource.options, environmentServers: variable("CONSUL_HTTP_ADDR").map { [$0] } ?? [])
    let usesTLS = Self.isTrue(variable("CONSUL_HTTP_SSL")) ?? false
    var endpoints: [HTTPEndpoint] = []
    for server in options.servers { endpoints.append(try HTTPEndpoint(server, isTLS: usesTLS)) }
    self.endpoints = endpoints
    tls = try TLSSource(options, driver: driver)
    tls.caFile = tls.caFile ?? variable("CONSUL_CACERT")
    tls.caFolder = tls.caFolder ?? variable("CONSUL_CAPATH")
    tls.certificateFile = tls.certificateFile ?? variable("CONSUL_CLIENT_CERT")
    tls.keyFile = tls.keyFile ?? variable("CONSUL_CLIENT_KEY")
    tls.serverName = tls.serverName ?? variable("CONSUL_TLS_SERVER_NAME")
    if options["verify"] == nil, Self.isTrue(variable("CONSUL_HTTP_SSL_VERIFY")) == false { tls.verifies = false }
    deregisterAfter =
      options["deregister_after"] == nil
      ? nil : try options.number("deregister_after", in: 60...604_800, default: 65)
    ownTags = (options["tags"] ?? "").split(separator: ",").map(String.init)
    for tag in ownTags where tag == "t" || tag == "e" || tag == "v" {
      throw ConfigurationError(
        "registry consul: the tag \"\(tag)\" makes go-micro's readers panic; choose a longer one")
    }
    let consistency = try options.choice("consistency", of: ["stale", "default", "consistent"]) ?? "stale"
    var place: [(String, String?)] = []
    if let datacentre = options["dc"] { place.append(("dc", datacentre)) }
    if let namespace = options["ns"] ?? variable("CONSUL_NAMESPACE") { place.append(("ns", namespace)) }
    readQuery = place + (consistency == "default" ? [] : [(consistency, nil)])
    writeQuery = place.filter { $0.0 == "ns" }
  }

  /// Headers of every call.
  func headers() throws(ConfigurationError) -> [(name: String, value: String)] {
    var headers: [(name: String, value: String)] = []
    var token = try options.secret("token")
    if token == nil, let path = driver.environmentVariable("CONSUL_HTTP_TOKEN_FILE"), !path.isEmpty {
      token = try readLine(path)
    }
    if let token = token ?? driver.environmentVariable("CONSUL_HTTP_TOKEN"), !token.isEmpty {
      headers.append(("X-Consul-Token", token))
    }
    if let auth = try options.secret("auth") ?? driver.environmentVariable("CONSUL_HTTP_AUTH"), !auth.isEmpty {
      headers.append(("Authorization", "Basic " + HTTPText.base64(Array(auth.utf8))))
    }
    return headers
  }

  private func readLine(_ path: String) throws(ConfigurationError) -> String {
    do throws(DriverError) {
      let bytes = try driver.readFile(path, limit: RegistryOptions.secretBytesMax)
      return String(decoding: bytes.prefix { $0 != 0x0A && $0 != 0x0D }, as: UTF8.self)
    } catch {
      throw ConfigurationError("registry consul: CONSUL_HTTP_TOKEN_FILE \(path): \(error.message)")
    }
  }

  private static func isTrue(_ text: String?) -> Bool? {
    switch text?.lowercased() {
    case "1", "t", "true": true
    case "0", "f", "false": false
    default: nil
    }
  }
}
