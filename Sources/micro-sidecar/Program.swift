// From arguments to an exit code: which command, with which settings.

import SidecarBuiltins
import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The version of this build, as `micro-sidecar version` and the image's labels say it.
let programVersion = "0.1.0"

struct Program {
  private let invocation: CommandInvocation

  init(arguments: [String]) { invocation = CommandInvocation(parsing: arguments) }

  func run() -> Int32 {
    for notice in invocation.notices { Terminal.error(notice + "\n") }
    switch invocation.command {
    case .help(let topic) where invocation.problems.isEmpty:
      Terminal.print(Help.text(topic))
      return ExitCode.ok.rawValue
    case .version where invocation.problems.isEmpty:
      Terminal.print(Formats.version(programVersion, libuv: UVDriver.libraryVersion, invocation.output))
      return ExitCode.ok.rawValue
    case .config(.schema) where invocation.problems.isEmpty:
      Terminal.print(Formats.document(ConfigurationSchema.document()))
      return ExitCode.ok.rawValue
    case .config(.reference) where invocation.problems.isEmpty:
      Terminal.print(Reference.markdown)
      return ExitCode.ok.rawValue
    case .completion(let shell) where invocation.problems.isEmpty:
      Terminal.print(Completion.script(for: shell))
      return ExitCode.ok.rawValue
    case .manual where invocation.problems.isEmpty:
      Terminal.print(ManualPage.text(version: programVersion))
      return ExitCode.ok.rawValue
    case .checkConfig(let file): return check(file)
    default: break
    }
    if invocation.command == .injector, invocation.problems.isEmpty { return inject() }
    let settings: Settings
    let plugins: PluginTable
    do {
      plugins = try builtinPlugins()
      settings = try load(sources(plugins))
    } catch {
      return failed(error)
    }
    switch invocation.command {
    case .serve: return serve(settings, plugins, [])
    case .run(let command): return serve(settings, plugins, command)
    case .config(.values):
      Terminal.print(settings.render(invocation.output == .json ? .json : .text))
      return ExitCode.ok.rawValue
    case .ready, .drain, .restart: return AdminCommand(invocation.command, settings).run()
    case .listServices, .getService, .register, .deregister, .call, .health, .explain, .tap, .doctor:
      return ClientCommand(invocation.command, invocation.output, settings, plugins).run()
    case .help, .version, .injector, .config, .checkConfig, .completion, .manual: return ExitCode.usage.rawValue
    }
  }

  private func check(_ file: String?) -> Int32 {
    do {
      let plugins = try builtinPlugins()
      let check = ConfigurationCheck(output: invocation.output, plugins: plugins)
      let driver = try UVDriver()
      return check.run { () throws(SettingsError) in
        var sources = sources(plugins)
        sources.checkRegistry = { choice, settings throws(ConfigurationError) in
          _ = try plugins.makeRegistry(choice, settings, driver: driver, log: NoLog())
        }
        if let file { sources.flags.append(FlagValue("--config", file)) }
        return try load(sources)
      }
    } catch {
      return failed(error)
    }
  }

  private func inject() -> Int32 {
    do {
      return try Injector(environment: processEnvironment()).run()
    } catch {
      return failed(error)
    }
  }

  /// Says what was wrong with the settings, or with us.
  private func failed(_ error: any Error) -> Int32 {
    if let error = error as? SettingsError {
      Terminal.error(Formats.problems(error.problems, invocation.output, Terminal.errorStyle))
      return ExitCode.usage.rawValue
    }
    Terminal.error("\(error)\n")
    return ExitCode.internalError.rawValue
  }

  /// Bytes of the file of MICRO_CONFIG.
  static let configurationBytesMax = 1024 * 1024

  /// All but the reading of files.
  private func sources(_ plugins: PluginTable) -> SettingsSources {
    var sources = SettingsSources()
    sources.flags = invocation.flags
    sources.environment = processEnvironment()
    sources.registryNames = Array(plugins.registries.keys)
    sources.selectorNames = plugins.selectorNames
    sources.strategyNames = plugins.strategyNames
    sources.checkSelector = { selector throws(ConfigurationError) in _ = try plugins.selector(selector) }
    sources.parseFile = { try YAML.parse($0) }
    sources.locateKeys = { YAML.lines(of: $0) }
    return sources
  }

  private func load(_ sources: SettingsSources) throws(SettingsError) -> Settings {
    var sources = sources
    guard let files = try? UVDriver() else {
      throw SettingsError([SettingProblem(.combination, "no loop can be made to read files with")])
    }
    sources.readFile = { try files.readFile($0, limit: Self.configurationBytesMax) }
    sources.readSystemFile = { try? files.readFile($0, limit: Self.configurationBytesMax) }
    defer {
      files.stop()
      files.run()
    }
    return try Settings.load(sources, earlier: invocation.problems)
  }

  private func serve(_ settings: Settings, _ plugins: PluginTable, _ command: [String]) -> Int32 {
    if let problem = settings.exposure {
      Terminal.error(Formats.problems([problem], invocation.output, Terminal.errorStyle))
      return ExitCode.usage.rawValue
    }
    let log = makeLog(settings)
    defer { log.flush() }
    for warning in settings.warnings { log.warning(warning) }
    if !settings.coreDumps { UVDriver.forbidCoreDumps() }
    do {
      let inheritance = try Inheritance.take(processEnvironment())
      if let problem = inheritance?.bequest.problem(for: settings) {
        log.error("cannot start: \(problem)")
        return ExitCode.usage.rawValue
      }
      return try Server(
        settings: settings, plugins: plugins, command: command, log: log, sources: sources(plugins),
        inheritance: inheritance
      ).run()
    } catch {
      log.error("cannot start: \(error)")
      return ExitCode.usage.rawValue
    }
  }
}

/// Standard output and error.
enum Terminal {
  static var style: Style { Style(isColoured: isatty(1) == 1 && noColour == nil) }
  static var errorStyle: Style { Style(isColoured: isatty(2) == 1 && noColour == nil) }
  private static var noColour: String? { processEnvironment()["NO_COLOR"] }

  static func print(_ text: String) { write(1, Array(text.utf8)) }
  static func print(_ bytes: [UInt8]) { write(1, bytes) }
  static func error(_ text: String) { write(2, Array(text.utf8)) }

  private static func write(_ descriptor: Int32, _ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { return }
      rest = rest.dropFirst(count)
    }
  }
}
