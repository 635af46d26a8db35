// The control loop's part of a simulated loop: signals, files, processes.

import SidecarCore

extension SimDriver {
  package func onSignal(_ number: Int32, _ handler: @escaping () -> Void) throws(DriverError) {
    checkConfined("onSignal")
    // SIGKILL and SIGSTOP cannot be caught.
    guard (1...64).contains(number), number != 9, number != 19 else {
      throw DriverError(operation: "signal", code: "EINVAL", message: "signal \(number) cannot be handled")
    }
    signalHandlers.append((number, handler))
  }

  func deliverSignal(_ number: Int32) {
    world.schedule(after: world.draw(world.network.localLatency), on: self) { [unowned self] in
      world.note(self, "signal", Int(number))
      for entry in signalHandlers where entry.number == number { entry.handler() }
    }
  }

  package func watchFile(_ path: String, onChange: @escaping () -> Void) throws(DriverError) -> any FileWatch {
    checkConfined("watchFile")
    return try host.files.watch(path, on: self, onChange)
  }
  package func readFile(_ path: String, limit: Int) throws(DriverError) -> [UInt8] {
    try failDisk("read", path)
    return try host.files.read(path, limit: limit)
  }
  package func writeFile(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(DriverError) {
    try failDisk("write", path)
    try host.files.write(path, bytes)
  }
  package func removeFile(_ path: String) throws(DriverError) {
    try failDisk("remove", path)
    try host.files.remove(path)
  }
  package func listFolder(_ path: String) throws(DriverError) -> [String] {
    try failDisk("list", path)
    return try host.files.list(path)
  }
  package func makeFolder(_ path: String, mode: UInt32) throws(DriverError) {
    try failDisk("make folder", path)
    try host.files.makeFolder(path)
  }

  private func failDisk(_ operation: String, _ path: String) throws(DriverError) {
    checkConfined("file call")
    world.note(self, "file", 0, 0, "\(operation) \(path)")
    if world.strikes(.diskError) {
      throw DriverError(operation: operation, code: "EIO", message: "input/output error on \(path)")
    }
  }

  package func spawn(
    _ arguments: [String], environment: [String: String]?, onExit: @escaping (ChildExit) -> Void
  ) throws(DriverError) -> any ChildProcess {
    checkConfined("spawn")
    return try host.processes.spawn(arguments, environment: environment ?? [:], from: self, onExit: onExit)
  }

  package func environmentVariable(_ name: String) -> String? { host.environment[name] }
  package func makePrivateFolder(_ path: String) throws(DriverError) {
    try failDisk("make private folder", path)
    try host.files.makePrivateFolder(path)
  }

  package var processID: Int32 { host.processes.ownID }
  package func isAlive(processID: Int32) -> Bool { host.processes.isAlive(processID) }
  package var hostName: String { host.name }
  package var residentBytes: Int { host.residentBytes }
}
