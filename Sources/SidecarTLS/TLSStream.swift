// A byte stream over TLS over another byte stream, in either role: to whoever reads and writes it a stream like any other. For
// connections of the control plane that are few; the data path has none.

import SidecarCore

/// Loop-confined.
package final class TLSStream: ByteStream, StreamHandler {
  private let driver: any Driver
  private let session: TLSSession
  private let isClient: Bool
  private var carrier: ByteStream?
  private let plain = ByteBuffer()
  private let out = ByteBuffer()
  private var isPaused = false
  private var isOpenTold = false
  private var isEndTold = false
  private var isClosed = false

  /// The server's end of an accepted stream. Errors: no session can be made.
  package init(accepting carrier: ByteStream, _ context: TLSContext, _ driver: any Driver) throws(TLSError) {
    self.driver = driver
    session = try TLSSession(context, peer: .client)
    isClient = false
    self.carrier = carrier
    super.init()
    carrier.handler = self
  }

  /// The client's end; `connect` dials.
  package init(client context: TLSContext, host: String?, _ driver: any Driver) throws(TLSError) {
    self.driver = driver
    session = try TLSSession(context, peer: .server(host: host))
    isClient = true
    super.init()
  }

  package func connect(to address: SocketAddress) { carrier = driver.connect(to: address, handler: self) }

  // MARK: ByteStream

  override package var peerIsCertified: Bool { session.hasPeerCertificate }
  override package var queuedBytes: Int { carrier?.queuedBytes ?? 0 }
  override package var peerAddress: SocketAddress? { carrier?.peerAddress }
  override package var localAddress: SocketAddress? { carrier?.localAddress }

  override package func write(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) -> WriteState {
    guard !isClosed, session.isEstablished else { return .closed }
    do throws(TLSError) {
      if !first.isEmpty { try session.write(first) }
      if !second.isEmpty { try session.write(second) }
    } catch {
      carrier?.reset()
      return .closed
    }
    return flush()
  }

  override package func pauseReading() {
    isPaused = true
    carrier?.pauseReading()
  }

  override package func resumeReading() {
    guard isPaused else { return }
    isPaused = false
    carrier?.resumeReading()
    if !plain.isEmpty { driver.later { [weak self] in self?.deliver() } }
  }

  override package func shutdownWrites() {
    session.close()
    flush()
    carrier?.shutdownWrites()
  }

  override package func close() {
    session.close()
    flush()
    carrier?.close()
  }

  override package func reset() { carrier?.reset() }

  // MARK: The carrier

  package func streamOpened(_ stream: ByteStream) { advance(UnsafeRawBufferPointer(start: nil, count: 0)) }
  package func streamRead(_ stream: ByteStream, _ bytes: UnsafeRawBufferPointer) { advance(bytes) }

  private func advance(_ bytes: UnsafeRawBufferPointer) {
    do throws(TLSError) {
      if bytes.isEmpty { try session.handshake() } else { try session.receive(bytes) }
      try session.read(into: plain)
    } catch {
      failure = error.message
      // What is queued may hold the alert that tells the peer why.
      flush()
      carrier?.close()
      return
    }
    flush()
    if session.isEstablished, isClient, !isOpenTold {
      isOpenTold = true
      handler?.streamOpened(self)
    }
    deliver()
  }
  private var failure: String?

  private func deliver() {
    guard !isPaused, !isClosed else { return }
    if !plain.isEmpty {
      // Its reader may write from inside, but never reads from here.
      let taken = Array(plain.bytes)
      plain.removeAll()
      taken.withUnsafeBytes { handler?.streamRead(self, $0) }
    }
    if session.peerEnded { tellEnd() }
  }

  private func tellEnd() {
    guard !isEndTold, !isClosed else { return }
    isEndTold = true
    handler?.streamEnded(self)
  }

  package func streamEnded(_ stream: ByteStream) { tellEnd() }
  package func streamDrained(_ stream: ByteStream) { handler?.streamDrained(self) }

  package func streamClosed(_ stream: ByteStream, _ end: StreamEnd) {
    guard !isClosed else { return }
    isClosed = true
    let handler = handler
    self.handler = nil
    carrier = nil
    handler?.streamClosed(self, failure.map { .reset($0) } ?? end)
  }

  @discardableResult
  private func flush() -> WriteState {
    out.removeAll()
    session.takeOutput(into: out)
    guard let carrier, !out.isEmpty else { return .open }
    return carrier.write(out.bytes)
  }
}
