// Makes requests and responses that are nearly right: mutations and splices of seeds with words of the dictionary.

import SidecarCore

struct Mutator {
  let seeds: [[UInt8]]
  let words: [[UInt8]]
  var random: SeededRandom
  /// Bytes of an input.
  private static let countMax = 2048

  mutating func next() -> [UInt8] {
    var bytes = pick(seeds)
    for _ in 0..<(1 + below(5)) { mutate(&bytes) }
    if bytes.count > Self.countMax { bytes.removeLast(bytes.count - Self.countMax) }
    return bytes
  }

  private mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<max(bound, 1), using: &random) }

  private mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

  private mutating func mutate(_ bytes: inout [UInt8]) {
    let at = below(bytes.count + 1)
    let stop = min(bytes.count, at + below(24))
    switch below(12) {
    case 0: bytes.insert(UInt8(below(256)), at: at)
    case 1: if at < bytes.count { bytes.remove(at: at) }
    case 2: if at < bytes.count { bytes[at] ^= 1 << UInt8(below(8)) }
    case 3: if at < bytes.count { bytes[at] = UInt8(below(256)) }
    case 4: bytes.removeSubrange(at..<stop)
    case 5: bytes.insert(contentsOf: Array(bytes[at..<stop]), at: below(bytes.count + 1))
    case 6, 7, 8: bytes.insert(contentsOf: pick(words), at: at)
    case 9:
      let word = pick(words)
      bytes.replaceSubrange(at..<min(bytes.count, at + word.count), with: word)
    case 10: insertLine(&bytes)
    default:
      let other = pick(seeds)
      bytes.replaceSubrange(at..., with: other[below(other.count)...])
    }
  }

  /// A word at the start of a line, where field lines and chunk sizes are.
  private mutating func insertLine(_ bytes: inout [UInt8]) {
    let starts = bytes.indices.filter { $0 > 0 && bytes[$0 - 1] == UInt8(ascii: "\n") }
    guard !starts.isEmpty else { return }
    let word = pick(words)
    bytes.insert(contentsOf: word, at: starts[below(starts.count)])
  }
}
