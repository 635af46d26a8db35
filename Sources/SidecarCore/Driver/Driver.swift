// What the core needs of an operating system, and nothing else. libuv implements it (SidecarUV), and so does the
// simulator (SidecarSim); the core runs unmodified on both.

/// A system call failed. `code` is the platform-neutral name (`EADDRINUSE`), `message` a sentence.
public struct DriverError: Error, Equatable, Sendable, CustomStringConvertible {
  public var operation: String
  public var code: String
  public var message: String
  public init(operation: String, code: String, message: String) {
    self.operation = operation
    self.code = code
    self.message = message
  }
  public var description: String { "\(operation): \(message) (\(code))" }
}

/// One address of one network interface.
public struct NetworkInterface: Equatable, Sendable {
  public var name: String
  public var index: UInt32
  /// Port 0; for IPv6 link-local addresses the zone is the index.
  public var address: SocketAddress
  public var isUp: Bool
  public var isMulticastCapable: Bool
  public init(name: String, index: UInt32, address: SocketAddress, isUp: Bool, isMulticastCapable: Bool) {
    self.name = name
    self.index = index
    self.address = address
    self.isUp = isUp
    self.isMulticastCapable = isMulticastCapable
  }
  public var isLoopback: Bool { address.isLoopback }
}

/// Work handed to a loop from any thread. Order is kept per sender. Bounded only by memory: senders are the few control
/// paths, never a peer.
public protocol Mailbox: Sendable {
  /// Runs `work` on the loop in a later turn. After the loop has stopped, `work` is dropped.
  func post(_ work: @escaping @Sendable () -> Void)
}

/// One event loop. Loop-confined, but for `mailbox` and `executor`, which any thread may use.
public protocol Driver: AnyObject {
  /// The loop's time, read once per turn: free to ask.
  var now: Instant { get }
  /// Nanoseconds that the loop's thread has used the processor: for measuring what a turn costs, whoever else the machine
  /// works for. Costs a system call.
  var processorNanoseconds: Int64 { get }
  /// Wall-clock time in nanoseconds since 1970, for what people and peers read. Never for deadlines.
  var unixNanoseconds: Int64 { get }
  var random: SeededRandom { get set }
  /// One per loop; see `TimerWheel`.
  var timers: TimerWheel { get }
  var mailbox: any Mailbox { get }
  /// Runs `async` code on this loop: pass it as a task's executor preference.
  var executor: any TaskExecutor { get }

  /// Starts listening. `onAccept` gets each new stream; it must set `handler` before it returns, and reading starts
  /// after that. `sharedPort` lets several loops bind the same port (SO_REUSEPORT).
  func listen(on address: SocketAddress, sharedPort: Bool, onAccept: @escaping (ByteStream) -> Void)
    throws(DriverError) -> Listener
  /// Listens at a socket that this process was started with; `descriptor` is its number, and stays open beside ours.
  func listen(inheriting descriptor: Int32, onAccept: @escaping (ByteStream) -> Void) throws(DriverError) -> Listener
  /// Dials. The handler hears `streamOpened` or `streamClosed` in a later turn; the caller times it with a timer.
  func connect(to address: SocketAddress, handler: any StreamHandler) -> ByteStream
  /// Binds a UDP socket. `sharedPort` sets SO_REUSEADDR and SO_REUSEPORT, as mDNS needs on 5353.
  func bindDatagram(to address: SocketAddress, sharedPort: Bool, handler: any DatagramHandler)
    throws(DriverError) -> DatagramSocket
  /// Looks a host name up; port 0 in the answers, IPv4 first. The completion runs on this loop, never from inside.
  func resolve(host: String, completion: @escaping (Result<[SocketAddress], DriverError>) -> Void)
  /// Runs `work` at the end of this turn or in the next, never from inside the call.
  func later(_ work: @escaping () -> Void)
  func interfaces() -> [NetworkInterface]
}

extension Driver {
  /// Of a loop whose turns take no time, which is what a simulated one has.
  public var processorNanoseconds: Int64 { 0 }
  /// Of one whose process is never taken over.
  public func listen(
    inheriting descriptor: Int32, onAccept: @escaping (ByteStream) -> Void
  ) throws(DriverError) -> Listener {
    throw DriverError(operation: "listen", code: "ENOTSUP", message: "no sockets are inherited here")
  }
}

/// A change of a watched file or folder.
public protocol FileWatch: AnyObject {
  /// No callback follows. Twice is once.
  func cancel()
}

/// A child process started by `HostDriver.spawn`.
public protocol ChildProcess: AnyObject {
  var processID: Int32 { get }
  /// Sends a signal; false when the process is gone.
  @discardableResult func signal(_ number: Int32) -> Bool
}

/// How a child process ended: its exit status, or the signal that killed it (then `status` is 128 + signal, as a shell
/// says it).
public struct ChildExit: Equatable, Sendable {
  public var status: Int32
  public var signal: Int32
  public init(status: Int32, signal: Int32) {
    self.status = status
    self.signal = signal
  }
}

/// A log file: bytes are added at its end.
public protocol AppendFile: AnyObject {
  /// Adds as much as goes without waiting for whoever reads; how much that was.
  func append(_ bytes: UnsafeRawBufferPointer) throws(DriverError) -> Int
  /// Twice is once.
  func close()
}

/// What only the control loop needs: signals, files and processes. File calls block for as long as the disk takes.
public protocol HostDriver: Driver {
  /// Calls `handler` on the loop each time the process gets signal `number`.
  func onSignal(_ number: Int32, _ handler: @escaping () -> Void) throws(DriverError)
  /// Calls `onChange` after a change of the file or of an entry of the folder; changes may be merged.
  func watchFile(_ path: String, onChange: @escaping () -> Void) throws(DriverError) -> any FileWatch
  /// The whole file; more than `limit` bytes is an error (`EFBIG`).
  func readFile(_ path: String, limit: Int) throws(DriverError) -> [UInt8]
  /// Writes beside the path and renames over it, so that a reader sees the old bytes or the new, never a part.
  func writeFile(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(DriverError)
  func removeFile(_ path: String) throws(DriverError)
  /// Opens a file for adding to it, making it where it is not there; `/dev/stdout` and `/dev/stderr` are our own.
  func openAppend(_ path: String) throws(DriverError) -> any AppendFile
  /// Names of a folder's entries, sorted.
  func listFolder(_ path: String) throws(DriverError) -> [String]
  func makeFolder(_ path: String, mode: UInt32) throws(DriverError)
  /// Makes sure that `path` is a folder which only this user can use: makes it with mode 0700 where nothing is there, and
  /// refuses (`EPERM`) a link, a folder of another owner and one that group or others may enter. Safe in `/tmp`.
  func makePrivateFolder(_ path: String) throws(DriverError)
  /// The user this process runs as.
  var userID: UInt32 { get }
  /// A variable of this process's environment.
  func environmentVariable(_ name: String) -> String?
  /// Starts a program with our standard streams; looked up in PATH.
  func spawn(_ arguments: [String], environment: [String: String]?, onExit: @escaping (ChildExit) -> Void)
    throws(DriverError) -> any ChildProcess
  /// This process's own id, and whether a process with an id is alive.
  var processID: Int32 { get }
  func isAlive(processID: Int32) -> Bool
  var hostName: String { get }
  /// Resident memory of this process, in bytes.
  var residentBytes: Int { get }
  /// Gives memory that was freed back to the system, which takes some milliseconds.
  func releaseFreeMemory()
}

/// Answers for a host of one user without an environment, which is what a simulated one is.
extension HostDriver {
  public func makePrivateFolder(_ path: String) throws(DriverError) { try makeFolder(path, mode: 0o700) }
  public var userID: UInt32 { 0 }
  public func releaseFreeMemory() {}
  public func openAppend(_ path: String) throws(DriverError) -> any AppendFile {
    throw DriverError(operation: "open \(path)", code: "ENOTSUP", message: "this host has no log files")
  }
  public func environmentVariable(_ name: String) -> String? { nil }
}
