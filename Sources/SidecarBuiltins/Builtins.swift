// The one list of the plug-ins that come with the binary, and how they are named in settings.

import SidecarCore

/// The table of all built-in plug-ins. Another build adds its own to the value before passing it on.
public func builtinPlugins() throws(ConfigurationError) -> PluginTable {
  var table = PluginTable()
  try table.add(registry: "mdns") { environment throws(ConfigurationError) in
    try MDNSRegistry(environment: environment)
  }
  try table.add(registry: "memory") { MemoryRegistry(environment: $0) }
  try table.add(registry: "file") { environment throws(ConfigurationError) in
    try FileRegistry(environment: environment)
  }
  try table.add(selector: "random") { RandomSelector() }
  try table.add(selector: "roundrobin") { RoundRobinSelector() }
  return table
}

/// One registry as a setting names it: `mdns`, or `file:services.yaml`.
public struct RegistrySpec: Equatable, Sendable, CustomStringConvertible {
  public var name: String
  /// What follows the colon.
  public var argument: String?

  public init(name: String, argument: String? = nil) {
    self.name = name
    self.argument = argument
  }

  public var description: String { argument.map { "\(name):\($0)" } ?? name }

  /// Registries in one setting; more are an error.
  public static let countMax = 16

  /// Reads a list such as `mdns,file:services.yaml,memory`: the order is the precedence. Blanks around an item are
  /// dropped. An empty list, an empty item and the same item twice are errors.
  public static func parse(_ text: String) throws(ConfigurationError) -> [RegistrySpec] {
    var specs: [RegistrySpec] = []
    for item in text.split(separator: ",", omittingEmptySubsequences: false) {
      let item = item.trimmingBlanks
      let parts = item.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
      let name = parts.first.map { $0.trimmingBlanks } ?? ""
      guard !name.isEmpty else {
        throw ConfigurationError("registry list \"\(text)\" has an empty item: expected mdns,file:services.yaml")
      }
      let spec = RegistrySpec(name: String(name), argument: parts.count == 2 ? String(parts[1]) : nil)
      guard !specs.contains(spec) else { throw ConfigurationError("registry \(spec) is named twice in \"\(text)\"") }
      guard specs.count < countMax else { throw ConfigurationError("more than \(countMax) registries in \"\(text)\"") }
      specs.append(spec)
    }
    return specs
  }
}

extension PluginTable {
  /// Makes the registries of a setting, in its order. Call it on the control loop. `addresses` are those of
  /// `MICRO_REGISTRY_ADDRESS`; registries that have no use for them ignore them.
  public func makeRegistries(
    _ specs: [RegistrySpec], driver: any HostDriver, log: any LogSink, addresses: [String] = []
  ) throws(ConfigurationError) -> [any Registry] {
    var registries: [any Registry] = []
    for spec in specs {
      let factory = try registry(spec.name)
      let environment = PluginEnvironment(
        driver: driver, log: log, argument: spec.argument, addresses: addresses)
      registries.append(try factory(environment))
    }
    return registries
  }
}

extension StringProtocol {
  fileprivate var trimmingBlanks: SubSequence {
    let start = firstIndex { $0 != " " && $0 != "\t" } ?? endIndex
    guard let last = lastIndex(where: { $0 != " " && $0 != "\t" }) else { return self[start..<start] }
    return self[start...last]
  }
}
