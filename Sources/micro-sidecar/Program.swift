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
    default: break
    }
    let settings: Settings
    let plugins: PluginTable
    do {
      plugins = try builtinPlugins()
      settings = try load(plugins)
    } catch let error as SettingsError {
      Terminal.error(Formats.problems(error.problems, invocation.output, Terminal.errorStyle))
      return ExitCode.usage.rawValue
    } catch {
      Terminal.error("\(error)\n")
      return ExitCode.internalError.rawValue
    }
    switch invocation.command {
    case .serve: return serve(settings, plugins, [])
    case .run(let command): return serve(settings, plugins, command)
    case .config:
      Terminal.print(settings.render(invocation.output == .json ? .json : .text))
      return ExitCode.ok.rawValue
    case .listServices, .getService, .register, .deregister, .call, .health, .doctor:
      return ClientCommand(invocation.command, invocation.output, settings, plugins).run()
    case .help, .version: return ExitCode.usage.rawValue
    }
  }

  private func load(_ plugins: PluginTable) throws -> Settings {
    var sources = SettingsSources()
    sources.flags = invocation.flags
    sources.environment = processEnvironment()
    sources.registryNames = Array(plugins.registries.keys)
    sources.selectorNames = Array(plugins.selectors.keys)
    sources.parseFile = { try YAML.parse($0) }
    let files = try UVDriver()
    sources.readFile = { try files.readFile($0, limit: 1024 * 1024) }
    defer {
      files.stop()
      files.run()
    }
    return try Settings.load(sources, earlier: invocation.problems)
  }

  private func serve(_ settings: Settings, _ plugins: PluginTable, _ command: [String]) -> Int32 {
    let log = makeLog(settings)
    defer { log.flush() }
    for warning in settings.warnings { log.warning(warning) }
    do {
      return try Server(settings: settings, plugins: plugins, command: command, log: log).run()
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
