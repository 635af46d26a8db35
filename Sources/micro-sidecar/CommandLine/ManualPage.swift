// docs/micro-sidecar.1, from the tables of commands, options, settings and exit statuses: `micro-sidecar man`.

import SidecarCore

enum ManualPage {
  /// For man(7) macros; ends with a line break.
  static func text(version: String) -> String {
    var page = """
      .\\" Made by micro-sidecar man.
      .TH MICRO\\-SIDECAR 1 "" "micro\\-sidecar \(escaped(version))"
      .SH NAME
      micro\\-sidecar \\- makes any HTTP app a member of a go\\-micro system
      .SH SYNOPSIS
      .B micro\\-sidecar
      .RI [ COMMAND ]
      .RI [ \\-\\-SETTING \\ VALUE \\ ...]
      .SH DESCRIPTION
      Runs beside an app that speaks plain HTTP, gRPC or WebSocket. The app's calls to
      .I localhost:8081
      reach go\\-micro services, and calls of go\\-micro services reach the app. Without a command it serves until SIGTERM.
      .SH COMMANDS

      """
    for row in CommandInvocation.usages {
      page += ".TP\n.B \(escaped(String(row.usage.dropFirst("micro-sidecar ".count))))\n\(line(row.help))"
      if let details = Help.details[row.verb] { page += literal(details) }
    }
    page += ".SH OPTIONS\n"
    for option in CommandOption.all {
      let names = option.spellings.map { "\\fB\(escaped($0))\\fR" }.joined(separator: ", ")
      page += ".TP\n\(names)\(option.value.isEmpty ? "" : " \\fI\(escaped(option.value))\\fR")\n"
      page += line(option.help + (option.verbs.isEmpty ? "" : " (\(option.verbs.joined(separator: ", ")))"))
    }
    page += """
      .SH SETTINGS
      Flags come before variables of the environment, these before the file of
      .BR MICRO_CONFIG ,
      and that before the defaults in parentheses. In the file the flag's name is the key.

      """
    let defaults = Settings()
    for group in SettingGroup.allCases {
      page += ".SS \(escaped(group.rawValue))\n"
      for row in Settings.table where row.group == group {
        let flag = row.key.hasPrefix("MICRO_") ? "\\fB\(escaped(row.flag))\\fR, " : ""
        page += ".TP\n\(flag)\\fB\(escaped(row.key))\\fR\(row.format(defaults).map { " (\(escaped($0)))" } ?? "")\n"
        page += line(row.help + (row.holderOf == nil ? "; " + row.expected : ""))
      }
    }
    page += ".SH EXIT STATUS\n"
    for code in ExitCode.allCases { page += ".TP\n.B \(code.rawValue)\n\(line(code.meaning))" }
    page += """
      .SH EXAMPLES
      .nf
      MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 micro\\-sidecar run \\-\\- python3 app.py
      micro\\-sidecar call go.micro.srv.hello Say.Hello \\(aq{"name":"World"}\\(aq
      micro\\-sidecar check\\-config sidecar.yaml
      .fi

      """
    return page
  }

  private static func line(_ text: String) -> String {
    let text = escaped(text)
    // A line that begins so would be a request.
    return (text.hasPrefix(".") || text.hasPrefix("'") ? "\\&" : "") + text + "\n"
  }

  /// Indented text as it stands, without what all of its lines are indented by.
  private static func literal(_ text: String) -> String {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    let indent = lines.filter { !$0.isEmpty }.map { $0.prefix { $0 == " " }.count }.min() ?? 0
    let body = lines.map { $0.isEmpty ? ".sp\n" : line(String($0.dropFirst(indent))) }.joined()
    return ".RS\n.sp\n.nf\n\(body).fi\n.RE\n"
  }

  /// What roff would read otherwise, and what is not ASCII.
  private static func escaped(_ text: String) -> String {
    text.unicodeScalars.map { scalar in
      switch scalar {
      case "\\": "\\e"
      case "-": "\\-"
      case "'": "\\(aq"
      case "`": "\\(ga"
      case "^": "\\(ha"
      case "~": "\\(ti"
      default:
        scalar.isASCII
          ? String(scalar)
          : "\\[u" + String(repeating: "0", count: max(0, 4 - String(scalar.value, radix: 16).count))
            + String(scalar.value, radix: 16, uppercase: true) + "]"
      }
    }.joined()
  }
}
