// Large JSON documents of which little is wanted: what is not is checked and stepped over, without a tree.

import SidecarCore

/// The parts of a JSON document that are wanted; the rest, most of a pod, is stepped over.
indirect enum JSONShape: Sendable {
  case whole
  case members([String: JSONShape])
  case elements(JSONShape)

  /// What is neither an object nor an array where one is described is taken whole. Errors: `WireError` for what is not
  /// JSON.
  func cut(_ bytes: [UInt8]) throws(WireError) -> JSONValue {
    let result = bytes.withUnsafeBytes { bytes in Result { () throws(WireError) in try self.cut(bytes) } }
    return try result.get()
  }

  private func cut(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> JSONValue {
    switch self {
    case .whole: return try JSONValue(parsing: bytes)
    case .members(let shapes):
      guard isFirst("{", of: bytes) else { return try JSONValue(parsing: bytes) }
      var scanner = JSONScanner(bytes)
      var members: [JSONValue.Member] = []
      try scanner.enterObject()
      while let member = try scanner.nextMember() {
        let key = String(decoding: UnsafeRawBufferPointer(rebasing: bytes[member.key]), as: UTF8.self)
        guard let shape = shapes[key] else { continue }
        members.append(.init(key, try shape.cut(UnsafeRawBufferPointer(rebasing: bytes[member.value]))))
      }
      return .object(members)
    case .elements(let shape):
      guard isFirst("[", of: bytes) else { return try JSONValue(parsing: bytes) }
      var scanner = JSONScanner(bytes)
      var elements: [JSONValue] = []
      try scanner.enterArray()
      while let element = try scanner.nextElement() {
        elements.append(try shape.cut(UnsafeRawBufferPointer(rebasing: bytes[element])))
      }
      return .array(elements)
    }
  }

  private func isFirst(_ mark: Unicode.Scalar, of bytes: UnsafeRawBufferPointer) -> Bool {
    bytes.first { $0 != 0x20 && $0 &- 0x09 >= 5 } == UInt8(ascii: mark)
  }
}
