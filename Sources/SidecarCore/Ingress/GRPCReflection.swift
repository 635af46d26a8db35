// Server reflection (`grpc.reflection.v1` and `v1alpha`, reflection.proto of grpc/grpc-proto) from the descriptors that the
// sidecar knows: on the framework's side those of the app, on the app's side all of them, which is what can be called.

/// Answers the requests of one reflection stream.
struct GRPCReflection {
  /// Where to look, in order.
  private let pools: [DescriptorPool]

  static func isReflection(_ path: UnsafeRawBufferPointer) -> Bool {
    ASCIIText.equals(path, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
      || ASCIIText.equals(path, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
  }

  init(_ descriptors: Descriptors, app name: ServiceName?, side: GRPCServerConnection.Side) {
    var pools: [DescriptorPool] = []
    switch side {
    case .framework:
      if let name, let bound = descriptors.bound[name] { pools.append(bound) }
    case .app: pools += descriptors.bound.sorted { $0.key < $1.key }.map(\.value)
    }
    if let common = descriptors.common { pools.append(common) }
    self.pools = pools
  }

  var isEmpty: Bool { pools.isEmpty }

  private enum Question {
    case file(String)
    case symbol(String)
    case `extension`
    case extensions(String)
    case list
  }

  /// Appends a ServerReflectionResponse {1 valid_host, 2 original_request, 4 files, 5 extension numbers, 6 services,
  /// 7 error} to a ServerReflectionRequest {1 host, 3 file_by_filename, 4 file_containing_symbol,
  /// 5 file_containing_extension, 6 all_extension_numbers_of_type, 7 list_services}.
  func answer(_ message: UnsafeRawBufferPointer, into reply: ByteBuffer) throws(SidecarError) {
    var question: Question?
    do throws(WireError) {
      var reader = ProtobufReader(message, 0..<message.count)
      while let field = try reader.next() {
        guard case .bytes(let range) = field.value else { continue }
        let bytes = UnsafeRawBufferPointer(rebasing: message[range])
        let text = String(decoding: bytes, as: UTF8.self)
        switch field.number {
        case 1: ProtobufWriter.field(1, bytes, into: reply)
        case 3: question = .file(text)
        case 4: question = .symbol(text)
        case 5: question = .extension
        case 6: question = .extensions(text)
        case 7: question = .list
        default: break
        }
      }
    } catch {
      throw SidecarError(GRPCFailure(.invalidArgument, "the request is no ServerReflectionRequest: \(error)"))
    }
    ProtobufWriter.field(2, message, into: reply)
    switch question {
    case .list: listServices(reply)
    case .file(let name):
      guard let pool = pools.first(where: { $0.file(named: name) != nil }) else {
        return refuse(.notFound, "there is no file \(name.prefix(200))", reply)
      }
      files(name, of: pool, reply)
    case .symbol(let name):
      for pool in pools {
        if let file = pool.file(defining: name) { return files(file, of: pool, reply) }
      }
      refuse(.notFound, "no file defines \(name.prefix(200))", reply)
    case .extension, .extensions: refuse(.unimplemented, "extensions are not looked up", reply)
    case nil: refuse(.invalidArgument, "the request asks for nothing", reply)
    }
  }

  private func listServices(_ reply: ByteBuffer) {
    let list = ByteBuffer()
    for name in Set(pools.flatMap { $0.services.map(\.fullName) }).sorted() {
      let entry = ByteBuffer()
      Self.text(1, name, into: entry)
      ProtobufWriter.field(1, entry.bytes, into: list)
    }
    Self.message(6, list, into: reply)
  }

  /// A file, then all it imports: clients take the first for the answer.
  private func files(_ name: String, of pool: DescriptorPool, _ reply: ByteBuffer) {
    var seen: Set<String> = []
    var order: [String] = []
    // Imports make no circle, or the pool would not stand; `seen` bounds the walk in any case.
    var stack = [(name, false)]
    while let (file, isDone) = stack.popLast() {
      if isDone {
        order.append(file)
      } else if seen.insert(file).inserted {
        stack.append((file, true))
        for dependency in pool.dependencies(of: file) { stack.append((dependency, false)) }
      }
    }
    let list = ByteBuffer()
    for file in order.reversed() {
      guard let bytes = pool.file(named: file) else { continue }
      bytes.withUnsafeBytes { ProtobufWriter.field(1, $0, into: list) }
    }
    Self.message(4, list, into: reply)
  }

  private func refuse(_ status: GRPCStatus, _ text: String, _ reply: ByteBuffer) {
    let error = ByteBuffer()
    ProtobufWriter.field(1, varint: UInt64(status.rawValue), into: error)
    Self.text(2, text, into: error)
    Self.message(7, error, into: reply)
  }

  private static func text(_ number: UInt64, _ text: String, into buffer: ByteBuffer) {
    var text = text
    text.withUTF8 { ProtobufWriter.field(number, UnsafeRawBufferPointer($0), into: buffer) }
  }

  /// Also one without any field: that it is there tells what the answer is.
  private static func message(_ number: UInt64, _ message: ByteBuffer, into buffer: ByteBuffer) {
    ProtobufWriter.varint(number &<< 3 | 2, into: buffer)
    ProtobufWriter.varint(UInt64(message.count), into: buffer)
    buffer.append(message.bytes)
  }
}
