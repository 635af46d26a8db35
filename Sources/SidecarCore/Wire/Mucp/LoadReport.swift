// `X-Micro-Load: 0.53`: how busy the app behind a sidecar is, said in replies to its callers. 1 is as many calls as the app
// takes at once; more is what waits. In frames it is a header of the reply, over gRPC a trailer. Only a sidecar says it, and
// only where the app has a limit (MICRO_APP_CONCURRENCY); clients of the framework pass over it.
//
// It must never go out with a request: the framework's servers send back the headers of the first one they got.

package enum LoadReport {
  /// The most that is said, in hundredths.
  package static let hundredthsMax = 999
  /// The most that is believed.
  package static let valueMax: Float = 2

  /// The whole header line.
  static func appendLine(_ hundredths: Int, to buffer: ByteBuffer) {
    buffer.append("X-Micro-Load: ")
    append(hundredths, to: buffer)
    buffer.append("\r\n")
  }

  static func append(_ hundredths: Int, to buffer: ByteBuffer) {
    let hundredths = UInt64(min(max(hundredths, 0), hundredthsMax))
    buffer.append(decimal: hundredths / 100)
    buffer.append(hundredths % 100 < 10 ? ".0" : ".")
    buffer.append(decimal: hundredths % 100)
  }

  /// What a reply says, at most `valueMax`; nil when it is no such number: digits, and perhaps a point and more
  /// of them, 16 bytes at most.
  package static func value(_ text: UnsafeRawBufferPointer) -> Float? {
    guard text.count <= 16, let first = text.first, first &- UInt8(ascii: "0") < 10 else { return nil }
    var number: Float = 0
    var unit: Float = 0
    for byte in text {
      if byte == UInt8(ascii: ".") {
        guard unit == 0 else { return nil }
        unit = 1
        continue
      }
      let digit = byte &- UInt8(ascii: "0")
      guard digit < 10 else { return nil }
      if unit == 0 {
        number = number * 10 + Float(digit)
      } else {
        unit /= 10
        number += Float(digit) * unit
      }
    }
    return min(number, valueMax)
  }
}
