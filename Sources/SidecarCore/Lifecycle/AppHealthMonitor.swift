// Asks the app how it is, and tells when the answer changes. `AppHealthMachine` decides; this dials, sends and times.
//
//   with MICRO_APP_HEALTH     GET path; 2xx is well
//   …=grpc                    grpc.health.v1 for the whole server; SERVING is well
//   without                   a connection that is accepted is well: an app that does not listen yet is not registered
//
// Threading: the control loop.

package final class AppHealthMonitor {
  private let driver: any Driver
  private let log: any LogSink
  private let target: Destination
  private let check: AppHealthCheck?
  private let timeout: Int64
  private var machine: AppHealthMachine
  private var probe: (any AppProbe)?
  private var isStopped = true
  private let onChange: (Bool) -> Void
  private lazy var timer = LoopTimer { [unowned self] in self.ask() }
  /// Why the last probe failed; nil after a good one.
  package private(set) var lastFailure: String?

  /// `isHealthy`: what is known already. `onChange` is called with the new state at each change, never from inside a call.
  package init(
    settings: Settings, target: Destination, isHealthy: Bool = false, driver: any Driver, log: any LogSink,
    onChange: @escaping (Bool) -> Void
  ) {
    self.driver = driver
    self.log = log
    self.target = settings.appHealth?.target ?? target
    check = settings.appHealth
    timeout = settings.appHealthTimeout.saturatingNanoseconds
    self.onChange = onChange
    var timing = AppHealthTiming()
    timing.period = settings.appHealthPeriod.saturatingNanoseconds
    timing.timeout = timeout
    timing.failuresMax = settings.appHealthFailures
    machine = AppHealthMachine(timing: timing, isHealthy: isHealthy)
  }

  /// As of the last probes.
  package var isHealthy: Bool { !isStopped && machine.isHealthy }

  package func start() {
    isStopped = false
    ask()
  }

  package func stop() {
    isStopped = true
    timer.cancel()
    probe?.cancel()
    probe = nil
  }

  /// A call has found the app gone: asks at once instead of at the next period.
  package func askSoon() {
    guard !isStopped, probe == nil, machine.isHealthy else { return }
    ask()
  }

  private func ask() {
    timer.cancel()
    guard !isStopped, probe == nil else { return }
    let probe = Self.makeProbe(check, target, driver) { [weak self] in self?.answered($0) }
    self.probe = probe
    probe.start(target, timeout: timeout)
  }

  private func answered(_ outcome: ProbeOutcome) {
    probe = nil
    guard !isStopped else { return }
    if case .failure(let why) = outcome { lastFailure = why } else { lastFailure = nil }
    let step = machine.probed(outcome)
    driver.timers.arm(timer, after: step.wait, from: driver.now)
    guard let isHealthy = step.change else { return }
    if isHealthy {
      log.info("the app is healthy", [("app", target.description)])
    } else {
      log.warning(
        "the app is not healthy; it leaves the registry until it answers again",
        [("app", target.description), ("cause", lastFailure ?? "")])
    }
    onChange(isHealthy)
  }
}

extension AppHealthMonitor {
  private static func makeProbe(
    _ check: AppHealthCheck?, _ target: Destination, _ driver: any Driver,
    _ completion: @escaping (ProbeOutcome) -> Void
  ) -> any AppProbe {
    if check?.isGRPC == true {
      return GRPCHealthProbe(driver: driver, host: target.description, completion: completion)
    }
    return HTTPProbe(driver: driver, path: check?.path, host: target.description, completion: completion)
  }

  /// Asks once; `completion` runs once, in a later turn.
  package static func askOnce(
    settings: Settings, target: Destination, driver: any Driver, completion: @escaping (ProbeOutcome) -> Void
  ) {
    let target = settings.appHealth?.target ?? target
    var probe: (any AppProbe)?
    probe = makeProbe(settings.appHealth, target, driver) { outcome in
      withExtendedLifetime(probe) { completion(outcome) }
      probe = nil
    }
    probe?.start(target, timeout: settings.appHealthTimeout.saturatingNanoseconds)
  }
}

/// One question to the app. Completes once, in a later turn, unless it is cancelled.
private protocol AppProbe: AnyObject {
  func start(_ target: Destination, timeout: Int64)
  func cancel()
}

private final class HTTPProbe: AppProbe, StreamHandler {
  private let driver: any Driver
  private let path: String?
  private let host: String
  private var completion: ((ProbeOutcome) -> Void)?
  private var stream: ByteStream?
  private var reader: MessageReader
  private let scratch = ReaderScratch()
  private lazy var timer = LoopTimer { [unowned self] in self.finish(.failure("did not answer in time")) }

  init(driver: any Driver, path: String?, host: String, completion: @escaping (ProbeOutcome) -> Void) {
    self.driver = driver
    self.path = path
    self.host = host
    self.completion = completion
    reader = MessageReader(.client, bodyMax: 1024 * 1024, scratch: scratch)
    reader.expectResponse()
  }

  func start(_ target: Destination, timeout: Int64) {
    driver.timers.arm(timer, after: timeout, from: driver.now)
    switch target {
    case .address(let address): stream = driver.connect(to: address, handler: self)
    case .name(let name, let port):
      driver.resolve(host: name) { [weak self] result in
        guard let self, completion != nil else { return }
        switch result {
        case .success(let addresses):
          guard var address = addresses.first else { return finish(.failure("has no address")) }
          address.port = port
          stream = driver.connect(to: address, handler: self)
        case .failure(let error): finish(.failure("cannot be looked up: \(error.message)"))
        }
      }
    }
  }

  func cancel() {
    completion = nil
    end()
  }

  private func end() {
    timer.cancel()
    stream?.reset()
  }

  private func finish(_ outcome: ProbeOutcome) {
    guard let completion else { return }
    self.completion = nil
    end()
    driver.later { completion(outcome) }
  }

  func streamOpened(_ stream: ByteStream) {
    guard let path else { return finish(.success) }
    let request = ByteBuffer()
    HTTP1Writer.requestLine("GET", target: path, to: request)
    HTTP1Writer.field("Host", host, to: request)
    request.append("User-Agent: micro-sidecar\r\nConnection: close\r\n\r\n")
    stream.write(request.bytes)
  }

  func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) {
    guard completion != nil else { return }
    var input = bytes
    do throws(WireError) { try read(reader.next(&input, scratch)) } catch {
      finish(.failure("answered its health check with something that is not HTTP: \(error)"))
    }
  }

  private func read(_ step: MessageReader.Step) {
    guard case .message = step else { return }
    let status = reader.head(scratch).status
    reader.finishMessage(scratch)
    if status < 200 { return reader.expectResponse() }
    finish((200..<300).contains(status) ? .success : .failure("answered its health check with \(status)"))
  }

  func streamEnded(_ stream: ByteStream) {
    guard completion != nil else { return }
    do throws(WireError) { try read(reader.finish(scratch)) } catch {}
    finish(.failure("closed the connection without an answer"))
  }

  func streamDrained(_ stream: ByteStream) {}

  func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    self.stream = nil
    switch end {
    case .refused: finish(.failure("refused the connection"))
    case .unreachable(let why), .reset(let why): finish(.failure(why))
    case .closedHere, .ended: finish(.failure("closed the connection without an answer"))
    }
  }
}

/// `grpc.health.v1.Health/Check` for the server as a whole.
private final class GRPCHealthProbe: AppProbe, GRPCControlCallUser {
  private let driver: any Driver
  private let completion: (ProbeOutcome) -> Void
  private var call: GRPCControlCall?
  private let host: String
  /// HealthCheckResponse {1 status}; 1 is SERVING.
  private var status: UInt64?

  init(driver: any Driver, host: String, completion: @escaping (ProbeOutcome) -> Void) {
    self.driver = driver
    self.host = host
    self.completion = completion
  }

  func start(_ target: Destination, timeout: Int64) {
    let call = GRPCControlCall(driver: driver, host: host, path: "/grpc.health.v1.Health/Check", user: self)
    self.call = call
    call.send([])
    call.finishSending()
    call.start(target, timeout: timeout)
  }

  func cancel() {
    call?.cancel()
    call = nil
  }

  func controlCall(_ call: GRPCControlCall, received message: UnsafeRawBufferPointer) {
    status = 0
    var reader = ProtobufReader(message, 0..<message.count)
    while let field = try? reader.next() {
      if case (1, .varint(let value)) = (field.number, field.value) { status = value }
    }
  }

  func controlCallEnded(_ call: GRPCControlCall, _ failure: GRPCFailure?) {
    self.call = nil
    if failure?.status == GRPCStatus.unimplemented.rawValue {
      return completion(.failure("has no grpc.health.v1; unset MICRO_APP_HEALTH to go by its port alone"))
    }
    if let failure { return completion(.failure(String(decoding: failure.message, as: UTF8.self))) }
    completion(status == 1 ? .success : .failure("says that it is not serving"))
  }
}
