// The help, from the same tables the parser uses.

import SidecarCore

enum Help {
  /// Of a verb, of `settings`, or of all; a word that is neither gets the whole.
  static func text(_ topic: String?) -> String {
    if topic == "settings" || topic == "config" {
      return """
        Settings: flags, then the environment, then the file of MICRO_CONFIG, then the defaults in parentheses.
        In the file the flag's name is the key (server_name, or name within server). Durations are Go's (1m30s, 250ms),
        sizes have units (4MiB), lists have commas.


        """ + Settings.renderReference()
    }
    if let row = CommandInvocation.usages.first(where: { $0.verb == topic }) {
      return "\(row.usage)\n\n  \(row.help)\n" + (details[row.verb].map { "\n\($0)\n" } ?? "")
    }
    return overview
  }

  private static let details = [
    "serve": "  Settings are in micro-sidecar help settings.",
    "run": """
      Signals go to the app as well. When the app ends, its registration is withdrawn, calls under way finish, and its
      exit status is the sidecar's.
    """,
    "call": """
      --address HOST:PORT   this node, rather than one that is chosen
      --metadata KEY=VALUE  metadata of the call; may be given again
      -o json | raw         the reply on one line, or byte for byte

      micro-sidecar call go.micro.srv.greeter Say.Hello '{"name":"John"}'
    """,
    "health": """
      --address HOST:PORT   this node of the service only
    """,
    "doctor": "  Exits with 1 when something is broken.",
  ]

  private static var overview: String {
    let verbs = TextTable.render(
      CommandInvocation.usages.map { ["  " + String($0.usage.dropFirst("micro-sidecar ".count)), $0.help] })
    let codes = TextTable.render(ExitCode.allCases.map { ["  \($0.rawValue)", $0.meaning] })
    return """
      micro-sidecar makes any HTTP app a member of a go-micro system.

      Usage: micro-sidecar [COMMAND] [--SETTING VALUE …]

      Commands
      \(verbs)
      Options
        -o json               output for machines
        --proxy_address ADDR  the running sidecar that commands ask, when it is not at MICRO_SIDECAR_ADDRESS
        -h, --help            this, or the help of a command
        --version             the version

      Every setting is a flag, a variable of the environment and a key of a file: micro-sidecar help settings.

      Exit status
      \(codes)
      """
  }
}
