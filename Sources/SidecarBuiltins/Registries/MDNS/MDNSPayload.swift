// What a TXT record carries (registry/mdns/encoding.go @ v0.14.0, unchanged to v6.10.0): a JSON object with capitalised
// keys, as a zlib stream, in lower-case hexadecimal, cut into strings of 255 characters. Go writes short streams as stored
// blocks, and newer versions write the keys in another order; both are read. A service's own metadata has no place in it.

import SidecarCore

struct MDNSPayload: Equatable, Sendable {
  /// Bytes of JSON read from one record; more is an error, since a few bytes on the wire can claim gigabytes.
  static let jsonBytesMaximum = 1 << 20

  var service: ServiceName
  var version: String
  var endpoints: [Endpoint]
  /// The node's metadata.
  var metadata: [String: String]

  init(service: ServiceName, version: String, endpoints: [Endpoint], metadata: [String: String]) {
    self.service = service
    self.version = version
    self.endpoints = endpoints
    self.metadata = metadata
  }

  var json: JSONValue {
    // The model's own writer gives `null` for what is empty and sorts the metadata, as Go does.
    let node = Node(id: "", address: "", metadata: metadata).json()
    return [
      "Service": .string(service), "Version": .string(version),
      "Endpoints": endpoints.isEmpty ? .null : .array(endpoints.map { $0.json() }),
      "Metadata": node["metadata"] ?? .null,
    ]
  }

  /// The character-strings of the record.
  func strings() throws(WireError) -> [[UInt8]] {
    let buffer = ByteBuffer()
    json.write(into: buffer)
    let compressed = try Zlib.deflate(Array(buffer.bytes))
    var digits: [UInt8] = []
    digits.reserveCapacity(compressed.count * 2)
    for byte in compressed {
      digits.append(ASCIIText.hexDigit(byte &>> 4))
      digits.append(ASCIIText.hexDigit(byte & 15))
    }
    return stride(from: 0, to: digits.count, by: 255).map { Array(digits[$0..<min($0 + 255, digits.count)]) }
  }

  /// Throws for anything that is not such a record, and for one without a service name.
  init(strings: [[UInt8]]) throws(WireError) {
    let digits = strings.joined()
    var compressed: [UInt8] = []
    var high: UInt8?
    var offset = 0
    for digit in digits {
      guard let value = ASCIIText.hexValue(digit) else { throw WireError("TXT is not hexadecimal", offset: offset) }
      if let upper = high {
        compressed.append(upper &<< 4 | value)
        high = nil
      } else {
        high = value
      }
      offset += 1
    }
    guard high == nil else { throw WireError("TXT has an odd number of hexadecimal digits", offset: offset) }
    let json = try JSONValue(parsing: Zlib.inflate(compressed, limit: Self.jsonBytesMaximum))
    // The model's reader finds "Version", "Endpoints" and "Metadata" in any case; only the name's key is another.
    guard var members = json.objectValue else { throw WireError("TXT does not hold a JSON object") }
    members.append(JSONValue.Member("name", json.value(ignoringCase: "Service") ?? .null))
    members.removeAll { $0.key.lowercased() == "nodes" }
    let service = try Service(json: .object(members))
    self.init(
      service: service.name, version: service.version, endpoints: service.endpoints, metadata: service.metadata)
  }
}
