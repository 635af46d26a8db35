// What is wrong with multicast, and what to do: for the log, once, and for `micro-sidecar doctor`.

import SidecarCore

extension MDNSRunner {
  /// The state of things as of the last self-test.
  func findings() -> [Diagnosis] {
    var findings: [Diagnosis] = []
    if options.usesMulticast {
      findings += [portFinding()].compactMap { $0 }
      findings += interfaceFindings()
    } else {
      findings.append(.fine("multicast", "switched off by the setting multicast=off"))
    }
    findings.append(rendezvousFinding())
    return findings
  }

  private func portFinding() -> Diagnosis? {
    let subject = "UDP port \(options.port)"
    guard let error = sockets.failures[.bind(isIPv6: false)] else {
      return .fine(subject, "shared with the other mDNS programs of this host")
    }
    if error.code == "EADDRINUSE" {
      return .problem(
        subject, "another program holds it and does not share it, so that others cannot find services of this sidecar",
        nextStep:
          "find the program with `ss -ulpn sport = :\(options.port)` and let it share the port (SO_REUSEADDR and "
          + "SO_REUSEPORT), or stop it")
    }
    return .problem(
      subject, "cannot be opened: \(error)",
      nextStep: "allow this process UDP port \(options.port), or use another registry (MICRO_REGISTRY)")
  }

  private func interfaceFindings() -> [Diagnosis] {
    let all = driver.interfaces().filter { options.interfaces.isEmpty || options.interfaces.contains($0.name) }
    let outside = all.filter { $0.isUp && !$0.isLoopback }
    guard !outside.isEmpty else {
      let wanted = options.interfaces.sorted().joined(separator: ", ")
      return [
        .problem(
          "multicast",
          wanted.isEmpty
            ? "no interface but the loopback is up" : "of the interfaces asked for (\(wanted)) none is up",
          nextStep:
            "services of this host are found through the rendezvous folder; for others bring an interface up or use "
            + "another registry (MICRO_REGISTRY)")
      ]
    }
    let used = Dictionary(grouping: sockets.interfaces.filter { !$0.isLoopback }, by: \.name)
    guard !used.isEmpty else {
      let names = Set(outside.map(\.name)).sorted().joined(separator: ", ")
      return [
        .problem(
          "multicast", "no interface can do multicast (up: \(names))",
          nextStep: "switch it on with `ip link set dev \(outside[0].name) multicast on`, or use another registry "
            + "(MICRO_REGISTRY), as in most container networks")
      ]
    }
    var findings = used.keys.sorted().map { finding(for: $0, used[$0] ?? []) }
    if used.keys.allSatisfy(Self.looksLikeTunnel) {
      findings.append(
        .problem(
          "multicast",
          "only tunnels are up (\(used.keys.sorted().joined(separator: ", "))), and VPNs seldom carry multicast",
          nextStep:
            "choose the local network's interface with MICRO_REGISTRY=mdns:interface=NAME, or use another registry"))
    }
    return findings
  }

  private func finding(for name: String, _ interfaces: [NetworkInterface]) -> Diagnosis {
    let subject = "multicast on \(name)"
    let failures = interfaces.compactMap { sockets.failures[.join(interface: name, isIPv6: $0.address.isIPv6)] }
    if failures.count == interfaces.count, let error = failures.first {
      return .problem(
        subject, "the group cannot be joined: \(error)",
        nextStep: error.code == "ENOBUFS"
          ? "raise `sysctl net.ipv4.igmp_max_memberships`"
          : "check `ip maddr show dev \(name)` and the interface's state")
    }
    if interfaces.allSatisfy({ sockets.unsendable.contains($0.address.host) }) {
      return .problem(
        subject, "nothing can be sent to the group",
        nextStep:
          "check for a route (`ip route get 224.0.0.251`) and a firewall rule on outgoing UDP port \(options.port)")
    }
    guard let selfTest, !interfaces.contains(where: { selfTest.heard.contains($0.index) }) else {
      return .fine(subject, "a question sent to the group came back")
    }
    return .problem(
      subject, "a question sent to the group did not come back",
      nextStep:
        "allow UDP port \(options.port) in and out on \(name) for 224.0.0.251 and ff02::fb in the firewall; a VPN "
        + "client may block it too")
  }

  private func rendezvousFinding() -> Diagnosis {
    let subject = "rendezvous on this host"
    guard let rendezvous else { return .fine(subject, "switched off by the setting rendezvous=off") }
    if let failure = rendezvous.failure {
      return .problem(
        subject, failure, nextStep: "make the folder yours alone (mode 0700), or name another: mdns:folder=/path")
    }
    return .fine(subject, "\(rendezvous.folder ?? ""), \(rendezvous.neighbourCount) other sidecars")
  }

  private static func looksLikeTunnel(_ name: String) -> Bool {
    ["tun", "tap", "utun", "wg", "ppp", "ipsec", "tailscale", "zt", "gre", "sit"].contains { name.hasPrefix($0) }
  }
}
