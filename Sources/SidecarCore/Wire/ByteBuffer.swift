// The growable bytes of the data path. `[UInt8]` costs bounds and uniqueness checks on every append (and 149 ns for a
// fresh 16 KiB); this is a pointer, a count and a capacity, recycled through a pool of its loop.

/// Growable bytes, loop-confined, never shared. Reading beyond `count` is a programmer's error.
public final class ByteBuffer {
  public private(set) var base: UnsafeMutableRawPointer
  public private(set) var capacity: Int
  public private(set) var count = 0

  public init(capacity: Int = 0) {
    self.capacity = max(capacity, 64)
    base = .allocate(byteCount: self.capacity, alignment: 16)
  }

  deinit { base.deallocate() }

  @inline(__always) public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }
  @inline(__always) public var isEmpty: Bool { count == 0 }

  /// The bytes of `range`; valid until the next change.
  @inline(__always) public func bytes(_ range: Range<Int>) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: base + range.lowerBound, count: range.count)
  }

  @inline(__always) public func reserve(_ additional: Int) {
    if capacity - count < additional { grow(additional) }
  }

  @inline(never) private func grow(_ additional: Int) {
    capacity = max(capacity * 2, count + additional)
    let larger = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
    larger.copyMemory(from: base, byteCount: count)
    base.deallocate()
    base = larger
  }

  @inline(__always) public func append(_ byte: UInt8) {
    reserve(1)
    base.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
    count &+= 1
  }

  @inline(__always) public func append(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    reserve(bytes.count)
    (base + count).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
    count &+= bytes.count
  }

  @inline(__always) public func append(_ text: StaticString) {
    reserve(text.utf8CodeUnitCount)
    (base + count).copyMemory(from: text.utf8Start, byteCount: text.utf8CodeUnitCount)
    count &+= text.utf8CodeUnitCount
  }

  /// Disfavoured, so that a literal is a `StaticString` and costs one copy.
  @_disfavoredOverload
  public func append(_ text: String) {
    var text = text
    text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
  }

  public func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

  /// Decimal digits of `number`.
  public func append(decimal number: UInt64) {
    // Written from the right at the end of the 20 bytes that any number fits into, then moved to where they belong.
    reserve(40)
    let end = base + count + 40
    var digits = end
    var value = number
    repeat {
      digits -= 1
      let (quotient, remainder) = value.quotientAndRemainder(dividingBy: 10)
      digits.storeBytes(of: UInt8(truncatingIfNeeded: 48 &+ remainder), as: UInt8.self)
      value = quotient
    } while value > 0
    let length = end - digits
    (base + count).copyMemory(from: digits, byteCount: length)
    count &+= length
  }
  public func append(decimal number: Int) {
    if number < 0 { append(UInt8(ascii: "-")) }
    append(decimal: UInt64(number.magnitude))
  }

  public func append(bigEndian number: UInt32) {
    reserve(4)
    base.storeBytes(of: number.bigEndian, toByteOffset: count, as: UInt32.self)
    count += 4
  }

  /// Replaces four bytes at `offset`, which must be within `count`.
  public func overwrite(bigEndian number: UInt32, at offset: Int) {
    precondition(offset >= 0 && offset + 4 <= count)
    base.storeBytes(of: number.bigEndian, toByteOffset: offset, as: UInt32.self)
  }

  /// Counts `amount` bytes that were written behind `count`, into room that `reserve` made.
  @inline(__always) package func advance(_ amount: Int) {
    precondition(amount >= 0 && amount <= capacity - count)
    count &+= amount
  }

  public func removeAll() { count = 0 }

  /// Takes bytes in that were written at `base + count` and beyond; they must be within `capacity`.
  package func commit(to newCount: Int) {
    precondition(newCount >= 0 && newCount <= capacity)
    count = newCount
  }

  fileprivate func spoiled() -> Bool {
    base.initializeMemory(as: UInt8.self, repeating: 0xDB, count: count)
    return true
  }

  /// Drops all but the first `newCount` bytes.
  public func truncate(to newCount: Int) {
    precondition(newCount >= 0 && newCount <= count)
    count = newCount
  }

  /// Drops `amount` bytes from the front; what follows moves down.
  public func removeFirst(_ amount: Int) {
    precondition(amount >= 0 && amount <= count)
    count -= amount
    if count > 0 { base.copyMemory(from: base + amount, byteCount: count) }
  }
}

/// Buffers waiting to be used again on one loop. Keeps at most `limit` of at most `keptCapacity` bytes each.
public final class BufferPool {
  /// Buffers kept; more are freed when returned.
  public static let limit = 256
  /// Bytes above which a returned buffer is freed rather than kept.
  public static let keptCapacity = 16 * 1024
  private var free: [ByteBuffer] = []

  public init() {}

  /// Bytes of memory behind the buffers that wait here.
  package var heldBytes: Int { free.reduce(0) { $0 + $1.capacity } }

  public func take() -> ByteBuffer { free.popLast() ?? ByteBuffer(capacity: 2048) }

  /// In debug builds what the buffer held is overwritten, so that who still reads it is found out.
  public func give(_ buffer: ByteBuffer) {
    assert(!free.contains { $0 === buffer }, "given back twice, it would have two owners")
    assert(buffer.spoiled())
    guard buffer.capacity <= Self.keptCapacity, free.count < Self.limit else { return }
    buffer.removeAll()
    free.append(buffer)
  }
}
