/// Bytes that never change, at an address that never moves: names that are written into every message. Reading them
/// needs no closure and no bounds check.
package final class FixedBytes: @unchecked Sendable {
  /// Valid as long as this object lives.
  package let span: UnsafeRawBufferPointer

  package init(_ bytes: some Collection<UInt8>) {
    let storage = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 8)
    storage.copyBytes(from: bytes)
    span = UnsafeRawBufferPointer(storage)
  }

  package convenience init(_ text: String) { self.init(Array(text.utf8)) }

  package static let empty = FixedBytes([])

  package var text: String { String(decoding: span, as: UTF8.self) }

  deinit { span.deallocate() }
}
