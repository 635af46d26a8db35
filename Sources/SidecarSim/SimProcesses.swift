// Child processes of one simulated host. A child is a script: when it ends by itself, and what it does on a signal.

import SidecarCore

/// What a spawned program does.
package struct ChildScript {
  /// Ends by itself after this long; nil runs until a signal ends it.
  package var lifetime: Duration?
  package var exitStatus: Int32 = 0
  /// How long it takes to end after a signal that it handles, and with which status. Other signals kill it at once;
  /// signal 0 only asks whether it lives.
  package var handled: [(signal: Int32, delay: Duration, status: Int32)] = []
  /// Signals that do nothing.
  package var ignored: [Int32] = []
  /// Runs when the program starts and when it is gone: start and stop its servers here.
  package var onStart: () -> Void = {}
  package var onEnd: () -> Void = {}

  package init(lifetime: Duration? = nil, exitStatus: Int32 = 0) {
    self.lifetime = lifetime
    self.exitStatus = exitStatus
  }
}

package final class SimProcesses {
  private let world: SimWorld
  let ownID: Int32
  private var lastID: Int32
  private var children: [SimChild] = []
  private var programs: [(name: String, start: ([String], [String: String]) -> ChildScript)] = []
  /// Processes that live without being children, for `isAlive`.
  package var strangers: Set<Int32> = [1]

  init(world: SimWorld, firstID: Int32) {
    self.world = world
    ownID = firstID
    lastID = firstID
  }

  /// Makes `spawn` of `name` run what `start` returns for its arguments and environment.
  package func register(_ name: String, _ start: @escaping ([String], [String: String]) -> ChildScript) {
    programs.removeAll { $0.name == name }
    programs.append((name, start))
  }

  func spawn(
    _ arguments: [String], environment: [String: String], from loop: SimDriver,
    onExit: @escaping (ChildExit) -> Void
  ) throws(DriverError) -> any ChildProcess {
    guard let name = arguments.first, let program = programs.first(where: { $0.name == name }) else {
      let message = "no such program: \(arguments.first ?? "")"
      throw DriverError(operation: "spawn", code: "ENOENT", message: message)
    }
    lastID += 1
    let script = program.start(arguments, environment)
    let child = SimChild(id: lastID, script: script, loop: loop, processes: self, onExit: onExit)
    children.append(child)
    world.note(loop, "spawn", Int(lastID), 0, name)
    child.start()
    return child
  }

  func isAlive(_ id: Int32) -> Bool {
    id == ownID || strangers.contains(id) || children.contains { $0.processID == id && !$0.hasEnded }
  }
  func forget(_ child: SimChild) { children.removeAll { $0 === child } }
  func removeAll() { children.removeAll() }
  func childCount(of loop: SimDriver) -> Int { children.count { $0.loop === loop } }
  /// Children that run, oldest first.
  package var running: [any ChildProcess] { children.filter { !$0.hasEnded } }
}

final class SimChild: ChildProcess {
  let processID: Int32
  let loop: SimDriver
  private let script: ChildScript
  private weak var processes: SimProcesses?
  private let onExit: (ChildExit) -> Void
  private(set) var hasEnded = false
  private var isEnding = false

  init(
    id: Int32, script: ChildScript, loop: SimDriver, processes: SimProcesses, onExit: @escaping (ChildExit) -> Void
  ) {
    processID = id
    self.script = script
    self.loop = loop
    self.processes = processes
    self.onExit = onExit
  }

  func start() {
    loop.world.schedule(after: 1_000_000) { [self] in if !hasEnded { script.onStart() } }
    if let lifetime = script.lifetime {
      let exit = ChildExit(status: script.exitStatus, signal: 0)
      loop.world.schedule(after: lifetime.saturatingNanoseconds) { [self] in end(exit) }
    }
  }

  func signal(_ number: Int32) -> Bool {
    if hasEnded { return false }
    loop.world.note(loop, "kill", Int(processID), Int(number))
    if number == 0 || script.ignored.contains(number) && number != 9 { return true }
    if let entry = script.handled.first(where: { $0.signal == number }), number != 9 {
      if !isEnding {
        isEnding = true
        let exit = ChildExit(status: entry.status, signal: 0)
        loop.world.schedule(after: entry.delay.saturatingNanoseconds) { [self] in end(exit) }
      }
      return true
    }
    loop.world.schedule(after: 10_000) { [self] in end(ChildExit(status: 128 + number, signal: number)) }
    return true
  }

  private func end(_ exit: ChildExit) {
    if hasEnded { return }
    hasEnded = true
    script.onEnd()
    loop.world.schedule(after: loop.world.draw(loop.world.network.localLatency), on: loop) { [self] in
      loop.world.note(loop, "child exit", Int(processID), Int(exit.status))
      processes?.forget(self)
      onExit(exit)
    }
  }
}
