// The negotiation of permessage-deflate (RFC 7692 §7.1), both sides. What is agreed is two directions, each with a window
// and with or without context between messages.

/// How one direction is compressed.
package struct DeflateDirection: Equatable, Sendable {
  /// Whether the window lives on from message to message: better ratios, but up to 300 KiB per connection.
  package var keepsContext: Bool
  /// 8…15: the window has two to that power bytes.
  package var windowBits: Int

  package init(keepsContext: Bool, windowBits: Int = 15) {
    self.keepsContext = keepsContext
    self.windowBits = windowBits
  }
}

/// What both ends agreed on.
package struct DeflateAgreement: Equatable, Sendable {
  /// What the server sends.
  package var server: DeflateDirection
  /// What the client sends.
  package var client: DeflateDirection

  package init(server: DeflateDirection, client: DeflateDirection) {
    self.server = server
    self.client = client
  }
}

/// What we wish for.
package enum DeflateWish: Sendable {
  /// Each message by itself, so that an idle connection holds no memory.
  case withoutContext
  /// Context in both directions, unless the peer asks otherwise.
  case withContext
}

enum PerMessageDeflate {
  static let name = "permessage-deflate"

  /// The parameters of one offer, or of an answer.
  private struct Parameters {
    var serverNoContext = false
    var clientNoContext = false
    var serverBits: Int?
    var clientBits: Int?
    /// An offer may name `client_max_window_bits` without a value: "I can obey one".
    var clientBitsAllowed = false
  }

  // MARK: Server

  /// The first of the client's offers we can accept; nil when there is none. Adds our answer, a header line, to `out`.
  static func answer(
    to extensions: [WebSocketExtension], wish: DeflateWish, into out: ByteBuffer
  ) -> DeflateAgreement? {
    for offer in extensions where offer.name == name {
      // An offer that says something we don't know must be declined, §7.1; the next may do.
      guard let wanted = read(offer, isOffer: true) else { continue }
      let keeps = wish == .withContext
      let agreement = DeflateAgreement(
        server: DeflateDirection(keepsContext: keeps && !wanted.serverNoContext, windowBits: wanted.serverBits ?? 15),
        client: DeflateDirection(keepsContext: keeps && !wanted.clientNoContext, windowBits: wanted.clientBits ?? 15))
      out.append("Sec-WebSocket-Extensions: permessage-deflate")
      if !agreement.server.keepsContext { out.append("; server_no_context_takeover") }
      if !agreement.client.keepsContext { out.append("; client_no_context_takeover") }
      if let bits = wanted.serverBits {
        out.append("; server_max_window_bits=")
        out.append(decimal: bits)
      }
      if let bits = wanted.clientBits {
        out.append("; client_max_window_bits=")
        out.append(decimal: bits)
      }
      out.append("\r\n")
      return agreement
    }
    return nil
  }

  // MARK: Client

  static func appendOffer(_ wish: DeflateWish, into out: ByteBuffer) {
    out.append("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
    if case .withoutContext = wish { out.append("; client_no_context_takeover; server_no_context_takeover") }
    out.append("\r\n")
  }

  /// What the server's answer to our offer means. Throws when it says what it may not.
  static func accept(
    _ extensions: [WebSocketExtension], wish: DeflateWish
  ) throws(WireError) -> DeflateAgreement? {
    guard let answer = extensions.first else { return nil }
    guard extensions.count == 1, answer.name == name else {
      throw WireError("the server chose an extension that was not offered", status: 502)
    }
    guard let chosen = read(answer, isOffer: false) else {
      throw WireError("malformed parameters of permessage-deflate", status: 502)
    }
    if case .withoutContext = wish, !chosen.serverNoContext {
      throw WireError("the server keeps context against our offer of permessage-deflate", status: 502)
    }
    let keeps = wish == .withContext
    return DeflateAgreement(
      server: DeflateDirection(keepsContext: !chosen.serverNoContext, windowBits: chosen.serverBits ?? 15),
      client: DeflateDirection(keepsContext: keeps && !chosen.clientNoContext, windowBits: chosen.clientBits ?? 15))
  }

  // MARK: Parameters

  /// nil for an unknown or repeated parameter, and for a value that is missing, too much or out of range.
  private static func read(_ source: WebSocketExtension, isOffer: Bool) -> Parameters? {
    var result = Parameters()
    for (key, value) in source.parameters {
      switch key {
      case "server_no_context_takeover":
        guard !result.serverNoContext, value == nil else { return nil }
        result.serverNoContext = true
      case "client_no_context_takeover":
        guard !result.clientNoContext, value == nil else { return nil }
        result.clientNoContext = true
      case "server_max_window_bits":
        guard result.serverBits == nil, let value, let bits = windowBits[value] else { return nil }
        result.serverBits = bits
      case "client_max_window_bits":
        guard !result.clientBitsAllowed else { return nil }
        result.clientBitsAllowed = true
        if let value {
          guard let bits = windowBits[value] else { return nil }
          result.clientBits = bits
        } else if !isOffer {
          return nil
        }
      default: return nil
      }
    }
    return result
  }

  /// Without leading zeros, §7.1.2.
  private static let windowBits = Dictionary(uniqueKeysWithValues: (8...15).map { ("\($0)", $0) })
}
