// From an HTTP path to a service and an endpoint: the rules that apps of 2017 and 2018 rely on (go-api router/route.go,
// 2018-11-22), and the full-name form beside them.
//
//   /greeter/say/hello              namespace + .greeter     Say.Hello
//   /go.micro.srv.greeter/Say.Hello go.micro.srv.greeter     Say.Hello

package struct PathRoute: Equatable, Sendable {
  package var service: ServiceName
  /// `Handler.Method`
  package var endpoint: String

  package init(service: ServiceName, endpoint: String) {
    self.service = service
    self.endpoint = endpoint
  }

  /// The route of `path` (no query; percent-encoding is decoded, `.` and `..` and empty segments are cleaned away
  /// first). Nil when the path names no service, as `/` and `/foo` do.
  package init?(path: String, namespace: String) {
    guard let segments = Self.cleanSegments(path), segments.count >= 2 else { return nil }

    if segments.count == 2, Self.isEndpointName(segments[1]) {
      self.init(service: segments[0], endpoint: segments[1])
      return
    }
    let serviceCount: Int
    if segments.count == 2 {
      serviceCount = 1
    } else if segments.count == 3 {
      serviceCount = Self.isVersion(segments[0]) ? 2 : 1
    } else {
      serviceCount = segments.count - 2
    }
    let service = namespace.isEmpty ? segments[..<serviceCount] : [namespace] + segments[..<serviceCount]
    self.init(
      service: service.joined(separator: "."),
      endpoint: segments.suffix(2).map(Self.methodName).joined(separator: "."))
  }

  /// `Say.Hello`: exactly one dot, and something on both sides.
  package static func isEndpointName(_ text: String) -> Bool {
    let parts = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    return parts.count == 2 && !parts[0].isEmpty && !parts[1].isEmpty
  }

  private static func isVersion(_ segment: String) -> Bool {
    segment.utf8.count > 1 && segment.utf8.first == UInt8(ascii: "v")
      && segment.utf8.dropFirst().allSatisfy { $0 >= 48 && $0 <= 57 }
  }

  /// `baz-xyz` → `BazXyz`. As Go's `strings.Title` has it, any other ASCII character that is no letter, digit or
  /// underscore starts a new word too.
  private static func methodName(_ segment: String) -> String {
    var name = ""
    var startsWord = true
    for character in segment.unicodeScalars {
      if character == "-" {
        startsWord = true
        continue
      }
      if startsWord, character.value >= 97, character.value <= 122 {
        name.unicodeScalars.append(Unicode.Scalar(UInt8(character.value - 32)))
      } else {
        name.unicodeScalars.append(character)
      }
      startsWord = character.isASCII && !isWordCharacter(UInt8(truncatingIfNeeded: character.value))
    }
    return name
  }

  private static func isWordCharacter(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "_"): true
    default: false
    }
  }

  /// Segments with `//`, `.` and `..` resolved. Nil when the percent-encoding is broken, decodes to a control byte, or
  /// to bytes that are not UTF-8. Decoding comes first, so an encoded `..` cannot slip past.
  static func cleanSegments(_ path: String) -> [String]? {
    var bytes: [UInt8] = []
    var rest = path.utf8[...]
    while let byte = rest.popFirst() {
      if byte == UInt8(ascii: "%") {
        guard let high = rest.popFirst().flatMap(hexDigit), let low = rest.popFirst().flatMap(hexDigit) else {
          return nil
        }
        bytes.append(high &<< 4 | low)
      } else {
        bytes.append(byte)
      }
    }
    guard bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }),
      let text = String(validating: bytes, as: UTF8.self)
    else { return nil }
    var segments: [String] = []
    for segment in text.split(separator: "/") {
      switch segment {
      case ".": break
      case "..": _ = segments.popLast()
      default: segments.append(String(segment))
      }
    }
    return segments
  }

  static func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 0x30...0x39: byte - 0x30
    case 0x41...0x46: byte - 0x41 + 10
    case 0x61...0x66: byte - 0x61 + 10
    default: nil
    }
  }
}
