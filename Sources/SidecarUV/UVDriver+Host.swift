// Signals, child processes, and what the process knows of itself.

import CUV
import Glibc
import SidecarCore

extension UVDriver {
  package func onSignal(_ number: Int32, _ handler: @escaping () -> Void) throws(DriverError) {
    try refuseWhileStopping("signal \(number)")
    _ = try SignalWatch(driver: self, number: number, handler: handler)
  }

  package func spawn(
    _ arguments: [String], environment: [String: String]?, onExit: @escaping (ChildExit) -> Void
  ) throws(DriverError) -> any ChildProcess {
    try spawn(program: nil, arguments, environment: environment, inheriting: [], onExit: onExit)
  }

  /// The same for the file `program`, whatever the first argument calls it; the child has `descriptors` under the numbers from
  /// 3 on.
  package func spawn(
    program: String?, _ arguments: [String], environment: [String: String]?, inheriting descriptors: [Int32],
    onExit: @escaping (ChildExit) -> Void
  ) throws(DriverError) -> any ChildProcess {
    try refuseWhileStopping("start \(arguments.first ?? "a program")")
    return try UVProcess(
      driver: self, program: program, arguments: arguments, environment: environment, descriptors: descriptors,
      onExit: onExit)
  }

  package var processID: Int32 { getpid() }

  package func isAlive(processID: Int32) -> Bool {
    // Zero and negative numbers mean groups of processes to `kill`.
    if processID <= 0 { return false }
    return kill(processID, 0) == 0 || errno == EPERM
  }

  package var hostName: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
      var length = buffer.count
      guard let base = buffer.baseAddress, uv_os_gethostname(base, &length) == 0 else { return "localhost" }
      return String(cString: base)
    }
  }

  package var residentBytes: Int {
    var bytes = 0
    return uv_resident_set_memory(&bytes) == 0 ? bytes : 0
  }

  /// No crash writes this process's memory into a file, and no other process of this user may look into it; a program that
  /// this one starts is free again (prctl(2), PR_SET_DUMPABLE).
  package static func forbidCoreDumps() { _ = cuv_set_dumpable(0) }

  /// Gives memory that was freed back to the system. Any thread.
  package func releaseFreeMemory() {
    malloc_trim(0)
    releaseIdleCode()
  }

  /// Unmaps the program's code, which comes back from the page cache as it is run (madvise(2), MADV_DONTNEED of a file's
  /// clean pages). The kernel maps 64 KB around each page that was run once, so a start leaves most of the program resident
  /// that an idle sidecar never runs again. Cost: some 100 soft page faults, once. Any thread.
  package func releaseIdleCode() {
    guard let headers = UnsafePointer<Elf64_Phdr>(bitPattern: getauxval(UInt(AT_PHDR))) else { return }
    let table = UnsafeBufferPointer(start: headers, count: Int(getauxval(UInt(AT_PHNUM))))
    guard let own = table.first(where: { $0.p_type == UInt32(PT_PHDR) }) else { return }
    let base = UInt(bitPattern: headers) &- UInt(own.p_vaddr)
    let page = UInt(max(sysconf(Int32(_SC_PAGESIZE)), 1))
    for part in table where part.p_type == UInt32(PT_LOAD) && part.p_flags & UInt32(PF_X | PF_W) == UInt32(PF_X) {
      let first = (base &+ UInt(part.p_vaddr)) / page * page
      let end = base &+ UInt(part.p_vaddr) &+ UInt(part.p_memsz)
      guard end > first, let start = UnsafeMutableRawPointer(bitPattern: first) else { continue }
      madvise(start, Int(end - first), MADV_DONTNEED)
    }
  }
}

/// Held by its handle alone, until the loop stops.
private final class SignalWatch: LoopResource {
  private let handle = UnsafeMutablePointer<uv_signal_t>.allocate(capacity: 1)
  private var handler: (() -> Void)?

  init(driver: UVDriver, number: Int32, handler: @escaping () -> Void) throws(DriverError) {
    self.handler = handler
    var status = uv_signal_init(driver.loop, handle)
    if status < 0 {
      handle.deallocate()
      throw DriverError("signal \(number)", status: status)
    }
    status = uv_signal_start(handle, signalArrived, number)
    if status < 0 {
      uv_close(handle.cast(to: uv_handle_t.self), freeHandle)
      throw DriverError("signal \(number)", status: status)
    }
    handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
  }

  func arrived() { handler?() }

  func closeForStop() {
    handler = nil
    uv_close(handle.cast(to: uv_handle_t.self), freeHandleAndOwner)
  }
}

private func signalArrived(_ handle: UnsafeMutablePointer<uv_signal_t>?, _: Int32) {
  withOwner(handle?.pointee.data, SignalWatch.self) { $0.arrived() }
}

final class UVProcess: ChildProcess, LoopResource {
  let processID: Int32
  private let handle: UnsafeMutablePointer<uv_process_t>
  private var onExit: ((ChildExit) -> Void)?

  init(
    driver: UVDriver, program: String?, arguments: [String], environment: [String: String]?, descriptors: [Int32],
    onExit: @escaping (ChildExit) -> Void
  ) throws(DriverError) {
    guard let program = program ?? arguments.first, !program.isEmpty else {
      throw DriverError("start a program", status: -EINVAL)
    }
    let file = strdup(program)
    defer { free(file) }
    let handle = UnsafeMutablePointer<uv_process_t>.allocate(capacity: 1)
    handle.initialize(to: uv_process_t())
    var argumentPointers = arguments.map { strdup($0) } + [nil]
    var environmentPointers = (environment ?? [:]).map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer {
      for pointer in argumentPointers + environmentPointers { free(pointer) }
    }
    var streams = ([0, 1, 2] + descriptors).map { number -> uv_stdio_container_t in
      var container = uv_stdio_container_t()
      container.flags = UV_INHERIT_FD
      container.data.fd = number
      return container
    }
    let status = argumentPointers.withUnsafeMutableBufferPointer { argumentPointers in
      environmentPointers.withUnsafeMutableBufferPointer { environmentPointers in
        streams.withUnsafeMutableBufferPointer { streams in
          var options = uv_process_options_t()
          options.exit_cb = processExited
          options.file = UnsafePointer(file)
          options.args = argumentPointers.baseAddress
          if environment != nil { options.env = environmentPointers.baseAddress }
          options.stdio = streams.baseAddress
          options.stdio_count = Int32(streams.count)
          return uv_spawn(driver.loop, handle, &options)
        }
      }
    }
    if status < 0 {
      // The handle was initialised all the same.
      uv_close(handle.cast(to: uv_handle_t.self), freeHandle)
      throw DriverError("start \(program)", status: status)
    }
    self.handle = handle
    self.onExit = onExit
    processID = uv_process_get_pid(handle)
    handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
  }

  @discardableResult
  func signal(_ number: Int32) -> Bool {
    // After the exit was reported the number may belong to somebody else.
    onExit != nil && uv_process_kill(handle, number) == 0
  }

  fileprivate func exited(_ status: Int64, _ signal: Int32) {
    guard let onExit else { return }
    closeForStop()
    onExit(ChildExit(status: signal == 0 ? Int32(truncatingIfNeeded: status) : 128 + signal, signal: signal))
  }

  func closeForStop() {
    onExit = nil
    uv_close(handle.cast(to: uv_handle_t.self), freeHandleAndOwner)
  }
}

private func processExited(_ handle: UnsafeMutablePointer<uv_process_t>?, _ status: Int64, _ signal: Int32) {
  withOwner(handle?.pointee.data, UVProcess.self) { $0.exited(status, signal) }
}
