// Files of the control plane: small, rare and read whole, so plain blocking calls do.

import CUV
import Glibc
import SidecarCore

extension UVDriver {
  package func readFile(_ path: String, limit: Int) throws(DriverError) -> [UInt8] {
    let file = try OpenFile(path, O_RDONLY, "read \(path)")
    var bytes: [UInt8] = []
    // One byte more than allowed tells a file that is too long.
    while bytes.count <= limit {
      let room = min(max(4096, bytes.count), limit - bytes.count + 1)
      let start = bytes.count
      bytes.append(contentsOf: repeatElement(0, count: room))
      let count = bytes.withUnsafeMutableBytes { read(file.number, $0.baseAddress.map { $0 + start }, room) }
      if count < 0 {
        bytes.removeLast(room)
        if errno == EINTR { continue }
        throw DriverError(errno: "read \(path)")
      }
      bytes.removeLast(room - count)
      if count == 0 { return bytes }
    }
    throw DriverError("read \(path)", status: -EFBIG)
  }

  package func writeFile(_ path: String, _ bytes: [UInt8], mode: UInt32) throws(DriverError) {
    let operation = "write \(path)"
    // Its own number: two loops, or two processes, may write the same file at once.
    let temporary = "\(path).\(getpid()).\(random.next() & 0xFFFF_FFFF).tmp"
    do throws(DriverError) {
      let file = try OpenFile(temporary, O_WRONLY | O_CREAT | O_EXCL, operation, mode: mode)
      // The mode as asked, whatever the process's umask takes away.
      fchmod(file.number, mode_t(mode))
      var written = 0
      while written < bytes.count {
        let count = bytes.withUnsafeBytes {
          write(file.number, $0.baseAddress.map { $0 + written }, $0.count - written)
        }
        if count < 0 {
          if errno == EINTR { continue }
          throw DriverError(errno: operation)
        }
        written += count
      }
      // Without it a crash of the host could leave the new name with no content.
      if fsync(file.number) != 0 { throw DriverError(errno: operation) }
      if rename(temporary, path) != 0 { throw DriverError(errno: operation) }
    } catch {
      unlink(temporary)
      throw error
    }
  }

  package func openAppend(_ path: String) throws(DriverError) -> any AppendFile {
    switch path {
    case "/dev/stdout": try UVAppendFile(1, owned: false, path)
    case "/dev/stderr": try UVAppendFile(2, owned: false, path)
    default: try UVAppendFile(path)
    }
  }

  package func removeFile(_ path: String) throws(DriverError) {
    if unlink(path) != 0 { throw DriverError(errno: "remove \(path)") }
  }

  package func listFolder(_ path: String) throws(DriverError) -> [String] {
    guard let folder = opendir(path) else { throw DriverError(errno: "list \(path)") }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
        String(cString: UnsafeRawPointer(pointer).assumingMemoryBound(to: CChar.self))
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// Makes missing parents too. A folder that exists already is no error.
  package func makeFolder(_ path: String, mode: UInt32) throws(DriverError) {
    if mkdir(path, mode_t(mode)) == 0 { return }
    var failure = errno
    if failure == ENOENT, let slash = path.lastIndex(of: "/"), slash != path.startIndex {
      try makeFolder(String(path[..<slash]), mode: mode)
      if mkdir(path, mode_t(mode)) == 0 { return }
      failure = errno
    }
    var status = stat()
    if failure == EEXIST, stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR { return }
    throw DriverError("make folder \(path)", status: -failure)
  }

  package func watchFile(_ path: String, onChange: @escaping () -> Void) throws(DriverError) -> any FileWatch {
    try refuseWhileStopping("watch \(path)")
    return UVFileWatch(driver: self, path: path, onChange: onChange)
  }
}

/// Regular files take a write whole. A pipe takes `PIPE_BUF` bytes whenever poll(2) says that it takes any, so that a write
/// of no more never waits, though the descriptor may be shared and must stay as it is.
private final class UVAppendFile: AppendFile {
  private var number: Int32
  private let isOwned: Bool
  private let path: String
  private let isRegular: Bool

  init(_ number: Int32, owned: Bool, _ path: String) throws(DriverError) {
    self.number = number
    self.path = path
    isOwned = owned
    var status = stat()
    if fstat(number, &status) != 0 {
      let failure = errno
      if owned { Glibc.close(number) }
      throw DriverError("open \(path)", status: -failure)
    }
    isRegular = status.st_mode & S_IFMT == S_IFREG
  }

  convenience init(_ path: String) throws(DriverError) {
    // Without O_NONBLOCK a pipe without a reader would stop the loop here.
    let number = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0o640)
    if number < 0 { throw DriverError(errno: "open \(path)") }
    try self.init(number, owned: true, path)
  }

  deinit { close() }

  func append(_ bytes: UnsafeRawBufferPointer) throws(DriverError) -> Int {
    var written = 0
    while written < bytes.count {
      let room = isRegular ? bytes.count : Int(PIPE_BUF)
      if !isRegular {
        var poller = pollfd(fd: number, events: Int16(POLLOUT), revents: 0)
        let ready = poll(&poller, 1, 0)
        if ready == 0 || ready < 0 && errno == EINTR { return written }
      }
      let count = write(number, bytes.baseAddress.map { $0 + written }, min(bytes.count - written, room))
      if count < 0 {
        if errno == EINTR { continue }
        if errno == EAGAIN { return written }
        throw DriverError(errno: "write \(path)")
      }
      written += count
    }
    return written
  }

  func close() {
    if isOwned, number >= 0 { Glibc.close(number) }
    number = -1
  }
}

private struct OpenFile: ~Copyable {
  let number: Int32
  init(_ path: String, _ flags: Int32, _ operation: String, mode: UInt32 = 0) throws(DriverError) {
    number = open(path, flags | O_CLOEXEC, mode_t(mode))
    if number < 0 { throw DriverError(errno: operation) }
  }
  deinit { if number >= 0 { close(number) } }
}

/// Watches the folder a path is in, because an editor, `rename` and a Kubernetes volume all put another file under the
/// same name: a watch on the file itself would stay with the old one. Whether the event concerns the path is decided by
/// looking at the path when the event has another name (in a Kubernetes volume it is a link elsewhere that moves).
///
/// Inotify can be unavailable (too many watches, a network file system, the folder not there yet), so the path is also
/// looked at every `recheckInterval`.
final class UVFileWatch: FileWatch, LoopResource {
  /// Nanoseconds between looks at the path when no event comes.
  static let recheckInterval: Int64 = 5_000_000_000

  private unowned(unsafe) let driver: UVDriver
  private let path: String
  private var onChange: (() -> Void)?
  private var event: UnsafeMutablePointer<uv_fs_event_t>?
  private var last: FileIdentity?
  /// Entries of a watched folder count as well as the folder.
  private let isFolder: Bool
  private let name: String
  private var isLookDue = false
  private var isChangeCertain = false
  private var timer: LoopTimer?

  init(driver: UVDriver, path: String, onChange: @escaping () -> Void) {
    self.driver = driver
    self.path = path
    self.onChange = onChange
    last = FileIdentity(path)
    isFolder = Self.isFolder(path)
    name = path.split(separator: "/").last.map(String.init) ?? path
    let timer = LoopTimer { [unowned self] in recheck() }
    self.timer = timer
    driver.timers.arm(timer, after: Self.recheckInterval, from: driver.now)
    startEvents()
  }

  private static func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }

  private var watchedFolder: String {
    if isFolder { return path }
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  private func startEvents() {
    let handle = UnsafeMutablePointer<uv_fs_event_t>.allocate(capacity: 1)
    uv_fs_event_init(driver.loop, handle)
    guard uv_fs_event_start(handle, fileEvent, watchedFolder, 0) == 0 else {
      uv_close(handle.cast(to: uv_handle_t.self), freeHandle)
      return
    }
    handle.pointee.data = Unmanaged.passRetained(self).toOpaque()
    event = handle
  }

  private func stopEvents() {
    guard let handle = event else { return }
    event = nil
    uv_close(handle.cast(to: uv_handle_t.self), freeHandleAndOwner)
  }

  /// One look however many events a turn brings. An event of our own name counts even where size and time look the
  /// same: file times are as coarse as the kernel's tick.
  fileprivate func happened(to entry: UnsafePointer<CChar>?) {
    if onChange == nil { return }
    if isFolder || entry.map({ strcmp($0, name) == 0 }) ?? true { isChangeCertain = true }
    if isLookDue { return }
    isLookDue = true
    driver.later { [self] in
      isLookDue = false
      look()
    }
  }

  private func look() {
    guard let onChange else { return }
    let current = FileIdentity(path)
    if current == last, !isChangeCertain { return }
    last = current
    isChangeCertain = false
    onChange()
  }

  private func recheck() {
    guard onChange != nil, let timer else { return }
    driver.timers.arm(timer, after: Self.recheckInterval, from: driver.now)
    // The folder may have been replaced, and an inotify watch stays with the old one.
    stopEvents()
    startEvents()
    look()
  }

  func cancel() {
    onChange = nil
    timer?.cancel()
    timer = nil
    stopEvents()
  }

  func closeForStop() { cancel() }

  deinit { timer?.cancel() }
}

private func fileEvent(
  _ handle: UnsafeMutablePointer<uv_fs_event_t>?, _ entry: UnsafePointer<CChar>?, _: Int32, _: Int32
) {
  withOwner(handle?.pointee.data, UVFileWatch.self) { $0.happened(to: entry) }
}
