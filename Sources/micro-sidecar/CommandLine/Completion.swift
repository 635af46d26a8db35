// Completion for shells, from the tables of commands, options and settings: `micro-sidecar completion SHELL`.

import SidecarBuiltins
import SidecarCore

enum Shell: String, CaseIterable, Sendable { case bash, zsh, fish }

enum Completion {
  static func script(for shell: Shell) -> String {
    switch shell {
    case .bash: bash()
    case .zsh: zsh()
    case .fish: fish()
    }
  }

  // MARK: What there is to complete

  /// A flag, as a shell needs it.
  private struct Flag {
    var spellings: [String]
    var takesValue: Bool
    /// Words its value can be; empty: any text.
    var choices: [String]
    var isFile = false
    var help: String
    /// Commands it goes with; empty: all.
    var verbs: [String] = []
  }

  private static let fileKeys: Set<String> = [
    "MICRO_CONFIG", "MICRO_SIDECAR_SNAPSHOT", "MICRO_DESCRIPTORS", "MICRO_ACCESS_LOG", "MICRO_SIDECAR_CGROUP_ROOT",
  ]

  private static let flags: [Flag] = {
    let plugins = try? builtinPlugins()
    let names = [
      "MICRO_REGISTRY": plugins.map { $0.registries.keys.sorted() } ?? [],
      "MICRO_SELECTOR": plugins?.selectorNames.sorted() ?? [],
    ]
    let options = CommandOption.all.map { option in
      Flag(
        spellings: option.spellings, takesValue: option.rule.takesValue,
        choices: option.rule.names[0] == "output" ? OutputFormat.allCases.map(\.rawValue) : [], help: option.help,
        verbs: option.verbs)
    }
    return options
      + Settings.table.filter { $0.key.hasPrefix("MICRO_") }.map { row in
        Flag(
          spellings: [row.flag], takesValue: true, choices: names[row.key] ?? row.shape.choices,
          isFile: row.holderOf != nil || fileKeys.contains(row.key), help: row.help)
      }
  }()

  /// Words that can follow a command's name.
  private static let words: [(verb: String, words: [String])] = [
    ("list", ["services"]), ("get", ["service"]), ("register", ["service"]), ("deregister", ["service"]),
    ("completion", Shell.allCases.map(\.rawValue)), ("tap", TapFilter.names.map { $0 + "=" }),
    ("help", CommandInvocation.usages.map(\.verb) + ["settings"]), ("run", ["--"]),
  ]

  private static var verbs: [String] { CommandInvocation.usages.map(\.verb) }

  // MARK: Shells

  private static func bash() -> String {
    let choices = flags.filter { !$0.choices.isEmpty }
    let files = flags.filter(\.isFile).flatMap(\.spellings)
    let general = flags.filter(\.verbs.isEmpty).flatMap(\.spellings)
    let bare = flags.filter { !$0.takesValue }.flatMap(\.spellings)
    let special = flags.filter { !$0.verbs.isEmpty }
    return """
      # bash completion of micro-sidecar, made by `micro-sidecar completion bash`.

      _micro_sidecar() {
        local current=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD - 1]} verb= index word
        # Readline makes three words of --name=value.
        if [[ $current == = ]]; then
          current=
        elif [[ $flag == = ]]; then
          flag=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        COMPREPLY=()
        for ((index = 1; index < COMP_CWORD; index++)); do
          word=${COMP_WORDS[index]}
          case $word in
            --) # The app's own command.
              COMPREPLY=($(compgen -c -f -- "$current"))
              return
              ;;
            \(bare.joined(separator: " | "))) ;;
            =) ((index++)) ;;
            -*) [[ ${COMP_WORDS[index + 1]} == = ]] || ((index++)) ;;
            *) [[ $verb ]] || verb=$word ;;
          esac
        done
        case $flag in
      \(choices.map { "    \($0.spellings.joined(separator: " | "))) word='\($0.choices.joined(separator: " "))' ;;" }.joined(separator: "\n"))
          \(files.joined(separator: " | ")))
            COMPREPLY=($(compgen -f -- "$current"))
            return
            ;;
          \(bare.joined(separator: " | "))) word= ;;
          --*) return ;;
          *) word= ;;
        esac
        if [[ $word ]]; then
          COMPREPLY=($(compgen -W "$word" -- "$current"))
          return
        fi
        if [[ $current == -* ]]; then
          word='\(general.joined(separator: " "))'
          case $verb in
      \(verbs.compactMap { verb in
        let own = special.filter { $0.verbs.contains(verb) }.flatMap(\.spellings)
        return own.isEmpty ? nil : "      \(verb)) word+=' \(own.joined(separator: " "))' ;;"
      }.joined(separator: "\n"))
          esac
        else
          case $verb in
            '') word='\(verbs.joined(separator: " "))' ;;
      \(words.map { "      \($0.verb)) word='\($0.words.joined(separator: " "))' ;;" }.joined(separator: "\n"))
            check-config)
              COMPREPLY=($(compgen -f -- "$current"))
              return
              ;;
          esac
        fi
        COMPREPLY=($(compgen -W "$word" -- "$current"))
        [[ ${COMPREPLY-} == *= ]] && compopt -o nospace
        return 0
      }

      complete -F _micro_sidecar micro-sidecar

      """
  }

  private static func zsh() -> String {
    /// Inside single quotes and a specification's brackets.
    func plain(_ text: String) -> String {
      text.map { character in
        switch character {
        case "'": "'\\''"
        case "[", "]", ":", "\\": "\\\(character)"
        default: String(character)
        }
      }.joined()
    }
    var lines: [String] = []
    for flag in flags {
      for spelling in flag.spellings {
        let isShort = !spelling.hasPrefix("--")
        var text = spelling + (flag.takesValue && !isShort ? "=" : "") + "[\(plain(flag.help))]"
        if flag.takesValue {
          let values = flag.isFile ? "_files" : flag.choices.isEmpty ? "" : "(\(flag.choices.joined(separator: " ")))"
          text += ":value:\(values)"
        }
        lines.append("    '\(text)' \\")
      }
    }
    return """
      #compdef micro-sidecar
      # zsh completion of micro-sidecar, made by `micro-sidecar completion zsh`.

      _micro_sidecar() {
        local context state state_descr line
        typeset -A opt_args
        local -a verbs
        verbs=(
      \(CommandInvocation.usages.map { "    '\(plain($0.verb)):\(plain($0.help))'" }.joined(separator: "\n"))
        )
        _arguments -C \\
      \(lines.joined(separator: "\n"))
          '1:command:->verb' '*::argument:->argument'
        case $state in
          verb) _describe 'command' verbs ;;
          argument)
            case $words[1] in
              run) _normal ;;
              check-config) _files ;;
      \(words.filter { $0.verb != "run" }.map { "        \($0.verb)) compadd -- \($0.words.joined(separator: " ")) ;;" }.joined(separator: "\n"))
            esac
            ;;
        esac
      }

      if [[ $funcstack[1] == _micro_sidecar ]]; then _micro_sidecar "$@"; else compdef _micro_sidecar micro-sidecar; fi

      """
  }

  private static func fish() -> String {
    func quoted(_ text: String) -> String {
      "'" + text.map { $0 == "'" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "'"
    }
    var text = """
      # fish completion of micro-sidecar, made by `micro-sidecar completion fish`.

      complete -c micro-sidecar -f

      """
    for row in CommandInvocation.usages {
      text += "complete -c micro-sidecar -n __fish_use_subcommand -a \(row.verb) -d \(quoted(row.help))\n"
    }
    for (verb, words) in words {
      text +=
        "complete -c micro-sidecar -n '__fish_seen_subcommand_from \(verb)' -a \(quoted(words.joined(separator: " ")))\n"
    }
    text += "complete -c micro-sidecar -n '__fish_seen_subcommand_from check-config' -F\n"
    for flag in flags {
      text += "complete -c micro-sidecar"
      if !flag.verbs.isEmpty {
        text += " -n '__fish_seen_subcommand_from \(flag.verbs.joined(separator: " "))'"
      }
      for spelling in flag.spellings {
        text += spelling.hasPrefix("--") ? " -l \(spelling.dropFirst(2))" : " -s \(spelling.dropFirst(1))"
      }
      if flag.takesValue { text += flag.isFile ? " -r -F" : " -x" }
      if !flag.choices.isEmpty { text += " -a \(quoted(flag.choices.joined(separator: " ")))" }
      text += " -d \(quoted(flag.help))\n"
    }
    return text
  }
}
