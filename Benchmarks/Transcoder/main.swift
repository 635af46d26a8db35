// Translates one message again and again in both directions and says how many megabytes of JSON a second that is.

import Glibc
import SidecarCore

let document = """
  {"orderId":"ord_01HZX3V5T8K9Q2W4E6R8T0Y2U4","customerId":"7203894512","customerName":"Margarethe Lindqvist-Ødegård",\
  "email":"margarethe.lindqvist@example.com","status":"SHIPPED","total":1284.57,"currency":"EUR","isGift":true,\
  "shippingAddress":{"street":"Kungsgatan 44, 3rd floor","city":"Stockholm","zip":"111 35","country":"SE"},\
  "items":[{"sku":"LAMP-0042-BRASS","quantity":2,"price":449.5},{"sku":"CABLE-USB-C-2M","quantity":5,"price":12.99},\
  {"sku":"SHELF-OAK-120","quantity":1,"price":320.62}],"createdAt":"2024-05-01T12:34:56.789Z","retryCount":3,\
  "sequenceNumber":"184467440737095516","userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0",\
  "tags":["express","fragile","repeat-customer"],"labels":{"region":"eu-north","channel":"web"},\
  "note":"Please ring the bell twice and leave the parcel with the concierge if nobody answers.","discount":0.15,\
  "signature":"3q2+7wABAgMEBQYHCAkKCwwNDg8=","traceId":"9223372036854775807"}
  """

func readFile(_ path: String) -> [UInt8] {
  guard let file = fopen(path, "rb") else { fatalError("cannot read \(path)") }
  defer { fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 1 << 20)
  return Array(bytes[..<fread(&bytes, 1, bytes.count, file)])
}

/// CPU time of this process.
func now() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// The best of five rounds, in seconds per message.
func measure(_ seconds: Double, _ body: () -> Void) -> Double {
  var best = Double.infinity
  for _ in 0..<5 {
    let start = now()
    var count = 0
    while now() - start < seconds / 5 {
      for _ in 0..<1000 { body() }
      count += 1000
    }
    best = min(best, (now() - start) / Double(count))
  }
  return best
}

func bench(_ pool: DescriptorPool, _ type: ProtoMessage, _ seconds: Double) throws {
  let toProtobuf = JSONToProtobuf()
  let toJSON = ProtobufToJSON()
  let message = ByteBuffer(capacity: 4096)
  let json = ByteBuffer(capacity: 4096)
  let plain = ByteBuffer(capacity: 4096)
  var document = document
  try document.withUTF8 { text in
    let source = UnsafeRawBufferPointer(text)
    try toProtobuf.transcode(source, to: type, into: message)
    try toJSON.transcode(message.bytes, from: type, into: json)
    try toJSON.transcode(message.bytes, from: type, form: .goMicro, into: plain)
    print("JSON \(source.count) bytes, protobuf \(message.count) bytes, go-micro's JSON \(plain.count) bytes")
    func show(_ name: String, _ bytes: Int, _ time: Double) {
      print("\(name): \(Int(time * 1e9)) ns, \(Int(Double(bytes) / time / 1e6)) MB/s of JSON")
    }
    let out = ByteBuffer(capacity: 4096)
    func run(_ body: () throws -> Void) -> Double {
      measure(seconds) {
        out.removeAll()
        do { try body() } catch { fatalError("\(error)") }
      }
    }
    show("JSON to protobuf", source.count, run { try toProtobuf.transcode(source, to: type, into: out) })
    show("go-micro's JSON to protobuf", plain.count, run { try toProtobuf.transcode(plain.bytes, to: type, into: out) })
    show("protobuf to JSON", json.count, run { try toJSON.transcode(message.bytes, from: type, into: out) })
    show(
      "protobuf to go-micro's JSON", plain.count,
      run { try toJSON.transcode(message.bytes, from: type, form: .goMicro, into: out) })
  }
}

let arguments = CommandLine.arguments
guard arguments.count == 3, let seconds = Double(arguments[2]) else { fatalError("usage: bench SET SECONDS") }
let pool = try DescriptorPool(sets: [DescriptorPool.Source(name: arguments[1], bytes: readFile(arguments[1]))])
guard let order = pool.message("shop.Order") else { fatalError("no shop.Order") }
try bench(pool, order, seconds)
