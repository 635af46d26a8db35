// What happened, for two readers: a person after a failure (the last entries, as text), and the determinism tests (a
// hash over every entry, equal for equal seeds in every process).

import SidecarCore

/// The last events of a world and a hash of all of them.
package struct Trace {
  /// Entries kept; older ones are forgotten but stay in the hash.
  package static let entriesMax = 400

  private struct Entry {
    var time: UInt64
    var loop: Int
    var what: StaticString
    var a: Int
    var b: Int
    var text: String?
  }
  private var entries: [Entry] = []
  private var next = 0
  /// Over all events since the start.
  package private(set) var hash: UInt64 = 0xCBF2_9CE4_8422_2325
  /// Events since the start.
  package private(set) var count = 0

  init() { entries.reserveCapacity(Self.entriesMax) }

  mutating func add(
    _ time: UInt64, _ loop: Int, _ what: StaticString, _ a: Int, _ b: Int, _ text: String? = nil
  ) {
    mix(time)
    mix(UInt64(bitPattern: Int64(loop)))
    what.withUTF8Buffer { mix(UnsafeRawBufferPointer($0)) }
    mix(UInt64(bitPattern: Int64(a)))
    mix(UInt64(bitPattern: Int64(b)))
    if var text { text.withUTF8 { mix(UnsafeRawBufferPointer($0)) } }
    count += 1
    let entry = Entry(time: time, loop: loop, what: what, a: a, b: b, text: text)
    if entries.count < Self.entriesMax {
      entries.append(entry)
    } else {
      entries[next] = entry
      next = (next + 1) % Self.entriesMax
    }
  }

  /// Payload bytes count too: a byte that differs must change the hash.
  mutating func mix(_ bytes: UnsafeRawBufferPointer) {
    var offset = 0
    while offset + 8 <= bytes.count {
      mix(bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
      offset += 8
    }
    var rest: UInt64 = 0
    while offset < bytes.count {
      rest = rest &<< 8 | UInt64(bytes[offset])
      offset += 1
    }
    mix(rest)
  }

  private mutating func mix(_ word: UInt64) {
    hash = (hash ^ word) &* 0x9E37_79B9_7F4A_7C15
    hash ^= hash &>> 29
  }

  /// The kept entries, oldest first, one line each: seconds since the start, loop, event.
  func lines(since start: UInt64, loopName: (Int) -> String) -> [String] {
    (entries[next...] + entries[..<next]).map { entry in
      let nanoseconds = entry.time - start
      let fraction = String(nanoseconds % 1_000_000_000)
      let padded = String(repeating: "0", count: 9 - fraction.count) + fraction
      let name = entry.loop < 0 ? "net" : loopName(entry.loop)
      let head = "\(nanoseconds / 1_000_000_000).\(padded) \(name) \(entry.what) \(entry.a)"
      return head + (entry.b == 0 ? "" : " \(entry.b)") + (entry.text.map { " " + $0 } ?? "")
    }
  }
}

/// A broken invariant, with all that is needed to see it again.
package struct SimFailure: Error, CustomStringConvertible, Sendable {
  package var message: String
  package var seed: UInt64
  /// Seed, plan, command to repeat and the end of the trace.
  package var description: String
}
