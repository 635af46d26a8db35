import SidecarCore
import Testing

@testable import micro_sidecar

private func parse(_ line: String) -> CommandInvocation {
  CommandInvocation(parsing: line.split(separator: " ").map(String.init))
}

@Suite("Command line")
struct CommandTests {
  @Test(
    "commands",
    arguments: [
      ("", .serve), ("serve", .serve), ("sidecar", .serve), ("proxy", .serve), ("--server_name x", .serve),
      ("run -- python app.py --port 1", .run(["python", "app.py", "--port", "1"])),
      ("--server-name=x run -- ./app", .run(["./app"])), ("list services", .listServices),
      ("registry list services", .listServices), ("-o json list services", .listServices),
      ("list -o json services", .listServices), ("get service go.micro.srv.a", .getService("go.micro.srv.a")),
      ("registry get service a", .getService("a")),
      (
        "register service {\"name\":\"a\",\"nodes\":[{\"id\":\"1\",\"address\":\"h:1\"}]}",
        .register(Service(name: "a", version: "", nodes: [Node(id: "1", address: "h:1")]))
      ), ("registry deregister service {\"name\":\"a\"}", .deregister(Service(name: "a", version: ""))),
      ("health", .health(service: nil, address: nil)),
      ("health a", .health(service: "a", address: nil)),
      ("health a --address h:1", .health(service: "a", address: "h:1")),
      ("ready", .ready(wait: nil)), ("wait", .ready(wait: 60_000_000_000)), ("wait 500ms", .ready(wait: 500_000_000)),
      ("drain", .drain(0)), ("drain 5s", .drain(5_000_000_000)), ("injector", .injector),
      ("doctor", .doctor), ("config", .config(.values)), ("config --schema", .config(.schema)),
      ("--reference config", .config(.reference)), ("check-config", .checkConfig(file: nil)),
      ("check-config a.yaml -o json", .checkConfig(file: "a.yaml")), ("completion zsh", .completion(.zsh)),
      ("man", .manual), ("version", .version), ("--version", .version), ("-v", .version),
      ("help", .help(nil)), ("--help", .help(nil)), ("-h", .help(nil)), ("call -h", .help("call")),
      ("help call", .help("call")), ("help settings", .help("settings")),
    ] as [(String, Command)])
  func commands(line: String, command: Command) {
    let invocation = parse(line)
    #expect(invocation.command == command)
    #expect(invocation.problems == [])
    #expect(invocation.notices == [])
  }

  @Test("calls")
  func calls() {
    #expect(parse("call a B.C").command == .call(CallArguments(service: "a", endpoint: "B.C", request: "{}")))
    let invocation = CommandInvocation(parsing: [
      "call", "a", "B.C", #"{"name":"J D"}"#, "--metadata", "X-User=a=b", "--metadata=Y=", "--address", "h:1", "-o",
      "raw",
    ])
    #expect(
      invocation.command
        == .call(
          CallArguments(
            service: "a", endpoint: "B.C", request: #"{"name":"J D"}"#, address: "h:1",
            metadata: [FlagValue("X-User", "a=b"), FlagValue("Y", "")])))
    #expect(invocation.output == .raw)
    #expect(invocation.problems == [])
    #expect(parse("call a B.C -- -1").command == .call(CallArguments(service: "a", endpoint: "B.C", request: "-1")))
    let words = CommandInvocation(parsing: ["call", "a", "B.C", "{\"a\":", "1}"])
    #expect(words.command == .call(CallArguments(service: "a", endpoint: "B.C", request: "{\"a\": 1}")))
  }

  @Test("query is call, and says that it is old")
  func query() {
    let invocation = parse("query a B.C {}")
    #expect(invocation.command == .call(CallArguments(service: "a", endpoint: "B.C")))
    #expect(invocation.notices == ["Deprecated. Use call instead"])
  }

  @Test("settings may stand anywhere before the dashes, and nowhere after them")
  func settings() {
    let invocation = parse("--server_name a run --app-address=h:1 -- app --server_name b")
    #expect(invocation.flags == [FlagValue("--server_name", "a"), FlagValue("--app-address", "h:1")])
    #expect(invocation.command == .run(["app", "--server_name", "b"]))
    #expect(invocation.problems == [])
  }

  @Test(
    "what is wrong is said with what would be right",
    arguments: [
      ("lst services", "command line: there is no command lst; did you mean list?"),
      ("frobnicate", "command line: there is no command frobnicate; micro-sidecar help lists them"),
      ("publish topic {}", "command line: the command publish is not in this version"),
      ("list", "command line: expected micro-sidecar list services"),
      ("list nodes", "command line: expected micro-sidecar list services"),
      ("get service", "command line: expected micro-sidecar get service NAME"),
      ("call a", "command line: expected micro-sidecar call SERVICE ENDPOINT [JSON]"),
      ("wait soon", "command line: expected micro-sidecar wait [DURATION]"),
      ("drain 2h", "command line: expected micro-sidecar drain [DURATION]"),
      ("drain -- -1s", "command line: expected micro-sidecar drain [DURATION]"),
      ("config now", "command line: expected micro-sidecar config [--schema | --reference]"),
      ("config --schema --reference", "command line: --reference does not go with this command"),
      ("list services --schema", "command line: --schema does not go with this command"),
      ("check-config a b", "command line: expected micro-sidecar check-config [FILE]"),
      ("completion tcsh", "command line: expected micro-sidecar completion bash|zsh|fish"),
      ("run", "command line: expected micro-sidecar run -- COMMAND [ARGUMENT …]"),
      ("run --", "command line: expected micro-sidecar run -- COMMAND [ARGUMENT …]"),
      ("run python", "command line: put -- before the app's command, as micro-sidecar run -- python …"),
      ("list services -o xml", "command line: -o is text, json, raw, not \"xml\""),
      ("list services -o raw", "command line: -o raw is for call; here it is text or json"),
      ("list services --address h:1", "command line: --address does not go with this command"),
      ("call a B.C --metadata x", "command line: --metadata is key=value, not \"x\""),
      ("--no-such-flag=1", "flag --no-such-flag: no such flag; micro-sidecar help lists them"),
      ("--addres h:1 config", "flag --addres: no such flag; did you mean --address?"),
      ("--server_name", "flag --server_name: a value must follow, as --server_name VALUE or --server_name=VALUE"),
      ("--help=yes --sidecar_workers", "flag --sidecar_workers: a value must follow"),
      (
        "call a B.C {name}",
        "command line: the request is not JSON: expected a string as key at byte 1; quote it for the shell"
      ),
    ])
  func problems(line: String, problem: String) {
    let found = parse(line).problems.map(\.description)
    if line.hasPrefix("--help") {
      // Help is given whatever else is wrong: that is when it is wanted.
      #expect(found == [])
      return
    }
    if line.contains("{name}") {
      #expect(found.count == 1)
      #expect(found.first?.hasPrefix("command line: the request is not JSON: ") == true)
      return
    }
    #expect(found == [problem])
  }

  @Test("no arguments trap the parser, and each problem is one printable line", arguments: [1, 2] as [UInt64])
  func hostileArguments(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let pieces = [
      "-", "--", "-o", "json", "call", "run", "get", "service", "=", "--server_name", "--address", "a", "{}", "",
      "\u{1B}[m",
      "--=", "-=x", "--o=raw", "help", "registry", "list", "--metadata", "=v", "é", "---", "--metadata=a=b", "health",
    ]
    for _ in 0..<20_000 {
      let arguments = (0..<random.below(7)).map { _ in pieces[random.below(pieces.count)] }
      let invocation = CommandInvocation(parsing: arguments)
      let text = Formats.problems(invocation.problems, .text, Style(isColoured: false))
      #expect(
        text.split(separator: "\n").count == invocation.problems.count && !text.contains("\u{1B}"),
        "seed \(seed): \(arguments)")
      if case .run(let program) = invocation.command { #expect(!program.isEmpty, "seed \(seed): \(arguments)") }
    }
  }

  @Test("exit statuses are the documented numbers")
  func exitCodes() {
    #expect(ExitCode.allCases.map(\.rawValue) == [0, 1, 64, 69, 70, 71, 126, 127])
  }

  @Test("the help names every command, setting and exit status")
  func help() {
    let overview = Help.text(nil)
    for row in CommandInvocation.usages {
      #expect(overview.contains(row.help))
      #expect(Help.text(row.verb).hasPrefix(row.usage))
    }
    for code in ExitCode.allCases { #expect(overview.contains(code.meaning)) }
    let settings = Help.text("settings")
    for row in Settings.table { #expect(settings.contains(row.key) && settings.contains(row.help)) }
    for line in (overview + settings).split(separator: "\n") { #expect(line.count <= 120, "\(line)") }
    #expect(Help.text("nonsense") == overview)
  }
}
