import SidecarCore
import SidecarSim
import Testing

@testable import SidecarBuiltins

@Suite("Registry options")
struct RegistryOptionsTests {
  private let simulated = SimulatedLoop()

  private func options(
    _ argument: String?, addresses: [String] = [], environmentServers: [String] = []
  ) throws(ConfigurationError) -> RegistryOptions {
    try RegistryOptions(
      PluginEnvironment(driver: simulated.loop, log: NoLog(), argument: argument, addresses: addresses), of: "consul",
      defaultServers: ["127.0.0.1"], defaultPort: 8500, options: ["dc", "stale", "token", "token_file", "wait"],
      environmentServers: environmentServers)
  }

  @Test("servers and options are cut apart, and servers keep their order")
  func both() throws {
    let found = try options("a:1+https://b.example/base/+[::1]:9+fe80::1?dc=eu%2Cwest&stale=true")
    #expect(found.servers.map(\.description) == ["a:1", "https://b.example:8500/base", "[::1]:9", "[fe80::1]:8500"])
    #expect(found.servers[3].host == "fe80::1")
    #expect(found["dc"] == "eu,west")
    #expect(try found.flag("stale"))
    #expect(found["wait"] == nil)
  }

  @Test(
    "servers come from the argument, MICRO_REGISTRY_ADDRESS, the registry's environment, the default: the first told")
  func precedence() throws {
    #expect(try options("x", addresses: ["y"], environmentServers: ["z"]).servers.map(\.host) == ["x"])
    #expect(try options("?dc=a", addresses: ["y"], environmentServers: ["z"]).servers.map(\.host) == ["y"])
    #expect(try options(nil, environmentServers: ["z"]).servers.map(\.host) == ["z"])
    #expect(try options(nil).servers.map(\.authority) == ["127.0.0.1:8500"])
  }

  @Test(
    "what is no server or no option is refused by name",
    arguments: [
      ("a:0", "a:0"), ("a:99999", "a:99999"), ("a b", "a b"), ("://a", "://a"), ("a@b", "a@b"), ("[::1", "[::1"),
      ("a?colour=red", "\"colour\" is no option"), ("a?dc", "dc"), ("a?dc=1&dc=2", "dc"),
      ("a?dc=%zz", "option dc has a %"),
      ("a?dc=%2", "option dc has a %"), ("a?dc=%ff", "option dc has a %"),
    ])
  func refused(argument: String, named: String) {
    let error = #expect(throws: ConfigurationError.self) { try options(argument) }
    #expect(error?.message.contains("registry consul") == true)
    #expect(error?.message.contains(named) == true)
  }

  @Test("values of the wrong kind are refused with what is expected")
  func kinds() throws {
    let found = try options("?stale=perhaps&wait=9")
    #expect(throws: ConfigurationError.self) { try found.flag("stale") }
    #expect(throws: ConfigurationError.self) { try found.number("wait", in: 10...20, default: 12) }
    #expect(throws: ConfigurationError.self) { try found.choice("stale", of: ["a", "b"]) }
    #expect(try found.number("wait", in: 1...20, default: 12) == 9)
    #expect(try found.number("dc", in: 1...20, default: 12) == 12)
  }

  @Test("a secret is read from its file each time, without the line's end")
  func secret() throws {
    simulated.host.files.put("/run/token", "one\n")
    let found = try options("?token_file=/run/token")
    #expect(try found.secret("token") == "one")
    simulated.host.files.put("/run/token", "two\r\n")
    #expect(try found.secret("token") == "two")
    #expect(try options("?token=here").secret("token") == "here")
    let missing = try options("?token_file=/run/none")
    let error = #expect(throws: ConfigurationError.self) { try missing.secret("token") }
    #expect(error?.message.contains("/run/none") == true)
  }
}
