// Who runs this process, and a folder for that user alone.

import Glibc
import SidecarCore

extension UVDriver {
  package var userID: UInt32 { geteuid() }

  package func environmentVariable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

  /// Parents must exist. Whoever may write to the parent can put anything under this name before us, so what is found
  /// there is looked at without following links.
  package func makePrivateFolder(_ path: String) throws(DriverError) {
    let operation = "make private folder \(path)"
    if mkdir(path, 0o700) != 0, errno != EEXIST { throw DriverError(errno: operation) }
    var status = stat()
    guard lstat(path, &status) == 0 else { throw DriverError(errno: operation) }
    let problem: String? =
      if status.st_mode & S_IFMT != S_IFDIR {
        "it is no folder"
      } else if status.st_uid != geteuid() {
        "it belongs to user \(status.st_uid)"
      } else if status.st_mode & 0o077 != 0 {
        "group or others may enter it (mode \(String(status.st_mode & 0o777, radix: 8)))"
      } else {
        nil
      }
    if let problem { throw DriverError(operation: operation, code: "EPERM", message: problem) }
  }
}
