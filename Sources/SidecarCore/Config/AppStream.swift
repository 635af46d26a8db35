/// An endpoint that the app serves as a stream: one element of `MICRO_APP_STREAMS`.
package struct AppStream: Hashable, Sendable {
  /// How an app that is spoken to over HTTP takes a stream.
  package enum Form: String, Sendable {
    case websocket, ndjson
  }

  /// `Handler.Method`
  package var endpoint: String
  /// Nil: WebSocket is tried, and NDJSON when the app refuses it.
  package var form: Form?

  /// From `Chat.Talk`, `Chat.Talk=websocket` or `Chat.Talk=ndjson`; nil for anything else.
  package init?(_ text: String) {
    let parts = text.split(separator: "=", omittingEmptySubsequences: false)
    guard let name = parts.first, parts.count <= 2, PathRoute.isEndpointName(String(name)) else { return nil }
    endpoint = String(name)
    if parts.count == 2 {
      guard let form = Form(rawValue: String(parts[1])) else { return nil }
      self.form = form
    }
  }
}
