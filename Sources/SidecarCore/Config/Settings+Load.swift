// From flags, environment and file to `Settings`, or to everything that is wrong with them.

/// What settings are made of. Nothing here is looked up by the core itself: the environment and the file's bytes are
/// handed in.
package struct SettingsSources {
  package var flags: [FlagValue] = []
  package var environment: [String: String] = [:]
  /// The bytes of the file of MICRO_CONFIG. May block.
  package var readFile: (_ path: String) throws -> [UInt8] = { _ in throw SettingMismatch("no files can be read here") }
  /// Makes a tree of the file's bytes: YAML, of which JSON is a part.
  package var parseFile: (_ bytes: [UInt8]) throws -> JSONValue = { try JSONValue(parsing: $0) }
  /// Names a registry and a selector may have; nil when any will do.
  package var registryNames: [String]?
  package var selectorNames: [String]?

  package init() {}
}

extension Settings {
  /// Selectors of go-micro whose own part is the cache or the source of nodes; the strategy they come with is random
  /// (go-micro selector/*, @ v0.14.0 … v6.10.0), and a cache is always there.
  static let selectorAliases = ["cache": "random", "default": "random", "registry": "random"]

  /// Settings from their sources: flags > environment > file > defaults. An empty variable of the environment is as good
  /// as none, which is how templates leave things out. Errors: every unknown key, every value in use that does not fit,
  /// every combination that cannot work, all at once; `earlier` problems come first.
  package static func load(
    _ sources: SettingsSources, earlier: [SettingProblem] = []
  ) throws(SettingsError) -> Settings {
    var loader = SettingsLoader(sources: sources, problems: earlier)
    loader.load()
    guard loader.problems.isEmpty else { throw SettingsError(loader.problems) }
    return loader.settings
  }
}

/// One loading. Collects what each source offers for each key, then takes the first of them.
private struct SettingsLoader {
  let sources: SettingsSources
  var problems: [SettingProblem]
  var settings = Settings()

  private struct Offer {
    var source: SettingSource
    var raw: RawSetting
  }
  private var fromFlags: [String: Offer] = [:]
  private var fromEnvironment: [String: Offer] = [:]
  private var fromFile: [String: Offer] = [:]

  init(sources: SettingsSources, problems: [SettingProblem]) {
    self.sources = sources
    self.problems = problems
  }

  mutating func load() {
    takeFlags()
    takeEnvironment()
    if let offer = fromFlags["MICRO_CONFIG"] ?? fromEnvironment["MICRO_CONFIG"], case .text(let path) = offer.raw,
      !path.isEmpty
    {
      takeFile(path, namedBy: offer.source)
    }
    for row in Settings.table {
      guard let offer = fromFlags[row.key] ?? fromEnvironment[row.key] ?? fromFile[row.key] else { continue }
      do throws(SettingMismatch) {
        try row.apply(offer.raw, &settings)
        settings.origins[row.key] = offer.source
      } catch {
        fail(offer.source, "found \(shown(offer.raw, row)), expected \(error.expected)")
      }
    }
    checkPlugins()
    if problems.isEmpty { checkCombinations() }
  }

  private mutating func fail(_ source: SettingSource, _ message: String) {
    problems.append(SettingProblem(source, message))
  }

  private func shown(_ raw: RawSetting, _ row: Setting) -> String {
    switch raw {
    case .text(let text): Self.quoted(row.shown(text))
    case .list(let elements): "a list of \(elements.count)"
    case .map(let members): "a mapping of \(members.count)"
    }
  }

  /// Values end up on terminals and in logs, so control characters are taken out and length is bounded.
  private static func quoted(_ text: String) -> String {
    let bytesMax = 120
    let printable = text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7F ? "\u{FFFD}" : Character($0) }
    let shown = String(printable.prefix(bytesMax))
    return "\"\(shown)\(printable.count > bytesMax ? "…" : "")\""
  }

  // MARK: Flags

  private mutating func takeFlags() {
    for given in sources.flags {
      let name = Setting.folded(String(given.flag.drop { $0 == "-" }))
      guard let row = Settings.byName[name] else {
        fail(.flag(given.flag), "no such flag")
        continue
      }
      var value = given.value
      if row.isList, case .text(let before)? = fromFlags[row.key]?.raw { value = before + "," + value }
      fromFlags[row.key] = Offer(source: .flag(given.flag), raw: .text(value))
    }
  }

  // MARK: Environment

  private mutating func takeEnvironment() {
    for (key, value) in sources.environment.sorted(by: { $0.key < $1.key }) {
      if let row = Settings.byKey[key] {
        if !value.isEmpty { takeVariable(key, value, row) }
      } else if let unsupported = Settings.unsupported[key] {
        if !unsupported.harmless.contains(value.lowercased()) { fail(.environment(key), unsupported.reason) }
      } else if Settings.ownPrefixes.contains(where: { key.hasPrefix($0) }) {
        let near = NearestName.of(key, among: Settings.byKey.keys)
        fail(.environment(key), "no such setting" + (near.map { "; did you mean \($0)?" } ?? ""))
      } else if key.hasPrefix("MICRO_") {
        settings.ignored.append(key)
        if !Settings.ignorable.contains(key), let near = NearestName.of(key, among: Settings.byKey.keys) {
          settings.warnings.append("environment \(key) is ignored; did you mean \(near)?")
        }
      }
    }
  }

  /// Two names of one setting may stand side by side while they agree; then the newer one is named as the origin.
  private mutating func takeVariable(_ key: String, _ value: String, _ row: Setting) {
    if let other = fromEnvironment[row.key] {
      if other.raw != .text(value) {
        fail(.environment(key), "sets the same as \(other.source), to another value; keep one of them")
      }
      if key != row.key { return }
    }
    fromEnvironment[row.key] = Offer(source: .environment(key), raw: .text(value))
  }

  // MARK: File

  private mutating func takeFile(_ path: String, namedBy source: SettingSource) {
    let bytes: [UInt8]
    do {
      bytes = try sources.readFile(path)
    } catch {
      fail(source, "the file \(path) cannot be read: \(error)")
      return
    }
    do {
      switch try sources.parseFile(bytes) {
      case .object(let members): takeMembers(members, of: path, within: [])
      case .null: break
      case .bool, .number, .string, .array: fail(.file(path: path, key: ""), "expected a mapping of settings")
      }
    } catch {
      fail(.file(path: path, key: ""), "\(error)")
    }
  }

  /// `server: {name: hello}` and `server_name: hello` say the same.
  private mutating func takeMembers(_ members: [JSONValue.Member], of path: String, within parents: [String]) {
    for member in members {
      let keys = parents + [member.key]
      let source = SettingSource.file(path: path, key: keys.joined(separator: "."))
      let name = keys.map { Setting.folded($0) }.joined(separator: "_")
      let row = Settings.byName[name].flatMap { $0.key == "MICRO_CONFIG" ? nil : $0 }
      let isGroup = Settings.byName.keys.contains { $0.hasPrefix(name + "_") }
      if case .object(let inner) = member.value, isGroup, keys.count < 8 {
        takeMembers(inner, of: path, within: keys)
      } else if let row {
        takeValue(member.value, row, source)
      } else {
        fail(source, unknownFileKey(name, isGroup: isGroup))
      }
    }
  }

  private func unknownFileKey(_ name: String, isGroup: Bool) -> String {
    if name == "config" { return "a file cannot name another file" }
    if isGroup { return "expected a mapping of settings" }
    if let reason = Settings.unsupported.first(where: { Setting.name(of: $0.key) == name })?.value.reason {
      return reason
    }
    let near = NearestName.of(name, among: Settings.byName.keys)
    return "no such setting" + (near.map { "; did you mean \($0)?" } ?? "")
  }

  private mutating func takeValue(_ value: JSONValue, _ row: Setting, _ source: SettingSource) {
    let raw: RawSetting
    switch value {
    case .null: return
    case .bool, .number, .string: raw = .text(Self.scalar(value) ?? "")
    case .array(let elements):
      let texts = elements.compactMap { Self.scalar($0) }
      guard texts.count == elements.count else {
        fail(source, "found a list that is not of plain values, expected \(row.expected)")
        return
      }
      raw = .list(texts)
    case .object(let members):
      let pairs = members.compactMap { member in Self.scalar(member.value).map { RawSetting.Pair(member.key, $0) } }
      guard pairs.count == members.count else {
        fail(source, "found a mapping that is not of plain values, expected \(row.expected)")
        return
      }
      raw = .map(pairs)
    }
    if let other = fromFile[row.key] {
      fail(source, "sets the same as \(other.source); keep one of them")
      return
    }
    fromFile[row.key] = Offer(source: source, raw: raw)
  }

  private static func scalar(_ value: JSONValue) -> String? {
    switch value {
    case .bool(let value): value ? "true" : "false"
    case .number(let digits): digits
    case .string(let text): text
    case .null, .array, .object: nil
    }
  }

  // MARK: Rules between settings

  private func source(of key: String) -> SettingSource { settings.origins[key] ?? .combination }

  private mutating func checkPlugins() {
    settings.selector = Settings.selectorAliases[settings.selector] ?? settings.selector
    if let known = sources.selectorNames, !known.contains(settings.selector) {
      fail(source(of: "MICRO_SELECTOR"), Self.unknown("selector", settings.selector, known))
    }
    var seen: Set<PluginChoice> = []
    for choice in settings.registries {
      if let known = sources.registryNames, !known.contains(choice.name) {
        fail(source(of: "MICRO_REGISTRY"), Self.unknown("registry", choice.name, known))
      } else if !seen.insert(choice).inserted {
        fail(source(of: "MICRO_REGISTRY"), "\(choice) is there twice")
      }
    }
    checkBridges()
  }

  private mutating func checkBridges() {
    let source = source(of: "MICRO_SIDECAR_BRIDGE")
    for bridge in settings.bridges {
      for name in [bridge.source, bridge.target] where settings.registryIndex(name) == nil {
        fail(source, "\(bridge): \(name) is not one of MICRO_REGISTRY")
      }
      if settings.registryIndex(bridge.source) == settings.registryIndex(bridge.target) {
        fail(source, "\(bridge): both are the same registry")
      }
    }
  }

  private static func unknown(_ kind: String, _ name: String, _ known: [String]) -> String {
    let near = NearestName.of(name, among: known).map { "; did you mean \($0)?" } ?? ""
    return "found \(kind) \(quoted(name)), expected one of \(known.sorted().joined(separator: ", "))\(near)"
  }

  private mutating func checkCombinations() {
    if settings.compatibility == .strict {
      fail(
        source(of: "MICRO_SIDECAR_COMPAT"),
        "strict is not in this version; fixed answers 404, 415 and 503 where the 2018 sidecar said 500")
    }
    do throws(SettingMismatch) {
      let codecs = try FrameCodecTable(adding: settings.codecs)
      do throws(SettingMismatch) { _ = try ContentTypeChoice(settings.contentTypes, codecs: codecs) } catch {
        fail(source(of: "MICRO_SIDECAR_CONTENT_TYPE"), "expected \(error.expected)")
      }
    } catch {
      fail(source(of: "MICRO_SIDECAR_CODECS"), "expected \(error.expected)")
    }
    for text in settings.appStreams where AppStream(text) == nil {
      fail(
        source(of: "MICRO_APP_STREAMS"),
        "found \(Self.quoted(text)), expected an endpoint such as Chat.Talk, perhaps with =websocket or =ndjson behind it"
      )
    }
    if let health = settings.appHealth, health.target == nil, settings.appAddress == nil {
      fail(
        source(of: "MICRO_APP_HEALTH"),
        "\(health.path) is a path on the app, and MICRO_APP_ADDRESS does not say where the app is; set it or write a URL"
      )
    }
    if settings.registerTTL > .zero,
      settings.registerInterval == .zero || settings.registerInterval >= settings.registerTTL
    {
      fail(
        settings.origins["MICRO_REGISTER_INTERVAL"] ?? source(of: "MICRO_REGISTER_TTL"),
        "a refresh every \(settings.registerInterval.components.seconds) s lets a registration of "
          + "\(settings.registerTTL.components.seconds) s expire; MICRO_REGISTER_INTERVAL must be above 0 and below "
          + "MICRO_REGISTER_TTL")
    }
    if settings.appAddress != nil, settings.serverName == nil {
      settings.warnings.append(
        "MICRO_APP_ADDRESS is set and MICRO_SERVER_NAME is not, so the app is not registered and takes no calls")
    }
    checkAddresses()
  }

  private mutating func checkAddresses() {
    var listeners = [
      ("MICRO_SIDECAR_ADDRESS", settings.sidecarAddress), ("MICRO_SERVER_ADDRESS", settings.serverAddress),
    ]
    if let admin = settings.adminAddress { listeners.append(("MICRO_ADMIN_ADDRESS", admin)) }
    for (index, (key, address)) in listeners.enumerated() {
      for (otherKey, other) in listeners[..<index] where Self.collide(address, other) {
        fail(source(of: key), "\(key) \(address) and \(otherKey) \(other) cannot both be listened on")
      }
      if case .address(let app)? = settings.appAddress, Self.collide(address, app),
        !app.isPlainPortOnAnotherHost(address)
      {
        fail(source(of: "MICRO_APP_ADDRESS"), "the app cannot be at \(app): the sidecar itself listens there (\(key))")
      }
    }
  }

  /// Whether two sockets cannot be bound side by side: the same port on the same host, or on all hosts.
  private static func collide(_ a: SocketAddress, _ b: SocketAddress) -> Bool {
    switch (a, b) {
    case (.unix(let left), .unix(let right)): left == right
    case (.unix, _), (_, .unix): false
    default: a.port == b.port && a.port != 0 && (a.host == b.host || a.isWildcard || b.isWildcard)
    }
  }
}

extension SocketAddress {
  /// An address that is not this host's own loopback, seen from a wildcard listener: it may well be another machine.
  fileprivate func isPlainPortOnAnotherHost(_ listener: SocketAddress) -> Bool { listener.isWildcard && !isLoopback }
}
