/// The plug-ins a build knows, by name. A value, built once in `Builtins.swift` and passed on: no global registration.
public struct PluginTable: Sendable {
  public typealias RegistryFactory = @Sendable (PluginEnvironment) throws(ConfigurationError) -> any Registry
  /// `argument` is what follows the colon of `hash:header=X-User`.
  public typealias SelectorFactory = @Sendable (_ argument: String?) throws(ConfigurationError) -> SelectorPlan

  /// Names of go-micro for what is always so here: what the registries say is kept anyway (selector/cache, selector/registry,
  /// @ v0.14.0 … v6.10.0).
  package static let selectorAliases = ["cache", "default", "registry"]
  package static let defaultSelector = "ewma"

  public private(set) var registries: [String: RegistryFactory] = [:]
  public private(set) var selectors: [String: SelectorFactory] = [:]
  /// Selectors that are no strategy but know where nodes are: calls get their nodes from these registries instead.
  public private(set) var nodeSources: [String: RegistryFactory] = [:]

  public init() {}

  public mutating func add(registry name: String, _ factory: @escaping RegistryFactory) throws(ConfigurationError) {
    if registries.updateValue(factory, forKey: name) != nil {
      throw ConfigurationError("two registries are called \(name)")
    }
  }

  public mutating func add(selector name: String, planned factory: @escaping SelectorFactory) throws(ConfigurationError)
  {
    if nodeSources[name] != nil || selectors.updateValue(factory, forKey: name) != nil {
      throw ConfigurationError("two selectors are called \(name)")
    }
  }

  /// A selector that takes no argument and goes by no key.
  public mutating func add(
    selector name: String, _ make: @escaping @Sendable () -> any Selector
  ) throws(ConfigurationError) {
    try add(
      selector: name,
      planned: { argument throws(ConfigurationError) in
        if let argument {
          throw ConfigurationError("selector \(name): takes no argument, found \"\(argument)\"")
        }
        return SelectorPlan(make: make)
      })
  }

  /// A selector whose nodes come from a registry of its own, which is only looked up and watched.
  public mutating func add(
    selector name: String, nodesFrom factory: @escaping RegistryFactory
  ) throws(ConfigurationError) {
    if selectors[name] != nil || nodeSources.updateValue(factory, forKey: name) != nil {
      throw ConfigurationError("two selectors are called \(name)")
    }
  }

  /// The factory of that name; an unknown one is an error that lists what there is.
  public func registry(_ name: String) throws(ConfigurationError) -> RegistryFactory {
    if let factory = registries[name] { return factory }
    throw Self.unknown("registry", name, Array(registries.keys))
  }

  /// All names a selector may be asked for by, sorted.
  public var selectorNames: [String] { (strategyNames + nodeSources.keys).sorted() }

  /// Of those the ones that choose among nodes rather than say where nodes are, sorted.
  public var strategyNames: [String] { (selectors.keys + Self.selectorAliases).sorted() }

  /// What `name` or `name:argument` means. Errors: an unknown name, with those there are, or an argument that does not fit.
  public func selector(_ text: String) throws(ConfigurationError) -> SelectorPlan {
    let choice = PluginChoice(text)
    // With nodes of another source the calls are spread as always.
    let isAlias = Self.selectorAliases.contains(choice.name) || nodeSources[choice.name] != nil
    guard let factory = selectors[isAlias ? Self.defaultSelector : choice.name] else {
      throw Self.unknown("selector", choice.name, selectorNames)
    }
    return try factory(nodeSources[choice.name] != nil ? nil : choice.argument)
  }

  /// Plans by name; without a name, and for one that is not known, the `standard` one. Errors: `standard` is not known.
  package func selectorPlans(
    standard: String
  ) throws(ConfigurationError) -> @Sendable (_ name: String?) -> SelectorPlan {
    let plan = try selector(standard)
    let table = self
    return { name in name.flatMap { try? table.selector($0) } ?? plan }
  }

  private static func unknown(_ kind: String, _ name: String, _ known: [String]) -> ConfigurationError {
    ConfigurationError("\(kind) \(name) not found; known: \(known.sorted().joined(separator: ", "))")
  }
}

/// What a selector's name and argument come to.
public struct SelectorPlan: Sendable {
  /// One for each worker and service.
  public var make: @Sendable () -> any Selector
  /// How the keys it goes by are made; nil: it goes by none.
  public var keyHash: SelectKeyHash?
  /// Where its argument says that keys are found; a service's policy may say otherwise.
  public var affinity: AffinityKey?

  public init(keyHash: SelectKeyHash? = nil, affinity: AffinityKey? = nil, make: @escaping @Sendable () -> any Selector)
  {
    self.make = make
    self.keyHash = keyHash
    self.affinity = affinity
  }
}

/// A setting is wrong. `message` names the value found, what is expected and the next step.
public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
  public var message: String
  public init(_ message: String) { self.message = message }
  public var description: String { message }
}
