// The configuration file on a simulated host: read again when it changes, refused when it is wrong.

import SidecarSim
import Testing

@testable import SidecarCore

@Suite("Reading the configuration again") struct ConfigurationReloaderTests {
  private func write(_ text: String, _ control: ControlWorld) throws {
    try control.loop.writeFile("/etc/sidecar.json", Array(text.utf8), mode: 0o644)
  }

  private func load(_ control: ControlWorld) throws(SettingsError) -> Settings {
    var sources = SettingsSources()
    sources.environment = ["MICRO_CONFIG": "/etc/sidecar.json"]
    let loop = control.loop
    sources.readFile = { try loop.readFile($0, limit: 1 << 20) }
    return try Settings.load(sources)
  }

  @Test func `a changed file is taken over as a whole, a wrong one not at all`() throws {
    let control = ControlWorld()
    try control.loop.makeFolder("/etc", mode: 0o755)
    try write(#"{"client_retries": 2, "policies": [{"service": "a", "retries": 3}]}"#, control)
    let reloader = ConfigurationReloader(
      try load(control), driver: control.loop, log: control.log, load: { () throws(SettingsError) in try load(control) }
    )
    var tables: [PolicyTable] = []
    reloader.onChange = { tables.append($0.policies) }
    reloader.start()
    #expect(reloader.current.policies.endpoint("a", "B.C").values.retry.limit == 3)

    try write(#"{"policies": [{"service": "a", "retries": 5, "timeout": "soon"}]}"#, control)
    try control.require(within: .seconds(5), "it is refused") { reloader.refused == 1 }
    #expect(control.log.count(.error, containing: "policies[0].timeout") == 1)
    #expect(tables.isEmpty && reloader.current.policies.endpoint("a", "B.C").values.retry.limit == 3)

    try write(#"{"client_retries": 4, "zone": "b", "policies": [{"service": "b", "retries": 7}]}"#, control)
    try control.require(within: .seconds(5), "it is taken over") { reloader.taken == 1 }
    let table = try #require(tables.last)
    #expect(table.endpoint("b", "B.C").values.retry.limit == 7 && table.endpoint("a", "B.C").values.retry.limit == 4)
    #expect(control.log.count(.warning, containing: "after a restart") == 1)
    #expect(reloader.current.zone == nil, "what cannot change stays, and is said")

    reloader.reload(because: "SIGHUP")
    #expect(reloader.taken == 2 && tables.count == 2)
    reloader.stop()
  }

  @Test func `a token's file is read again, and one that is empty is refused`() throws {
    let control = ControlWorld()
    let loop = control.loop
    try loop.makeFolder("/run", mode: 0o755)
    func write(_ text: String) throws { try loop.writeFile("/run/token", Array(text.utf8), mode: 0o600) }
    func load() throws(SettingsError) -> Settings {
      var sources = SettingsSources()
      sources.environment = ["MICRO_ADMIN_ADDRESS": ":8083", "MICRO_ADMIN_TOKEN_FILE": "/run/token"]
      sources.readFile = { try loop.readFile($0, limit: 1 << 20) }
      return try Settings.load(sources)
    }
    try write("first\r\n")
    let reloader = ConfigurationReloader(
      try load(), driver: loop, log: control.log, load: { () throws(SettingsError) in try load() })
    reloader.start()
    #expect(reloader.current.adminToken == "first")

    try write("second")
    try control.require(within: .seconds(5), "it is taken over") { reloader.taken == 1 }
    #expect(reloader.current.adminToken == "second")
    #expect(control.log.count(.warning, containing: "after a restart") == 0)

    try write("\n")
    try control.require(within: .seconds(5), "it is refused") { reloader.refused == 1 }
    #expect(reloader.current.adminToken == "second")
    reloader.stop()
  }

  @Test func `a reload cannot open the admin listener to everybody`() throws {
    let control = ControlWorld()
    var settings = Settings()
    settings.adminAddress = .ipv4(address: 0, port: 8083)
    settings.adminToken = "sesame"
    let reloader = ConfigurationReloader(
      settings, driver: control.loop, log: control.log,
      load: { () throws(SettingsError) in
        var open = settings
        open.adminToken = nil
        return open
      })
    reloader.reload(because: "SIGHUP")
    #expect(reloader.refused == 1 && reloader.current.adminToken == "sesame")
    #expect(control.log.count(.error, containing: "can be reached from other machines") == 1)
  }
}
