// Header fields of HTTP/2, as they came and as they go out. Both keep the bytes of all fields in one buffer and are used
// again for the next list.

import CNGHTTP2

/// A header list that has come in: request head, response head or trailers. One per session; valid during the callback
/// that hands it on.
package final class HTTP2Fields {
  private struct Field {
    var start: Int
    var nameCount: Int
    var valueCount: Int
  }

  private let storage = ByteBuffer(capacity: 1024)
  private var fields: [Field] = []
  /// As SETTINGS_MAX_HEADER_LIST_SIZE counts.
  private var listSize = 0
  package private(set) var isTooLarge = false
  private var methodIndex = -1
  private var schemeIndex = -1
  private var authorityIndex = -1
  private var pathIndex = -1
  /// The three digits of `:status`; 0 when there is none.
  package private(set) var status = 0

  init() { fields.reserveCapacity(32) }

  /// Pseudo-header fields are among them.
  package var count: Int { fields.count }
  /// In lower case, as HTTP/2 has all names.
  @inline(__always) package func name(_ index: Int) -> UnsafeRawBufferPointer {
    let field = fields[index]
    return storage.bytes(field.start..<field.start &+ field.nameCount)
  }
  @inline(__always) package func value(_ index: Int) -> UnsafeRawBufferPointer {
    let field = fields[index]
    let start = field.start &+ field.nameCount
    return storage.bytes(start..<start &+ field.valueCount)
  }
  @inline(__always) package func isPseudo(_ index: Int) -> Bool {
    fields[index].nameCount > 0 && storage.base.load(fromByteOffset: fields[index].start, as: UInt8.self) == 0x3A
  }

  package var method: UnsafeRawBufferPointer? { pseudo(methodIndex) }
  package var scheme: UnsafeRawBufferPointer? { pseudo(schemeIndex) }
  package var authority: UnsafeRawBufferPointer? { pseudo(authorityIndex) }
  package var path: UnsafeRawBufferPointer? { pseudo(pathIndex) }
  @inline(__always) private func pseudo(_ index: Int) -> UnsafeRawBufferPointer? { index < 0 ? nil : value(index) }

  /// The first value of `name`, which is in lower case.
  package func first(_ name: StaticString) -> UnsafeRawBufferPointer? {
    for index in fields.indices
    where fields[index].nameCount == name.utf8CodeUnitCount && ASCIIText.equals(self.name(index), name) {
      return value(index)
    }
    return nil
  }

  func begin() {
    storage.removeAll()
    fields.removeAll(keepingCapacity: true)
    listSize = 0
    isTooLarge = false
    methodIndex = -1
    schemeIndex = -1
    authorityIndex = -1
    pathIndex = -1
    status = 0
  }

  func append(_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
    listSize &+= name.count &+ value.count &+ 32
    guard listSize <= HTTP2Limits.headerListMax, fields.count < HTTP2Limits.fieldsMax else {
      isTooLarge = true
      return
    }
    let index = fields.count
    fields.append(Field(start: storage.count, nameCount: name.count, valueCount: value.count))
    storage.append(name)
    storage.append(value)
    guard name.first == 0x3A else { return }
    if ASCIIText.equals(name, ":path") {
      pathIndex = index
    } else if ASCIIText.equals(name, ":method") {
      methodIndex = index
    } else if ASCIIText.equals(name, ":authority") {
      authorityIndex = index
    } else if ASCIIText.equals(name, ":scheme") {
      schemeIndex = index
    } else if ASCIIText.equals(name, ":status") {
      // nghttp2 lets nothing but three digits through.
      status = value.reduce(0) { $0 &* 10 &+ Int($1 &- 0x30) }
    }
  }
}

/// A header list to be sent. Taken from its session (`HTTP2Session.takeList`), filled, and handed to one of the calls
/// that send it, which take it over. Pseudo-header fields come first.
package final class HTTP2HeaderList {
  private struct Field {
    var start: Int
    var nameCount: Int
    var valueCount: Int
    var flags: UInt8
  }

  private let storage = ByteBuffer(capacity: 512)
  private var fields: [Field] = []
  private var vectors: UnsafeMutablePointer<nghttp2_nv>
  private var capacity = 32

  init() {
    vectors = .allocate(capacity: capacity)
    fields.reserveCapacity(capacity)
  }

  deinit { vectors.deallocate() }

  package var isEmpty: Bool { fields.isEmpty }

  func removeAll() {
    storage.removeAll()
    fields.removeAll(keepingCapacity: true)
  }

  /// A field whose bytes are known to be right.
  @inline(__always) package func append(_ name: StaticString, _ value: StaticString) {
    let start = storage.count
    storage.append(name)
    storage.append(value)
    add(start, name.utf8CodeUnitCount, value.utf8CodeUnitCount)
  }

  /// A value that HTTP/2 does not allow is left out, and false returned. `isVarying`: another value the next time, so not
  /// worth a place in the peer's table.
  @discardableResult
  package func append(_ name: StaticString, _ value: UnsafeRawBufferPointer, isVarying: Bool = false) -> Bool {
    guard Self.isValue(value) else { return false }
    let start = storage.count
    storage.append(name)
    storage.append(value)
    add(start, name.utf8CodeUnitCount, value.count, isVarying ? UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue) : 0)
    return true
  }

  /// A value that `write` appends to the buffer it is given.
  package func append(_ name: StaticString, isVarying: Bool = false, _ write: (ByteBuffer) -> Void) {
    let start = storage.count
    storage.append(name)
    write(storage)
    let count = name.utf8CodeUnitCount
    guard Self.isValue(storage.bytes(start + count..<storage.count)) else {
      storage.truncate(to: start)
      return
    }
    add(start, count, storage.count - start - count, isVarying ? UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue) : 0)
  }

  /// A field from elsewhere: its name goes out in lower case. One that HTTP/2 does not allow is left out, and false
  /// returned.
  @discardableResult
  package func append(name: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer) -> Bool {
    guard !name.isEmpty, name.first != 0x3A, Self.isValue(value) else { return false }
    let start = storage.count
    for byte in name { storage.append(ASCIIText.lowercased(byte)) }
    let lowered = storage.bytes(start..<storage.count)
    guard
      nghttp2_check_header_name(lowered.baseAddress?.assumingMemoryBound(to: UInt8.self), lowered.count) != 0
    else {
      storage.truncate(to: start)
      return false
    }
    // An intermediary must never put a credential into a table that others' requests share (RFC 7541 §7.1.3).
    let isSecret = ASCIIText.equals(lowered, "authorization")
    storage.append(value)
    add(start, name.count, value.count, isSecret ? UInt8(NGHTTP2_NV_FLAG_NO_INDEX.rawValue) : 0)
    return true
  }

  private static func isValue(_ value: UnsafeRawBufferPointer) -> Bool {
    value.isEmpty
      || nghttp2_check_header_value_rfc9113(value.baseAddress?.assumingMemoryBound(to: UInt8.self), value.count) != 0
  }

  @inline(__always) private func add(_ start: Int, _ nameCount: Int, _ valueCount: Int, _ flags: UInt8 = 0) {
    fields.append(Field(start: start, nameCount: nameCount, valueCount: valueCount, flags: flags))
  }

  /// Hands the fields to nghttp2, which copies them.
  func withVectors<Result>(_ body: (UnsafePointer<nghttp2_nv>, Int) -> Result) -> Result {
    if fields.count > capacity {
      vectors.deallocate()
      capacity = fields.count * 2
      vectors = .allocate(capacity: capacity)
    }
    let base = storage.base.assumingMemoryBound(to: UInt8.self)
    for (index, field) in fields.enumerated() {
      vectors[index] = nghttp2_nv(
        name: base + field.start, value: base + field.start + field.nameCount, namelen: field.nameCount,
        valuelen: field.valueCount, flags: field.flags)
    }
    return body(vectors, fields.count)
  }
}
