// A worker: one loop on a thread of its own.

import CUV
import Glibc
import SidecarCore
import Synchronization

package final class UVThread: Sendable {
  /// Bytes of stack for a worker. The data path is callbacks, a few frames deep.
  package static let stackBytes = 512 * 1024

  package let mailbox: any Mailbox
  private let driver: Unchecked<Unmanaged<UVDriver>>
  private let thread: pthread_t
  private let isJoined = Atomic(false)

  /// Starts a thread, makes its driver and runs `setUp` on it, then the loop. Returns when the loop takes messages;
  /// `setUp` may still be running.
  package static func start(
    name: String, seed: UInt64? = nil, stackBytes: Int = UVThread.stackBytes,
    setUp: @escaping @Sendable (UVDriver) -> Void
  ) throws(DriverError) -> UVThread {
    let start = Start(name: name, seed: seed, setUp: setUp)
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    defer { pthread_attr_destroy(&attributes) }
    pthread_attr_setstacksize(&attributes, stackBytes)
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(start)
    let status = pthread_create(&thread, &attributes, workerMain, argument.toOpaque())
    if status != 0 {
      argument.release()
      throw DriverError("start thread \(name)", status: -status)
    }
    start.ready.wait()
    switch start.outcome {
    case .success(let driver): return UVThread(driver, thread)
    case .failure(let error):
      pthread_join(thread, nil)
      throw error
    }
  }

  private init(_ driver: Unchecked<Unmanaged<UVDriver>>, _ thread: pthread_t) {
    self.driver = driver
    self.thread = thread
    mailbox = driver.value._withUnsafeGuaranteedRef { $0.mailbox }
  }

  /// Runs `work` on the worker's loop in a later turn. After the loop has stopped it is dropped.
  package func post(_ work: @escaping @Sendable (UVDriver) -> Void) {
    mailbox.post { [driver] in driver.value._withUnsafeGuaranteedRef(work) }
  }

  /// Asks the loop to stop; returns at once.
  package func stop() { post { $0.stop() } }

  /// Waits until the loop has ended. Not from the worker itself. Twice is once.
  package func join() {
    if isJoined.exchange(true, ordering: .relaxed) { return }
    pthread_join(thread, nil)
  }
}

struct Unchecked<Value>: @unchecked Sendable {
  var value: Value
}

/// What the starter and the new thread share. `outcome` is written before `ready` is signalled and read after.
private final class Start: @unchecked Sendable {
  let name: String
  let seed: UInt64?
  let setUp: @Sendable (UVDriver) -> Void
  let ready = Semaphore()
  var outcome = Result<Unchecked<Unmanaged<UVDriver>>, DriverError>.failure(
    DriverError(operation: "start thread", code: "ECANCELED", message: "not started"))

  init(name: String, seed: UInt64?, setUp: @escaping @Sendable (UVDriver) -> Void) {
    self.name = name
    self.seed = seed
    self.setUp = setUp
  }
}

private final class Semaphore: @unchecked Sendable {
  private let handle = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
  init() { sem_init(handle, 0, 0) }
  deinit {
    sem_destroy(handle)
    handle.deallocate()
  }
  func signal() { sem_post(handle) }
  func wait() { while sem_wait(handle) != 0 {} }
}

private func workerMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  guard let argument else { return nil }
  let start = Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
  // The kernel's limit is 15 bytes; a longer name would be refused whole.
  pthread_setname_np(pthread_self(), String(decoding: start.name.utf8.prefix(15), as: UTF8.self))
  do {
    let driver = try UVDriver(seed: start.seed)
    start.outcome = .success(Unchecked(value: .passUnretained(driver)))
    start.ready.signal()
    start.setUp(driver)
    driver.run()
    withExtendedLifetime(driver) {}
  } catch {
    start.outcome = .failure(error)
    start.ready.signal()
  }
  return nil
}
