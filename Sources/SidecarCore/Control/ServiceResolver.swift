// Finds a service the catalog does not hold: a call that arrives before the watch has told of its callee must not fail.
//
// All registries are asked at once; the first that knows the service answers the call, the others go on and add their
// nodes. "Not found" takes every registry's word, or the deadline. Calls for one name share one search.

package enum Resolution: Sendable {
  case found(ServiceEntry)
  /// No registry knows it. `silent` are the registries that did not say so, with the cause: empty when all have.
  case notFound(silent: [(registry: String, cause: String)])
  /// Too many searches are under way; this one was not begun.
  case overloaded
}

/// Threading: the control loop only (`Sendable` so that its tasks may hold it). A worker posts to the control loop's
/// mailbox and gets the answer back through its own.
package final class ServiceResolver: @unchecked Sendable {
  /// How long a search may take, in nanoseconds.
  package static let deadlineNanoseconds: Int64 = 1_000_000_000
  /// How long "not found" is answered without asking again, in nanoseconds.
  package static let negativeNanoseconds: Int64 = 1_000_000_000
  /// How long what only a lookup found is used before it is looked up again, in nanoseconds.
  package static let refreshNanoseconds: Int64 = 60_000_000_000
  /// Names searched for at a time; more are answered `.overloaded`.
  package static let searchesMax = 256
  /// Callers waiting for one name; more are answered `.overloaded`.
  package static let waitersMax = 4096
  /// Names remembered as not found; beyond that a name is asked for again each time.
  package static let negativesMax = 4096

  private final class Search: @unchecked Sendable {
    var waiters: [@Sendable (Resolution) -> Void] = []
    /// Why a registry has not said whether it knows the service; nil when it has.
    var causes: [String?]
    var unanswered: Int
    var tasks: [Task<Void, Never>] = []

    init(registries: Int) {
      unanswered = registries
      causes = Array(repeating: "no answer yet", count: registries)
    }
  }

  private let registries: [any Registry]
  private let catalog: Catalog
  private let driver: any Driver
  private var searches: [ServiceName: Search] = [:]
  private var negatives: [ServiceName: (until: Instant, silent: [(registry: String, cause: String)])] = [:]
  private var refreshTask: Task<Void, Never>?

  /// `registries` in the order of the catalog's.
  package init(registries: [any Registry], catalog: Catalog, driver: any Driver) {
    self.registries = registries
    self.catalog = catalog
    self.driver = driver
  }

  /// Begins to refresh what only lookups have found. Twice is once.
  package func start() {
    guard refreshTask == nil else { return }
    refreshTask = startTask(on: driver) { [self] in await refresh() }
    catalog.observe { [weak self] delta in
      // A watch may tell of a service sooner than a lookup.
      guard let self, !searches.isEmpty else { return }
      for entry in delta.changed { end(entry.name, entry) }
    }
  }

  /// Ends all searches with `.notFound`.
  package func stop() {
    refreshTask?.cancel()
    refreshTask = nil
    for (name, search) in searches {
      for task in search.tasks { task.cancel() }
      end(name, nil)
    }
  }

  package var searching: Int { searches.count }

  /// Calls `completion` once on the control loop: from inside when the catalog or the memory of what is not there
  /// answers.
  package func resolve(_ name: ServiceName, completion: @escaping @Sendable (Resolution) -> Void) {
    if let entry = catalog.entry(name) {
      completion(.found(entry))
      return
    }
    guard RegistryView.isValid(name: name), !registries.isEmpty else {
      completion(.notFound(silent: []))
      return
    }
    if let negative = negatives[name] {
      if negative.until > driver.now {
        completion(.notFound(silent: negative.silent))
        return
      }
      negatives[name] = nil
    }
    if let search = searches[name] {
      if search.waiters.count < Self.waitersMax {
        search.waiters.append(completion)
      } else {
        completion(.overloaded)
      }
      return
    }
    guard searches.count < Self.searchesMax else {
      completion(.overloaded)
      return
    }
    begin(name, completion)
  }

  package func resolve(_ name: ServiceName) async -> Resolution {
    await withCheckedContinuation { continuation in resolve(name) { continuation.resume(returning: $0) } }
  }

  private func begin(_ name: ServiceName, _ completion: @escaping @Sendable (Resolution) -> Void) {
    let search = Search(registries: registries.count)
    search.waiters = [completion]
    searches[name] = search
    search.tasks = registries.indices.map { index in
      startTask(on: driver) { [self] in
        let result: Result<[Service], RegistryError>
        do throws(RegistryError) {
          result = .success(try await lookup(name, index))
        } catch {
          result = .failure(error)
        }
        if !Task.isCancelled { answered(search, name, index, result) }
      }
    }
  }

  private func lookup(_ name: ServiceName, _ index: Int) async throws(RegistryError) -> [Service] {
    let registry = registries[index]
    return try await driver.limited(nanoseconds: Self.deadlineNanoseconds) {
      () async throws(RegistryError) -> [Service] in try await registry.lookup(name)
    }
  }

  private func answered(
    _ search: Search, _ name: ServiceName, _ index: Int, _ result: Result<[Service], RegistryError>
  ) {
    let cause: String?
    switch result {
    case .success(let services):
      catalog.applyLookup(services, of: name, from: index)
      catalog.flush()
      cause = nil
    case .failure(.notFound): cause = nil
    case .failure(let error): cause = error.description
    }
    // Another registry's answer has ended it already: what this one knows has joined the catalog.
    guard searches[name] === search else { return }
    search.causes[index] = cause
    search.unanswered -= 1
    if let entry = catalog.entry(name) {
      end(name, entry)
    } else if search.unanswered == 0 {
      end(name, nil)
    }
  }

  private func end(_ name: ServiceName, _ entry: ServiceEntry?) {
    guard let search = searches.removeValue(forKey: name) else { return }
    let resolution: Resolution
    if let entry {
      resolution = .found(entry)
    } else {
      let silent = zip(registries, search.causes).compactMap { registry, cause in
        cause.map { (registry: registry.name, cause: $0) }
      }
      remember(name, silent)
      resolution = .notFound(silent: silent)
    }
    for waiter in search.waiters { waiter(resolution) }
  }

  private func remember(_ name: ServiceName, _ silent: [(registry: String, cause: String)]) {
    let now = driver.now
    if negatives.count >= Self.negativesMax { negatives = negatives.filter { $0.value.until > now } }
    guard negatives.count < Self.negativesMax else { return }
    negatives[name] = (now.advanced(byNanoseconds: Self.negativeNanoseconds), silent)
  }

  /// Looks up again, one at a time, what the watches do not tell of. A registry that fails keeps what it has said.
  private func refresh() async {
    while !Task.isCancelled {
      await driver.pause(nanoseconds: Self.refreshNanoseconds)
      for index in registries.indices {
        for name in catalog.unconfirmed(index).sorted() {
          if Task.isCancelled { return }
          do throws(RegistryError) {
            catalog.refresh(try await lookup(name, index), of: name, from: index)
          } catch {
            if case .notFound = error { catalog.refresh([], of: name, from: index) }
          }
        }
      }
    }
  }
}
