// Settings of the `kubernetes` registry. In a pod none is needed: address, token, authority and namespace are those of its
// service account.
//
//   kubernetes                                       in a pod
//   kubernetes:http://127.0.0.1:8001?namespace=shop  beside `kubectl proxy`
//   kubernetes:?mode=slices&prefix=go.micro.srv.     every Service with ready endpoints, read only

import SidecarCore

struct KubernetesOptions {
  enum Mode: String, CaseIterable {
    /// go-micro's own: services are annotations of the pods that serve them.
    case pods
    /// Kubernetes' own: the EndpointSlices of every Service. Read only.
    case slices
  }

  static let accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount"

  let endpoints: [HTTPEndpoint]
  let mode: Mode
  /// Where is read; `*`: everywhere.
  let namespace: String
  /// Where our own pod is, and its name.
  let podNamespace: String
  let pod: String
  let selector: String
  /// Pods that are not ready are left out.
  let wantsReadiness: Bool
  let tls: TLSSource
  /// Of slices: which port counts, by name or number; what nodes speak; what is put before a Service's name.
  let port: String?
  let nodeProtocol: String?
  let prefix: String
  let version: String
  private let options: RegistryOptions
  private let tokenFile: String?
  private let driver: any HostDriver

  init(_ environment: PluginEnvironment) throws(ConfigurationError) {
    let driver = environment.driver
    self.driver = driver
    func variable(_ name: String) -> String? {
      driver.environmentVariable(name).flatMap { $0.isEmpty ? nil : $0 }
    }
    var inside: String?
    if let host = variable("KUBERNETES_SERVICE_HOST") {
      let port = variable("KUBERNETES_SERVICE_PORT_HTTPS") ?? variable("KUBERNETES_SERVICE_PORT") ?? "443"
      inside = "https://" + (host.contains(":") ? "[\(host)]" : host) + ":" + port
    }
    options = try RegistryOptions(
      environment, of: "kubernetes", defaultServers: [], defaultPort: 443,
      options: TLSSource.options + [
        "namespace", "pod", "mode", "selector", "ready", "token", "token_file", "account", "port", "protocol", "prefix",
        "version",
      ],
      environmentServers: inside.map { [$0] } ?? [])
    guard !options.servers.isEmpty else {
      throw ConfigurationError(
        "registry kubernetes: this is no pod (KUBERNETES_SERVICE_HOST is not set) and no API server is named; run "
          + "`kubectl proxy` and write kubernetes:http://127.0.0.1:8001")
    }
    var endpoints: [HTTPEndpoint] = []
    for server in options.servers { endpoints.append(try HTTPEndpoint(server, isTLS: true)) }
    self.endpoints = endpoints
    // Another server than our cluster's must not get our cluster's token.
    let isInside =
      options.servers.map(\.description) == [inside.flatMap { ServerAddress($0, defaultPort: 443) }?.description]
    let account = options["account"] ?? (isInside ? Self.accountFolder : nil)

    func file(_ name: String) -> String? {
      guard let account, let bytes = try? driver.readFile(account + "/" + name, limit: RegistryOptions.secretBytesMax)
      else { return nil }
      let text = String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
      return text.isEmpty ? nil : text
    }
    mode = try options.choice("mode", of: Mode.allCases.map(\.rawValue)).flatMap(Mode.init) ?? .pods
    podNamespace =
      variable("POD_NAMESPACE") ?? file("namespace") ?? options["namespace"].flatMap { $0 == "*" ? nil : $0 }
      ?? "default"
    namespace = options["namespace"] ?? podNamespace
    pod = options["pod"] ?? variable("POD_NAME") ?? variable("HOSTNAME") ?? driver.hostName
    selector = options["selector"] ?? (mode == .pods ? PodEntries.typeLabel + "=" + PodEntries.labelValue : "")
    wantsReadiness = try options.flag("ready", default: true)
    port = options["port"]
    nodeProtocol = try options.choice("protocol", of: ["grpc", "mucp", "http"])
    prefix = options["prefix"] ?? ""
    version = options["version"] ?? "latest"
    tls = try TLSSource(options, driver: driver)
    if tls.caFile == nil, tls.caFolder == nil, let account { tls.caFile = account + "/ca.crt" }
    tokenFile = options["token_file"] == nil ? account.map { $0 + "/token" } : nil
  }

  /// The token, read anew each time: those of service accounts are replaced each hour. Nil: there is none.
  func token() throws(ConfigurationError) -> String? {
    if let text = try options.secret("token") { return text }
    guard let tokenFile else { return nil }
    do throws(DriverError) {
      let bytes = try driver.readFile(tokenFile, limit: RegistryOptions.secretBytesMax)
      return String(decoding: bytes, as: UTF8.self).filter { !$0.isWhitespace }
    } catch {
      throw ConfigurationError("registry kubernetes: the service account's token \(tokenFile): \(error.message)")
    }
  }
}
