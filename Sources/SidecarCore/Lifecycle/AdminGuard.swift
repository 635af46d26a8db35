// Who may ask what at the admin listener: a token or a client's certificate where one is asked for, and nothing for pages of
// other sites.
//
//                         on loopback, no token    a token or an      elsewhere, MICRO_ADMIN_OPEN_METRICS, no token
//   /livez … /startupz    everybody                everybody          everybody
//   /metrics              everybody                token, or open     everybody
//   the rest              this machine             token              this machine
//
// Bound elsewhere without either the sidecar does not start. A page of another site reaches a listener on loopback through its
// reader's browser in two ways: straight, which the browser tells by Origin and Sec-Fetch-Site, and by a name of its own
// that it makes point here (DNS rebinding), which the Host field tells: it has to be an address, a loopback name, or a name
// of MICRO_SIDECAR_HOSTS.

package struct AdminGuard: Sendable {
  /// Paths that tell whether the sidecar lives and nothing else; a kubelet has no token.
  static let probes: Set<String> = ["/livez", "/readyz", "/startupz"]

  private let token: String?
  /// A certificate does as well as a token.
  private let takesCertificates: Bool
  private let opensMetrics: Bool
  private let isLoopback: Bool
  private let hosts: HostNames

  package init(_ settings: Settings) {
    token = settings.adminToken
    takesCertificates = settings.adminClientAuthorityFile != nil
    opensMetrics = settings.adminOpenMetrics
    isLoopback = settings.adminAddress?.isLoopback ?? true
    hosts = HostNames(settings.hosts)
  }

  /// Why the request is not answered; nil: it is.
  package func refusal(_ request: AdminRequest) -> AdminReply? {
    if Self.probes.contains(request.path) { return nil }
    let hasToken = token.map { Self.carries(request.authorization, $0) } ?? false
    // A token is nothing a browser sends by itself, so whoever has it may come from anywhere.
    if !hasToken, let refusal = foreign(request) { return refusal }
    if request.path == "/metrics", opensMetrics { return nil }
    guard token != nil || takesCertificates else {
      if isLoopback || request.isLocal { return nil }
      return .whole(
        .text(
          403,
          "only \(Self.probes.sorted().joined(separator: ", ")) and /metrics are for other machines; set MICRO_ADMIN_TOKEN for the rest"
        ))
    }
    // The page is the same for everybody and says nothing; it asks for the token.
    if hasToken || request.isCertified || request.path == "/" { return nil }
    return .whole(
      .text(
        401,
        takesCertificates
          ? "a client's certificate, or Authorization: Bearer with MICRO_ADMIN_TOKEN, is needed"
          : "Authorization: Bearer with MICRO_ADMIN_TOKEN is needed"),
      fields: [("WWW-Authenticate", "Bearer realm=\"micro-sidecar\"")])
  }

  private func foreign(_ request: AdminRequest) -> AdminReply? {
    guard hosts.knows(request.host) else {
      return .whole(.text(421, "this host name is not ours; name it in MICRO_SIDECAR_HOSTS"))
    }
    let isNavigation = request.fetchMode == "navigate" && request.method == .get && request.path == "/"
    if let site = request.fetchSite, site != "same-origin", site != "none", !isNavigation {
      return .whole(.text(403, "pages of other sites may not ask here"))
    }
    if let origin = request.origin, origin != "http://" + (request.host ?? ""),
      origin != "https://" + (request.host ?? "")
    {
      return .whole(.text(403, "pages of other sites may not ask here"))
    }
    return nil
  }

  /// Takes as long whatever is wrong.
  static func carries(_ authorization: String?, _ token: String) -> Bool {
    guard let authorization, authorization.utf8.count > 7, authorization.prefix(7).lowercased() == "bearer " else {
      return false
    }
    let given = Array(authorization.utf8.dropFirst(7))
    let wanted = Array(token.utf8)
    var difference = UInt(truncatingIfNeeded: given.count ^ wanted.count)
    for (index, byte) in given.enumerated() {
      difference |= UInt(byte ^ (wanted.isEmpty ? 0xFF : wanted[index % wanted.count]))
    }
    return difference == 0
  }
}

/// Names that a Host field may have. Addresses always may: a page cannot make one of its own point here.
package struct HostNames: Sendable {
  private let names: Set<String>

  /// Names as configured, without port; `*` is any.
  package init(_ names: [String]) { self.names = Set(names.map { $0.lowercased() }) }

  package func knows(_ host: String?) -> Bool {
    // HTTP/1.0 has none, and no browser speaks it.
    guard let host, !host.isEmpty else { return true }
    let name = Self.name(of: host)
    return name == "localhost" || name.hasSuffix(".localhost") || SocketAddress(host: name, port: 0) != nil
      || names.contains(name) || names.contains("*")
  }

  /// The same for a field as it came; plain loopback names cost no string.
  func knows(_ host: UnsafeRawBufferPointer) -> Bool {
    if ASCIIText.hasPrefixIgnoringCase(host, "localhost:") || ASCIIText.hasPrefixIgnoringCase(host, "127.0.0.1:") {
      return true
    }
    return knows(String(decoding: host.prefix(256), as: UTF8.self))
  }

  /// Without port and brackets, in small letters.
  private static func name(of host: String) -> String {
    let host = host.lowercased()
    if host.hasPrefix("["), let end = host.firstIndex(of: "]") {
      return String(host[host.index(after: host.startIndex)..<end])
    }
    guard let colon = host.firstIndex(of: ":") else { return host }
    return String(host[..<colon])
  }
}
