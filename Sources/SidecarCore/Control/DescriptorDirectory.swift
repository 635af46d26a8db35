// All descriptors there are: those of files, and those that servers tell by reflection. Each change reaches the workers as
// one new snapshot.
//
// Threading: the control loop.

package final class DescriptorDirectory {
  /// Services whose descriptors were told by servers; of more, the one learned longest ago is forgotten.
  package static let learnedMax = 256
  /// Servers asked at once; a call that needs another one goes on without.
  package static let askingMax = 16
  /// How long a server may take to tell, in nanoseconds: calls wait for it.
  package static let timeout: Int64 = 1_000_000_000
  /// Within this time of an answer a server is not asked again: workers notice on their own what is missing, each once.
  private static let freshFor: Int64 = 5_000_000_000

  private let driver: any Driver
  private let log: any LogSink
  private let onChange: (Descriptors) -> Void
  /// From files.
  package var configured = Descriptors.none {
    didSet { publish() }
  }
  private var learned: [(service: ServiceName, pool: DescriptorPool)] = []
  private var answeredAt: [ServiceName: Instant] = [:]
  private var asking: [ServiceName: (reflection: ServerReflection, waiting: [(Bool) -> Void])] = [:]

  package init(driver: any Driver, log: any LogSink, onChange: @escaping (Descriptors) -> Void) {
    self.driver = driver
    self.log = log
    self.onChange = onChange
  }

  package private(set) var snapshot = Descriptors.none

  private func publish() {
    var bound = configured.bound
    for (service, pool) in learned where bound[service] == nil { bound[service] = pool }
    snapshot = Descriptors(common: configured.common, bound: bound)
    onChange(snapshot)
  }

  /// Asks a server of `service`; `completion` runs in a later turn, after the workers were sent what was learned. True:
  /// the server told its descriptors.
  package func learn(_ service: ServiceName, from target: Destination, completion: @escaping (Bool) -> Void) {
    if asking[service] != nil {
      asking[service]?.waiting.append(completion)
      return
    }
    let isFresh = answeredAt[service].map { driver.now.nanoseconds(since: $0) < Self.freshFor } ?? false
    guard !isFresh, asking.count < Self.askingMax else {
      driver.later { completion(false) }
      return
    }
    let reflection = ServerReflection(driver: driver, target: target, timeout: Self.timeout) { [weak self] answer in
      self?.answered(service, target, answer)
    }
    asking[service] = (reflection, [completion])
  }

  private func answered(_ service: ServiceName, _ target: Destination, _ answer: ServerReflection.Answer) {
    let waiting = asking.removeValue(forKey: service)?.waiting ?? []
    if answeredAt.count >= Self.learnedMax { answeredAt.removeAll() }
    answeredAt[service] = driver.now
    let isLearned = take(service, target, answer)
    for completion in waiting { completion(isLearned) }
  }

  private func take(_ service: ServiceName, _ target: Destination, _ answer: ServerReflection.Answer) -> Bool {
    switch answer {
    case .failure(let why):
      log.debug("no descriptors by reflection", [("service", service), ("server", target.description), ("cause", why)])
      return false
    case .files(let files):
      do throws(DescriptorError) {
        let pool = try DescriptorPool(files: files, from: target.description)
        learned.removeAll { $0.service == service }
        if learned.count >= Self.learnedMax { learned.removeFirst() }
        learned.append((service, pool))
        log.info(
          "descriptors learned by reflection",
          [("service", service), ("server", target.description), ("services", "\(pool.services.count)")])
        publish()
        return true
      } catch {
        log.warning(
          "the descriptors that a server told cannot be used",
          [("service", service), ("server", target.description), ("cause", error.message)])
        return false
      }
    }
  }

  package func stop() {
    for (reflection, _) in asking.values { reflection.cancel() }
    asking.removeAll()
  }
}

extension Destination {
  /// Nil for the address of a bus transport.
  init?(_ target: DialTarget) {
    switch target {
    case .socket(let address): self = .address(address)
    case .name(let host, let port): self = .name(host: host, port: port)
    case .opaque: return nil
    }
  }
}
