// Settings of the `gossip` registry: the servers are members of the cluster to join, and there may be none.

import SidecarCore

struct GossipOptions {
  let peers: [ServerAddress]
  /// Where datagrams and streams are taken; port 0 for one of the system's choice.
  let bind: SocketAddress
  /// What the others are told; nil: the bound address, or one of this host's.
  let advertise: SocketAddress?
  let generation: GossipGeneration
  let addressForm: NodeAddressForm
  let memberName: String?
  /// Nil: nothing is encrypted.
  let keyring: GossipKeyring?

  init(_ environment: PluginEnvironment) throws(ConfigurationError) {
    let options = try RegistryOptions(
      environment, of: "gossip", defaultServers: [], defaultPort: 7946,
      options: ["bind", "advertise", "generation", "address_form", "member", "key", "key_file", "secure"])
    peers = options.servers
    bind = try Self.address(options["bind"] ?? "0.0.0.0:0", "bind")
    advertise = try options["advertise"].map { text throws(ConfigurationError) in try Self.address(text, "advertise") }
    let name = try options.choice("generation", of: GossipGeneration.allCases.map(\.rawValue))
    generation = name.flatMap(GossipGeneration.init) ?? .v3
    let form = try options.choice("address_form", of: ["joined", "split"])
    // Peers of the first generation know no other form.
    addressForm = form == "split" || (form == nil && generation == .v1) ? .split : .joined
    memberName = options["member"]
    var key = try options.secret("key")
    if try options.flag("secure"), key == nil { key = GossipKeyring.frameworkKey }
    keyring = try key.map { text throws(ConfigurationError) in try GossipKeyring(text) }
  }

  private static func address(_ text: String, _ option: String) throws(ConfigurationError) -> SocketAddress {
    guard let address = SocketAddress(text), !text.hasPrefix("unix:") else {
      throw ConfigurationError("registry gossip: option \(option) is \"\(text)\", expected address:port")
    }
    return address
  }
}
