// docs/configuration.md: the sidecar's settings, and those of the injector, which has a table of its own.

import SidecarCore
import SidecarInjector

enum Reference {
  static var markdown: String {
    Settings.renderMarkdown() + """

      ## The injector

      `micro-sidecar injector` has settings of its own, all of the environment ([kubernetes.md](kubernetes.md)):

      | setting | what (default) |
      |---|---|

      """ + InjectorSettings.reference.map { "| `\($0.key)` | \($0.help) |\n" }.joined()
  }
}
