// All policies of a configuration: what holds by default, and rules for services and endpoints. Immutable; a reload makes
// a new one, which reaches the workers by their mailboxes.

/// A rule of the configuration: what it is for and what it changes.
package struct PolicyRule: Sendable {
  /// `*` stands for any text, as in `go.micro.srv.*`.
  package var service: Wildcard
  /// Nil: the service as a whole, and all its endpoints.
  package var endpoint: Wildcard?
  /// As the file has it, for those who ask what is set.
  package var written: JSONValue
  package var changeService: @Sendable (inout ServicePolicy) -> Void
  package var changeEndpoint: @Sendable (inout EndpointPolicy.Values) -> Void

  package init(
    service: Wildcard, endpoint: Wildcard? = nil, written: JSONValue = .null,
    changeService: @escaping @Sendable (inout ServicePolicy) -> Void = { _ in },
    changeEndpoint: @escaping @Sendable (inout EndpointPolicy.Values) -> Void = { _ in }
  ) {
    self.service = service
    self.endpoint = endpoint
    self.written = written
    self.changeService = changeService
    self.changeEndpoint = changeEndpoint
  }
}

/// Any thread.
package final class PolicyTable: Sendable {
  package let serviceDefaults: ServicePolicy
  package let endpointDefaults: EndpointPolicy
  package let rules: [PolicyRule]
  /// What holds for calls to the app.
  package let inbound: InboundPolicy

  package init(
    service: ServicePolicy = ServicePolicy(), endpoint: EndpointPolicy.Values = EndpointPolicy.Values(),
    rules: [PolicyRule] = [], inbound: InboundPolicy = InboundPolicy()
  ) {
    self.inbound = inbound
    serviceDefaults = service
    endpointDefaults = EndpointPolicy(endpoint)
    self.rules = rules
  }

  /// The defaults, then every rule that fits, in their order: a later one has the last word.
  package func service(_ name: ServiceName) -> ServicePolicy {
    var policy = serviceDefaults
    for rule in rules where rule.endpoint == nil && rule.service.matches(name) { rule.changeService(&policy) }
    return policy
  }

  package func endpoint(_ service: ServiceName, _ endpoint: String) -> EndpointPolicy {
    var values: EndpointPolicy.Values?
    for rule in rules where rule.service.matches(service) && rule.endpoint?.matches(endpoint) ?? true {
      var changed = values ?? endpointDefaults.values
      rule.changeEndpoint(&changed)
      values = changed
    }
    return values.map { EndpointPolicy($0) } ?? endpointDefaults
  }
}

/// A text in which `*` stands for any run of bytes.
package struct Wildcard: Hashable, Sendable, CustomStringConvertible {
  package let pattern: String
  private let bytes: [UInt8]

  package init(_ pattern: String) {
    self.pattern = pattern
    bytes = Array(pattern.utf8)
  }

  package var description: String { pattern }

  package func matches(_ text: String) -> Bool {
    let text = Array(text.utf8)
    // The last star met, and where the text went on behind it: on a mismatch it swallows one byte more.
    var star: (pattern: Int, text: Int)?
    var p = 0
    var t = 0
    while t < text.count {
      if p < bytes.count, bytes[p] == UInt8(ascii: "*") {
        star = (p, t)
        p += 1
      } else if p < bytes.count, bytes[p] == text[t] {
        p += 1
        t += 1
      } else if let last = star {
        star = (last.pattern, last.text + 1)
        p = last.pattern + 1
        t = last.text + 1
      } else {
        return false
      }
    }
    return bytes[p...].allSatisfy { $0 == UInt8(ascii: "*") }
  }
}
