// Which headers of a request are call metadata. The framework makes no difference: every header is metadata, and nested
// calls forward all of it, which leaks one call's routing, error, topic and framing into the next (traps 9, 11, 12).
// Here a header is forwarded only if it can be the caller's own.
//
// Replies need no rule: `FrameReply` carries no header at all.

package enum Metadata {
  /// Where a request came from.
  package enum Source: Sendable {
    /// A framework caller: its headers are metadata, meant for the service.
    case framework
    /// A plain HTTP caller, perhaps a browser: its cookies and what browsers add stay here. `Authorization` goes on:
    /// services authenticate by it.
    case http
  }

  /// Whether `field` of a request goes on to the service as metadata.
  package static func isForwardable(_ field: HTTP1Field, of head: HTTP1Head, from source: Source) -> Bool {
    let name = head.name(field)
    return isForwardable(field.id, name, from: source) && !head.connectionLists(name)
  }

  /// The same for a field of any protocol; `name` in any case of letters.
  package static func isForwardable(
    _ id: HeaderID, _ name: UnsafeRawBufferPointer, from source: Source
  ) -> Bool {
    switch id {
    case .other: return !isReserved(name)

    // Framing and this connection (RFC 9110 §7.6.1).
    case .host, .contentLength, .contentType, .transferEncoding, .connection, .keepAlive, .expect, .upgrade, .te,
      .trailer, .proxyConnection, .proxyAuthorization, .proxyAuthenticate, .http2Settings, .contentEncoding,
      .secWebSocketKey, .secWebSocketVersion, .secWebSocketProtocol, .secWebSocketExtensions, .secWebSocketAccept:
      return false

    // About the payload, which is packed anew, and about time, which is counted anew.
    case .accept, .acceptEncoding, .acceptLanguage, .timeout, .requestTimeout, .grpcTimeout:
      return false

    // Routing, set anew for each call.
    case .microService, .microMethod, .microEndpoint, .microID, .microError, .microStream, .microTopic, .microTarget,
      .microProtocol, .microFromService, .xMicroService, .xMicroMethod, .xMicroEndpoint, .xMicroID, .xMicroError,
      .xMicroStream, .xMicroTopic, .xMicroTarget, .xMicroProtocol, .xMicroFromService, .xMicroSelect:
      return false

    // What a sidecar says in replies: servers would send it back as theirs.
    case .xMicroUnbegun, .xMicroLoad:
      return false

    // What a server adds to a handler's context (server/rpc_server.go), leaked by callers that forward their context.
    case .local, .remote:
      return false

    // A browser's.
    case .cookie, .setCookie, .origin, .referer, .accessControlRequestMethod, .accessControlRequestHeaders:
      return source == .framework

    case .userAgent, .authorization, .date, .server, .retryAfter, .location, .cacheControl, .vary, .allow, .via,
      .idempotencyKey, .forwarded, .xForwardedFor, .xForwardedHost, .xForwardedProto, .xRealIP, .xRequestID,
      .traceparent, .tracestate, .baggage, .microNamespace, .microTraceID, .microSpanID, .xMicroNamespace:
      return true
    }
  }

  /// Appends the forwardable headers of a request as header lines, names as they came.
  package static func append(from head: HTTP1Head, source: Source, into buffer: ByteBuffer) {
    for field in head.fields where isForwardable(field, of: head, from: source) {
      HTTP1Writer.copy(field, of: head, to: buffer)
    }
  }

  /// Names that have no `HeaderID` and still say something about the message rather than the call.
  private static func isReserved(_ name: UnsafeRawBufferPointer) -> Bool {
    guard let first = name.first else { return true }
    switch first | 0x20 {
    case UInt8(ascii: ":"): return true
    case UInt8(ascii: "a"): return ASCIIText.hasPrefixIgnoringCase(name, "accept-")
    case UInt8(ascii: "c"): return ASCIIText.hasPrefixIgnoringCase(name, "content-")
    case UInt8(ascii: "g"): return ASCIIText.hasPrefixIgnoringCase(name, "grpc-")
    case UInt8(ascii: "p"): return ASCIIText.hasPrefixIgnoringCase(name, "proxy-")
    case UInt8(ascii: "s"): return ASCIIText.hasPrefixIgnoringCase(name, "sec-")
    // Meant for this sidecar.
    case UInt8(ascii: "x"): return ASCIIText.hasPrefixIgnoringCase(name, "x-micro-fault")
    default: return false
    }
  }
}
