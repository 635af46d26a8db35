// JSON's numbers as protobuf's: as numbers or as strings, with fraction and exponent where the value is whole all the
// same, and the three words that floating point has beside them.

extension JSONToProtobuf {
  // MARK: Integers

  func signed(max: UInt64) throws(Stop) -> Int64 {
    let valueStart = position
    let (magnitude, isNegative) = try integer()
    guard isNegative ? magnitude <= max &+ 1 : magnitude <= max else {
      throw fail("the number does not fit \(max > UInt64(UInt32.max) ? "64" : "32") bits", at: valueStart)
    }
    return isNegative ? 0 &- Int64(truncatingIfNeeded: magnitude) : Int64(truncatingIfNeeded: magnitude)
  }

  func unsigned(max: UInt64) throws(Stop) -> UInt64 {
    let valueStart = position
    let (magnitude, isNegative) = try integer()
    guard magnitude <= max, !isNegative || magnitude == 0 else {
      throw fail(
        isNegative
          ? "the number must not be negative" : "the number does not fit \(max == .max ? "64" : "32") bits",
        at: valueStart)
    }
    return magnitude
  }

  @inline(__always) private func integer() throws(Stop) -> (magnitude: UInt64, isNegative: Bool) {
    guard position < end else { throw fail("the document ends too early") }
    let isQuoted = position.pointee == UInt8(ascii: "\"")
    var at = isQuoted ? position + 1 : position
    let isNegative = at < end && at.pointee == UInt8(ascii: "-")
    if isNegative { at += 1 }
    let digits = at
    var value: UInt64 = 0
    while at < end {
      let digit = at.pointee &- UInt8(ascii: "0")
      guard digit < 10 else { break }
      value = value &* 10 &+ UInt64(digit)
      at += 1
    }
    let count = at - digits
    // What is longer may not fit, and a first zero must be the only one.
    if count > 0, count <= 19, count == 1 || digits.pointee != UInt8(ascii: "0"), at < end {
      if isQuoted {
        if at.pointee == UInt8(ascii: "\"") {
          position = at + 1
          return (value, isNegative)
        }
      } else if at.pointee != UInt8(ascii: "."), at.pointee | 0x20 != UInt8(ascii: "e") {
        position = at
        return (value, isNegative)
      }
    }
    return try integerWithMore()
  }

  /// The same with fraction, exponent, escapes or many digits.
  @inline(never) private func integerWithMore() throws(Stop) -> (magnitude: UInt64, isNegative: Bool) {
    let valueStart = position
    var decimal = try numberText(what: "a whole number").decimal
    // 1.0 and 1e2 are whole numbers too.
    while decimal.exponent < 0, decimal.mantissa != 0, decimal.mantissa.isMultiple(of: 10) {
      decimal.mantissa /= 10
      decimal.exponent += 1
    }
    if decimal.mantissa == 0, !decimal.isTruncated { return (0, decimal.isNegative) }
    guard !decimal.isTruncated, decimal.exponent >= 0 else {
      throw fail(
        decimal.exponent < 0 ? "a whole number is expected" : "the number does not fit 64 bits", at: valueStart)
    }
    var magnitude = decimal.mantissa
    while decimal.exponent > 0 {
      let (product, overflows) = magnitude.multipliedReportingOverflow(by: 10)
      if overflows { throw fail("the number does not fit 64 bits", at: valueStart) }
      magnitude = product
      decimal.exponent -= 1
    }
    return (magnitude, decimal.isNegative)
  }

  /// The number at the cursor, quoted or not, stepped over.
  private func numberText(what: StaticString) throws(Stop) -> (text: UnsafeRawBufferPointer, decimal: JSONNumber) {
    guard position < end else { throw fail("the document ends too early") }
    let valueStart = position
    if position.pointee == UInt8(ascii: "\"") {
      let (content, isEscaped) = try string()
      let source = try unescaped(content, isEscaped)
      let bytes = UnsafeRawBufferPointer(start: source.base, count: source.count)
      guard let (decimal, length) = JSONNumber.read(bytes), length == bytes.count else {
        throw fail("\(what) is expected", at: valueStart)
      }
      return (bytes, decimal)
    }
    let rest = UnsafeRawBufferPointer(start: position, count: end - position)
    guard let (decimal, length) = JSONNumber.read(rest) else { throw fail("\(what) is expected") }
    position += length
    return (UnsafeRawBufferPointer(rebasing: rest.prefix(length)), decimal)
  }

  // MARK: Floating point

  func double() throws(Stop) -> Double {
    if let word = try floatingWord() { return word }
    let valueStart = position
    let (text, decimal) = try numberText(what: "a number")
    let value = decimal.double(text)
    guard value.isFinite else { throw fail("the number exceeds a double", at: valueStart) }
    return value
  }

  func float() throws(Stop) -> Float {
    if let word = try floatingWord() { return Float(word) }
    let valueStart = position
    let (text, decimal) = try numberText(what: "a number")
    let value = decimal.float(text)
    guard value.isFinite else { throw fail("the number exceeds a float", at: valueStart) }
    return value
  }

  /// `"NaN"`, `"Infinity"` and `"-Infinity"`; nil, and nothing is stepped over, for anything else.
  @inline(__always) private func floatingWord() throws(Stop) -> Double? {
    guard end - position >= 2, position.pointee == UInt8(ascii: "\"") else { return nil }
    guard position[1] == UInt8(ascii: "N") || position[1] == UInt8(ascii: "I") || position[1] == UInt8(ascii: "-")
    else { return nil }
    let before = position
    let content = try string().content
    if ASCIIText.equals(content, "NaN") { return .nan }
    if ASCIIText.equals(content, "Infinity") { return .infinity }
    if ASCIIText.equals(content, "-Infinity") { return -.infinity }
    position = before
    return nil
  }
}
