// The transcoder behind a pipe; see Tests/Oracles/transcode-harness.

import Foundation
import Glibc

final class Harness {
  enum Operation: UInt8 {
    case toProtobuf, toJSON, toGoMicroJSON
  }
  struct Request {
    var operation: Operation
    var type: String
    var payload: [UInt8]
  }
  /// Nil: it refuses, as the words say.
  struct Reply {
    var result: [UInt8]?
    var error = ""
  }

  private let input = Pipe()
  private let output = Pipe()
  private let process = Process()

  init(path: String, sets: [String]) throws {
    process.executableURL = URL(fileURLWithPath: path)
    process.arguments = sets
    process.standardInput = input
    process.standardOutput = output
    try process.run()
  }

  deinit { process.terminate() }

  /// All requests are sent before the first reply is read, on a thread: both pipes may be full.
  func ask(_ requests: [Request]) throws -> [Reply] {
    var burst = Data()
    func append(_ number: Int, _ count: Int) {
      for shift in 0..<count { burst.append(UInt8(truncatingIfNeeded: number >> (8 * shift))) }
    }
    for request in requests {
      let name = Array(request.type.utf8)
      append(3 + name.count + request.payload.count, 4)
      burst.append(request.operation.rawValue)
      append(name.count, 2)
      burst.append(contentsOf: name)
      burst.append(contentsOf: request.payload)
    }
    let handle = input.fileHandleForWriting
    let bytes = burst
    Thread.detachNewThread { try? handle.write(contentsOf: bytes) }
    return try requests.map { _ in
      let length = try read(4).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
      let reply = try read(length)
      guard reply.first == 0 else { return Reply(error: String(decoding: reply.dropFirst(), as: UTF8.self)) }
      return Reply(result: Array(reply.dropFirst()))
    }
  }

  private var ahead: [UInt8] = []
  private var aheadStart = 0

  private func read(_ count: Int) throws -> ArraySlice<UInt8> {
    while ahead.count - aheadStart < count {
      ahead.removeFirst(aheadStart)
      aheadStart = 0
      // Not the handle's own `read`, which waits for all that was asked for.
      var piece = [UInt8](repeating: 0, count: 1 << 18)
      let got = Glibc.read(output.fileHandleForReading.fileDescriptor, &piece, piece.count)
      guard got > 0 else { throw CocoaError(.fileReadUnknown) }
      ahead += piece[..<got]
    }
    aheadStart += count
    return ahead[(aheadStart - count)..<aheadStart]
  }
}
