// Descriptor files on a simulated host: read at the start, read again when they change, kept when they break.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Descriptor files") struct DescriptorLoaderTests {
  private func bytes(_ name: String) -> [UInt8] { ProtobufFixtures.source(name).bytes }

  @Test func `files are read again when they change, and a bad one changes nothing`() throws {
    let control = ControlWorld()
    try control.loop.makeFolder("/etc", mode: 0o755)
    try control.loop.writeFile("/etc/all.binpb", bytes("greeter.binpb"), mode: 0o644)
    let loader = try DescriptorLoader([DescriptorFile(path: "/etc/all.binpb")], driver: control.loop, log: control.log)
    var changes = 0
    loader.onChange = { _ in changes += 1 }
    let first = loader.current
    #expect(try first.method(service: "any", endpoint: "Say.Hello") != nil)
    try control.loop.writeFile("/etc/all.binpb", [1, 2, 3], mode: 0o644)
    try control.require(within: .seconds(5), "it is told") { control.log.count(.error, containing: "all.binpb") == 1 }
    #expect(loader.current === first && changes == 0)
    try control.loop.writeFile("/etc/all.binpb", bytes("order.binpb"), mode: 0o644)
    try control.require(within: .seconds(5), "it is read") { changes == 1 }
    #expect(loader.current.common?.message("shop.Order") != nil)
    #expect(try loader.current.method(service: "any", endpoint: "Say.Hello") == nil)
  }

  @Test func `a bad file at the start names itself and the next step`() throws {
    let control = ControlWorld()
    do throws(ConfigurationError) {
      _ = try DescriptorLoader([DescriptorFile(path: "/etc/none.binpb")], driver: control.loop, log: control.log)
      Issue.record("a missing file is taken")
    } catch {
      #expect(error.message.contains("/etc/none.binpb cannot be read"))
      #expect(error.message.contains("protoc --include_imports"))
    }
  }

  @Test func `a file bound to a service is for it alone`() throws {
    let control = ControlWorld()
    try control.loop.makeFolder("/etc", mode: 0o755)
    try control.loop.writeFile("/etc/all.binpb", bytes("greeter.binpb"), mode: 0o644)
    try control.loop.writeFile("/etc/shop.binpb", bytes("order.binpb"), mode: 0o644)
    let loader = try DescriptorLoader(
      [DescriptorFile(path: "/etc/all.binpb"), DescriptorFile(service: "shop", path: "/etc/shop.binpb")],
      driver: control.loop, log: control.log)
    #expect(loader.current.bound["shop"]?.message("shop.Order") != nil)
    #expect(loader.current.common?.message("shop.Order") == nil)
    #expect(try loader.current.method(service: "shop", endpoint: "Say.Hello") != nil, "files for all are for it too")
  }

  @Test func `a path may have an equals sign, a service has no slash`() {
    #expect(DescriptorFile("a.binpb") == DescriptorFile(path: "a.binpb"))
    #expect(DescriptorFile("go.micro.srv.x=b.binpb") == DescriptorFile(service: "go.micro.srv.x", path: "b.binpb"))
    #expect(DescriptorFile("/etc/a=b.binpb") == DescriptorFile(path: "/etc/a=b.binpb"))
    #expect(DescriptorFile("x=") == nil && DescriptorFile("=x") == nil)
  }
}
