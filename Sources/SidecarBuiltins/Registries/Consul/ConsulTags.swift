// go-micro's data in Consul's tags (registry/encoding.go @ v0.14.0, registry/consul/encoding.go @ v5.30.0):
//
//   t-<hex of zlib of {"key":"value"}>   one for each key of the node's metadata
//   e-<hex of zlib of an endpoint's JSON>
//   v-<hex of zlib of the version>
//
// and the older plain forms `t={…}`, `e={…}`, `v=1.0.0`. go-micro takes the form of all from the second character of the
// first tag that begins with that letter, so tags of others stand after ours, and a tag `t` or `e` alone, which makes it
// panic, is never written. We look at each tag by itself.

import SidecarCore

/// Reads and writes the tags of one instance. Keeps what it has inflated, for the instances of a service have nearly all
/// their tags in common.
struct ConsulTags {
  /// Bytes that one tag may hold inflated; more and it is skipped.
  static let inflatedMax = 256 * 1024
  /// Tags kept inflated; when full all are forgotten.
  static let keptMax = 4096

  /// What the tags of one instance say.
  struct Content: Equatable {
    var version = ""
    var metadata: [String: String] = [:]
    var endpoints: [Endpoint] = []
    /// Tags of ours that could not be read.
    var broken = 0
  }

  private enum Piece {
    case version(String)
    case metadata([(String, String)])
    case endpoint(Endpoint)
    case broken
    case foreign
  }
  private var kept: [String: Piece] = [:]

  /// Tags in the order go-micro writes them: metadata, endpoints, version.
  static func encode(version: String, metadata: [String: String], endpoints: [Endpoint]) throws(WireError) -> [String] {
    var tags: [String] = []
    for (key, value) in metadata.sorted(by: { $0.key < $1.key }) {
      tags.append("t-" + hex(try Zlib.deflate(text(.object([JSONValue.Member(key, .string(value))])))))
    }
    for endpoint in endpoints { tags.append("e-" + hex(try Zlib.deflate(text(endpoint.json())))) }
    tags.append("v-" + hex(try Zlib.deflate(Array(version.utf8))))
    return tags
  }

  /// Reads the tags of one instance, in any order and of either form.
  mutating func decode(_ tags: [String]) -> Content {
    var content = Content()
    for tag in tags {
      switch piece(tag) {
      case .version(let version): content.version = version
      case .metadata(let pairs): for (key, value) in pairs { content.metadata[key] = value }
      case .endpoint(let endpoint): content.endpoints.append(endpoint)
      case .broken: content.broken += 1
      case .foreign: break
      }
    }
    return content
  }

  private mutating func piece(_ tag: String) -> Piece {
    if let piece = kept[tag] { return piece }
    let piece = Self.read(tag)
    if kept.count >= Self.keptMax { kept.removeAll(keepingCapacity: true) }
    kept[tag] = piece
    return piece
  }

  private static func read(_ tag: String) -> Piece {
    let bytes = Array(tag.utf8)
    guard bytes.count >= 2, let letter = bytes.first, "tev".utf8.contains(letter) else { return .foreign }
    let content: [UInt8]
    switch bytes[1] {
    case UInt8(ascii: "="): content = Array(bytes[2...])
    case UInt8(ascii: "-"):
      // `env-prod` and `t-shirts` are somebody's own.
      guard let zipped = unhex(bytes[2...]) else { return .foreign }
      guard let inflated = try? Zlib.inflate(zipped, limit: inflatedMax) else { return .broken }
      content = inflated
    default: return .foreign
    }
    if letter == UInt8(ascii: "v") {
      return String(validating: content, as: UTF8.self).map { .version($0) } ?? .broken
    }
    guard let json = try? JSONValue(parsing: content) else { return .broken }
    if letter == UInt8(ascii: "e") { return (try? Endpoint(json: json)).map { .endpoint($0) } ?? .broken }
    guard let members = json.objectValue else { return .broken }
    var pairs: [(String, String)] = []
    for member in members {
      guard let value = member.value.stringValue else { return .broken }
      pairs.append((member.key, value))
    }
    return .metadata(pairs)
  }

  private static func text(_ json: JSONValue) -> [UInt8] { Array(json.text().utf8) }

  static func hex(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
  }

  static func unhex(_ digits: ArraySlice<UInt8>) -> [UInt8]? {
    guard !digits.isEmpty, digits.count % 2 == 0 else { return nil }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(digits.count / 2)
    var high: UInt8?
    for digit in digits {
      let value: UInt8
      switch digit {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0")
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = digit - UInt8(ascii: "a") + 10
      case UInt8(ascii: "A")...UInt8(ascii: "F"): value = digit - UInt8(ascii: "A") + 10
      default: return nil
      }
      if let first = high {
        bytes.append(first << 4 | value)
        high = nil
      } else {
        high = value
      }
    }
    return bytes
  }
}
