import Foundation
import SidecarCore
import Synchronization
import Testing

@testable import SidecarBuiltins

/// Real registries on real loops and sockets. Each test has a port and a folder to itself, so that nothing else on the host
/// or in another test is heard.
@Suite("mDNS registries find each other", .serialized, .timeLimit(.minutes(1)))
struct MDNSRegistryTests {
  static func options(multicast: Bool = true, folder: TemporaryFolder? = nil) -> MDNSOptions {
    var options = MDNSOptions()
    options.port = UInt16.random(in: 20_000..<30_000)
    options.usesMulticast = multicast
    options.usesRendezvous = folder != nil
    options.folder = folder?.path
    return options
  }

  @Test("over multicast: register, look up, list, watch, deregister")
  func multicast() async throws {
    let options = Self.options()
    let (one, two) = (try RegistryProcess(options), try RegistryProcess(options))
    let service = makeService(uniqueName())
    let events = EventLog()
    let watching = Task { try await two.registry.watch(.all) { await events.append($0) } }
    await events.wait { !$0.isEmpty }
    #expect(await events.events.first == .snapshot([]))

    try await one.registry.register(service, ttl: .seconds(90))
    await events.wait { $0.contains(.upsert(service)) }
    #expect(try await two.registry.lookup(service.name) == [service])
    #expect(try await one.registry.lookup(service.name) == [service])
    #expect(try await two.registry.list() == [service.name])

    try await one.registry.deregister(service)
    await events.wait { $0.contains(.remove(service)) }
    await #expect(throws: RegistryError.notFound(service.name)) { try await two.registry.lookup(service.name) }
    watching.cancel()
    await one.stop()
    await two.stop()
  }

  @Test("a first lookup with a live responder on this host takes less than 10 ms")
  func firstLookup() async throws {
    var milliseconds: [Double] = []
    for _ in 0..<10 {
      let options = Self.options()
      let one = try RegistryProcess(options)
      let service = makeService(uniqueName())
      try await one.registry.register(service, ttl: nil)
      let two = try RegistryProcess(options)
      let start = ContinuousClock.now
      #expect(try await two.registry.lookup(service.name) == [service])
      milliseconds.append(Double((ContinuousClock.now - start).saturatingNanoseconds) / 1e6)
      await one.stop()
      await two.stop()
    }
    milliseconds.sort()
    print("first lookup, ms:", milliseconds.map { String(format: "%.1f", $0) }.joined(separator: " "))
    // The lower quartile, so that turns lost to a busy machine are no failure.
    #expect(milliseconds[2] < 10)
  }
}

/// Against go_peer.py, which was written from the protocol's description and shares no code with us.
@Suite("mDNS with an independent peer", .serialized, .timeLimit(.minutes(1)))
struct MDNSPeerTests {
  private static let script = Recording.folder.appendingPathComponent("go_peer.py").path

  private static func start(_ arguments: [String]) throws -> (process: Process, output: FileHandle, input: FileHandle) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["python3", script] + arguments
    let (output, input) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardInput = input
    try process.run()
    return (process, output.fileHandleForReading, input.fileHandleForWriting)
  }

  private static func output(_ arguments: [String]) throws -> [String] {
    let (process, output, _) = try start(arguments)
    let text = String(decoding: output.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    return text.split(separator: "\n").map(String.init)
  }

  @Test("it finds and lists our services in both domains, strict about the question or not")
  func found() async throws {
    let options = MDNSRegistryTests.options()
    let one = try RegistryProcess(options)
    let service = makeService(uniqueName(), address: "127.0.0.1:9000", version: "1.2")
    try await one.registry.register(service, ttl: nil)
    for domain in ["local", "micro"] {
      let arguments = ["\(options.port)", domain]
      let expected = ["\(service.nodes[0].id) 127.0.0.1:9000 1.2"]
      #expect(try Self.output(["find"] + arguments + [service.name, "--strict"]) == expected)
      #expect(try Self.output(["find"] + arguments + [service.name]) == expected)
      #expect(try Self.output(["list"] + arguments) == [service.name])
    }
    await one.stop()
  }

  @Test("we find it, list it, see it come and go", arguments: ["local", "micro"])
  func finding(_ domain: String) async throws {
    let options = MDNSRegistryTests.options()
    let one = try RegistryProcess(options)
    let events = EventLog()
    let watching = Task { try await one.registry.watch(.all) { await events.append($0) } }
    await events.wait { !$0.isEmpty }
    let name = uniqueName("py")
    let peer = try Self.start(["serve", "\(options.port)", domain, name, "7000"])
    #expect(String(decoding: peer.output.availableData, as: UTF8.self).hasPrefix("ready"))
    let service = Service(
      name: name, version: "9.9",
      nodes: [Node(id: "\(name)-py", address: "127.0.0.1:7000", metadata: ["made": "by python"])])
    await events.wait { $0.contains(.upsert(service)) }
    #expect(try await one.registry.lookup(name) == [service])
    #expect(try await one.registry.list() == [name])
    try peer.input.close()
    await events.wait { $0.contains(.remove(service)) }
    peer.process.waitUntilExit()
    watching.cancel()
    await one.stop()
  }
}

/// Through the folder alone: no multicast.
@Suite("mDNS rendezvous", .serialized, .timeLimit(.minutes(1)))
struct MDNSRendezvousTests {
  @Test("sidecars of one host find each other without multicast, and see each other leave")
  func meeting() async throws {
    let folder = try TemporaryFolder()
    let options = MDNSRegistryTests.options(multicast: false, folder: folder)
    let (one, two) = (try RegistryProcess(options), try RegistryProcess(options))
    let events = EventLog()
    let watching = Task { try await two.registry.watch(.all) { await events.append($0) } }
    await events.wait { !$0.isEmpty }
    let service = makeService(uniqueName(), serviceMetadata: ["team": "blue"])
    try await one.registry.register(service, ttl: nil)
    await events.wait { $0.contains(.upsert(service)) }
    #expect(try await two.registry.lookup(service.name) == [service])
    await one.stop()
    await events.wait { $0.contains(.remove(service)) }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
    watching.cancel()
    await two.stop()
  }

  @Test("the file of a process that died counts no more; garbage is left out and logged once")
  func deadNeighbour() async throws {
    let folder = try TemporaryFolder()
    let sleeper = Process()
    sleeper.executableURL = URL(fileURLWithPath: "/bin/sleep")
    sleeper.arguments = ["60"]
    try sleeper.run()
    let service = makeService(uniqueName())
    let file: JSONValue = [
      "pid": JSONValue(sleeper.processIdentifier), "host": .string(hostName()),
      "renewed": JSONValue(Int(Date().timeIntervalSince1970)), "services": [service.json()],
    ]
    try Data(file.text().utf8).write(to: URL(fileURLWithPath: folder.path + "/neighbour.json"))
    try Data("{".utf8).write(to: URL(fileURLWithPath: folder.path + "/garbage.json"))
    let one = try RegistryProcess(MDNSRegistryTests.options(multicast: false, folder: folder))
    let events = EventLog()
    let watching = Task { try await one.registry.watch(.all) { await events.append($0) } }
    await events.wait { !$0.isEmpty }
    #expect(await events.events == [.snapshot([service])])
    // Not `terminate()`: the child may have inherited a mask that blocks it.
    kill(sleeper.processIdentifier, SIGKILL)
    sleeper.waitUntilExit()
    await events.wait { $0.contains(.remove(service)) }
    #expect(one.log.text.components(separatedBy: "garbage.json is left out").count == 2)
    watching.cancel()
    await one.stop()
  }

  @Test("a folder that others may enter is refused, and the diagnosis says what to do")
  func openFolder() async throws {
    let folder = try TemporaryFolder()
    try FileManager.default.setAttributes([.posixPermissions: 0o777], ofItemAtPath: folder.path)
    let one = try RegistryProcess(MDNSRegistryTests.options(multicast: false, folder: folder))
    let findings = try await one.registry.diagnose()
    let problem = try #require(findings.first { $0.isProblem })
    #expect(problem.subject == "rendezvous on this host" && problem.finding.contains("group or others may enter it"))
    #expect(problem.nextStep?.contains("mode 0700") == true)
    #expect(one.log.text.contains("group or others may enter it"))
    await one.stop()
  }
}
