/// First in, first out: the bytes of a simulated socket buffer.
struct ByteQueue {
  private var storage: [UInt8] = []
  private var head = 0

  var count: Int { storage.count - head }
  var isEmpty: Bool { head == storage.count }

  mutating func append(_ bytes: UnsafeRawBufferPointer) { storage.append(contentsOf: bytes) }
  mutating func append(_ bytes: [UInt8]) { storage.append(contentsOf: bytes) }

  /// Removes the first `amount` bytes.
  mutating func take(_ amount: Int) -> [UInt8] {
    if head == 0, amount == storage.count {
      defer { storage = [] }
      return storage
    }
    let taken = Array(storage[head..<head + amount])
    drop(amount)
    return taken
  }

  /// Moves the first `target.count` bytes into `target`.
  mutating func take(into target: UnsafeMutableRawBufferPointer) {
    storage.withUnsafeBytes {
      target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[head..<head + target.count]))
    }
    drop(target.count)
  }

  mutating func removeAll() {
    storage.removeAll()
    head = 0
  }

  private mutating func drop(_ amount: Int) {
    head += amount
    if head == storage.count {
      storage.removeAll(keepingCapacity: true)
      head = 0
    } else if head > 64 * 1024, head > storage.count / 2 {
      storage.removeFirst(head)
      head = 0
    }
  }
}
