// Runs the rules of `RegistryConformance` against a registry that a test has started.
//
//   registry-conformance REGISTRY [OPTION...]
//
//   REGISTRY             as in MICRO_REGISTRY: consul:127.0.0.1:8500?token=x
//   --patience SECONDS   how long a change may take to be seen (2)
//   --many COUNT         services in the rule of many (1000)
//   --without TRAIT      ttl, service-metadata, empty-version, writing: what the registry cannot do; may be repeated
//   --apart REGISTRY     another registry writes, so that all that is read has gone over the network; of several, each
//                        writes its share of the services, as the members of a cluster do
//   --rule TEXT          only rules whose name contains TEXT
//
// One line a rule, as it ends; exits with 1 when one failed, with 64 for a mistake in the arguments.

import SidecarBuiltins
import SidecarConformance
import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

struct Plan {
  var registry = ""
  var argument: String?
  var traits = RegistryTraits()
  var rule = ""
  var writers: [(name: String, argument: String?)] = []

  private static func named(_ text: String) -> (name: String, argument: String?) {
    let parts = text.split(separator: ":", maxSplits: 1).map(String.init)
    return (parts[0], parts.count == 2 ? parts[1] : nil)
  }

  init?(_ arguments: [String]) {
    guard let name = arguments.first, !name.hasPrefix("-") else { return nil }
    (registry, argument) = Self.named(name)
    var rest = arguments.dropFirst()
    while let option = rest.popFirst() {
      guard let value = rest.popFirst() else { return nil }
      switch option {
      case "--patience":
        guard let seconds = Int(value) else { return nil }
        traits.patience = .seconds(seconds)
      case "--many":
        guard let count = Int(value) else { return nil }
        traits.many = count
      case "--without" where value == "ttl": traits.honoursTTL = false
      case "--without" where value == "service-metadata": traits.keepsServiceMetadata = false
      case "--without" where value == "empty-version": traits.takesEmptyVersion = false
      case "--without" where value == "writing": traits.isWritable = false
      case "--apart": writers.append(Self.named(value))
      case "--rule": rule = value
      default: return nil
      }
    }
  }
}

/// Log lines go to standard error, where a failing test shows them.
struct ErrorLog: LogSink {
  var level: LogLevel { .info }
  func log(
    _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)]
  ) {
    guard level >= self.level else { return }
    say("\(level): \(message()) \(fields().map { "\($0.0)=\($0.1)" }.joined(separator: " "))", to: 2)
  }
}

/// Not `print`, which would keep the line until there are more of them.
func say(_ line: String, to descriptor: Int32 = 1) {
  let bytes = Array("\(line)\n".utf8)
  guard write(descriptor, bytes, bytes.count) == bytes.count else { exit(74) }
}

/// The rules one after another; true when all hold.
func run(_ rules: [RegistryConformance], _ subject: RegistrySubject) async -> Bool {
  var isSound = true
  for rule in rules {
    let begun = subject.driver.now
    do throws(ConformanceFailure) {
      try await rule.check(subject)
      say("ok \(rule.rawValue) (\((subject.driver.now.nanoseconds - begun.nanoseconds) / 1_000_000) ms)")
    } catch {
      say("FAILED \(error.message)")
      isSound = false
    }
  }
  return isSound
}

guard let plan = Plan(Array(CommandLine.arguments.dropFirst())) else {
  say("usage: registry-conformance REGISTRY [--patience S] [--many N] [--without TRAIT]... [--rule TEXT]", to: 2)
  exit(64)
}
let driver = try UVDriver()
let registry: any Registry
let writers: [any Registry]
do {
  let plugins = try builtinPlugins()
  func make(_ name: String, _ argument: String?) throws -> any Registry {
    try plugins.registry(name)(PluginEnvironment(driver: driver, log: ErrorLog(), argument: argument))
  }
  registry = try make(plan.registry, plan.argument)
  let registry = registry
  writers = plan.writers.isEmpty ? [registry] : try plan.writers.map { try make($0.name, $0.argument) }
} catch {
  say("\(error)", to: 2)
  exit(64)
}
var subject = RegistrySubject(registry, driver: driver, traits: plan.traits)
@Sendable func writer(of service: Service) -> any Registry {
  writers[service.name.utf8.reduce(0) { ($0 &* 31 &+ Int($1)) & 0xFFFF } % writers.count]
}
subject.write = { service, ttl throws(RegistryError) in try await writer(of: service).register(service, ttl: ttl) }
subject.erase = { service throws(RegistryError) in try await writer(of: service).deregister(service) }
let rules = RegistryConformance.allCases.filter {
  $0.applies(to: plan.traits) && (plan.rule.isEmpty || $0.rawValue.contains(plan.rule))
}
_ = startTask(on: driver) { [subject] in
  let isSound = await run(rules, subject)
  exit(isSound ? 0 : 1)
}
driver.run()
