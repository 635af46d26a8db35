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
    if text.utf8.withContiguousStorageIfAvailable({ append(UnsafeRawBufferPointer($0)) }) != nil { return }
    var text = text
    text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
  }

  public func append(_ bytes: [UInt8]) { bytes.withUnsafeBytes { append($0) } }

  /// Decimal digits of `number`.
  public func append(decimal number: UInt64) {
    // Written two by two from the right, 20 at most, behind the 24 bytes that they are then moved to as three words.
    reserve(72)
    let begin = base + count
    let end = begin + 44
    var digits = end
    var rest = number
    while rest >= 100 {
      let quotient = rest / 100
      digits -= 2
      digits.storeBytes(of: Self.pair(rest &- quotient &* 100), as: UInt16.self)
      rest = quotient
    }
    if rest >= 10 {
      digits -= 2
      digits.storeBytes(of: Self.pair(rest), as: UInt16.self)
    } else {
      digits -= 1
      digits.storeBytes(of: UInt8(truncatingIfNeeded: 48 &+ rest), as: UInt8.self)
    }
    let words = (
      digits.loadUnaligned(as: UInt64.self), digits.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
      digits.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
    )
    begin.storeBytes(of: words.0, as: UInt64.self)
    begin.storeBytes(of: words.1, toByteOffset: 8, as: UInt64.self)
    begin.storeBytes(of: words.2, toByteOffset: 16, as: UInt64.self)
    count &+= end - digits
  }

  /// The two digits of a number below 100, as they lie in memory.
  @inline(__always) private static func pair(_ number: UInt64) -> UInt16 {
    let tens = (number &* 103) &>> 10
    return UInt16(truncatingIfNeeded: 0x3030 &+ tens &+ (number &- tens &* 10) &<< 8).littleEndian
  }

  public func append(decimal number: Int) {
    if number < 0 { append(UInt8(ascii: "-")) }
    append(decimal: UInt64(number.magnitude))
  }

  /// 16 lower-case digits.
  package func append(hex number: UInt64) {
    reserve(16)
    let end = base + count
    end.storeBytes(of: Self.hexDigits(UInt32(truncatingIfNeeded: number &>> 32)), as: UInt64.self)
    end.storeBytes(of: Self.hexDigits(UInt32(truncatingIfNeeded: number)), toByteOffset: 8, as: UInt64.self)
    count &+= 16
  }
  /// 8 lower-case digits.
  package func append(hex number: UInt32) {
    reserve(8)
    base.storeBytes(of: Self.hexDigits(number), toByteOffset: count, as: UInt64.self)
    count &+= 8
  }
  /// 4 lower-case digits.
  package func append(hex number: UInt16) {
    append(hex: UInt32(number) &<< 16)
    count &-= 4
  }

  /// The eight lower-case digits of `number`, as they lie in memory. All at once: each half byte gets a byte of its own, to
  /// which 48 is added, and 39 more where it is above 9.
  @inline(__always) private static func hexDigits(_ number: UInt32) -> UInt64 {
    var spread = UInt64(number)
    spread = (spread | spread &<< 16) & 0x0000_FFFF_0000_FFFF
    spread = (spread | spread &<< 8) & 0x00FF_00FF_00FF_00FF
    spread = (spread | spread &<< 4) & 0x0F0F_0F0F_0F0F_0F0F
    let letters = (spread &+ 0x0606_0606_0606_0606) &>> 4 & 0x0101_0101_0101_0101
    return (spread &+ 0x3030_3030_3030_3030 &+ letters &* 39).bigEndian
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
