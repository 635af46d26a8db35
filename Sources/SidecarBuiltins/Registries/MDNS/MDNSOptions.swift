// Settings of the mDNS registry, as they follow its name: `mdns:interface=eth0:folder=/run/sidecars`.

import SidecarCore

struct MDNSOptions: Equatable, Sendable {
  /// Interfaces to use, by name; empty for all.
  var interfaces: Set<String> = []
  /// The rendezvous folder; nil for this user's own.
  var folder: String?
  /// Whether sidecars of this host meet in the rendezvous folder.
  var usesRendezvous = true
  /// Whether anything goes over the network.
  var usesMulticast = true
  /// The port of the groups. Everyone's is 5353; tests keep to themselves with another.
  var port: UInt16 = 5353

  init() {}

  /// Reads `key=value` parts between colons. Errors: an unknown key or value, naming those that are known.
  init(argument: String?) throws(ConfigurationError) {
    for part in (argument ?? "").split(separator: ":") {
      let pair = part.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      switch (pair[0], pair.count == 2 ? pair[1] : "") {
      case ("interface", let name) where !name.isEmpty: interfaces.insert(name)
      case ("folder", let path) where path.hasPrefix("/"): folder = path
      case ("rendezvous", "off"): usesRendezvous = false
      case ("rendezvous", "on"): usesRendezvous = true
      case ("multicast", "off"): usesMulticast = false
      case ("multicast", "on"): usesMulticast = true
      case ("port", let digits) where (UInt16(digits) ?? 0) > 0: port = UInt16(digits) ?? 5353
      default:
        throw ConfigurationError(
          "mdns: setting \(part) is not known; use folder=/path, interface=name (again for each), multicast=on|off, "
            + "port=number or rendezvous=on|off, with a colon between them")
      }
    }
  }
}
