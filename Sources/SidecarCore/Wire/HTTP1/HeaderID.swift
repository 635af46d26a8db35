// The header names the sidecar acts on, as small numbers: the parser identifies each name once, everything after
// compares a byte. Identification is one multiply, one table look-up and one comparison, whatever the name.

/// A header name the sidecar knows; `other` for every name it merely passes on.
package enum HeaderID: UInt8, CaseIterable, Sendable {
  case other = 0
  // Framing and connection.
  case host, contentLength, contentType, transferEncoding, connection, keepAlive, expect, upgrade, te, trailer
  case proxyConnection, proxyAuthorization, proxyAuthenticate, http2Settings
  // Common HTTP.
  case accept, acceptEncoding, acceptLanguage, userAgent, origin, referer, cookie, setCookie, authorization, date
  case server, retryAfter, contentEncoding, location, cacheControl, vary, allow, via, idempotencyKey
  case accessControlRequestMethod, accessControlRequestHeaders
  case forwarded, xForwardedFor, xForwardedHost, xForwardedProto, xRealIP, xRequestID
  case secWebSocketKey, secWebSocketVersion, secWebSocketProtocol, secWebSocketExtensions, secWebSocketAccept
  case traceparent, tracestate, baggage, grpcTimeout
  // go-micro: what the framework itself puts in or takes from the headers (1.x and later, then the X- generation).
  case timeout, requestTimeout, local, remote
  case microService, microMethod, microEndpoint, microID, microError, microStream, microTopic, microTarget
  case microProtocol, microFromService, microNamespace, microTraceID, microSpanID
  case xMicroService, xMicroMethod, xMicroEndpoint, xMicroID, xMicroError, xMicroStream, xMicroTopic, xMicroTarget
  case xMicroProtocol, xMicroFromService, xMicroNamespace
  // This sidecar's own.
  case xMicroSelect, xMicroUnbegun, xMicroLoad

  /// The name as Go's `textproto` writes it, so the spelling go-micro peers put on the wire; empty for `other`.
  package var name: StaticString {
    switch self {
    case .other: ""
    case .host: "Host"
    case .contentLength: "Content-Length"
    case .contentType: "Content-Type"
    case .transferEncoding: "Transfer-Encoding"
    case .connection: "Connection"
    case .keepAlive: "Keep-Alive"
    case .expect: "Expect"
    case .upgrade: "Upgrade"
    case .te: "Te"
    case .trailer: "Trailer"
    case .proxyConnection: "Proxy-Connection"
    case .proxyAuthorization: "Proxy-Authorization"
    case .proxyAuthenticate: "Proxy-Authenticate"
    case .http2Settings: "Http2-Settings"
    case .accept: "Accept"
    case .acceptEncoding: "Accept-Encoding"
    case .acceptLanguage: "Accept-Language"
    case .userAgent: "User-Agent"
    case .origin: "Origin"
    case .referer: "Referer"
    case .cookie: "Cookie"
    case .setCookie: "Set-Cookie"
    case .authorization: "Authorization"
    case .date: "Date"
    case .server: "Server"
    case .retryAfter: "Retry-After"
    case .contentEncoding: "Content-Encoding"
    case .location: "Location"
    case .cacheControl: "Cache-Control"
    case .vary: "Vary"
    case .allow: "Allow"
    case .via: "Via"
    case .idempotencyKey: "Idempotency-Key"
    case .accessControlRequestMethod: "Access-Control-Request-Method"
    case .accessControlRequestHeaders: "Access-Control-Request-Headers"
    case .forwarded: "Forwarded"
    case .xForwardedFor: "X-Forwarded-For"
    case .xForwardedHost: "X-Forwarded-Host"
    case .xForwardedProto: "X-Forwarded-Proto"
    case .xRealIP: "X-Real-Ip"
    case .xRequestID: "X-Request-Id"
    case .secWebSocketKey: "Sec-Websocket-Key"
    case .secWebSocketVersion: "Sec-Websocket-Version"
    case .secWebSocketProtocol: "Sec-Websocket-Protocol"
    case .secWebSocketExtensions: "Sec-Websocket-Extensions"
    case .secWebSocketAccept: "Sec-Websocket-Accept"
    case .traceparent: "Traceparent"
    case .tracestate: "Tracestate"
    case .baggage: "Baggage"
    case .grpcTimeout: "Grpc-Timeout"
    case .timeout: "Timeout"
    case .requestTimeout: "Request-Timeout"
    case .local: "Local"
    case .remote: "Remote"
    case .microService: "Micro-Service"
    case .microMethod: "Micro-Method"
    case .microEndpoint: "Micro-Endpoint"
    case .microID: "Micro-Id"
    case .microError: "Micro-Error"
    case .microStream: "Micro-Stream"
    case .microTopic: "Micro-Topic"
    case .microTarget: "Micro-Target"
    case .microProtocol: "Micro-Protocol"
    case .microFromService: "Micro-From-Service"
    case .microNamespace: "Micro-Namespace"
    case .microTraceID: "Micro-Trace-Id"
    case .microSpanID: "Micro-Span-Id"
    case .xMicroService: "X-Micro-Service"
    case .xMicroMethod: "X-Micro-Method"
    case .xMicroEndpoint: "X-Micro-Endpoint"
    case .xMicroID: "X-Micro-Id"
    case .xMicroError: "X-Micro-Error"
    case .xMicroStream: "X-Micro-Stream"
    case .xMicroTopic: "X-Micro-Topic"
    case .xMicroTarget: "X-Micro-Target"
    case .xMicroProtocol: "X-Micro-Protocol"
    case .xMicroFromService: "X-Micro-From-Service"
    case .xMicroNamespace: "X-Micro-Namespace"
    case .xMicroSelect: "X-Micro-Select"
    case .xMicroUnbegun: "X-Micro-Unbegun"
    case .xMicroLoad: "X-Micro-Load"
    }
  }

  /// Which header `name` is, in any letter case; `other` when it is none of ours (or not a header name at all).
  package static func identify(_ name: UnsafeRawBufferPointer) -> HeaderID {
    guard let start = name.baseAddress else { return .other }
    return HeaderNameTable.shared.identify(start, name.count)
  }

  @inline(__always) package static func identify(_ name: String) -> HeaderID {
    var name = name
    return name.withUTF8 { identify(UnsafeRawBufferPointer($0)) }
  }
}

/// The known names in a collision-free hash table. Made once per process, never changed, so shared by every loop.
struct HeaderNameTable: @unchecked Sendable {
  static let shared = HeaderNameTable()

  /// One row per header: the name in lower case, then zeros. The row of `other` spells nothing.
  static let rowBytes = 32
  private static let slotBits: UInt64 = 10
  private let rows: UnsafeMutableRawPointer
  private let counts: UnsafeMutablePointer<UInt8>
  private let slots: UnsafeMutablePointer<UInt8>
  private let multiplier: UInt64

  private init() {
    let headers = HeaderID.allCases
    let rowBytes = Self.rowBytes
    let rows = UnsafeMutableRawPointer.allocate(byteCount: headers.count * rowBytes, alignment: 8)
    rows.initializeMemory(as: UInt8.self, repeating: 0, count: headers.count * rowBytes)
    rows.storeBytes(of: 1, as: UInt8.self)
    let counts = UnsafeMutablePointer<UInt8>.allocate(capacity: headers.count)
    for header in headers {
      let name = header.name
      precondition(name.utf8CodeUnitCount <= rowBytes, "header name too long for its row")
      let row = rows + Int(header.rawValue) * rowBytes
      for index in 0..<name.utf8CodeUnitCount {
        let byte = name.utf8Start[index]
        let isUpper = byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z")
        row.storeBytes(of: isUpper ? byte | 0x20 : byte, toByteOffset: index, as: UInt8.self)
      }
      counts[Int(header.rawValue)] = UInt8(name.utf8CodeUnitCount)
    }
    // Try multipliers until every name has a slot of its own. With 1024 slots about one in thirty does; the sequence
    // is fixed, so every process finds the same one.
    let slotCount = 1 << Int(Self.slotBits)
    let slots = UnsafeMutablePointer<UInt8>.allocate(capacity: slotCount)
    var candidate: UInt64 = 0x9e37_79b9_7f4a_7c15
    var attempts = 0
    search: while true {
      attempts += 1
      precondition(attempts < 100_000, "two known header names share length, start and end")
      candidate = (candidate &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407) | 1
      slots.initialize(repeating: 0, count: slotCount)
      for header in headers where header != .other {
        let row = rows + Int(header.rawValue) * rowBytes
        let slot = Self.slot(of: row, header.name.utf8CodeUnitCount, candidate)
        if slots[slot] != 0 { continue search }
        slots[slot] = header.rawValue
      }
      break
    }
    self.rows = rows
    self.counts = counts
    self.slots = slots
    multiplier = candidate
  }

  /// First and last four bytes with case folded, and the length; `count` is at least 2.
  @inline(__always) private static func slot(
    of name: UnsafeRawPointer, _ count: Int, _ multiplier: UInt64
  ) -> Int {
    let key: UInt64
    if count >= 4 {
      let first = UInt64(name.loadUnaligned(as: UInt32.self))
      let last = UInt64((name + (count &- 4)).loadUnaligned(as: UInt32.self))
      key = (first | last &<< 32) | 0x2020_2020_2020_2020
    } else {
      let first = UInt64(name.loadUnaligned(as: UInt16.self))
      let last = UInt64((name + (count &- 2)).loadUnaligned(as: UInt16.self))
      key = (first | last &<< 32) | 0x2020_2020_2020_2020
    }
    return Int(truncatingIfNeeded: ((key &+ UInt64(truncatingIfNeeded: count)) &* multiplier) &>> (64 - slotBits))
  }

  @inline(__always) func identify(_ name: UnsafeRawPointer, _ count: Int) -> HeaderID {
    guard count >= 2, count <= Self.rowBytes else { return .other }
    let id = slots[Self.slot(of: name, count, multiplier)]
    let row = UnsafeRawPointer(rows) + Int(id) &* Self.rowBytes
    guard Int(counts[Int(id)]) == count else { return .other }
    if count >= 8 {
      // Whole words, then the last eight bytes again: overlapping costs nothing and needs no tail.
      var offset = 0
      while offset &+ 8 < count {
        if !Self.matches(name, row, offset, as: UInt64.self) { return .other }
        offset &+= 8
      }
      if !Self.matches(name, row, count &- 8, as: UInt64.self) { return .other }
    } else if count >= 4 {
      if !Self.matches(name, row, 0, as: UInt32.self) { return .other }
      if !Self.matches(name, row, count &- 4, as: UInt32.self) { return .other }
    } else {
      if !Self.matches(name, row, 0, as: UInt16.self) { return .other }
      if !Self.matches(name, row, count &- 2, as: UInt16.self) { return .other }
    }
    return unsafeBitCast(id, to: HeaderID.self)
  }

  /// Bytes of a known name, 0 for `other`.
  @inline(__always) func count(_ id: HeaderID) -> Int { Int(counts[Int(id.rawValue)]) }

  /// Whether the name of `id`, in any letter case, is what the `rowBytes` readable bytes at `text` begin with.
  @inline(__always) func begins(_ text: UnsafeRawPointer, _ id: HeaderID, _ count: Int) -> Bool {
    let row = UnsafeRawPointer(rows) + Int(id.rawValue) &* Self.rowBytes
    guard Self.blockBegins(text, row) else { return false }
    return count <= 16 || Self.blockBegins(text + 16, row + 16)
  }

  @inline(__always) private static func blockBegins(_ text: UnsafeRawPointer, _ row: UnsafeRawPointer) -> Bool {
    let known = row.loadUnaligned(as: SIMD2<UInt64>.self)
    let letters = (known & SIMD2(repeating: 0x4040_4040_4040_4040)) &>> SIMD2(repeating: 1)
    let difference = (text.loadUnaligned(as: SIMD2<UInt64>.self) | letters) ^ known
    // Zeros fill the row after the name; there any text will do.
    let blank = unsafeBitCast(
      unsafeBitCast(known, to: SIMD16<UInt8>.self) .== SIMD16<UInt8>(repeating: 0), to: SIMD2<UInt64>.self)
    let left = difference & ~blank
    return left.x | left.y == 0
  }

  /// Folds case only where the known name has a letter (the bytes with 0x40 set), so that 0x0D is no `-`.
  @inline(__always) private static func matches<Word: FixedWidthInteger & UnsignedInteger>(
    _ name: UnsafeRawPointer, _ row: UnsafeRawPointer, _ offset: Int, as: Word.Type
  ) -> Bool where Word: BitwiseCopyable {
    let known = row.loadUnaligned(fromByteOffset: offset, as: Word.self)
    let letters = (known & Word(truncatingIfNeeded: 0x4040_4040_4040_4040 as UInt64)) &>> 1
    return name.loadUnaligned(fromByteOffset: offset, as: Word.self) | letters == known
  }
}
