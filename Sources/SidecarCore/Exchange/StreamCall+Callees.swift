// Which callee a streaming call gets, and the translation of its messages.

extension StreamCall {
  /// Makes the callee for the node picked, or for the app. It starts to connect and reports from a later turn.
  func makeCallee() throws(SidecarError) -> any StreamCallee {
    throw SidecarError(.unsupportedNodeDialect, "streams are not in this version")
  }

  /// Which of a method's two messages is meant.
  enum Direction { case request, reply }

  /// Writes `message` in another format. Errors: the caller's fault for requests, the callee's for replies.
  func translate(
    _ message: UnsafeRawBufferPointer, _ format: PayloadFormat, to wanted: PayloadFormat, _ direction: Direction,
    into out: ByteBuffer
  ) throws(SidecarError) {
    throw SidecarError(.unsupportedMediaType, "no descriptor says how \(endpoint.text) is translated")
  }
}
