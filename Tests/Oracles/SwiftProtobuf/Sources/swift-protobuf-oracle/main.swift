// The JSON transcoder against swift-protobuf, message by message.
//
// For each random message m, made as bytes:
//   1. our canonical JSON of m, read by swift-protobuf, is m; where swift-protobuf has no JSON of m we have none either
//   2. our go-micro JSON of m, read by ourselves, is m
//   3. swift-protobuf's JSON of m in a random style, read by ourselves, is m

import Foundation
import Messages
import SwiftProtobuf

let arguments = CommandLine.arguments
guard arguments.count >= 3 else {
  print("usage: swift-protobuf-oracle HARNESS FIXTURES [MESSAGES] [SEED]")
  exit(64)
}
let total = arguments.count > 3 ? Int(arguments[3]) ?? 100_000 : 100_000
let seed = arguments.count > 4 ? UInt64(arguments[4]) ?? 0 : UInt64.random(in: 0...UInt64(UInt32.max))
let files = ["everything", "legacy", "order"].map { "\(arguments[2])/\($0).binpb" }

/// One message on its way through both.
protocol Case {
  var requests: [Harness.Request] { get }
  /// What is wrong with the answers to `requests`; then what has to be read again.
  func judge(_ replies: ArraySlice<Harness.Reply>) -> (failure: String?, again: Harness.Request?)
  func judgeAgain(_ reply: Harness.Reply) -> String?
}

struct TypedCase<M: Message>: Case {
  let bytes: [UInt8]
  let message: M
  /// Swift-protobuf's; nil when it has none.
  let json: [UInt8]?

  init?(_ bytes: [UInt8], _ random: inout Random) {
    guard let message = try? M(serializedBytes: bytes) else { return nil }
    self.bytes = bytes
    self.message = message
    var options = JSONEncodingOptions()
    options.preserveProtoFieldNames = random.chance(50)
    options.alwaysPrintEnumsAsInts = random.chance(50)
    options.alwaysPrintInt64sAsNumbers = random.chance(30)
    json = try? message.jsonUTF8Bytes(options: options)
  }

  var requests: [Harness.Request] {
    var all = [
      Harness.Request(operation: .toJSON, type: M.protoMessageName, payload: bytes),
      Harness.Request(operation: .toGoMicroJSON, type: M.protoMessageName, payload: bytes),
    ]
    if let json { all.append(Harness.Request(operation: .toProtobuf, type: M.protoMessageName, payload: json)) }
    return all
  }

  /// Equal as bytes, so that NaN equals itself; or as JSON, which does not show the order of what is inside of an Any. An
  /// Any keeps the JSON it came in, so it goes through bytes first.
  private func isSame(_ other: M) -> Bool {
    var binary = BinaryEncodingOptions()
    binary.useDeterministicOrdering = true
    do {
      let left: [UInt8] = try message.serializedBytes(partial: true, options: binary)
      let right: [UInt8] = try other.serializedBytes(partial: true, options: binary)
      if left == right { return true }
      let other = try M(serializedBytes: right, partial: true)
      return try Self.tree(message) == Self.tree(other)
    } catch {
      return false
    }
  }

  private static func tree(_ message: M) throws -> NSDictionary? {
    try JSONSerialization.jsonObject(with: message.jsonUTF8Data()) as? NSDictionary
  }

  func judge(_ replies: ArraySlice<Harness.Reply>) -> (failure: String?, again: Harness.Request?) {
    let replies = Array(replies)
    guard let json else {
      return (replies[0].result == nil ? nil : "rule 1: swift-protobuf has no JSON, we have \(text(replies[0]))", nil)
    }
    guard let ours = replies[0].result else { return ("rule 1: we have no JSON: \(replies[0].error)", nil) }
    do {
      if !isSame(try M(jsonUTF8Bytes: ours)) { return ("rule 1: it means something else: \(text(replies[0]))", nil) }
    } catch {
      return ("rule 1: swift-protobuf cannot read \(text(replies[0])): \(error)", nil)
    }
    guard let back = replies[2].result, let again = try? M(serializedBytes: back), isSame(again) else {
      return ("rule 3: from \(String(decoding: json, as: UTF8.self)) we made \(replies[2])", nil)
    }
    guard let plain = replies[1].result else { return ("rule 2: we have no plain JSON: \(replies[1].error)", nil) }
    return (nil, Harness.Request(operation: .toProtobuf, type: M.protoMessageName, payload: plain))
  }

  func judgeAgain(_ reply: Harness.Reply) -> String? {
    guard let bytes = reply.result, let again = try? M(serializedBytes: bytes), isSame(again) else {
      return "rule 2: our plain JSON came back as \(reply)"
    }
    return nil
  }

  private func text(_ reply: Harness.Reply) -> String { String(decoding: reply.result ?? [], as: UTF8.self) }
}

let sets = try files.map { file in
  try Google_Protobuf_FileDescriptorSet(serializedBytes: Data(contentsOf: URL(fileURLWithPath: file)), partial: true)
}
Google_Protobuf_Any.register(messageType: Sidecar_Test_Everything.self)
Google_Protobuf_Any.register(messageType: Shop_Address.self)
var generator = Generator(sets: sets, seed: seed)
let harness = try Harness(path: arguments[1], sets: files)
print("seed \(seed)")

@MainActor func makeCase() -> (any Case)? {
  var random = Random(seed: generator.random.next())
  switch generator.random.below(6) {
  case 0: return TypedCase<Sidecar_Legacy_Legacy>(generator.message("sidecar.legacy.Legacy"), &random)
  case 1: return TypedCase<Sidecar_Legacy_Relaxed>(generator.message("sidecar.legacy.Relaxed"), &random)
  case 2: return TypedCase<Shop_Order>(generator.message("shop.Order"), &random)
  default: return TypedCase<Sidecar_Test_Everything>(generator.message("sidecar.test.Everything"), &random)
  }
}

var done = 0
var unread = 0
var speechless = 0
var failures = 0
@MainActor func report(_ failure: String, _ bytes: [UInt8]) {
  failures += 1
  guard failures <= 10 else { return }
  let hex = bytes.map { String($0, radix: 16) }.joined(separator: " ")
  print("\(failure.prefix(4000))\n  of \(hex.prefix(1500))")
}
let started = Date()
while done < total, failures < 100 {
  var cases: [any Case] = []
  while cases.count < min(500, total - done) {
    if let made = makeCase() { cases.append(made) } else { unread += 1 }
  }
  let replies = try harness.ask(cases.flatMap(\.requests))
  var offset = 0
  var again: [(any Case, Harness.Request)] = []
  for made in cases {
    let count = made.requests.count
    if count == 2 { speechless += 1 }
    let (failure, next) = made.judge(replies[offset..<offset + count])
    offset += count
    if let failure { report(failure, made.requests[0].payload) }
    if let next { again.append((made, next)) }
  }
  for ((made, request), reply) in zip(again, try harness.ask(again.map(\.1))) {
    if let failure = made.judgeAgain(reply) { report(failure, request.payload) }
  }
  done += cases.count
}
let seconds = Date().timeIntervalSince(started)
print(
  "\(done) messages in \(Int(seconds)) s, \(failures) failures; \(speechless) have no JSON for either, \(unread) are none"
)
exit(failures == 0 ? 0 : 1)
