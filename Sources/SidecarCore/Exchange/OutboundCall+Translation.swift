// What a call is sent as to a node that does not simply take it as it is: one that speaks gRPC, one with a codec of its own
// (`content-type` in its metadata, MICRO_SIDECAR_CONTENT_TYPE), one that has refused the caller's format before. Where that
// is another format than the caller's, a descriptor translates there and back. Without one the call goes as it is: most
// servers take both JSON and protobuf, and one that does not says so before anything has run there.

extension PayloadFormat {
  /// JSON is one thing, protobuf and bytes are the other: to whoever has the types the bytes are a message.
  func needsTranslation(to other: PayloadFormat) -> Bool { (self == .json) != (other == .json) }
}

extension OutboundCall: DescriptionWaiter {
  /// Makes the payload what `node` takes, then connects; or waits for descriptors, or fails.
  func prepare(_ target: UpstreamTarget, _ node: NodeState) {
    let wanted = node.format(for: format)
    method = nil
    if let translated {
      // Made for another node, which may read other JSON.
      worker.readers.buffers.give(translated)
      self.translated = nil
    }
    if !format.needsTranslation(to: wanted) {
      sentFormat = wanted
    } else if let service {
      do throws(SidecarError) {
        if let method = try worker.translator.method(service.nameBytes.span, endpoint.span) {
          try translate(method, to: wanted, for: node.dialect.jsonAudience)
        } else if node.dialect.isGRPC, worker.awaitDescription(service, node, self) {
          undescribed = target
          return
        }
      } catch {
        return giveUp(later: error)
      }
    }
    if node.dialect.isGRPC { open(target) } else { dial(target) }
  }

  /// The node has been asked.
  func described() {
    guard let target = undescribed, let node else { return }
    undescribed = nil
    prepare(target, node)
  }

  private func translate(
    _ method: ProtoMethod, to wanted: PayloadFormat, for reader: JSONAudience
  ) throws(SidecarError) {
    guard let request else { return }
    let buffer = worker.readers.buffers.take()
    translated = buffer
    try worker.translator.translate(
      request.bytes(payload), to: wanted, method, .request, for: reader, into: buffer)
    self.method = method
    sentFormat = wanted
  }

  /// Ends the call with a reply that has to be translated back.
  func translateReply(_ reply: UnsafeRawBufferPointer) {
    guard let method else { return }
    let out = worker.readers.buffers.take()
    defer { worker.readers.buffers.give(out) }
    do throws(SidecarError) {
      try worker.translator.translate(reply, to: format, method, .reply, for: audience, into: out)
    } catch {
      return giveUp(badReply(error.detail))
    }
    deliver(out.bytes)
  }

  /// The node has no codec for what it was sent, so nothing ran there. What a descriptor can translate is sent once more,
  /// and from now on at once. Answers false: the connection is not used again.
  func refused(_ error: SidecarError) -> Bool {
    guard let service, let node else {
      giveUp(error)
      return false
    }
    let known = try? worker.translator.method(service.nameBytes.span, endpoint.span)
    if known != nil, method == nil, node.refuses(format) {
      attempt(at: node.target)
    } else if known == nil {
      giveUp(MessageTranslator.missing(after: error, service.name, endpoint.text))
    } else {
      giveUp(error)
    }
    return false
  }
}
