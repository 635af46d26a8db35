// From flags, environment and file to `Settings`, or to everything that is wrong with them.

/// What settings are made of. Nothing here is looked up by the core itself: the environment and the file's bytes are
/// handed in.
package struct SettingsSources {
  package var flags: [FlagValue] = []
  package var environment: [String: String] = [:]
  /// The bytes of the file of MICRO_CONFIG. May block.
  package var readFile: (_ path: String) throws -> [UInt8] = { _ in throw SettingMismatch("no files can be read here") }
  /// The bytes of a file by which the kernel tells of itself; nil where there is none.
  package var readSystemFile: (_ path: String) -> [UInt8]? = { _ in nil }
  /// Makes a tree of the file's bytes: YAML, of which JSON is a part.
  package var parseFile: (_ bytes: [UInt8]) throws -> JSONValue = { try JSONValue(parsing: $0) }
  /// The line of each key of such a file, by its folded place, as in `policies[0].limits.pending`.
  package var locateKeys: (_ bytes: [UInt8]) -> [String: Int] = { _ in [:] }
  /// Names a registry and a selector may have; nil when any will do.
  package var registryNames: [String]?
  package var selectorNames: [String]?
  /// Of those the ones that choose among nodes rather than say where nodes are: what a policy may name.
  package var strategyNames: [String]?
  /// Whether a selector's name and argument mean anything; it throws if not.
  package var checkSelector: (_ selector: String) throws(ConfigurationError) -> Void = { _ in }
  /// Whether a registry's argument means anything; it throws if not.
  package var checkRegistry: (_ choice: PluginChoice, _ settings: Settings) throws(ConfigurationError) -> Void = {
    _, _ in
  }

  package init() {}
}

extension Settings {
  /// Keys of the file that are no settings but trees of their own.
  static let trees = ["policies", "inbound"]

  /// Settings from their sources: flags > environment > file > defaults. An empty variable of the environment is as good
  /// as none, which is how templates leave things out. Errors: every unknown key, every value in use that does not fit,
  /// every combination that cannot work, all at once; `earlier` problems come first.
  package static func load(
    _ sources: SettingsSources, earlier: [SettingProblem] = []
  ) throws(SettingsError) -> Settings {
    var loader = SettingsLoader(sources: sources, problems: earlier)
    loader.load()
    guard loader.problems.isEmpty else { throw SettingsError(loader.locatedProblems()) }
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
  private var file: (path: String, bytes: [UInt8])?
  /// What of the file is no setting but a tree of its own, by its key, and where it stands.
  private var trees: [String: (value: JSONValue, source: SettingSource)] = [:]

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
    takeSecrets()
    settings.cgroup = CgroupLimits(root: settings.cgroupRoot) { [sources] in sources.readSystemFile($0) }
    checkPlugins()
    takePolicies()
    if problems.isEmpty { checkCombinations() }
  }

  private mutating func fail(_ source: SettingSource, _ message: String) {
    problems.append(SettingProblem(source, message))
  }

  /// The problems, those of the file with the lines they are in: a place that is not there has the line of what it
  /// would be in.
  func locatedProblems() -> [SettingProblem] {
    guard let file, problems.contains(where: { if case .file(file.path, _) = $0.source { true } else { false } }) else {
      return problems
    }
    let lines = sources.locateKeys(file.bytes)
    return problems.map { problem in
      guard problem.line == nil, case .file(file.path, let key) = problem.source else { return problem }
      var problem = problem
      var place = Setting.folded(key)
      while problem.line == nil, !place.isEmpty {
        problem.line = lines[place]
        place = String(place[..<(place.lastIndex { $0 == "." || $0 == "[" } ?? place.startIndex)])
      }
      return problem
    }
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
    file = (path, bytes)
    do {
      switch try sources.parseFile(bytes) {
      case .object(let members): takeMembers(members, of: path, within: [])
      case .null: break
      case .bool, .number, .string, .array: fail(.file(path: path, key: ""), "expected a mapping of settings")
      }
    } catch let error as any LocatedError where error.line > 0 {
      let place = error.column > 0 ? "column \(error.column): " : ""
      problems.append(SettingProblem(.file(path: path, key: ""), place + error.message, line: error.line))
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
      if keys.count == 1, Settings.trees.contains(name) {
        if trees.updateValue((member.value, source), forKey: name) != nil { fail(source, "is there twice") }
      } else if case .object(let inner) = member.value, isGroup, keys.count < 8 {
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
    let near = NearestName.of(name, among: Array(Settings.byName.keys) + Settings.trees)
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

  // MARK: Secrets

  /// The values that files hold; their origin is the file.
  private mutating func takeSecrets() {
    for row in Settings.table {
      guard let path = settings.secretPaths[row.key] else { continue }
      let named = source(of: row.key + "_FILE")
      if let other = settings.origins[row.key] {
        fail(named, "\(row.key) is set too (\(other)); keep one of them")
        continue
      }
      let text: String
      do {
        var bytes = try sources.readFile(path)
        while let last = bytes.last, last == 0x0A || last == 0x0D { bytes.removeLast() }
        text = String(decoding: bytes, as: UTF8.self)
      } catch {
        fail(named, "\(path) cannot be read: \(error)")
        continue
      }
      if text.isEmpty {
        fail(named, "\(path) is empty, expected the value of \(row.key)")
        continue
      }
      do throws(SettingMismatch) {
        try row.apply(.text(text), &settings)
        settings.origins[row.key] = .file(path: path, key: "")
      } catch {
        fail(named, "\(path) does not hold \(error.expected)")
      }
    }
  }

  // MARK: Policies

  /// Once the settings are known, which are what the rules change.
  private mutating func takePolicies() {
    if let (value, source) = trees["policies"] {
      let result = PolicyParser.parse(
        value, selectors: sources.strategyNames ?? sources.selectorNames, checkSelector: sources.checkSelector,
        service: settings.servicePolicy,
        endpoint: settings.endpointPolicy)
      settings.policyRules = result.rules
      failAll(result.problems, source)
    }
    if let (value, source) = trees["inbound"] {
      let (policy, found) = InboundPolicy.parse(value)
      settings.inboundPolicy = policy
      failAll(found, source)
    }
    for (name, tree) in trees { settings.origins[name] = tree.source }
  }

  private mutating func failAll(_ found: [PolicyProblem], _ source: SettingSource) {
    guard case .file(let path, _) = source else { return }
    for problem in found { fail(.file(path: path, key: problem.place), problem.message) }
  }

  // MARK: Rules between settings

  private func source(of key: String) -> SettingSource { settings.origins[key] ?? .combination }

  private mutating func checkPlugins() {
    let selector = PluginChoice(settings.selector).name
    if PluginTable.selectorAliases.contains(settings.selector) { settings.selector = PluginTable.defaultSelector }
    if let known = sources.selectorNames, !known.contains(selector) {
      fail(source(of: "MICRO_SELECTOR"), Self.unknown("selector", selector, known))
    } else {
      do throws(ConfigurationError) { try sources.checkSelector(settings.selector) } catch {
        fail(source(of: "MICRO_SELECTOR"), error.message)
      }
    }
    var seen: Set<PluginChoice> = []
    for choice in settings.registries {
      if let known = sources.registryNames, !known.contains(choice.name) {
        fail(source(of: "MICRO_REGISTRY"), Self.unknown("registry", choice.name, known))
      } else if !seen.insert(choice).inserted {
        fail(source(of: "MICRO_REGISTRY"), "\(choice.shown) is there twice")
      } else {
        do throws(ConfigurationError) { try sources.checkRegistry(choice, settings) } catch {
          fail(source(of: "MICRO_REGISTRY"), error.message)
        }
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

  /// Certificates come with their keys.
  private mutating func checkAdmin() {
    for (certificate, key, names) in [
      (settings.adminCertificateFile, settings.adminKeyFile, "MICRO_ADMIN_TLS"),
      (settings.adminClientCertificateFile, settings.adminClientKeyFile, "MICRO_ADMIN_TLS_CLIENT"),
    ] where (certificate == nil) != (key == nil) {
      let there = certificate == nil ? "_KEY_FILE" : "_CERT_FILE"
      let missing = certificate == nil ? "_CERT_FILE" : "_KEY_FILE"
      fail(source(of: names + there), "\(names + missing) is needed too")
    }
    if settings.adminClientAuthorityFile != nil, settings.adminCertificateFile == nil {
      fail(
        source(of: "MICRO_ADMIN_TLS_CLIENT_CA_FILE"),
        "certificates are shown over TLS: MICRO_ADMIN_TLS_CERT_FILE and MICRO_ADMIN_TLS_KEY_FILE are needed too")
    }
  }

  private mutating func checkCombinations() {
    if let strict = settings.compatibility.retry {
      // What its clients do unless they are told.
      if settings.origins["MICRO_CLIENT_REQUEST_TIMEOUT"] == nil {
        settings.requestTimeout = .nanoseconds(strict.requestTimeout)
      }
      if settings.origins["MICRO_SELECTOR"] == nil { settings.selector = "random" }
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
        "\(health) is asked of the app, and MICRO_APP_ADDRESS does not say where the app is; set it or write a URL"
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
    checkAdmin()
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

extension Settings {
  /// Why no sidecar may be started with these: what stops it and shows its settings must not be anybody's. Commands that only
  /// ask may have them.
  package var exposure: SettingProblem? {
    guard let address = adminAddress, !address.isLoopback, adminToken == nil, adminClientAuthorityFile == nil,
      !adminOpenMetrics
    else { return nil }
    if case .unix = address { return nil }
    return SettingProblem(
      origins["MICRO_ADMIN_ADDRESS"] ?? .combination,
      "\(address) can be reached from other machines: set MICRO_ADMIN_TOKEN or MICRO_ADMIN_TOKEN_FILE or MICRO_ADMIN_TLS_CLIENT_CA_FILE, or MICRO_ADMIN_OPEN_METRICS=true to give them only health and metrics, or listen on 127.0.0.1"
    )
  }
}

/// An error in a text that knows where. Both count from 1; 0 when that is not known.
package protocol LocatedError: Error {
  var message: String { get }
  var line: Int { get }
  var column: Int { get }
}
