// What the process says with its exit status. The numbers from 64 on are those of BSD's sysexits.h, from 126 on a shell's.

/// The exit statuses of every command.
enum ExitCode: Int32, CaseIterable, Sendable {
  case ok = 0
  /// The call, or the question, was answered with an error; `doctor` found something broken.
  case failed = 1
  /// The command line or a setting is wrong; nothing was started.
  case usage = 64
  /// No sidecar, no registry, or no such service to talk to.
  case unavailable = 69
  /// A fault of the sidecar itself.
  case internalError = 70
  /// The system refused: an address in use, a missing permission.
  case systemRefused = 71
  /// `run`: the app's program cannot be started.
  case cannotStart = 126
  /// `run`: there is no such program.
  case noSuchProgram = 127

  var meaning: String {
    switch self {
    case .ok: "done"
    case .failed: "the call was answered with an error, or doctor found something broken"
    case .usage: "the command line or a setting is wrong; nothing was started"
    case .unavailable: "no sidecar, registry or service to talk to"
    case .internalError: "a fault of micro-sidecar itself"
    case .systemRefused: "the system refused, such as an address in use"
    case .cannotStart: "run: the program cannot be started"
    case .noSuchProgram: "run: there is no such program"
    }
  }
}
