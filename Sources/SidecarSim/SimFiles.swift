// The files of one simulated host, in memory: a flat map from absolute path to content. No permissions, no links. A
// relative path is relative to "/".

import SidecarCore

package final class SimFiles {
  enum Node {
    case file([UInt8])
    case folder
    case socket
  }

  private let world: SimWorld
  /// Never walked but in sorted order.
  private var nodes: [String: Node] = ["/": .folder, "/tmp": .folder]
  private var watches: [SimFileWatch] = []
  /// Bytes all files may hold together; a write beyond fails with ENOSPC.
  package var capacity = 64 * 1024 * 1024

  init(world: SimWorld) { self.world = world }

  // MARK: For tests

  /// Puts a file there from outside the program, with its folders, and tells the watches.
  package func put(_ path: String, _ text: String) {
    let path = Self.absolute(path)
    var folder = Self.parent(path)
    while nodes[folder] == nil {
      nodes[folder] = .folder
      folder = Self.parent(folder)
    }
    nodes[path] = .file(Array(text.utf8))
    changed(path)
  }

  /// The content of a file; nil when there is none.
  package func content(_ path: String) -> [UInt8]? {
    if case .file(let bytes) = nodes[Self.absolute(path)] { bytes } else { nil }
  }

  /// Takes a file away from outside the program.
  package func delete(_ path: String) {
    let path = Self.absolute(path)
    if nodes.removeValue(forKey: path) != nil { changed(path) }
  }

  // MARK: For the driver

  func read(_ path: String, limit: Int) throws(DriverError) -> [UInt8] {
    switch nodes[Self.absolute(path)] {
    case .file(let bytes) where bytes.count <= limit: return bytes
    case .file(let bytes):
      throw Self.error("read", "EFBIG", "\(path) has \(bytes.count) bytes, more than \(limit)")
    case .folder: throw Self.error("read", "EISDIR", "\(path) is a folder")
    case .socket: throw Self.error("read", "ENXIO", "\(path) is a socket")
    case nil: throw Self.error("read", "ENOENT", "no such file: \(path)")
    }
  }

  func write(_ path: String, _ bytes: [UInt8]) throws(DriverError) {
    let path = Self.absolute(path)
    try requireFolder(Self.parent(path), "write")
    if case .folder = nodes[path] { throw Self.error("write", "EISDIR", "\(path) is a folder") }
    let others = nodes.filter { $0.key != path }.values
    let used = others.reduce(0) { sum, node in if case .file(let bytes) = node { sum + bytes.count } else { sum } }
    guard used + bytes.count <= capacity else { throw Self.error("write", "ENOSPC", "no space left for \(path)") }
    nodes[path] = .file(bytes)
    changed(path)
  }

  func remove(_ path: String) throws(DriverError) {
    let path = Self.absolute(path)
    switch nodes[path] {
    case .file, .socket:
      nodes[path] = nil
      changed(path)
    case .folder: throw Self.error("remove", "EISDIR", "\(path) is a folder")
    case nil: throw Self.error("remove", "ENOENT", "no such file: \(path)")
    }
  }

  func list(_ path: String) throws(DriverError) -> [String] {
    let path = Self.absolute(path)
    try requireFolder(path, "list")
    return nodes.keys.filter { $0 != "/" && Self.parent($0) == path }.map { String($0[Self.nameStart($0)...]) }.sorted()
  }

  func makeFolder(_ path: String) throws(DriverError) {
    let path = Self.absolute(path)
    try requireFolder(Self.parent(path), "make folder")
    if nodes[path] != nil { throw Self.error("make folder", "EEXIST", "\(path) exists") }
    nodes[path] = .folder
    changed(path)
  }

  /// All files of a simulated host belong to its one user, so an existing folder is private too.
  func makePrivateFolder(_ path: String) throws(DriverError) {
    switch nodes[Self.absolute(path)] {
    case nil: try makeFolder(path)
    case .folder: break
    case .file, .socket: throw Self.error("make private folder", "ENOTDIR", "\(path) is not a folder")
    }
  }

  func makeSocket(_ path: String) throws(DriverError) {
    let path = Self.absolute(path)
    try requireFolder(Self.parent(path), "bind")
    if nodes[path] != nil { throw Self.error("bind", "EADDRINUSE", "\(path) exists") }
    nodes[path] = .socket
    changed(path)
  }

  func removeSocket(_ path: String) {
    let path = Self.absolute(path)
    if case .socket = nodes[path] {
      nodes[path] = nil
      changed(path)
    }
  }

  func watch(_ path: String, on loop: SimDriver, _ onChange: @escaping () -> Void) throws(DriverError)
    -> any FileWatch
  {
    let path = Self.absolute(path)
    guard nodes[path] != nil else { throw Self.error("watch", "ENOENT", "no such file: \(path)") }
    let watch = SimFileWatch(path: path, loop: loop, files: self, onChange: onChange)
    watches.append(watch)
    return watch
  }

  func forget(_ watch: SimFileWatch) { watches.removeAll { $0 === watch } }
  func removeWatches() { watches.removeAll() }
  func watchCount(of loop: SimDriver) -> Int { watches.count { $0.loop === loop } }

  private func changed(_ path: String) {
    for watch in watches where watch.path == path || watch.path == Self.parent(path) { watch.changed() }
  }

  private func requireFolder(_ path: String, _ operation: String) throws(DriverError) {
    switch nodes[path] {
    case .folder: return
    case .file, .socket: throw Self.error(operation, "ENOTDIR", "\(path) is not a folder")
    case nil: throw Self.error(operation, "ENOENT", "no such folder: \(path)")
    }
  }

  private static func error(_ operation: String, _ code: String, _ message: String) -> DriverError {
    DriverError(operation: operation, code: code, message: message)
  }
  private static func absolute(_ path: String) -> String {
    let parts = path.split(separator: "/").filter { $0 != "." }
    return "/" + parts.joined(separator: "/")
  }
  private static func nameStart(_ path: String) -> String.Index {
    path.index(after: path.lastIndex(of: "/") ?? path.startIndex)
  }
  private static func parent(_ path: String) -> String {
    let parent = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
    return parent.isEmpty ? "/" : String(parent)
  }
}

final class SimFileWatch: FileWatch {
  let path: String
  let loop: SimDriver
  private weak var files: SimFiles?
  private var onChange: (() -> Void)?
  private var isDue = false

  init(path: String, loop: SimDriver, files: SimFiles, onChange: @escaping () -> Void) {
    self.path = path
    self.loop = loop
    self.files = files
    self.onChange = onChange
  }

  /// Changes within the delay are merged, as the contract allows.
  func changed() {
    if isDue { return }
    isDue = true
    let world = loop.world
    world.schedule(after: world.draw(50_000...5_000_000), on: loop) { [self] in
      isDue = false
      guard let onChange else { return }
      world.note(loop, "file changed", 0, 0, path)
      onChange()
    }
  }

  func cancel() {
    onChange = nil
    files?.forget(self)
  }
}
