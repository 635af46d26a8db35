/// The plug-ins a build knows, by name. A value, built once in `Builtins.swift` and passed on: no global registration.
public struct PluginTable: Sendable {
  public typealias RegistryFactory = @Sendable (PluginEnvironment) throws(ConfigurationError) -> any Registry
  public typealias SelectorFactory = @Sendable () -> any Selector

  public private(set) var registries: [String: RegistryFactory] = [:]
  public private(set) var selectors: [String: SelectorFactory] = [:]

  public init() {}

  public mutating func add(registry name: String, _ factory: @escaping RegistryFactory) throws(ConfigurationError) {
    if registries.updateValue(factory, forKey: name) != nil {
      throw ConfigurationError("two registries are called \(name)")
    }
  }

  public mutating func add(selector name: String, _ factory: @escaping SelectorFactory) throws(ConfigurationError) {
    if selectors.updateValue(factory, forKey: name) != nil {
      throw ConfigurationError("two selectors are called \(name)")
    }
  }

  /// The factory of that name; an unknown one is an error that lists what there is.
  public func registry(_ name: String) throws(ConfigurationError) -> RegistryFactory {
    if let factory = registries[name] { return factory }
    throw Self.unknown("registry", name, Array(registries.keys))
  }

  public func selector(_ name: String) throws(ConfigurationError) -> SelectorFactory {
    if let factory = selectors[name] { return factory }
    throw Self.unknown("selector", name, Array(selectors.keys))
  }

  private static func unknown(_ kind: String, _ name: String, _ known: [String]) -> ConfigurationError {
    ConfigurationError("\(kind) \(name) not found; known: \(known.sorted().joined(separator: ", "))")
  }
}

/// A setting is wrong. `message` names the value found, what is expected and the next step.
public struct ConfigurationError: Error, Equatable, Sendable, CustomStringConvertible {
  public var message: String
  public init(_ message: String) { self.message = message }
  public var description: String { message }
}
