// What both directions of the transcoder share: options, errors and where in a message they are.

/// A message cannot be translated. `path` says where in it (`user.addresses[3].zip`, `labels["a"]`, empty for the
/// message itself), `rule` what is wrong, `offset` at which byte of the input.
package struct TranscodeError: Error, Equatable, Sendable, CustomStringConvertible {
  package var path: String
  package var rule: String
  package var offset: Int

  package init(path: String, rule: String, offset: Int) {
    self.path = path
    self.rule = rule
    self.offset = offset
  }

  package var description: String { "\(text) at byte \(offset)" }
  private var text: String { path.isEmpty ? rule : "\(path): \(rule)" }

  /// As the rest of the data path reports broken input.
  package var wireError: WireError { WireError(text, offset: offset) }
}

/// What to do with fields that the descriptors do not know, and with names that are no value of an enum.
package enum UnknownFields: Sendable {
  /// An error, as Go's protojson and jsonpb have it.
  case refuse
  /// They are left out.
  case ignore
}

/// Unwinds; what happened is kept by the transcoder, so that throwing costs no more than returning.
struct Stop: Error {}

/// One level of where the transcoder is.
struct PathStep {
  /// Nil on a level whose JSON has no name of its own, such as Struct.
  var field: UnsafeMutablePointer<FieldTable>?
  /// Of the element; -1 outside of arrays.
  var index = -1
  /// Of the map key, between its quotes; nil outside of maps.
  var key: UnsafeRawBufferPointer?
  /// The same as offset and count of what has been written, which moves when it grows.
  var writtenKey: (start: Int, count: Int)?

  /// `written` is where what was written starts.
  static func describe(
    _ steps: UnsafeMutablePointer<PathStep>, through last: Int, written: UnsafePointer<UInt8>
  ) -> String {
    let buffer = ByteBuffer()
    for step in UnsafeMutableBufferPointer(start: steps, count: last + 1) {
      if let field = step.field {
        if !buffer.isEmpty { buffer.append(UInt8(ascii: ".")) }
        buffer.append(field.pointee.name)
      }
      if step.index >= 0 {
        buffer.append(UInt8(ascii: "["))
        buffer.append(decimal: step.index)
        buffer.append(UInt8(ascii: "]"))
      } else if let key = step.key
        ?? step.writtenKey.map({ UnsafeRawBufferPointer(start: written + $0.start, count: $0.count) })
      {
        buffer.append("[\"")
        buffer.append(UnsafeRawBufferPointer(rebasing: key.prefix(keyBytesMax)))
        buffer.append(key.count > keyBytesMax ? "…\"]" : "\"]")
      }
      if buffer.count > pathBytesMax {
        buffer.append("…")
        break
      }
    }
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  /// Bytes shown of a map key and of a path.
  private static let keyBytesMax = 64
  private static let pathBytesMax = 1024
}
