// What a complete head means: framing, persistence, upgrade, expectations; and the rules that only the whole head can
// break. RFC 9110 and 9112, strict wherever two readers could disagree about where a message ends.

extension HTTP1Head {
  /// Sets what follows from a request's fields.
  @inline(__always) func finishRequest() throws(WireError) {
    if has(.host) {
      if isRepeated(.host) { throw error("repeated Host header", at: .host) }
      try checkHost()
    } else if minorVersion == 1 {
      // Go's words for it, which users of the framework know.
      throw WireError("missing required Host header")
    }
    if has(.transferEncoding) || has(.contentLength) {
      framing = try declaredFraming() ?? .none
      if method == .connect, framing != .length(0) { throw WireError("CONNECT request with a body") }
    } else {
      framing = .none
    }
    finishConnection()
    expectsContinue = false
    if has(.expect) {
      guard let value = first(.expect), !isRepeated(.expect), Scan.equal(value, ignoringCase: "100-continue") else {
        throw error("unknown expectation", at: .expect, status: 417)
      }
      expectsContinue = minorVersion == 1
    }
  }

  /// Sets what follows from a response's fields, given what it answers.
  @inline(__always) func finishResponse(toHEAD: Bool, toCONNECT: Bool) throws(WireError) {
    let declared = has(.transferEncoding) || has(.contentLength) ? try declaredFraming() : nil
    if status < 200, let declared, declared != .length(0) {
      // It may not (RFC 9110 §8.6), and llhttp would wait for that body.
      throw WireError("interim response with a body")
    }
    if toHEAD || status < 200 || status == 204 || status == 304 || (toCONNECT && status < 300) {
      framing = .none
    } else {
      framing = declared ?? .untilClose
    }
    finishConnection()
    if framing == .untilClose { keepAlive = false }
    expectsContinue = false
  }

  /// Trailers may not say again what frames or routes the message or rules the connection (RFC 9110 §6.5.1): who merges
  /// them would be misled, and llhttp obeys a `Connection` there.
  func finishTrailers() throws(WireError) {
    try refuseInTrailers(.transferEncoding)
    try refuseInTrailers(.contentLength)
    try refuseInTrailers(.host)
    try refuseInTrailers(.connection)
    try refuseInTrailers(.upgrade)
  }

  private func refuseInTrailers(_ id: HeaderID) throws(WireError) {
    if has(id) { throw error("framing field in the trailers", at: id) }
  }

  /// What Transfer-Encoding and Content-Length say; RFC 9112 §6.1–6.3.
  @inline(never) private func declaredFraming() throws(WireError) -> HTTP1Framing? {
    if let coding = first(.transferEncoding) {
      if has(.contentLength) { throw error("both Transfer-Encoding and Content-Length", at: .contentLength) }
      if minorVersion == 0 { throw error("Transfer-Encoding in HTTP/1.0", at: .transferEncoding) }
      guard !isRepeated(.transferEncoding), Scan.equal(coding, ignoringCase: "chunked") else {
        throw error("Transfer-Encoding other than chunked", at: .transferEncoding)
      }
      return .chunked
    }
    guard let digits = first(.contentLength) else { return nil }
    // Even equal ones: whoever repeats it has been through a broken intermediary, and not all readers agree.
    if isRepeated(.contentLength) { throw error("repeated Content-Length", at: .contentLength) }
    // A tab behind it is white space to us and a malformed number to llhttp: then to us as well.
    guard let end = digits.baseAddress.map({ $0 + digits.count }), Scan.byte(end) != ASCII.tab else {
      throw error("malformed Content-Length", at: .contentLength)
    }
    var length = 0
    for byte in digits {
      let digit = byte &- UInt8(ascii: "0")
      guard digit <= 9 else { throw error("malformed Content-Length", at: .contentLength) }
      let (tens, overflow) = length.multipliedReportingOverflow(by: 10)
      let (sum, carry) = tens.addingReportingOverflow(Int(digit))
      if overflow || carry { throw error("Content-Length too large", at: .contentLength) }
      length = sum
    }
    return .length(length)
  }

  @inline(__always) private func finishConnection() {
    guard has(.connection) else {
      keepAlive = minorVersion == 1
      upgrade = false
      return
    }
    readConnection()
  }

  @inline(never) private func readConnection() {
    var close = false
    var persist = false
    var upgrades = false
    for field in fields where field.id == .connection {
      Scan.forEachElement(value(field)) { option in
        if Scan.equal(option, ignoringCase: "close") {
          close = true
        } else if Scan.equal(option, ignoringCase: "keep-alive") {
          persist = true
        } else if Scan.equal(option, ignoringCase: "upgrade") {
          upgrades = true
        }
      }
    }
    keepAlive = !close && (minorVersion == 1 || persist)
    // RFC 9110 §7.8: ignored in an HTTP/1.0 message.
    upgrade = upgrades && minorVersion == 1 && fields.contains { $0.id == .upgrade && $0.valueCount > 0 }
  }

  private func checkHost() throws(WireError) {
    // An empty one is allowed: the target has no authority.
    guard let host = first(.host), let start = host.baseAddress else { return }
    let end = start + host.count
    guard Scan.end(of: ByteClass.host, start, end) == end else { throw error("malformed Host header", at: .host) }
  }

  /// The request target must have the form that its method asks for. RFC 9112 §3.2.
  @inline(__always) func checkTarget(_ start: UnsafeRawPointer) throws(WireError) {
    let target = UnsafeRawBufferPointer(start: start + targetOffset, count: targetCount)
    if target[0] == UInt8(ascii: "/"), method != .connect { return }
    try checkOddTarget(target)
  }

  @inline(never) private func checkOddTarget(_ target: UnsafeRawBufferPointer) throws(WireError) {
    let malformed = WireError("malformed request target", offset: targetOffset)
    if method == .connect {
      // authority-form: host and port, nothing else.
      guard let colon = target.lastIndex(of: UInt8(ascii: ":")) else { throw malformed }
      let port = target[(colon + 1)...]
      guard colon > 0, (1...5).contains(port.count), port.allSatisfy({ $0 &- UInt8(ascii: "0") <= 9 }),
        isHost(target[..<colon])
      else { throw malformed }
      return
    }
    if target.count == 1, target[0] == UInt8(ascii: "*") {
      guard method == .options else { throw malformed }
      return
    }
    // absolute-form, of the two schemes we could serve.
    let prefix =
      if target.count > 7, Scan.equal(UnsafeRawBufferPointer(rebasing: target[..<7]), ignoringCase: "http://") {
        7
      } else if target.count > 8, Scan.equal(UnsafeRawBufferPointer(rebasing: target[..<8]), ignoringCase: "https://") {
        8
      } else {
        0
      }
    guard prefix > 0 else { throw malformed }
    let rest = target[prefix...]
    let authority = rest[..<(rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? rest.endIndex)]
    guard !authority.isEmpty, isHost(authority) else { throw malformed }
  }

  private func isHost(_ bytes: Slice<UnsafeRawBufferPointer>) -> Bool {
    bytes.allSatisfy { ByteClass.contains($0, ByteClass.host) }
  }

  private func error(_ rule: String, at id: HeaderID, status: Int = 400) -> WireError {
    let offset = fields.first { $0.id == id }.map { Int($0.nameOffset) } ?? 0
    return WireError(rule, offset: offset, status: status)
  }
}
