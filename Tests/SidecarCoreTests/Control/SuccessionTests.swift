// What one process leaves to the next, and what the next makes of it.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Succession") struct SuccessionTests {
  private func bequest() -> Bequest {
    var bequest = Bequest()
    bequest.places = [
      .init(role: .app, configured: "127.0.0.1:8081", bound: .loopback(port: 8081), sockets: 3),
      .init(role: .admin, configured: "127.0.0.1:8083", bound: .loopback(port: 8083), sockets: 1),
    ]
    bequest.serverID = "one"
    bequest.isWithdrawn = true
    bequest.isAppHealthy = false
    return bequest
  }

  @Test func `what is written is read back, with the numbers that the new process has`() throws {
    let read = try Bequest(json: try JSONValue(parsing: Array(bequest().json().text().utf8)), first: 5)
    #expect(read.places == bequest().places)
    #expect(read.numbers == [5, 6, 7, 8])
    #expect(read.numbers(of: .app) == [5, 6, 7])
    #expect(read.numbers(of: .framework).isEmpty)
    #expect(read.numbers(of: .admin) == [8])
    #expect(read.serverID == "one" && read.isWithdrawn && !read.isAppHealthy)
  }

  @Test(arguments: [
    "{}", "[]", #"{"format":2}"#, #"{"format":1,"places":[{}]}"#,
    #"{"format":1,"places":[{"role":"app","configured":"x","bound":"127.0.0.1:1","sockets":9999}]}"#,
    #"{"format":1,"places":[{"role":"app","configured":"x","bound":"nowhere","sockets":1}]}"#,
  ])
  func `what makes no sense is refused`(_ text: String) {
    #expect(throws: WireError.self) { try Bequest(json: try JSONValue(parsing: Array(text.utf8)), first: 5) }
  }

  @Test func `every socket has a listener and every worker a socket`() {
    #expect(Bequest.shares(of: [5, 6], among: 2) == [[5], [6]])
    #expect(Bequest.shares(of: [5, 6, 7], among: 2) == [[5, 7], [6]])
    #expect(Bequest.shares(of: [5], among: 3) == [[5], [5], [5]])
    #expect(Bequest.shares(of: [], among: 2) == [[], []])
  }

  @Test func `addresses must be the same`() {
    var settings = Settings()
    #expect(bequest().problem(for: settings) == nil)
    settings.sidecarAddress = .loopback(port: 9)
    #expect(bequest().problem(for: settings)?.message.contains("127.0.0.1:9 and was 127.0.0.1:8081") == true)
    settings.sidecarAddress = .loopback(port: 8081)
    settings.adminAddress = nil
    #expect(bequest().problem(for: settings)?.message.contains("off and was 127.0.0.1:8083") == true)
  }

  @Test func `a lease that was given up is neither renewed nor removed`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let lease = RegistrationLease(
      service: named("app", "a"), registries: [registry], driver: control.loop, log: control.log)
    lease.setHealthy(true)
    try control.require(within: .seconds(1), "it is registered") { registry.ids("app") == ["a"] }
    lease.abandon()
    lease.setHealthy(false)
    control.world.run(for: .seconds(100))
    #expect(registry.ids("app") == ["a"])
    #expect(registry.times("register").count == 1)
    #expect(registry.times("deregister").isEmpty)
    try control.world.checkNoLeaks()
  }

  @Test func `a lease given up while its write is under way ends all the same`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    registry.mode = .hanging
    let lease = RegistrationLease(
      service: named("app", "a"), registries: [registry], driver: control.loop, log: control.log)
    lease.setHealthy(true)
    control.world.run(for: .milliseconds(10))
    lease.abandon()
    registry.mode = .up
    control.world.run(for: .seconds(100))
    #expect(registry.times("deregister").isEmpty)
    #expect(lease.states.map(\.phase) == [.ended])
    try control.world.checkNoLeaks()
  }

  @Test func `registrations of others go on with the time that they have left`() throws {
    let control = ControlWorld()
    let registry = control.registry("one")
    let old = LeaseTable(registries: [registry], driver: control.loop, log: control.log)
    old.register(named("lasting", "a"), ttl: nil) { _ in }
    old.register(named("passing", "b"), ttl: 10_000_000_000) { _ in }
    control.world.run(for: .seconds(4))
    let left = try JSONValue(parsing: Array(old.bequest().text().utf8))
    let new = LeaseTable(registries: [registry], driver: control.loop, log: control.log)
    new.inherit(left)
    var isWritten = false
    new.whenWritten { isWritten = true }
    try control.require(within: .seconds(1), "all are written") { isWritten }
    old.abandon()
    #expect(old.count == 0 && new.count == 2)
    control.world.run(for: .seconds(4))
    #expect(registry.ids("passing") == ["b"])
    control.world.run(for: .seconds(4))
    #expect(registry.ids("passing").isEmpty, "its ttl began in the process before")
    control.world.run(for: .seconds(100))
    #expect(registry.ids("lasting") == ["a"])
    var isStopped = false
    new.stop { isStopped = true }
    try control.require(within: .seconds(2), "it stops") { isStopped }
    #expect(registry.ids("lasting").isEmpty)
  }
}
