// From arguments to what is to be done. The words are those of the `micro` of 2018 where it had the command.

import SidecarCore

/// A call made from the command line.
struct CallArguments: Equatable, Sendable {
  var service: String
  var endpoint: String
  /// JSON, checked; `{}` when none was given.
  var request = "{}"
  /// A node's address, which skips the choice of one.
  var address: String?
  /// Headers that go along.
  var metadata: [FlagValue] = []
}

enum Command: Equatable, Sendable {
  case serve
  /// Starts a program beside the sidecar: its name and arguments, never empty.
  case run([String])
  case listServices
  case getService(String)
  case register(Service)
  case deregister(Service)
  case call(CallArguments)
  /// Of a service's nodes, or of one `address`; without a service, of the sidecar that runs here.
  case health(service: String?, address: String?)
  /// Why calls of an endpoint go where they go.
  case explain(service: String, endpoint: String)
  /// Requests as they end, with filters such as `service` and `go.micro.*`.
  case tap([FlagValue])
  case doctor
  /// Is the sidecar that runs here ready? Asked once, or for as long as it may take, in nanoseconds.
  case ready(wait: Int64?)
  /// Takes the sidecar that runs here out of the registry, and ends that many nanoseconds after it was told to.
  case drain(Int64)
  /// Puts a new process in the place of the sidecar that runs here.
  case restart
  /// The Kubernetes admission webhook.
  case injector
  case config(ConfigView)
  /// Looks for mistakes in the settings, those of `file` if one is named, and starts nothing.
  case checkConfig(file: String?)
  case completion(Shell)
  /// The manual page.
  case manual
  case version
  /// Of a verb, of `settings`, or of all.
  case help(String?)
}

/// What `config` prints.
enum ConfigView: Equatable, Sendable {
  case values
  /// The JSON Schema of the file.
  case schema
  /// docs/configuration.md.
  case reference
}

enum OutputFormat: String, CaseIterable, Sendable {
  case text, json
  /// A call's reply byte for byte.
  case raw
}

/// What a command line says, or what is wrong with it.
struct CommandInvocation: Equatable, Sendable {
  var command: Command
  var output = OutputFormat.text
  /// Settings given as flags, for `SettingsSources.flags`.
  var flags: [FlagValue] = []
  /// To be told with the settings' own problems; not empty: `command` must not be carried out.
  var problems: [SettingProblem] = []
  /// Sentences for standard error before anything else.
  var notices: [String] = []

  /// Reads the arguments without the program's name. Never fails: what is wrong is in `problems`.
  init(parsing arguments: [String]) {
    let scanned = FlagScanner.scan(
      arguments,
      options: CommandOption.all.map(\.rule))
    command = .help(nil)
    flags = scanned.settings
    problems = scanned.problems

    var words = scanned.words
    // `micro registry list services` was the older spelling of `micro list services`.
    if words.first == "registry", words.count > 1, ["list", "get", "register", "deregister"].contains(words[1]) {
      words.removeFirst()
    }
    let isAsked = { (name: String) in scanned.options.contains { $0.flag == name } }
    if isAsked("help") {
      command = .help(words.first)
      problems = []
      return
    }
    if isAsked("version"), words.isEmpty {
      command = .version
      return
    }
    if let word = scanned.options.last(where: { $0.flag == "output" })?.value { takeOutput(word) }
    takeVerb(words, rest: scanned.rest)
    takeCallOptions(scanned.options)
    takeViews(scanned.options)
  }

  private mutating func fail(_ message: String) { problems.append(SettingProblem(.commandLine, message)) }

  // MARK: Verbs

  /// Verbs with what follows them, as the help and the errors show them.
  static let usages: [(verb: String, usage: String, help: String)] = [
    ("serve", "micro-sidecar [serve]", "run the sidecar"),
    ("run", "micro-sidecar run -- COMMAND [ARGUMENT …]", "run the sidecar and the app, and exit with the app's status"),
    ("list", "micro-sidecar list services", "names of all services"),
    ("get", "micro-sidecar get service NAME", "versions, nodes and endpoints of a service"),
    ("register", "micro-sidecar register service JSON", "write a service and its nodes into the registry"),
    ("deregister", "micro-sidecar deregister service JSON", "take nodes of a service out of the registry"),
    ("call", "micro-sidecar call SERVICE ENDPOINT [JSON]", "call an endpoint and print its reply"),
    ("health", "micro-sidecar health [SERVICE]", "health of a service's nodes, or of the sidecar"),
    ("explain", "micro-sidecar explain SERVICE [ENDPOINT]", "why calls go where they go: nodes, scores, limits"),
    (
      "tap", "micro-sidecar tap [FIELD=VALUE …]",
      "requests as they end, at MICRO_ADMIN_ADDRESS"
    ),
    ("ready", "micro-sidecar ready", "is the sidecar that runs here ready? for health checks"),
    ("wait", "micro-sidecar wait [DURATION]", "wait until the sidecar takes calls, 60s at most or DURATION"),
    ("drain", "micro-sidecar drain [DURATION]", "leave the registry, and give callers DURATION to hear of it"),
    ("restart", "micro-sidecar restart", "a new process in the place of the running one, without a lost call"),
    ("injector", "micro-sidecar injector", "the Kubernetes webhook that puts sidecars into pods"),
    ("doctor", "micro-sidecar doctor", "what is wrong here, and what to do about it"),
    ("config", "micro-sidecar config [--schema | --reference]", "each setting, its value and where it came from"),
    ("check-config", "micro-sidecar check-config [FILE]", "what is wrong with the settings; starts nothing"),
    ("completion", "micro-sidecar completion bash|zsh|fish", "completion of commands and settings for a shell"),
    ("man", "micro-sidecar man", "the manual page, for man -l -"),
    ("version", "micro-sidecar version", "the version"),
    ("help", "micro-sidecar help [VERB | settings]", "this, a verb or all settings"),
  ]

  /// Words of the product's other versions, so that they are not taken for slips.
  static let laterVerbs = [
    "stream", "publish", "subscribe", "stats", "api", "web", "bot", "cli",
  ]

  private mutating func takeVerb(_ words: [String], rest: [String]?) {
    let verb = words.first ?? "serve"
    let arguments = Array(words.dropFirst())
    switch verb {
    // `micro sidecar` and, from v0.8, `micro proxy` were what the program is now by itself.
    case "serve", "sidecar", "proxy": command = expect(0, arguments, rest, "serve") { _ in .serve }
    case "run": takeRun(arguments, rest)
    case "list":
      command = expect(1, arguments, rest, verb) { $0[0] == "services" ? .listServices : nil }
    case "get":
      command = expect(2, arguments, rest, verb) { $0[0] == "service" && !$0[1].isEmpty ? .getService($0[1]) : nil }
    case "register": takeService(arguments, rest, verb) { .register($0) }
    case "deregister": takeService(arguments, rest, verb) { .deregister($0) }
    case "call": takeCall(arguments, rest)
    case "query":
      notices.append("Deprecated. Use call instead")
      takeCall(arguments, rest)
    case "health":
      command = expect(0...1, arguments, rest, verb) { .health(service: $0.first, address: nil) }
    case "explain":
      command = expect(1...2, arguments, rest, verb) {
        $0[0].isEmpty ? nil : .explain(service: $0[0], endpoint: $0.count > 1 ? $0[1] : "Debug.Health")
      }
    case "tap": takeTap(arguments + (rest ?? []))
    case "ready": command = expect(0, arguments, rest, verb) { _ in .ready(wait: nil) }
    case "wait": takeDuration(verb, arguments, rest, default: 60_000_000_000) { .ready(wait: $0) }
    case "drain": takeDuration(verb, arguments, rest, default: 0) { .drain($0) }
    case "restart": command = expect(0, arguments, rest, verb) { _ in .restart }
    case "injector": command = expect(0, arguments, rest, verb) { _ in .injector }
    case "doctor": command = expect(0, arguments, rest, verb) { _ in .doctor }
    case "config": command = expect(0, arguments, rest, verb) { _ in .config(.values) }
    case "check-config": command = expect(0...1, arguments, rest, verb) { .checkConfig(file: $0.first) }
    case "completion": command = expect(1, arguments, rest, verb) { Shell(rawValue: $0[0]).map { .completion($0) } }
    case "man": command = expect(0, arguments, rest, verb) { _ in .manual }
    case "version": command = expect(0, arguments, rest, verb) { _ in .version }
    case "help": command = expect(0...2, arguments, rest, verb) { .help($0.first) }
    default: failUnknown(verb)
    }
    if output == .raw, case .call = command { return }
    if output == .raw { fail("-o raw is for call; here it is text or json") }
  }

  private mutating func failUnknown(_ verb: String) {
    let shown = String(verb.unicodeScalars.prefix(64).map { $0.value < 0x20 ? "\u{FFFD}" : Character($0) })
    if Self.laterVerbs.contains(verb) {
      fail("the command \(verb) is not in this version")
    } else if let near = NearestName.of(verb, among: Self.usages.map(\.verb)) {
      fail("there is no command \(shown); did you mean \(near)?")
    } else {
      fail("there is no command \(shown); micro-sidecar help lists them")
    }
  }

  private mutating func expect(
    _ count: Int, _ arguments: [String], _ rest: [String]?, _ verb: String, _ make: ([String]) -> Command?
  ) -> Command {
    expect(count...count, arguments, rest, verb, make)
  }

  /// The command that `make` gives for that many words, or a problem that shows how the verb is used.
  private mutating func expect(
    _ count: ClosedRange<Int>, _ arguments: [String], _ rest: [String]?, _ verb: String,
    _ make: ([String]) -> Command?
  ) -> Command {
    // Words after `--` are words like others, only never flags.
    let words = arguments + (rest ?? [])
    if count.contains(words.count), let command = make(words) { return command }
    failUsage(verb)
    return .help(verb)
  }

  private mutating func failUsage(_ verb: String) {
    let usage = Self.usages.first { $0.verb == verb }?.usage ?? "micro-sidecar help"
    fail("expected \(usage)")
  }

  /// A verb with at most one word, a duration of up to an hour.
  private mutating func takeDuration(
    _ verb: String, _ arguments: [String], _ rest: [String]?, default nanoseconds: Int64, _ make: (Int64) -> Command
  ) {
    command = expect(0...1, arguments, rest, verb) { words in
      guard let word = words.first else { return make(nanoseconds) }
      guard let duration = GoDuration.parse(word), (.zero ... .seconds(3600)).contains(duration) else { return nil }
      return make(duration.saturatingNanoseconds)
    }
  }

  private mutating func takeRun(_ arguments: [String], _ rest: [String]?) {
    guard arguments.isEmpty, let rest, let program = rest.first, !program.isEmpty else {
      command = .help("run")
      if let first = arguments.first {
        // Without the dashes the app's own flags would be read as ours.
        fail("put -- before the app's command, as micro-sidecar run -- \(first) …")
      } else {
        failUsage("run")
      }
      return
    }
    command = .run(rest)
  }

  /// `service` and its JSON, which may come as several words, as that of a call.
  private mutating func takeService(
    _ arguments: [String], _ rest: [String]?, _ verb: String, _ make: (Service) -> Command
  ) {
    command = .help(verb)
    let words = arguments + (rest ?? [])
    guard words.count >= 2, words[0] == "service" else { return failUsage(verb) }
    do throws(WireError) {
      command = make(try Service(json: try JSONValue(parsing: words[1...].joined(separator: " "))))
    } catch {
      fail(
        "this is not a service: \(error); expected "
          + "'{\"name\":\"greeter\",\"nodes\":[{\"id\":\"greeter-1\",\"address\":\"10.0.0.5:8080\"}]}', quoted for the shell"
      )
    }
  }

  private mutating func takeTap(_ words: [String]) {
    var filters: [FlagValue] = []
    for word in words {
      guard let equals = word.firstIndex(of: "=") else {
        command = .help("tap")
        return failUsage("tap")
      }
      if let complaint = TapFilter.complaint(about: String(word[..<equals])) {
        command = .help("tap")
        return fail(complaint)
      }
      filters.append(FlagValue(String(word[..<equals]), String(word[word.index(after: equals)...])))
    }
    command = .tap(filters)
  }

  /// The request may come as several words, which a shell makes of unquoted JSON with spaces.
  private mutating func takeCall(_ arguments: [String], _ rest: [String]?) {
    let words = arguments + (rest ?? [])
    guard words.count >= 2, !words[0].isEmpty, !words[1].isEmpty else {
      command = .help("call")
      failUsage("call")
      return
    }
    var call = CallArguments(service: words[0], endpoint: words[1])
    if words.count > 2 { call.request = words[2...].joined(separator: " ") }
    command = .call(call)
    do throws(WireError) {
      _ = try JSONValue(parsing: call.request)
    } catch {
      fail("the request is not JSON: \(error); quote it for the shell, as '{\"name\":\"John\"}'")
    }
  }

  // MARK: Options

  private mutating func takeOutput(_ word: String) {
    guard let format = OutputFormat(rawValue: word) else {
      fail("-o is \(OutputFormat.allCases.map(\.rawValue).joined(separator: ", ")), not \(word.debugDescription)")
      return
    }
    output = format
  }

  private mutating func takeViews(_ options: [FlagValue]) {
    for option in options {
      guard let view = ["schema": ConfigView.schema, "reference": .reference][option.flag] else { continue }
      guard command == .config(.values) || command == .config(view) else {
        fail("--\(option.flag) does not go with this command")
        continue
      }
      command = .config(view)
    }
  }

  private mutating func takeCallOptions(_ options: [FlagValue]) {
    for option in options where option.flag == "address" || option.flag == "metadata" {
      switch (command, option.flag) {
      case (.call(var call), "address"):
        call.address = option.value
        command = .call(call)
      case (.health(let service?, _), "address"): command = .health(service: service, address: option.value)
      case (.call(var call), _):
        guard let equals = option.value.firstIndex(of: "="), equals > option.value.startIndex else {
          fail("--metadata is key=value, not \(option.value.debugDescription)")
          continue
        }
        call.metadata.append(
          FlagValue(String(option.value[..<equals]), String(option.value[option.value.index(after: equals)...])))
        command = .call(call)
      default: fail("--\(option.flag) does not go with this command")
      }
    }
  }
}
