// The help, from the same tables the parser uses.

import SidecarCore
import SidecarInjector

enum Help {
  /// Of a verb, of `settings`, or of all; a word that is neither gets the whole.
  static func text(_ topic: String?) -> String {
    if topic == "settings" {
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

  static let details = [
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
    "get": """
      micro-sidecar get service go.micro.srv.greeter
    """,
    "register": """
      Writes through the sidecar that runs here, or, where none runs, into the registries themselves.

      micro-sidecar register service '{"name":"greeter","nodes":[{"id":"greeter-1","address":"10.0.0.5:8080"}]}'
    """,
    "deregister": """
      micro-sidecar deregister service '{"name":"greeter","nodes":[{"id":"greeter-1"}]}'
    """,
    "tap": """
      service=NAME      or its beginning and a *
      endpoint=NAME     the same
      node=ID           or its address
      direction=in|out  calls to the app, or of the app
      status=STATUS     a number, a class such as 5xx, ok, error, or a reason such as overloaded
      rate=N            lines a second at most, \(TapFilter.rateDefault) unless said
      -o json           all that is known of each

      micro-sidecar tap 'service=go.micro.srv.*' status=error
    """,
    "health": """
      --address HOST:PORT   this node of the service only
    """,
    "explain": """
      SERVICE may be a path such as /greeter/say/hello. Of a running sidecar it shows what one of its workers has learned;
      where none runs, what the registries say.
    """,
    "ready": """
      Asks /readyz at MICRO_ADMIN_ADDRESS. 0: ready; 1: not ready, with the reason; 69: nothing answers.
    """,
    "wait": """
      Asks /startupz at MICRO_ADMIN_ADDRESS until it says yes. 0: calls are taken; 69: they are not, after that time.
    """,
    "drain": """
      For preStop: the app is taken out of the registry, calls are still served. The end comes with SIGTERM.
    """,
    "restart": """
      Asks at MICRO_ADMIN_ADDRESS; SIGUSR2 does the same. The new process is of the file that stands where the running one was
      started from, and reads its settings anew. 0: it serves; 1: it could not, with the reason, and the old one goes on.
    """,
    "injector": "  Settings, all of the environment:\n\n"
      + TextTable.render(InjectorSettings.reference.map { ["  " + $0.key, $0.help] })
      + "\n  SIGHUP and a changed file have the certificate read again. docs/kubernetes.md says how to roll it out.",
    "config": """
      --schema              the JSON Schema of the configuration file
      --reference           every setting, in Markdown
      -o json               values for machines

      Secrets are shown as ***. What each setting means: micro-sidecar help settings.
    """,
    "check-config": """
      Checks flags, environment and FILE, or that of MICRO_CONFIG, as a start would: every mistake at once, with file and line.
      0: all is well; 64: something is wrong. -o json prints either for machines.
    """,
    "completion": """
      bash:  micro-sidecar completion bash > /etc/bash_completion.d/micro-sidecar
      zsh:   micro-sidecar completion zsh > /usr/local/share/zsh/site-functions/_micro-sidecar
      fish:  micro-sidecar completion fish > ~/.config/fish/completions/micro-sidecar.fish
    """,
    "man": "  micro-sidecar man | man -l -",
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
