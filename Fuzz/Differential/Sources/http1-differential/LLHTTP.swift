// llhttp as swift-nio carries it, without any of its leniencies, translated.

import CNIOLLHTTP

final class LLHTTP {
  fileprivate var transcript = Transcript()
  fileprivate var start: [UInt8] = []
  fileprivate var name: [UInt8] = []
  fileprivate var value: [UInt8] = []
  fileprivate var fields: [(name: [UInt8], value: [UInt8])] = []
  private var parser = llhttp_t()
  private var settings = llhttp_settings_t()

  init() {
    c_nio_llhttp_settings_init(&settings)
    settings.on_message_begin = { parser in
      let state = LLHTTP.of(parser)
      state.start.removeAll(keepingCapacity: true)
      state.fields.removeAll(keepingCapacity: true)
      return 0
    }
    settings.on_url = { parser, at, count in
      LLHTTP.of(parser).start += UnsafeRawBufferPointer(start: at, count: count)
      return 0
    }
    settings.on_header_field = { parser, at, count in
      LLHTTP.of(parser).name += UnsafeRawBufferPointer(start: at, count: count)
      return 0
    }
    settings.on_header_value = { parser, at, count in
      LLHTTP.of(parser).value += UnsafeRawBufferPointer(start: at, count: count)
      return 0
    }
    settings.on_header_value_complete = { parser in
      let state = LLHTTP.of(parser)
      // It leaves white space at the end of a value.
      while state.value.last == 0x20 || state.value.last == 0x09 { state.value.removeLast() }
      state.fields.append((state.name, state.value))
      state.name.removeAll(keepingCapacity: true)
      state.value.removeAll(keepingCapacity: true)
      return 0
    }
    settings.on_headers_complete = { parser in
      LLHTTP.of(parser).headComplete(parser)
      return 0
    }
    settings.on_body = { parser, at, count in
      if count > 0 { LLHTTP.of(parser).transcript.body(UnsafeRawBufferPointer(start: at, count: count)) }
      return 0
    }
    settings.on_message_complete = { parser in
      let state = LLHTTP.of(parser)
      for field in state.fields { state.transcript.field(field.name, field.value) }
      state.transcript.end()
      return 0
    }
  }

  fileprivate static func of(_ parser: UnsafeMutablePointer<llhttp_t>?) -> LLHTTP {
    guard let data = parser?.pointee.data else { fatalError("a callback without its parser") }
    return Unmanaged<LLHTTP>.fromOpaque(data).takeUnretainedValue()
  }

  fileprivate func headComplete(_ parser: UnsafeMutablePointer<llhttp_t>?) {
    guard let parser else { return }
    let state = parser.pointee
    let isRequest = state.type == UInt8(HTTP_REQUEST.rawValue)
    if isRequest {
      let method = String(cString: c_nio_llhttp_method_name(llhttp_method_t(UInt32(state.method))))
      transcript.head("\(method) \(escaped(start)) 1.\(state.http_minor)")
    } else {
      transcript.head("\(state.status_code) 1.\(state.http_minor)")
    }
    for field in fields { transcript.field(field.name, field.value) }
    let flags = UInt32(state.flags)
    let isChunked = flags & F_CHUNKED.rawValue != 0
    let hasLength = flags & F_CONTENT_LENGTH.rawValue != 0
    let isBodiless = !isRequest && (state.status_code < 200 || state.status_code == 204 || state.status_code == 304)
    let framing =
      if isBodiless {
        "none"
      } else if isChunked {
        "chunked"
      } else if hasLength {
        state.content_length == 0 ? "none" : "\(state.content_length)"
      } else {
        isRequest ? "none" : "until close"
      }
    let isUpgrade = flags & F_CONNECTION_UPGRADE.rawValue != 0 && flags & F_UPGRADE.rawValue != 0
    transcript.endOfHead(
      framing: framing, keepAlive: c_nio_llhttp_should_keep_alive(parser) != 0,
      upgrade: isUpgrade && state.http_minor == 1)
    // Those that follow are trailers.
    fields.removeAll(keepingCapacity: true)
  }

  func run(_ input: [UInt8], _ isRequest: Bool) -> Transcript {
    transcript.removeAll()
    name.removeAll(keepingCapacity: true)
    value.removeAll(keepingCapacity: true)
    c_nio_llhttp_init(&parser, isRequest ? HTTP_REQUEST : HTTP_RESPONSE, &settings)
    parser.data = Unmanaged.passUnretained(self).toOpaque()
    let code = input.withUnsafeBytes { bytes in
      c_nio_llhttp_execute(&parser, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
    }
    if code != HPE_OK, code != HPE_PAUSED_UPGRADE {
      let reason = parser.reason.map { String(cString: $0) } ?? ""
      transcript.error = "\(String(cString: c_nio_llhttp_errno_name(code))): \(reason)"
    }
    return transcript
  }
}
