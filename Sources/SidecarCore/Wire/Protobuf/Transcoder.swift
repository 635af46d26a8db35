// What both directions of the transcoder are made of: where reading and writing stand, where in the message that is,
// and which of its fields have been seen.

/// One per loop and direction: it keeps its scratch memory from call to call.
package class Transcoder {
  /// Messages within messages; as many as the official parsers take.
  package static let depthMax = 100

  // What is read: `position` is at most `end`, which is the end of the innermost message that has a length.
  final let placeholder: UnsafeMutablePointer<UInt8>
  final var start: UnsafePointer<UInt8>
  final var position: UnsafePointer<UInt8>
  final var end: UnsafePointer<UInt8>
  // What is written: `output` is the end of what was, `room` that of the memory.
  private final var buffer = ByteBuffer()
  private final var countBefore = 0
  final var output: UnsafeMutablePointer<UInt8>
  private final var room: UnsafeMutablePointer<UInt8>

  final var depth = 0
  final let path: UnsafeMutablePointer<PathStep>
  /// Bits of the fields and oneofs seen on all levels, `MessageTable.seenWords` each.
  final var seen: UnsafeMutablePointer<UInt64>
  private final var seenCapacity = 256
  private final var seenCount = 0
  /// Keys of the maps under way.
  final let keys = KeyLedger()
  private final var failure = (rule: "", offset: 0)
  /// Where errors are said to be while something else than the input is read; -1: where they are.
  final var fixedOffset = -1

  package init() {
    placeholder = .allocate(capacity: 1)
    placeholder.pointee = 0
    start = UnsafePointer(placeholder)
    position = start
    end = start
    output = placeholder
    room = placeholder
    path = .allocate(capacity: Self.depthMax + 2)
    path.initialize(repeating: PathStep(), count: Self.depthMax + 2)
    seen = .allocate(capacity: seenCapacity)
  }

  deinit {
    placeholder.deallocate()
    path.deallocate()
    seen.deallocate()
  }

  // MARK: Beginning and ending

  final func begin(_ input: UnsafeRawBufferPointer, into buffer: ByteBuffer, room count: Int) {
    countBefore = buffer.count
    start = input.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? UnsafePointer(placeholder)
    position = start
    end = start + input.count
    self.buffer = buffer
    buffer.reserve(count)
    adoptBuffer()
    depth = 0
    seenCount = 0
    fixedOffset = -1
    keys.removeAll()
    path[0] = PathStep()
  }

  final func finish() { buffer.commit(to: output - base) }

  /// Leaves the buffer as it was; the error to throw.
  final func abandon() -> TranscodeError {
    let place = PathStep.describe(path, through: depth, written: UnsafePointer(base))
    buffer.truncate(to: countBefore)
    return TranscodeError(path: place, rule: failure.rule, offset: failure.offset)
  }

  /// Notes what is wrong at `place`, by default where reading stands.
  @inline(never) final func fail(_ rule: String, at place: UnsafePointer<UInt8>? = nil) -> Stop {
    failure = (rule, fixedOffset >= 0 ? fixedOffset : (place ?? position) - start)
    return Stop()
  }

  // MARK: Writing

  private final var base: UnsafeMutablePointer<UInt8> { buffer.base.assumingMemoryBound(to: UInt8.self) }
  /// Bytes in the buffer, those that were there before included.
  @inline(__always) final var written: Int { output - base }

  private final func adoptBuffer() {
    output = base + buffer.count
    room = base + buffer.capacity
  }

  /// Makes room for `count` bytes, and for two words beyond them.
  @inline(__always) final func reserve(_ count: Int) {
    if room - output < count &+ 16 { grow(count &+ 16) }
  }

  @inline(never) private final func grow(_ count: Int) {
    buffer.commit(to: output - base)
    buffer.reserve(count)
    adoptBuffer()
  }

  final func rollBack(to count: Int) { output = base + count }

  /// The buffer's bytes from `offset` on; valid until more are reserved.
  @inline(__always) final func bytesWritten(from offset: Int) -> UnsafeMutablePointer<UInt8> { base + offset }

  // MARK: Levels

  @inline(__always) final func enter() throws(Stop) {
    guard depth < Self.depthMax else { throw fail("messages are nested more than \(Self.depthMax) deep") }
    depth &+= 1
    path[depth] = PathStep()
  }

  /// Clear bits for the fields of one message; the place of their first word in `seen`.
  @inline(__always) final func pushSeen(_ words: Int) -> Int {
    let first = seenCount
    if first &+ words > seenCapacity { growSeen(first &+ words) }
    seenCount = first &+ words
    for word in first..<seenCount { seen[word] = 0 }
    return first
  }

  @inline(never) private final func growSeen(_ words: Int) {
    let capacity = max(seenCapacity * 2, words)
    let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: capacity)
    larger.update(from: seen, count: seenCount)
    seen.deallocate()
    seen = larger
    seenCapacity = capacity
  }

  @inline(__always) final func popSeen(_ first: Int) { seenCount = first }

  /// Sets a bit; false when it was set before.
  @inline(__always) final func mark(_ bit: Int, from firstWord: Int) -> Bool {
    let mask: UInt64 = 1 &<< UInt64(truncatingIfNeeded: bit & 63)
    let word = firstWord &+ bit &>> 6
    if seen[word] & mask != 0 { return false }
    seen[word] |= mask
    return true
  }

  final func isMarked(_ bit: Int, from firstWord: Int) -> Bool {
    seen[firstWord + bit / 64] & (1 &<< UInt64(bit & 63)) != 0
  }

  /// Says which required field is not there.
  final func missing(_ table: UnsafeMutablePointer<MessageTable>, _ firstWord: Int) -> Stop {
    if let field = table.pointee.fields.first(where: { $0.isRequired && !isMarked($0.index, from: firstWord) }) {
      path[depth] = PathStep(field: table.pointee.fields.baseAddress! + field.index)
    }
    return fail("a required field is missing")
  }
}
