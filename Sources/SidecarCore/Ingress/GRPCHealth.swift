// What the sidecar answers for the app by gRPC: `grpc.health.v1` (health.proto of grpc/grpc-proto), go-micro's Debug
// handler, and server reflection (`GRPCReflection`).

/// A method that is no call.
enum GRPCBuiltIn {
  case healthCheck
  case healthWatch
  /// A `healthWatch` whose request has come.
  case watch(GRPCHealthWatch)
  case debug(DebugReplies.Method)
  /// As many requests as the caller likes, each with its reply.
  case reflection(GRPCReflection)

  /// Debug is known by its endpoint, not by its path.
  init?(_ path: UnsafeRawBufferPointer, _ connection: GRPCServerConnection) {
    if GRPCReflection.isReflection(path) {
      let worker = connection.worker
      self = .reflection(
        GRPCReflection(
          worker.translator.descriptors, app: worker.settings.serviceName, side: connection.side))
    } else if ASCIIText.equals(path, "/grpc.health.v1.Health/Check") {
      self = .healthCheck
    } else if ASCIIText.equals(path, "/grpc.health.v1.Health/Watch") {
      self = .healthWatch
    } else {
      return nil
    }
  }

  /// Whether the sidecar answers it on the app's side too, where the question is about the sidecar.
  var isOfSidecar: Bool {
    switch self {
    case .healthCheck, .healthWatch, .reflection: true
    case .watch, .debug: false
    }
  }
}

enum GRPCHealth {
  /// ServingStatus.
  enum Status: UInt64 {
    case serving = 1
    case notServing = 2
    case serviceUnknown = 3
  }

  /// The service that a HealthCheckRequest {1 string service} asks for.
  static func service(_ message: UnsafeRawBufferPointer) throws(SidecarError) -> String {
    var name = ""
    do throws(WireError) {
      var reader = ProtobufReader(message, 0..<message.count)
      while let field = try reader.next() {
        guard case (1, .bytes(let range)) = (field.number, field.value) else { continue }
        name = String(decoding: UnsafeRawBufferPointer(rebasing: message[range]), as: UTF8.self)
      }
    } catch {
      throw SidecarError(GRPCFailure(.invalidArgument, "the request is no HealthCheckRequest: \(error)"))
    }
    return name
  }

  /// Of `""`, which is the whole, and of the app's service. Nil: there is no such service here.
  static func status(of name: String, _ connection: GRPCServerConnection) -> Status? {
    let worker = connection.worker
    switch connection.side {
    case .app:
      // The sidecar itself takes calls, or this would not be answered.
      return name.isEmpty ? worker.isDraining ? .notServing : .serving : nil
    case .framework:
      guard name.isEmpty || name == worker.settings.serviceName else { return nil }
      return worker.isAppHealthy && !worker.isDraining ? .serving : .notServing
    }
  }

  static func status(_ message: UnsafeRawBufferPointer, _ connection: GRPCServerConnection) throws(SidecarError)
    -> Status
  {
    let name = try service(message)
    guard let status = status(of: name, connection) else {
      throw SidecarError(GRPCFailure(.notFound, "unknown service \(name.prefix(200))"))
    }
    return status
  }

  /// HealthCheckResponse {1 status}.
  static func append(_ status: Status, to buffer: ByteBuffer) {
    ProtobufWriter.field(1, varint: status.rawValue, into: buffer)
  }
}

/// A caller that hears of every change of health until it leaves.
final class GRPCHealthWatch {
  private weak var stream: GRPCServerStream?
  private unowned let connection: GRPCServerConnection
  private let name: String
  private var told: GRPCHealth.Status?

  init(stream: GRPCServerStream, connection: GRPCServerConnection, name: String) {
    self.stream = stream
    self.connection = connection
    self.name = name
  }

  /// Tells the status unless it was the last thing told.
  func tell() {
    let status = GRPCHealth.status(of: name, connection) ?? .serviceUnknown
    guard status != told else { return }
    told = status
    let message = ByteBuffer()
    GRPCHealth.append(status, to: message)
    stream?.tell(message.bytes)
  }

  func end() { stream?.endWatch() }
}
