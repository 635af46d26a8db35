// Where a call stands in a trace, read from and written to the headers of every convention that peers use: W3C Trace
// Context, B3 in both forms, and the framework's own Micro-Trace-Id and Micro-Span-Id. All of them are header lines, so one
// reader serves HTTP, the framework's metadata and gRPC's.
//
// Read in this order, the first that is well formed decides: traceparent, b3, X-B3-*, Micro-Trace-Id. Written: traceparent and
// the framework's always, B3 in the form it came in. `tracestate` goes on as it came while the traceparent beside it is used.

/// A trace's id, and the span in it that the next callee is called by. Plain numbers; zero trace bits: none.
package struct TraceContext: Equatable, Sendable {
  /// How a caller wrote it.
  package enum Form: UInt8, Sendable { case none, w3c, b3Single, b3Multi, micro }

  package var high: UInt64 = 0
  package var low: UInt64 = 0
  /// The caller's span; zero: it named none.
  package var parent: UInt64 = 0
  /// Nil: the caller left it open.
  package var isSampled: Bool?
  package var form = Form.none
  /// The form in which B3 came beside what decided, and goes on.
  var b3 = Form.none

  package init() {}

  package var isValid: Bool { high | low != 0 }
}

extension TraceContext {
  /// The values of the headers that say something about a trace, as they are met. The spans are those of the head.
  struct Headers {
    var traceparent: UnsafeRawBufferPointer?
    var b3: UnsafeRawBufferPointer?
    var b3Trace: UnsafeRawBufferPointer?
    var b3Span: UnsafeRawBufferPointer?
    var b3Sampled: UnsafeRawBufferPointer?
    var b3Flags: UnsafeRawBufferPointer?
    var microTrace: UnsafeRawBufferPointer?
    var microSpan: UnsafeRawBufferPointer?

    init() {}

    init(_ head: HTTP1Head) {
      for field in head.fields { take(field.id, head.name(field), head.value(field)) }
    }

    init(_ fields: HTTP2Fields) {
      for index in 0..<fields.count {
        let name = fields.name(index)
        // Few names begin with one of these letters, and most fields need no look-up.
        guard let first = name.first,
          first == UInt8(ascii: "t") || first == UInt8(ascii: "m") || first == UInt8(ascii: "b")
            || first == UInt8(ascii: "x")
        else { continue }
        take(HeaderID.identify(name), name, fields.value(index))
      }
    }

    mutating func take(_ id: HeaderID, _ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) {
      switch id {
      case .traceparent: traceparent = traceparent ?? value
      case .microTraceID: microTrace = microTrace ?? value
      case .microSpanID: microSpan = microSpan ?? value
      case .other:
        switch B3Name(name) {
        case .single: b3 = b3 ?? value
        case .trace: b3Trace = b3Trace ?? value
        case .span: b3Span = b3Span ?? value
        case .sampled: b3Sampled = b3Sampled ?? value
        case .flags: b3Flags = b3Flags ?? value
        case .parent, nil: break
        }
      default: break
      }
    }
  }

  enum B3Name {
    case single, trace, span, parent, sampled, flags

    /// Nil: none of B3's names.
    init?(_ name: UnsafeRawBufferPointer) {
      guard let first = name.first else { return nil }
      if name.count == 2, first | 0x20 == UInt8(ascii: "b"), name[1] == UInt8(ascii: "3") {
        self = .single
        return
      }
      guard first | 0x20 == UInt8(ascii: "x"), ASCIIText.hasPrefixIgnoringCase(name, "x-b3-") else { return nil }
      let rest = UnsafeRawBufferPointer(rebasing: name[5...])
      if ASCIIText.equalsIgnoringCase(rest, "traceid") {
        self = .trace
      } else if ASCIIText.equalsIgnoringCase(rest, "spanid") {
        self = .span
      } else if ASCIIText.equalsIgnoringCase(rest, "parentspanid") {
        self = .parent
      } else if ASCIIText.equalsIgnoringCase(rest, "sampled") {
        self = .sampled
      } else if ASCIIText.equalsIgnoringCase(rest, "flags") {
        self = .flags
      } else {
        return nil
      }
    }
  }

  /// Whether a header is written anew for each call while tracing is on, so that the caller's own does not go on.
  static func replaces(_ id: HeaderID, _ name: UnsafeRawBufferPointer, keepsState: Bool) -> Bool {
    switch id {
    case .traceparent, .microTraceID, .microSpanID: true
    case .tracestate: !keepsState
    case .other: B3Name(name) != nil
    default: false
    }
  }

  init(_ headers: Headers) {
    if headers.b3 != nil { b3 = .b3Single } else if headers.b3Trace != nil { b3 = .b3Multi }
    if let value = headers.traceparent, readTraceparent(value) { return }
    if let value = headers.b3, readB3(value) { return }
    if let value = headers.b3Trace, readB3(trace: value, headers) { return }
    if let value = headers.microTrace {
      readMicro(value, headers.microSpan)
      return
    }
    // A decision alone: `b3: 0`, `X-B3-Sampled: 0`.
    if let value = headers.b3 ?? headers.b3Sampled { isSampled = Self.decision(value) }
  }

  // MARK: Reading

  /// `00-{32 hex}-{16 hex}-{2 hex}`; of a later version what version 00 has is used (Trace Context §3.2.3).
  private mutating func readTraceparent(_ value: UnsafeRawBufferPointer) -> Bool {
    let dash = UInt8(ascii: "-")
    guard value.count >= 55, value[2] == dash, value[35] == dash, value[52] == dash,
      let version = Self.hex(value, 0..<2), version != 0xFF, version != 0 || value.count == 55,
      value.count == 55 || value[55] == dash,
      let high = Self.hex(value, 3..<19), let low = Self.hex(value, 19..<35), high | low != 0,
      let span = Self.hex(value, 36..<52), span != 0, let flags = Self.hex(value, 53..<55)
    else { return false }
    (self.high, self.low, parent) = (high, low, span)
    isSampled = flags & 1 == 1
    form = .w3c
    return true
  }

  /// `{trace}-{span}`, perhaps `-{decision}` and `-{parent}`.
  private mutating func readB3(_ value: UnsafeRawBufferPointer) -> Bool {
    let dash = UInt8(ascii: "-")
    guard let first = value.firstIndex(of: dash), readB3ID(value, 0..<first), first + 17 <= value.count,
      let span = Self.hex(value, (first + 1)..<(first + 17)), span != 0
    else {
      (high, low) = (0, 0)
      return false
    }
    parent = span
    form = .b3Single
    let rest = first + 17
    if rest + 1 < value.count, value[rest] == dash {
      isSampled = Self.decision(UnsafeRawBufferPointer(rebasing: value[(rest + 1)..<(rest + 2)]))
    }
    return true
  }

  private mutating func readB3(trace value: UnsafeRawBufferPointer, _ headers: Headers) -> Bool {
    guard readB3ID(value, 0..<value.count) else { return false }
    if let span = headers.b3Span, span.count == 16 { parent = Self.hex(span, 0..<16) ?? 0 }
    isSampled = headers.b3Sampled.flatMap(Self.decision)
    if let flags = headers.b3Flags, ASCIIText.equals(flags, "1") { isSampled = true }
    form = .b3Multi
    return true
  }

  /// 32 digits, or 16.
  private mutating func readB3ID(_ value: UnsafeRawBufferPointer, _ range: Range<Int>) -> Bool {
    let start = range.lowerBound
    switch range.count {
    case 16:
      guard let low = Self.hex(value, start..<(start + 16)) else { return false }
      (high, self.low) = (0, low)
    case 32:
      guard let high = Self.hex(value, start..<(start + 16)), let low = Self.hex(value, (start + 16)..<(start + 32))
      else {
        return false
      }
      (self.high, self.low) = (high, low)
    default: return false
    }
    return isValid
  }

  private static func decision(_ value: UnsafeRawBufferPointer) -> Bool? {
    switch value.first {
    case UInt8(ascii: "1"), UInt8(ascii: "d"), UInt8(ascii: "t"): true
    case UInt8(ascii: "0"), UInt8(ascii: "f"): false
    default: nil
    }
  }

  /// The framework's ids are UUIDs, but nothing holds anybody to it: any other text gets an id made of its bytes, the same
  /// wherever it is met.
  private mutating func readMicro(_ trace: UnsafeRawBufferPointer, _ span: UnsafeRawBufferPointer?) {
    guard !trace.isEmpty, trace.count <= 256 else { return }
    if let (high, low) = Self.uuid(trace) {
      (self.high, self.low) = (high, low)
    } else {
      (high, low) = (Self.hash(trace, 0xCBF2_9CE4_8422_2325), Self.hash(trace, 0x9AE1_6A3B_2F90_404F))
    }
    guard isValid else { return }
    form = .micro
    guard let span, !span.isEmpty, span.count <= 256 else { return }
    if span.count == 16, let id = Self.hex(span, 0..<16) {
      parent = id
    } else if let (high, _) = Self.uuid(span) {
      parent = high
    } else {
      parent = Self.hash(span, 0xCBF2_9CE4_8422_2325)
    }
  }

  /// 32 hexadecimal digits, dashes between them or not.
  private static func uuid(_ text: UnsafeRawBufferPointer) -> (UInt64, UInt64)? {
    var halves: (UInt64, UInt64) = (0, 0)
    var digits = 0
    for byte in text where byte != UInt8(ascii: "-") {
      guard let digit = digit(byte), digits < 32 else { return nil }
      if digits < 16 { halves.0 = halves.0 &<< 4 | digit } else { halves.1 = halves.1 &<< 4 | digit }
      digits += 1
    }
    return digits == 32 ? halves : nil
  }

  private static func hash(_ text: UnsafeRawBufferPointer, _ seed: UInt64) -> UInt64 {
    var value = seed
    for byte in text { value = (value ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
    return value
  }

  private static func digit(_ byte: UInt8) -> UInt64? {
    switch byte {
    case 0x30...0x39: UInt64(byte &- 0x30)
    case 0x61...0x66: UInt64(byte &- 0x57)
    case 0x41...0x46: UInt64(byte &- 0x37)
    default: nil
    }
  }

  /// At most 16 digits.
  private static func hex(_ text: UnsafeRawBufferPointer, _ range: Range<Int>) -> UInt64? {
    guard range.upperBound <= text.count else { return nil }
    var value: UInt64 = 0
    for index in range {
      guard let digit = digit(text[index]) else { return nil }
      value = value &<< 4 | digit
    }
    return value
  }

  // MARK: Writing

  /// Appends the header lines that a callee gets, with `span` as the span it is called by.
  func append(span: UInt64, to out: ByteBuffer) {
    let sampled = isSampled ?? false
    out.append("Traceparent: 00-")
    appendTrace(to: out)
    out.append("-")
    out.append(hex: span)
    out.append(sampled ? "-01\r\nMicro-Trace-Id: " : "-00\r\nMicro-Trace-Id: ")
    appendUUID(to: out)
    out.append("\r\nMicro-Span-Id: ")
    out.append(hex: span)
    out.append("\r\n")
    switch b3 {
    case .b3Single:
      out.append("b3: ")
      appendTrace(to: out)
      out.append("-")
      out.append(hex: span)
      out.append(sampled ? "-1\r\n" : "-0\r\n")
    case .b3Multi:
      out.append("X-B3-TraceId: ")
      appendTrace(to: out)
      out.append("\r\nX-B3-SpanId: ")
      out.append(hex: span)
      out.append(sampled ? "\r\nX-B3-Sampled: 1\r\n" : "\r\nX-B3-Sampled: 0\r\n")
    case .none, .w3c, .micro: break
    }
  }

  /// 32 digits.
  func appendTrace(to out: ByteBuffer) {
    out.append(hex: high)
    out.append(hex: low)
  }

  private func appendUUID(to out: ByteBuffer) {
    out.append(hex: UInt32(truncatingIfNeeded: high &>> 32))
    out.append("-")
    out.append(hex: UInt16(truncatingIfNeeded: high &>> 16))
    out.append("-")
    out.append(hex: UInt16(truncatingIfNeeded: high))
    out.append("-")
    out.append(hex: UInt16(truncatingIfNeeded: low &>> 48))
    out.append("-")
    out.append(hex: UInt16(truncatingIfNeeded: low &>> 32))
    out.append(hex: UInt32(truncatingIfNeeded: low))
  }
}
