// What nghttp2 calls, and how its sessions are made: the only file that knows its structures.
//
// Callbacks run inside `HTTP2Session.receive` and `flush`. They may submit frames; what a handler is told from `flush`
// waits in the session's queues.

import CNGHTTP2

enum HTTP2Callbacks {
  // Never changed once made, and copied by nghttp2 for each session.
  private nonisolated(unsafe) static let callbacks = makeCallbacks()
  private nonisolated(unsafe) static let options = makeOptions()

  static func makeSession(_ role: HTTP2Session.Role) -> OpaquePointer {
    var session: OpaquePointer?
    let result =
      switch role {
      case .server: nghttp2_session_server_new2(&session, callbacks, nil, options)
      case .client: nghttp2_session_client_new2(&session, callbacks, nil, options)
      }
    // Its one error is a lack of memory, which ends a Swift program anyway.
    guard result == 0, let session else { fatalError("no memory for an HTTP/2 session") }
    return session
  }

  static func submitSettings(_ raw: OpaquePointer, _ role: HTTP2Session.Role) {
    func entry(_ id: nghttp2_settings_id, _ value: UInt32) -> nghttp2_settings_entry {
      nghttp2_settings_entry(settings_id: Int32(id.rawValue), value: value)
    }
    var entries = [
      entry(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, UInt32(HTTP2Limits.streamWindow)),
      entry(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, HTTP2Limits.frameMax),
      entry(NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, UInt32(HTTP2Limits.headerListMax)),
      entry(NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1),
    ]
    switch role {
    case .server: entries.append(entry(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, HTTP2Limits.concurrentStreams))
    case .client: entries.append(entry(NGHTTP2_SETTINGS_ENABLE_PUSH, 0))
    }
    _ = nghttp2_submit_settings(raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), entries, entries.count)
    _ = nghttp2_session_set_local_window_size(
      raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), 0, Int32(HTTP2Limits.connectionWindow))
  }

  /// What is told to the peer when nghttp2 gives up.
  static func errorCode(_ error: Int32) -> HTTP2ErrorCode {
    switch error {
    case Int32(NGHTTP2_ERR_FLOODED.rawValue), Int32(NGHTTP2_ERR_TOO_MANY_CONTINUATIONS.rawValue),
      Int32(NGHTTP2_ERR_TOO_MANY_SETTINGS.rawValue):
      .enhanceYourCalm
    case Int32(NGHTTP2_ERR_NOMEM.rawValue), Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue): .internalError
    default: .protocolError
    }
  }

  /// Frames of a stream come from its queue.
  static func dataProvider(_ stream: UnsafeMutableRawPointer) -> nghttp2_data_provider {
    nghttp2_data_provider(source: nghttp2_data_source(ptr: stream)) { _, _, _, length, flags, source, _ in
      guard let pointer = source?.pointee.ptr, let flags else { return Int(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue) }
      return Unmanaged<HTTP2Stream>.fromOpaque(pointer)._withUnsafeGuaranteedRef { $0.nextFrame(length, flags) }
    }
  }

  private static func makeOptions() -> OpaquePointer? {
    var options: OpaquePointer?
    nghttp2_option_new(&options)
    nghttp2_option_set_no_auto_window_update(options, 1)
    nghttp2_option_set_no_closed_streams(options, 1)
    nghttp2_option_set_max_outbound_ack(options, HTTP2Limits.outboundAcksMax)
    // Its own bucket is the second line: ours is stricter and answers with ENHANCE_YOUR_CALM.
    nghttp2_option_set_stream_reset_rate_limit(
      options, UInt64(HTTP2Limits.resetsBurst * 2), UInt64(HTTP2Limits.resetsPerSecond * 2))
    nghttp2_option_set_max_continuations(options, HTTP2Limits.continuationsMax)
    return options
  }

  private static func makeCallbacks() -> OpaquePointer? {
    var callbacks: OpaquePointer?
    nghttp2_session_callbacks_new(&callbacks)
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks) { _, _, user in
      withSession(user) { $0.beginsHeaders() }
    }
    nghttp2_session_callbacks_set_on_header_callback(callbacks) { _, _, name, nameCount, value, valueCount, _, user in
      withSession(user) {
        $0.fields.append(
          UnsafeRawBufferPointer(start: name, count: nameCount), UnsafeRawBufferPointer(start: value, count: valueCount)
        )
        return 0
      }
    }
    nghttp2_session_callbacks_set_on_invalid_header_callback(callbacks) { _, frame, _, _, _, _, _, user in
      withSession(user) { $0.invalidHeader(frame) }
    }
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks) { _, frame, user in
      withSession(user) { session in
        guard let frame else { return 0 }
        return session.received(frame)
      }
    }
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks) { _, head, user in
      withSession(user) { session in
        guard let head else { return 0 }
        return session.begins(head.pointee)
      }
    }
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks) { _, _, id, bytes, count, user in
      withSession(user) { $0.receivedData(id, UnsafeRawBufferPointer(start: bytes, count: count)) }
    }
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks) { raw, id, code, user in
      withSession(user) { session in
        if let stream = session.stream(id) { session.remove(stream, HTTP2ErrorCode(rawValue: code)) }
        return 0
      }
    }
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks) { _, frame, user in
      withSession(user) { session in
        if let frame { session.sent(frame) }
        return 0
      }
    }
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks) { _, frame, _, user in
      withSession(user) { session in
        if let frame { session.notSent(frame) }
        return 0
      }
    }
    nghttp2_session_callbacks_set_send_data_callback(callbacks) { _, _, head, count, source, user in
      withSession(user) { session in
        guard let output = session.output, let head, let pointer = source?.pointee.ptr else {
          return Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue)
        }
        output.append(UnsafeRawBufferPointer(start: head, count: 9))
        Unmanaged<HTTP2Stream>.fromOpaque(pointer)._withUnsafeGuaranteedRef { $0.takeFrame(count, into: output) }
        return 0
      }
    }
    return callbacks
  }

}

/// The session that nghttp2 calls back.
@inline(__always)
private func withSession(_ user: UnsafeMutableRawPointer?, _ body: (HTTP2Session) -> Int32) -> Int32 {
  guard let user else { return Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue) }
  return Unmanaged<HTTP2Session>.fromOpaque(user)._withUnsafeGuaranteedRef { body($0) }
}

extension HTTP2Session {
  private static var endStream: UInt8 { UInt8(NGHTTP2_FLAG_END_STREAM.rawValue) }
  private static var stop: Int32 { Int32(NGHTTP2_ERR_CALLBACK_FAILURE.rawValue) }

  @inline(__always) fileprivate func stream(_ id: Int32) -> HTTP2Stream? {
    guard let pointer = nghttp2_session_get_stream_user_data(raw, id) else { return nil }
    return Unmanaged<HTTP2Stream>.fromOpaque(pointer).takeUnretainedValue()
  }

  // MARK: Floods

  /// A frame's head has come, of whatever type; nghttp2 has not seen it yet.
  func scanned(_ head: HTTP2FrameScanner.Head) {
    switch UInt32(head.type) {
    case NGHTTP2_DATA.rawValue:
      // Padding makes it no less empty; whether there is some is seen when it is whole.
      if head.length == 0, head.flags & Self.endStream == 0 { spend(HTTP2Limits.FrameCost.emptyData) }
      // nghttp2 passes over what comes for a closed stream without a word.
      if role == .server { refuseIfClosed(Int32(truncatingIfNeeded: head.stream)) }
    case NGHTTP2_HEADERS.rawValue, NGHTTP2_CONTINUATION.rawValue, NGHTTP2_GOAWAY.rawValue: break
    case NGHTTP2_RST_STREAM.rawValue:
      if role == .server, !resets.spend(1) { violated(.enhanceYourCalm) }
    case NGHTTP2_SETTINGS.rawValue: spend(HTTP2Limits.FrameCost.settings)
    case NGHTTP2_PING.rawValue: spend(HTTP2Limits.FrameCost.ping)
    case NGHTTP2_PRIORITY.rawValue:
      spend(HTTP2Limits.FrameCost.other)
      // Priorities are declined, and nghttp2 then looks at nothing but the length. A stream that depends on itself was a
      // fault until RFC 9113 (RFC 7540 §5.3.1).
      if head.stream == 0 || head.stream == head.dependency { violated(.protocolError) }
    default: spend(HTTP2Limits.FrameCost.other)
    }
  }

  private func spend(_ cost: Int) {
    if !control.spend(cost) { violated(.enhanceYourCalm) }
  }

  /// A message's frame on a stream that was closed by the peer or by both is a fault (RFC 9113 §5.1). nghttp2 remembers
  /// nothing of closed streams.
  private func refuseIfClosed(_ id: Int32) {
    guard id > 0, id <= lastOpened, nghttp2_session_find_stream(raw, id) == nil, !wasReset(id) else { return }
    _ = nghttp2_submit_rst_stream(
      raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), id, HTTP2ErrorCode.streamClosed.rawValue)
  }

  /// nghttp2 has come to a frame.
  fileprivate func begins(_ head: nghttp2_frame_hd) -> Int32 {
    if UInt32(head.type) == NGHTTP2_SETTINGS.rawValue {
      largestWindow = streams.reduce(0) { max($0, Int64(nghttp2_session_get_stream_remote_window_size(raw, $1.id))) }
      peerInitialWindow = Int64(nghttp2_session_get_remote_settings(raw, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE))
      return 0
    }
    guard role == .server, UInt32(head.type) == NGHTTP2_HEADERS.rawValue else { return 0 }
    let id = head.stream_id
    if id > lastOpened {
      if id > lastOpened + 2 {
        if passedOver.count >= HTTP2Limits.gapsRemembered { passedOver.removeFirst() }
        passedOver.append(lastOpened + 1...id - 1)
      }
      lastOpened = id
      return 0
    }
    // A client counts upwards (RFC 9113 §5.1.1).
    if passedOver.contains(where: { $0.contains(id) }) {
      violated(.protocolError)
      return Self.stop
    }
    refuseIfClosed(id)
    return 0
  }

  /// Settings that take the window of an open stream above its limit end the connection (RFC 9113 §6.9.2); nghttp2 would
  /// end that stream only.
  private func checkWindows(_ settings: nghttp2_settings) {
    for index in 0..<settings.niv {
      guard let entry = settings.iv?[index], entry.settings_id == Int32(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE.rawValue)
      else { continue }
      let change = Int64(entry.value) - peerInitialWindow
      peerInitialWindow += change
      largestWindow += change
      if largestWindow > Int64(Int32.max), !streams.isEmpty { violated(.flowControlError) }
    }
  }

  // MARK: Receiving

  fileprivate func beginsHeaders() -> Int32 {
    fields.begin()
    isBlockMalformed = false
    return 0
  }

  /// A field with a bad name or value. nghttp2 would drop it and go on; RFC 9113 §8.1.1 calls the message malformed.
  fileprivate func invalidHeader(_ frame: UnsafePointer<nghttp2_frame>?) -> Int32 {
    guard let frame else { return 0 }
    isBlockMalformed = true
    _ = nghttp2_submit_rst_stream(
      raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), frame.pointee.hd.stream_id, HTTP2ErrorCode.protocolError.rawValue)
    return Int32(NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE.rawValue)
  }

  fileprivate func receivedData(_ id: Int32, _ bytes: UnsafeRawBufferPointer) -> Int32 {
    // What is kept is bounded by the stream's window; see `HTTP2Limits.connectionWindow`.
    _ = nghttp2_session_consume_connection(raw, bytes.count)
    guard let stream = stream(id), let handler = stream.handler else { return 0 }
    stream.received(bytes.count)
    handler.http2Stream(stream, received: bytes)
    return violation == nil ? 0 : Self.stop
  }

  fileprivate func received(_ frame: UnsafePointer<nghttp2_frame>) -> Int32 {
    let head = frame.pointee.hd
    switch UInt32(head.type) {
    case NGHTTP2_HEADERS.rawValue: receivedHeaders(head)
    case NGHTTP2_DATA.rawValue:
      if head.flags & Self.endStream != 0 {
        if let stream = stream(head.stream_id) { peerEnded(stream) }
      } else if head.length > 0, head.length == frame.pointee.data.padlen {
        spend(HTTP2Limits.FrameCost.emptyData)
      }
    case NGHTTP2_SETTINGS.rawValue where head.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) == 0:
      isEstablished = true
      checkWindows(frame.pointee.settings)
      handler?.http2SessionSettingsChanged(self)
    case NGHTTP2_PING.rawValue where head.flags & UInt8(NGHTTP2_FLAG_ACK.rawValue) != 0:
      var opaque = frame.pointee.ping.opaque_data
      let number = withUnsafeBytes(of: &opaque) { $0.loadUnaligned(as: UInt64.self) }
      handler?.http2SessionPingAnswered(self, UInt64(bigEndian: number))
    case NGHTTP2_GOAWAY.rawValue:
      let goaway = frame.pointee.goaway
      handler?.http2Session(
        self, peerLeaves: goaway.last_stream_id, HTTP2ErrorCode(rawValue: goaway.error_code))
    default: break
    }
    return violation == nil ? 0 : Self.stop
  }

  private func receivedHeaders(_ head: nghttp2_frame_hd) {
    guard !isBlockMalformed else { return }
    let ends = head.flags & Self.endStream != 0
    if fields.isTooLarge {
      _ = nghttp2_submit_rst_stream(
        raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), head.stream_id, HTTP2ErrorCode.enhanceYourCalm.rawValue)
      if !resets.spend(HTTP2Limits.overlongHeaderListCost) { violated(.enhanceYourCalm) }
      return
    }
    if let stream = stream(head.stream_id) {
      let kind: HTTP2Stream.HeadKind =
        fields.status == 0 ? .trailers : fields.status < 200 ? .informational : .final
      stream.handler?.http2Stream(stream, received: fields, kind: kind)
      if ends { peerEnded(stream) }
      return
    }
    guard role == .server, let handler else { return }
    let stream = HTTP2Stream(session: self, id: head.stream_id, hasHead: false)
    guard nghttp2_session_set_stream_user_data(raw, head.stream_id, Unmanaged.passUnretained(stream).toOpaque()) == 0
    else { return }
    add(stream)
    if let streamHandler = handler.http2Session(self, opened: stream, fields, ends: ends) {
      // Unless it has been reset meanwhile.
      if stream.session != nil, !stream.isReset {
        stream.handler = streamHandler
        if ends { peerEnded(stream) }
      }
    } else {
      stream.reset(.refusedStream)
    }
  }

  private func peerEnded(_ stream: HTTP2Stream) {
    guard !stream.peerEnded else { return }
    stream.peerEnded = true
    stream.handler?.http2StreamEnded(stream)
  }

  // MARK: Sending

  fileprivate func sent(_ frame: UnsafePointer<nghttp2_frame>) {
    let head = frame.pointee.hd
    switch UInt32(head.type) {
    case NGHTTP2_DATA.rawValue, NGHTTP2_HEADERS.rawValue:
      control.earn(HTTP2Limits.controlPerMessageFrame)
      // A server that has answered in full and hears no more of the request says so, or the stream would stay
      // (RFC 9113 §8.1).
      guard head.flags & Self.endStream != 0, let stream = stream(head.stream_id) else { break }
      stream.isEndSent = true
      if role == .server, !stream.peerEnded {
        _ = nghttp2_submit_rst_stream(
          raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), head.stream_id, HTTP2ErrorCode.noError.rawValue)
      }
    case NGHTTP2_RST_STREAM.rawValue where role == .server:
      noteReset(head.stream_id)
      switch HTTP2ErrorCode(rawValue: frame.pointee.rst_stream.error_code) {
      case .noError, .cancel: break
      default: if !resets.spend(1) { violated(.enhanceYourCalm) }
      }
    default: break
    }
  }

  /// A frame could not be made. A head or trailers too large for a header block end their stream; of a request that was
  /// never sent nghttp2 tells itself.
  fileprivate func notSent(_ frame: UnsafePointer<nghttp2_frame>) {
    let head = frame.pointee.hd
    guard UInt32(head.type) == NGHTTP2_HEADERS.rawValue, frame.pointee.headers.cat != NGHTTP2_HCAT_REQUEST,
      stream(head.stream_id) != nil
    else { return }
    _ = nghttp2_submit_rst_stream(
      raw, UInt8(NGHTTP2_FLAG_NONE.rawValue), head.stream_id, HTTP2ErrorCode.internalError.rawValue)
  }
}
