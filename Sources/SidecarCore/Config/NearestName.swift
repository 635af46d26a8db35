// "Did you mean": the known name a mistyped one is nearest to.

package enum NearestName {
  /// The one of `known` that fewest edits turn `name` into (insert, delete, replace, swap neighbours), letters in any
  /// case, `-` as `_`. At most a third of the name's length may be wrong; else nil. Between equals the first in order of
  /// the alphabet.
  package static func of(_ name: String, among known: some Sequence<String>) -> String? {
    let wanted = folded(name)
    // A name this long was not mistyped, and the table below grows with its square.
    guard !wanted.isEmpty, wanted.count <= 64 else { return nil }
    let limit = max(1, wanted.count / 3)
    var best: (distance: Int, name: String)?
    for candidate in known {
      let letters = folded(candidate)
      guard letters.count <= 96 else { continue }
      let distance = edits(wanted, letters)
      if distance <= limit, best.map({ (distance, candidate) < ($0.distance, $0.name) }) ?? true {
        best = (distance, candidate)
      }
    }
    return best?.name
  }

  private static func folded(_ name: String) -> [UInt8] {
    name.utf8.map { $0 == UInt8(ascii: "-") ? UInt8(ascii: "_") : $0 &- UInt8(ascii: "A") < 26 ? $0 | 0x20 : $0 }
  }

  /// Damerau's distance with neighbours swapped at most once (optimal string alignment).
  static func edits(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var beforeLast: [Int] = []
    var last = Array(0...b.count)
    for row in 0..<a.count {
      var current = [row + 1]
      for column in 0..<b.count {
        let replaced = last[column] + (a[row] == b[column] ? 0 : 1)
        var distance = min(replaced, last[column + 1] + 1, current[column] + 1)
        if row > 0, column > 0, a[row] == b[column - 1], a[row - 1] == b[column] {
          distance = min(distance, beforeLast[column - 1] + 1)
        }
        current.append(distance)
      }
      beforeLast = last
      last = current
    }
    return last[b.count]
  }
}
