// All descriptors that a sidecar has at one moment, as workers see them.

/// An immutable snapshot; any thread. Methods of a service are looked for in the set that is bound to it, then among
/// those given for all.
package final class Descriptors: Sendable {
  /// Sets for every service.
  package let common: DescriptorPool?
  /// Sets for one go-micro service: from `MICRO_DESCRIPTORS=service=path`, or from a node's server reflection. Two of
  /// them may define the same names differently.
  package let bound: [ServiceName: DescriptorPool]

  package static let none = Descriptors(common: nil, bound: [:])

  package init(common: DescriptorPool?, bound: [ServiceName: DescriptorPool]) {
    self.common = common
    self.bound = bound
  }

  package var isEmpty: Bool { common == nil && bound.isEmpty }

  /// As `DescriptorPool.method(service:endpoint:)`.
  package func method(service: ServiceName, endpoint: String) throws(DescriptorError) -> ProtoMethod? {
    if let pool = bound[service], let method = try pool.method(service: service, endpoint: endpoint) { return method }
    return try common?.method(service: service, endpoint: endpoint)
  }

  /// What to tell a caller whose message cannot be translated.
  package static func missing(service: ServiceName, endpoint: String) -> DescriptorError {
    DescriptorError(
      // What helps comes early: a WebSocket's Close has room for 123 bytes.
      "no descriptors for \(service) \(endpoint): name a set in MICRO_DESCRIPTORS, made with "
        + "protoc --include_imports --descriptor_set_out=FILE.binpb FILE.proto")
  }
}
