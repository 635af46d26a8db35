// The transcoder behind a pipe, for oracles in other languages: see Tests/Oracles/transcode_oracle.py.
//
//   transcode-harness SET...        serialized FileDescriptorSets
//   request   length u32 | operation u8 | name length u16 | message name | payload
//   reply     length u32 | 0 u8 | result, or length u32 | 1 u8 | error text
//
// Numbers are little-endian; a length counts all that follows it.
// Operations: 0 JSON to protobuf, 1 protobuf to canonical JSON, 2 protobuf to go-micro's JSON; 16 more ignores what is
// unknown.

import Glibc
import SidecarCore

/// Requests come in bursts: replies are written when all that has been read is answered.
final class Pipe {
  private var input: [UInt8] = []
  private var inputStart = 0
  let output = ByteBuffer(capacity: 1 << 20)

  func read(_ count: Int) -> [UInt8]? {
    while input.count - inputStart < count {
      var sent = 0
      while sent < output.count { sent += write(1, output.base + sent, output.count - sent) }
      output.removeAll()
      input.removeFirst(inputStart)
      inputStart = 0
      var piece = [UInt8](repeating: 0, count: 1 << 18)
      let got = Glibc.read(0, &piece, piece.count)
      if got <= 0 { return nil }
      input += piece[..<got]
    }
    inputStart += count
    return Array(input[(inputStart - count)..<inputStart])
  }

  /// The next request without its length.
  func request() -> [UInt8]? {
    guard let head = read(4) else { return nil }
    return read(Int(head[0]) | Int(head[1]) << 8 | Int(head[2]) << 16 | Int(head[3]) << 24)
  }
}

func readFile(_ path: String) -> [UInt8] {
  guard let file = fopen(path, "rb") else { fatalError("cannot read \(path)") }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 65536)
  while case let count = fread(&piece, 1, piece.count, file), count > 0 { bytes += piece[..<count] }
  return bytes
}

func serve(_ pool: DescriptorPool) {
  let pipe = Pipe()
  let toProtobuf = JSONToProtobuf()
  let toJSON = ProtobufToJSON()
  let result = ByteBuffer(capacity: 65536)
  while let request = pipe.request() {
    let payloadStart = 3 + (Int(request[1]) | Int(request[2]) << 8)
    let name = String(decoding: request[3..<payloadStart], as: UTF8.self)
    let unknown: UnknownFields = request[0] & 16 == 0 ? .refuse : .ignore
    result.removeAll()
    result.append([0, 0, 0, 0, 0] as [UInt8])
    let outcome = request.withUnsafeBytes { bytes in
      let payload = UnsafeRawBufferPointer(rebasing: bytes[payloadStart...])
      return Result { () throws(TranscodeError) in
        guard let type = pool.message(name) else { throw TranscodeError(path: "", rule: "no type \(name)", offset: 0) }
        switch request[0] & 15 {
        case 0: try toProtobuf.transcode(payload, to: type, unknownFields: unknown, into: result)
        case 1: try toJSON.transcode(payload, from: type, unknownFields: unknown, into: result)
        default: try toJSON.transcode(payload, from: type, form: .goMicro, unknownFields: unknown, into: result)
        }
      }
    }
    if case .failure(let error) = outcome {
      result.append(error.description)
      result.base.storeBytes(of: 1, toByteOffset: 4, as: UInt8.self)
    }
    result.base.storeBytes(of: UInt32(result.count - 4).littleEndian, as: UInt32.self)
    pipe.output.append(result.bytes)
  }
}

do {
  let sets = CommandLine.arguments.dropFirst().map { DescriptorPool.Source(name: $0, bytes: readFile($0)) }
  serve(try DescriptorPool(sets: sets))
} catch {
  print(error)
  exit(65)
}
