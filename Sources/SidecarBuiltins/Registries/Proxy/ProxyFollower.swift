// Follows what another sidecar knows, by the best way it has:
//
//   lines ── it answers with a plain list ──▶ WebSocket ── it does not upgrade ──▶ polling
//
// Lines are this program's (`GET /registry?initial=true`, NDJSON): what is there, `synced`, then changes. The sidecar of 2018
// has the WebSocket only, which begins with changes and drops some when it is busy, so there everything is read beside it,
// once at the start and again each minute. All ways end with an error; the next begins after a jittered pause.

import SidecarCore

/// Threading: the control loop only (`Sendable` so that its task may hold it).
final class ProxyFollower: @unchecked Sendable {
  /// Bytes of one event; a longer one ends the watch, which is then begun anew.
  static let eventBytesMax = 4 << 20
  /// After this silence of a watch by lines the sidecar is asked for a sign of life.
  static let silence = Duration.seconds(30)
  /// After so many silences in a row the watch is begun anew: its connection may be dead though the sidecar lives.
  static let silencesMax = 10
  /// A sidecar of 2018 pings each 54 s.
  static let webSocketSilence = Duration.seconds(75)
  /// How often everything is read anew where changes may have been dropped.
  static let rereadNanoseconds: Int64 = 60_000_000_000
  /// The longest pause between two tries.
  static let pauseNanosecondsMax: Int64 = 1_000_000_000

  private let client: HTTPClient
  private let reader: ProxyReader
  private let content: WatchedServices
  private let driver: any Driver
  private let pollInterval: Duration
  private var backoff = Backoff()

  init(
    client: HTTPClient, reader: ProxyReader, content: WatchedServices, driver: any Driver, pollInterval: Duration
  ) {
    self.client = client
    self.reader = reader
    self.content = content
    self.driver = driver
    self.pollInterval = pollInterval
  }

  /// Until its task is cancelled.
  func run() async {
    while !Task.isCancelled {
      do throws(RegistryError) {
        try await follow()
      } catch {
        if Task.isCancelled { return }
        content.lost(error)
      }
      await driver.pause(nanoseconds: min(backoff.failed(random: &driver.random), Self.pauseNanosecondsMax))
    }
  }

  private func follow() async throws(RegistryError) {
    do throws(HTTPFailure) {
      let stream = try await client.stream(
        HTTPRequest(.get, "/registry?initial=true", headers: [("Accept", "application/x-ndjson")]), within: .seconds(5))
      if stream.head.status == 200, stream.head.headers.contains(where: Self.namesLines) {
        return try await followLines(LineStream(stream, lineBytesMax: Self.eventBytesMax), stream.endpoint)
      }
      stream.close()
      if let socket = try await client.webSocket("/registry", messageMax: Self.eventBytesMax, within: .seconds(5)) {
        return try await followWebSocket(socket)
      }
    } catch {
      throw .unavailable(error.description)
    }
    try await poll()
  }

  private static func namesLines(_ header: (name: String, value: String)) -> Bool {
    header.name == "content-type" && header.value.hasPrefix("application/x-ndjson")
  }

  private func synced() {
    content.inSync()
    backoff.reset()
  }

  // MARK: Lines

  private struct Key: Hashable {
    var name: ServiceName
    var version: String
  }

  private func followLines(_ lines: LineStream, _ endpoint: HTTPEndpoint) async throws(HTTPFailure) {
    var initial: [Key: Service]? = [:]
    var silences = 0
    while silences < Self.silencesMax {
      var line: [UInt8]?
      do throws(HTTPFailure) {
        line = try await lines.next(silence: Self.silence, driver: driver)
      } catch {
        guard error.cause == .timedOut else { throw error }
        try await requireLife(of: endpoint)
        silences += 1
        continue
      }
      silences = 0
      guard let line else { throw HTTPFailure(endpoint: endpoint, cause: .closed("it ended the watch")) }
      guard let event = event(line) else { continue }
      if event.action == "synced" {
        content.replaceAll(with: Array((initial ?? [:]).values))
        initial = nil
        synced()
      } else if let service = event.service {
        guard initial != nil else {
          apply(event.action, service)
          continue
        }
        let key = Key(name: service.name, version: service.version)
        // One that is told in parts: the first says what its nodes share.
        var whole = initial?[key] ?? service
        if initial?[key] != nil { whole.nodes += service.nodes }
        initial?[key] = whole
      }
    }
  }

  private func requireLife(of endpoint: HTTPEndpoint) async throws(HTTPFailure) {
    let reply = try await client.call(HTTPRequest(.get, "/health"), within: .seconds(5))
    guard reply.endpoint == endpoint else {
      throw HTTPFailure(endpoint: endpoint, cause: .closed("it does not answer any more"))
    }
  }

  // MARK: WebSocket and polling

  private func followWebSocket(_ socket: WebSocketClient) async throws(HTTPFailure) {
    defer { socket.close() }
    let rereads = startTask(on: driver) { [self] in
      while !Task.isCancelled {
        do throws(RegistryError) {
          content.replaceAll(with: try await reader.all())
          synced()
        } catch {
          guard !Task.isCancelled else { return }
          // What is not read anew may be wrong: the watch ends and all begins again.
          content.lost(error)
          socket.close()
          return
        }
        await driver.pause(nanoseconds: Self.rereadNanoseconds)
      }
    }
    defer { rereads.cancel() }
    while let message = try await socket.next(silence: Self.webSocketSilence) {
      guard let event = event(message), let service = event.service else { continue }
      apply(event.action, service)
    }
    throw HTTPFailure(endpoint: client.preferredEndpoint, cause: .closed("it ended the watch"))
  }

  private func poll() async throws(RegistryError) {
    while true {
      content.replaceAll(with: try await reader.all())
      synced()
      await driver.pause(nanoseconds: pollInterval.saturatingNanoseconds)
      if Task.isCancelled { throw .unavailable("cancelled") }
    }
  }

  // MARK: Events

  private func event(_ bytes: [UInt8]) -> (action: String, service: Service?)? {
    guard let json = try? JSONValue(parsing: bytes), let action = json.value(ignoringCase: "action")?.stringValue
    else {
      reader.leftOut(bytes, because: "it is no event of a registry")
      return nil
    }
    guard let service = json.value(ignoringCase: "service"), !service.isNull else { return (action, nil) }
    return reader.service(service).map { (action, $0) }
  }

  private func apply(_ action: String, _ service: Service) {
    guard action != "delete" else {
      let nodes =
        service.nodes.isEmpty
        ? content[service.name].first { $0.version == service.version }?.nodes ?? [] : service.nodes
      content.remove(nodes.map(\.id), of: service.name)
      return
    }
    var service = service
    if service.endpoints.isEmpty, service.metadata.isEmpty, let shared = content.shared(service.name, service.version) {
      service.endpoints = shared.endpoints
      service.metadata = shared.metadata
    }
    content.put(service)
  }
}
