// Asks a gRPC server for the descriptors of its services: v1 of reflection, then v1alpha, which older servers have.

/// One server's descriptors. Threading: the control loop.
final class ServerReflection: GRPCControlCallUser {
  enum Answer {
    case files([[UInt8]])
    /// A sentence's end: "refused the connection".
    case failure(String)
  }

  private static let paths = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
  ]

  private let driver: any Driver
  private let target: Destination
  private let deadline: Instant
  private var completion: ((Answer) -> Void)?
  private var version = 0
  private var call: GRPCControlCall?
  private var machine = ReflectionMachine()

  /// Asks; `completion` runs once, in a later turn, unless it is cancelled. `timeout` in nanoseconds, for all of it.
  init(driver: any Driver, target: Destination, timeout: Int64, completion: @escaping (Answer) -> Void) {
    self.driver = driver
    self.target = target
    deadline = driver.now.advanced(byNanoseconds: timeout)
    self.completion = completion
    begin()
  }

  func cancel() {
    completion = nil
    call?.cancel()
    call = nil
  }

  private func begin() {
    machine = ReflectionMachine()
    let call = GRPCControlCall(driver: driver, host: target.description, path: Self.paths[version], user: self)
    self.call = call
    take(machine.begin())
    call.start(target, timeout: max(deadline.nanoseconds(since: driver.now), 1))
  }

  private func take(_ step: ReflectionMachine.Step) {
    switch step {
    case .ask(let request): call?.send(request)
    case .done(let files): finish(.files(files))
    case .failed(let why): finish(.failure(why))
    }
  }

  private func finish(_ answer: Answer) {
    guard let completion else { return }
    self.completion = nil
    let call = call
    self.call = nil
    driver.later {
      call?.cancel()
      completion(answer)
    }
  }

  func controlCall(_ call: GRPCControlCall, received message: UnsafeRawBufferPointer) {
    guard completion != nil else { return }
    take(machine.received(message))
  }

  func controlCallEnded(_ call: GRPCControlCall, _ failure: GRPCFailure?) {
    guard completion != nil else { return }
    if failure?.status == GRPCStatus.unimplemented.rawValue, version + 1 < Self.paths.count {
      version += 1
      return begin()
    }
    let why = failure.map { String(decoding: $0.message, as: UTF8.self) } ?? "ended the call before its answer"
    finish(
      .failure(
        failure?.status == GRPCStatus.unimplemented.rawValue ? "has no server reflection" : why))
  }
}
