// The descriptor sets in Tests/Fixtures/protobuf, and the transcoder with text in and text out.

import Foundation

@testable import SidecarCore

enum ProtobufFixtures {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appending(path: "Fixtures/protobuf")

  static func source(_ name: String) -> DescriptorPool.Source {
    guard let data = try? Data(contentsOf: folder.appending(path: name)) else { fatalError("no fixture \(name)") }
    return DescriptorPool.Source(name: name, bytes: Array(data))
  }

  /// Everything, legacy, order and greeter.
  static let pool: DescriptorPool = {
    do {
      return try DescriptorPool(
        sets: ["everything.binpb", "legacy.binpb", "order.binpb", "greeter.binpb"].map(source))
    } catch {
      fatalError("\(error)")
    }
  }()

  static func type(_ name: String) -> ProtoMessage {
    guard let type = pool.message(name.contains(".") ? name : "sidecar.test.\(name)") else {
      fatalError("no type \(name)")
    }
    return type
  }

  /// Bytes of a message.
  static func protobuf(
    _ json: String, _ type: String = "Everything", _ unknown: UnknownFields = .refuse
  ) throws(TranscodeError) -> [UInt8] {
    let buffer = ByteBuffer()
    let transcoder = JSONToProtobuf()
    let bytes = Array(json.utf8)
    try bytes.withUnsafeBytes { bytes in
      Result { () throws(TranscodeError) in
        try transcoder.transcode(bytes, to: ProtobufFixtures.type(type), unknownFields: unknown, into: buffer)
      }
    }.get()
    return Array(buffer.bytes)
  }

  /// JSON of a message.
  static func json(
    _ bytes: [UInt8], _ type: String = "Everything", _ form: ProtoJSONForm = .canonical,
    _ unknown: UnknownFields = .ignore
  ) throws(TranscodeError) -> String {
    let buffer = ByteBuffer()
    let transcoder = ProtobufToJSON()
    try bytes.withUnsafeBytes { bytes in
      Result { () throws(TranscodeError) in
        try transcoder.transcode(
          bytes, from: ProtobufFixtures.type(type), form: form, unknownFields: unknown, into: buffer)
      }
    }.get()
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  /// There and back.
  static func again(
    _ json: String, _ type: String = "Everything", _ form: ProtoJSONForm = .canonical
  ) throws(TranscodeError) -> String {
    try self.json(try protobuf(json, type), type, form)
  }

  /// What is wrong with a document; nil when nothing is.
  static func refusal(_ json: String, _ type: String = "Everything") -> TranscodeError? {
    do throws(TranscodeError) {
      _ = try protobuf(json, type)
      return nil
    } catch {
      return error
    }
  }

  static func refusal(bytes: [UInt8], _ type: String = "Everything", _ unknown: UnknownFields = .ignore)
    -> TranscodeError?
  {
    do throws(TranscodeError) {
      _ = try json(bytes, type, .canonical, unknown)
      return nil
    } catch {
      return error
    }
  }
}
