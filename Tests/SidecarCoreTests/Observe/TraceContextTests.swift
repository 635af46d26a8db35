import Testing

@testable import SidecarCore

private let trace = "0af7651916cd43dd8448eb211c80319c"
private let span = "b7ad6b7169203331"

private func context(_ headers: [(String, String)]) -> TraceContext {
  var found = TraceContext.Headers()
  let kept = headers.map { (FixedBytes($0.0), FixedBytes($0.1)) }
  return withExtendedLifetime(kept) {
    for (name, value) in kept { found.take(HeaderID.identify(name.span), name.span, value.span) }
    return TraceContext(found)
  }
}

private func written(_ context: TraceContext, span: UInt64) -> String {
  let out = ByteBuffer()
  context.append(span: span, to: out)
  return String(decoding: out.bytes, as: UTF8.self)
}

@Suite("Trace context")
struct TraceContextTests {
  @Test("the W3C's form is read", arguments: [("01", true), ("00", false), ("ff", true), ("02", false)])
  func traceparent(flags: String, isSampled: Bool) {
    let found = context([("traceparent", "00-\(trace)-\(span)-\(flags)")])
    #expect(found.high == 0x0af7_6519_16cd_43dd && found.low == 0x8448_eb21_1c80_319c)
    #expect(found.parent == 0xb7ad_6b71_6920_3331)
    #expect(found.isSampled == isSampled)
    #expect(found.form == .w3c)
  }

  @Test(
    "what is not well formed is as good as none",
    arguments: [
      "", "00", "00-\(trace)-\(span)", "ff-\(trace)-\(span)-01", "00-\(trace)-0000000000000000-01",
      "00-00000000000000000000000000000000-\(span)-01", "00-\(trace)-\(span)-01-more", "00-\(trace)-\(span)-0g",
      "00-\(trace.dropLast())g-\(span)-01", "0x-\(trace)-\(span)-01", "00_\(trace)_\(span)_01",
    ])
  func malformed(text: String) {
    #expect(!context([("traceparent", text)]).isValid)
    // The next convention is asked.
    #expect(context([("traceparent", text), ("b3", "\(trace)-\(span)-1")]).form == .b3Single)
  }

  @Test("of a later version what is known is used")
  func laterVersion() {
    #expect(context([("traceparent", "01-\(trace)-\(span)-01-more")]).isValid)
    #expect(!context([("traceparent", "01-\(trace)-\(span)-01x")]).isValid)
  }

  @Test("B3 is read in both forms, with its decision or without")
  func b3() {
    #expect(context([("b3", "\(trace)-\(span)")]).isSampled == nil)
    #expect(context([("b3", "\(trace)-\(span)-d")]).isSampled == true)
    #expect(context([("b3", "\(trace)-\(span)-0-\(span)")]).isSampled == false)
    let short = context([("B3", "\(trace.suffix(16))-\(span)-1")])
    #expect(short.high == 0 && short.low == 0x8448_eb21_1c80_319c)
    #expect(context([("b3", "0")]).isSampled == false)
    #expect(!context([("b3", "0")]).isValid)
    let multi = context([("X-B3-TraceId", trace), ("X-B3-SpanId", span), ("X-B3-Flags", "1")])
    #expect(multi.form == .b3Multi && multi.isSampled == true && multi.parent == 0xb7ad_6b71_6920_3331)
    #expect(context([("X-B3-Sampled", "0")]).isSampled == false)
  }

  @Test("the framework's ids are UUIDs, or any text, the same every time")
  func micro() {
    let uuid = "0af76519-16cd-43dd-8448-eb211c80319c"
    let found = context([("Micro-Trace-Id", uuid), ("Micro-Span-Id", span)])
    #expect(found.low == 0x8448_eb21_1c80_319c && found.parent == 0xb7ad_6b71_6920_3331 && found.isSampled == nil)
    let text = context([("Micro-Trace-Id", "request 7")])
    #expect(text.isValid && text == context([("Micro-Trace-Id", "request 7")]))
    #expect(text != context([("Micro-Trace-Id", "request 8")]))
    #expect(!context([("Micro-Trace-Id", String(repeating: "x", count: 257))]).isValid)
  }

  @Test("what is written is read back, and B3 goes on in the form it came in")
  func roundTrip() {
    var found = context([("traceparent", "00-\(trace)-\(span)-01")])
    #expect(
      written(found, span: 0x00f0_67aa_0ba9_02b7) == """
        Traceparent: 00-\(trace)-00f067aa0ba902b7-01\r
        Micro-Trace-Id: 0af76519-16cd-43dd-8448-eb211c80319c\r
        Micro-Span-Id: 00f067aa0ba902b7\r\n
        """)
    found = context([("traceparent", "00-\(trace)-\(span)-00"), ("b3", "\(trace)-\(span)-0")])
    #expect(written(found, span: 1).hasSuffix("b3: \(trace)-0000000000000001-0\r\n"))
    found = context([("X-B3-TraceId", trace), ("X-B3-SpanId", span), ("X-B3-Sampled", "1")])
    #expect(
      written(found, span: 1).hasSuffix(
        "X-B3-TraceId: \(trace)\r\nX-B3-SpanId: 0000000000000001\r\nX-B3-Sampled: 1\r\n"))
  }

  @Test("shares sample their share")
  func shares() {
    var random = SeededRandom(seed: 7)
    for share in [0, 0.01, 0.5, 1] {
      let settings = TraceSettings(share: share)
      let sampled = (0..<20_000).count { _ in settings.samples(random.next()) }
      #expect(abs(Double(sampled) / 20_000 - share) < 0.02, "\(share)")
    }
  }
}

@Suite("Access log")
struct AccessLogTests {
  private func line(_ format: String, service: String = "greeter", outcome: MetricOutcome = .ok) throws -> String {
    let format = try #require(AccessLogFormat(format))
    var notes = CallNotes()
    notes.status = 200
    notes.bytesIn = 7
    let out = ByteBuffer()
    var lines = CallLine()
    let name = FixedBytes(service)
    withExtendedLifetime(name) {
      lines.append(
        format, notes,
        CallEnd(
          direction: .in, dialect: "grpc", service: name.span, endpoint: .none, outcome: outcome, latency: 1_042_000),
        unixNanoseconds: 1_542_791_100_042_000_000, now: Instant(nanoseconds: 0), to: out)
    }
    return String(decoding: out.bytes, as: UTF8.self)
  }

  @Test("a line of text, of JSON and of a template")
  func forms() throws {
    #expect(
      try line("text", outcome: .failed(.overloaded))
        == "2018-11-21T09:05:00.042Z in dialect=grpc service=greeter endpoint=- node=- address=- status=200 flag=UO "
        + "reason=overloaded attempts=0 duration_ms=1.042 upstream_ms=0.000 bytes_in=7 bytes_out=0 trace_id=-\n")
    #expect(
      try line("JSON")
        == #"{"time":"2018-11-21T09:05:00.042Z","direction":"in","dialect":"grpc","service":"greeter","endpoint":"","node":"","address":"","status":200,"flag":"","reason":"ok","attempts":0,"duration_ms":1.042,"upstream_ms":0.000,"bytes_in":7,"bytes_out":0,"trace_id":""}"#
        + "\n")
    #expect(try line("{direction}:{status} ({reason})") == "in:200 (ok)\n")
  }

  @Test("no name leaves its field", arguments: ["a\nb", "a b", "a=b", "a\"b", "a\\b", "größe", "\u{1b}[31m"])
  func escapes(name: String) throws {
    let text = try line("text", service: name)
    #expect(text.utf8.filter { $0 == 0x0A }.count == 1 && text.split(separator: " ").count == 16)
    #expect(text.utf8.allSatisfy { $0 == 0x0A || (0x20..<0x7F).contains($0) })
    let json = Array(try line("json", service: name).utf8)
    #expect(try JSONValue(parsing: json)["service"]?.stringValue == name)
  }

  @Test("templates that cannot be are refused", arguments: ["", "no field", "{nothing}", "{time", "{time} {}"])
  func templates(text: String) {
    #expect(AccessLogFormat(text) == nil)
  }
}

@Suite("Tap")
struct TapTests {
  @Test("values that may be secrets are not shown, however deep")
  func masks() throws {
    var settings = TapSettings()
    settings.masked = ["pin"]
    let text = #"{"user":"a","PIN":1,"list":[{"access_token":"x","n":{"Password":["y"]}}],"cookie":null}"#
    let value = settings.masked(try JSONValue(parsing: Array(text.utf8)), depth: 0)
    #expect(
      value.text()
        == #"{"user":"a","PIN":"(masked)","list":[{"access_token":"(masked)","n":{"Password":"(masked)"}}],"cookie":"(masked)"}"#
    )
    for name in ["Authorization", "Proxy-Authorization", "Set-Cookie", "X-Api-Key", "x-auth-token", "Client-Secret"] {
      #expect(settings.isSecret(name), "\(name)")
    }
    #expect(!settings.isSecret("X-Request-Id"))
  }

  @Test("filters want what they say")
  func filters() throws {
    let service = FixedBytes("go.micro.srv.hello")
    let endpoint = FixedBytes("Say.Hello")
    func wants(_ query: String, status: Int = 503, _ outcome: MetricOutcome = .failed(.overloaded)) throws -> Bool {
      var notes = CallNotes()
      notes.status = status
      let filter = try TapFilter(query: try JSONValue(parsing: Array(query.utf8)))
      return filter.wants(
        notes,
        CallEnd(
          direction: .out, dialect: "http", service: service.span, endpoint: endpoint.span, outcome: outcome, latency: 0
        ))
    }
    for query in [
      "{}", #"{"service":"go.micro.srv.hello"}"#, #"{"service":"go.micro.*"}"#, #"{"endpoint":"Say.Hello"}"#,
      #"{"direction":"out"}"#, #"{"status":"503"}"#, #"{"status":"5xx"}"#, #"{"status":"error"}"#,
      #"{"status":"overloaded"}"#,
    ] {
      #expect(try wants(query), "\(query)")
    }
    for query in [
      #"{"service":"go.micro"}"#, #"{"service":"other*"}"#, #"{"endpoint":"Say"}"#, #"{"direction":"in"}"#,
      #"{"status":"4xx"}"#, #"{"status":"ok"}"#, #"{"node":"n"}"#,
    ] {
      #expect(try !wants(query), "\(query)")
    }
    for (query, rule) in [
      (#"{"direction":"up"}"#, "direction is in or out, not up"),
      (#"{"servcie":"a"}"#, "there is no filter servcie; did you mean service?"),
      (#"{"colour":"red"}"#, "there is no filter colour, only service, endpoint, node, direction, status, rate"),
      (#"{"status":"overlaoded"}"#, "no call ends with status overlaoded; did you mean overloaded?"),
      (#"{"status":"999"}"#, "no call ends with status 999"), (#"{"status":"6xx"}"#, "no call ends with status 6xx"),
    ] {
      let error = #expect(throws: WireError.self, "\(query)") { try wants(query) }
      #expect(error?.rule == rule)
    }
  }
}
