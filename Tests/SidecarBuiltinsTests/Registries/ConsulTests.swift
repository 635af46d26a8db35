import SidecarCore
import SidecarSim
import Testing

@testable import SidecarBuiltins

@Suite("Consul's entries") struct ConsulTests {
  /// From wire/registry-broker.md §3: what Python's zlib and today's Go write for the same.
  @Test(arguments: [
    "v-789c33d433d033000002ce00ee", "v-789c000500faff312e302e30030002ce00ee", "v=1.0.0",
  ])
  func `a version is read in all its forms`(_ tag: String) {
    var tags = ConsulTags()
    #expect(tags.decode([tag]).version == "1.0.0")
  }

  @Test func `what is written is read again, wherever tags of others stand`() throws {
    let endpoint = Endpoint(
      name: "Say.Hello", request: Value(name: "Request", type: "Request", values: [Value(name: "name", type: "string")])
    )
    let metadata = ["transport": "http", "text": "ünï \"quoted\"", "": ""]
    let own = try ConsulTags.encode(version: "2.1", metadata: metadata, endpoints: [endpoint])
    #expect(own.map(\.first) == ["t", "t", "t", "e", "v"])
    var tags = ConsulTags()
    for all in [own, ["traefik.enable=true", "env-prod", "t-shirts"] + own, own.reversed() + ["e", "v", "t", ""]] {
      let content = tags.decode(all)
      #expect(content.version == "2.1")
      #expect(content.metadata == metadata)
      #expect(content.endpoints == [endpoint])
      #expect(content.broken == 0)
    }
  }

  @Test(arguments: [
    "t-789c", "t-789cff", "e-" + ConsulTags.hex([0x78, 0x9C, 1, 2, 3]), "t={", "t=[1]", "t={\"a\":1}", "e={\"name\":2}",
  ])
  func `a tag of ours that cannot be read is counted, and the rest is read`(_ tag: String) {
    var tags = ConsulTags()
    let content = tags.decode([tag, "v=1"])
    #expect(content.broken == 1)
    #expect(content.version == "1")
  }

  @Test func `a tag that inflates without end is left out`() throws {
    let bomb = "t-" + ConsulTags.hex(try Zlib.deflate([UInt8](repeating: 0x20, count: 1 << 20)))
    var tags = ConsulTags()
    #expect(tags.decode([bomb]).broken == 1)
  }

  private func instance(
    _ id: String, checks: [String] = [], address: String = "10.0.0.7", port: Int = 80, tags: [String] = ["v=1"]
  ) -> String {
    let checks = checks.map { "{\"Status\":\"\($0)\",\"ModifyIndex\":9}" }.joined(separator: ",")
    let tags = tags.map { JSONValue.string($0).text() }.joined(separator: ",")
    return """
      {"Node":{"Node":"agent","Address":"10.9.9.9"},"Service":{"ID":"\(id)","Address":"\(address)","Port":\(port),\
      "Tags":[\(tags)],"Meta":{"zone":"eu"},"ModifyIndex":5},"Checks":[\(checks)]}
      """
  }

  @Test func `critical instances are left out, others and warned ones stay`() throws {
    var tags = ConsulTags()
    let body = [
      instance("b", checks: ["passing", "warning"]), instance("a", tags: ["v=2"]),
      instance("c", checks: ["passing", "critical"]), instance("d", address: "", port: 0), "{}", "7", instance("a"),
    ]
    let service = try ConsulService("s", Array("[\(body.joined(separator: ","))]".utf8), tags: &tags)
    #expect(service.versions.map(\.version) == ["1", "2"])
    #expect(service.versions[0].nodes.map(\.id) == ["b", "d"])
    #expect(service.versions[0].nodes.map(\.address) == ["10.0.0.7:80", "10.9.9.9"])
    #expect(service.versions[0].nodes[0].metadata == ["zone": "eu"])
    #expect(service.versions[1].nodes.map(\.id) == ["a"])
    #expect(service.modifyIndex == 9)
    #expect(service.broken == 2)
    #expect(service.agents == ["agent"])
  }

  @Test(arguments: ["", "{}", "[", "null", "[1,]"])
  func `a reply that is no list of instances is an error`(_ body: String) {
    var tags = ConsulTags()
    #expect(throws: WireError.self) { try ConsulService("s", Array(body.utf8), tags: &tags) }
  }

  @Test func `the catalog's marks change with the tags`() throws {
    let first = try ConsulCatalog(Array(#"{"a":["x"],"b\u002f":[]}"#.utf8)).services
    let second = try ConsulCatalog(Array(#"{"a":["y"],"b\u002f":[]}"#.utf8)).services
    #expect(first.keys.sorted() == ["a", "b/"])
    #expect(first["a"] != second["a"])
    #expect(first["b/"] == second["b/"])
    #expect(throws: WireError.self) { try ConsulCatalog(Array("[]".utf8)) }
  }

  @Test func `checks are counted by service and, without one, by agent`() throws {
    let body = """
      [{"Node":"n1","ServiceName":"a","ModifyIndex":3,"Definition":{"x":[1]}},
       {"ServiceName":"a","Node":"n2","ModifyIndex":7},{"Node":"n1","ServiceName":"","ModifyIndex":2},
       {"Node":"n1","ServiceName":"b\\"","ModifyIndex":"x"},4]
      """
    let health = try ConsulHealth(Array(body.utf8))
    #expect(health.services["a"] == ConsulHealth.Mark(count: 2, modifyIndex: 7))
    #expect(health.services["b\""] == ConsulHealth.Mark(count: 1, modifyIndex: 0))
    #expect(health.agents == ["n1": ConsulHealth.Mark(count: 1, modifyIndex: 2)])
    #expect(throws: WireError.self) { try ConsulHealth(Array("{".utf8)) }
  }
}

@Suite("Changes of a service") struct ServiceChangesTests {
  private func service(_ version: String, _ nodes: (String, Int)..., metadata: [String: String] = [:]) -> Service {
    Service(
      name: "s", version: version, metadata: metadata,
      nodes: nodes.map { Node(id: $0.0, address: "10.0.0.1:\($0.1)") })
  }

  @Test func `only what changed is told`() {
    let old = [service("1", ("a", 1), ("b", 2)), service("2", ("c", 3))]
    #expect(ServiceChanges.events(from: old, to: old).isEmpty)
    #expect(
      ServiceChanges.events(from: old, to: [service("1", ("a", 1), ("b", 9)), service("3", ("d", 4))]) == [
        .upsert(service("1", ("b", 9))), .upsert(service("3", ("d", 4))), .remove(service("2", ("c", 3))),
      ])
    #expect(
      ServiceChanges.events(from: old, to: [service("1", ("b", 2)), old[1]]) == [.remove(service("1", ("a", 1)))])
  }

  @Test func `a change of the version's own data tells all of its nodes`() {
    let new = service("1", ("a", 1), ("b", 2), metadata: ["x": "y"])
    #expect(ServiceChanges.events(from: [service("1", ("a", 1), ("b", 2))], to: [new]) == [.upsert(new)])
  }

  @Test func `a node under both of etcd's prefixes is there until it has left both`() {
    var picture = EtcdPicture()
    let core = EtcdKeys.core + "s/a"
    let plugin = EtcdKeys.plugin + "s/a"
    #expect(picture.set(plugin, service("1", ("a", 1))) == [.upsert(service("1", ("a", 1)))])
    #expect(picture.set(core, service("1", ("a", 2))) == [.upsert(service("1", ("a", 2)))])
    #expect(picture.set(plugin, nil).isEmpty)
    #expect(picture.set(core, nil) == [.remove(service("1", ("a", 2)))])
    #expect(picture.set(core, nil).isEmpty)
    #expect(picture.all.isEmpty)
  }

  @Test func `keys of etcd are made and taken apart`() throws {
    #expect(try EtcdKeys.key(EtcdKeys.core, "a/b", "c/d") == "/micro/registry/a-b/c-d")
    for bad in ["", ".", ".."] {
      #expect(throws: RegistryError.self) { try EtcdKeys.key(EtcdKeys.core, bad, "n") }
    }
    #expect(EtcdKeys.serviceSegment("/micro-registry/s/n") == "s")
    for other in [
      "/micro/registry/", "/micro/registry/s", "/micro/registry/s/", "/micro/registry//n", "/x/s/n",
      "/micro/registry/a/b/c",
    ] {
      #expect(EtcdKeys.serviceSegment(other) == nil)
    }
  }
}
