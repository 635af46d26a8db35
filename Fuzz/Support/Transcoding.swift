// Descriptors and transcoders for the targets of both directions. Descriptors are read once: they never change.

import Glibc
import SidecarCore

enum Transcoding {
  /// The messages in turn: proto3 with everything, proto2, and the well-known types alone.
  static let types: [ProtoMessage] = {
    let pool = makePool(["everything", "legacy", "order"])
    let names = [
      "sidecar.test.Everything", "sidecar.legacy.Legacy", "sidecar.legacy.Relaxed", "shop.Order",
      "google.protobuf.Value",
      "google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.FieldMask",
    ]
    return names.map { name in
      guard let type = pool.message(name) else { fail("no type \(name)") }
      return type
    }
  }()

  // One per direction, as a worker has: what one message leaves behind must not matter to the next.
  nonisolated(unsafe) private static let toProtobuf = JSONToProtobuf()
  nonisolated(unsafe) private static let toJSON = ProtobufToJSON()

  private static func makePool(_ names: [String]) -> DescriptorPool {
    do {
      return try DescriptorPool(
        sets: names.map { .init(name: $0, bytes: read("Tests/Fixtures/protobuf/\($0).binpb")) })
    } catch {
      fail("\(error)")
    }
  }

  private static func read(_ path: String) -> [UInt8] {
    guard let file = fopen(path, "rb") else { fail("cannot read \(path): run in the project's folder") }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    return Array(bytes[..<fread(&bytes, 1, bytes.count, file)])
  }

  /// The message of a document; nil when it is refused. Errors must lie inside, and leave the buffer alone.
  static func protobuf(_ json: UnsafeRawBufferPointer, _ type: ProtoMessage, _ unknown: UnknownFields) -> ByteBuffer? {
    let buffer = ByteBuffer()
    do throws(TranscodeError) {
      try toProtobuf.transcode(json, to: type, unknownFields: unknown, into: buffer)
      return buffer
    } catch {
      check(error, json.count, buffer)
      return nil
    }
  }

  static func json(
    _ message: UnsafeRawBufferPointer, _ type: ProtoMessage, _ form: ProtoJSONForm, _ unknown: UnknownFields
  ) -> ByteBuffer? {
    let buffer = ByteBuffer()
    do throws(TranscodeError) {
      try toJSON.transcode(message, from: type, form: form, unknownFields: unknown, into: buffer)
      return buffer
    } catch {
      check(error, message.count, buffer)
      return nil
    }
  }

  private static func check(_ error: TranscodeError, _ count: Int, _ buffer: ByteBuffer) {
    if !(0...count).contains(error.offset) { fail("an error lies outside: \(error)") }
    if !buffer.isEmpty { fail("an error leaves bytes: \(error)") }
    if error.rule.isEmpty { fail("an error without a rule") }
  }

  static func text(_ buffer: ByteBuffer) -> String { String(decoding: buffer.bytes, as: UTF8.self) }

  /// JSON that we have written is JSON, is read by ourselves, and written again is the same.
  static func checkWritten(_ json: ByteBuffer, _ type: ProtoMessage, _ form: ProtoJSONForm) {
    if let error = notJSON(json.bytes) { fail("what was written is not JSON: \(error): \(text(json))") }
    guard let message = protobuf(json.bytes, type, .refuse) else { fail("what was written is refused: \(text(json))") }
    guard let again = self.json(message.bytes, type, form, .refuse) else {
      fail("what was read has no JSON: \(text(json))")
    }
    if text(again) != text(json) { fail("written twice it differs: \(text(json)) \(text(again))") }
  }

  /// Our own scanner stops at 64 levels, where messages may have a hundred.
  private static func notJSON(_ bytes: UnsafeRawBufferPointer) -> WireError? {
    do throws(WireError) {
      try JSONScanner.validate(bytes)
      return nil
    } catch {
      return error.rule.contains("deep") ? nil : error
    }
  }
}
