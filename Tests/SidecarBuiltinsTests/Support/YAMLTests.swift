import SidecarCore
import Testing

@testable import SidecarBuiltins

private func parse(_ text: String) throws -> JSONValue { try YAML.parse(Array(text.utf8)) }

@Suite("YAML")
struct YAMLTests {
  @Test("mappings, sequences and scalars become a tree in their order")
  func tree() throws {
    let value = try parse(
      """
      # a comment
      server:
        name: hello            # trailing comment
        metadata: {zone: a, "weight": 3}
      registry: [mdns, 'file:services.yaml']
      list:
        - one
        - two: 2
          three: [ ]
      text: |
        first
        second
      folded: >-
        a
        b
      """)
    #expect(
      value == [
        "server": ["name": "hello", "metadata": ["zone": "a", "weight": 3]],
        "registry": ["mdns", "file:services.yaml"], "list": ["one", ["two": 2, "three": []]],
        "text": "first\nsecond\n", "folded": "a b",
      ])
  }

  @Test(
    "plain scalars have the types JSON knows, and nothing else is guessed",
    arguments: [
      ("", .null), ("~", .null), ("null", .null), ("true", true), ("True", true), ("FALSE", false), ("12", 12),
      ("-1.50", .number("-1.50")), ("1e3", .number("1e3")), ("1.0", .number("1.0")), ("yes", "yes"), ("on", "on"),
      ("0x1F", "0x1F"), ("007", "007"), ("+1", "+1"), (".5", ".5"), ("1_000", "1_000"), ("12:30", "12:30"),
      ("5s", "5s"), (".inf", ".inf"), ("'12'", "12"), ("\"true\"", "true"), ("''", ""), (":8081", ":8081"),
      ("2018-11-21", "2018-11-21"), ("127.0.0.1:80", "127.0.0.1:80"), ("-", [nil]), ("nul", "nul"),
      ("99999999999999999999", .number("99999999999999999999")), ("größe", "größe"),
    ] as [(String, JSONValue)])
  func scalars(text: String, expected: JSONValue) throws {
    #expect(try parse("- \(text)\n") == [expected])
  }

  @Test("a file of nothing is null", arguments: ["", "\n\n", "# only a comment\n", "---\n", "---\n...\n"])
  func empty(text: String) throws {
    #expect(try parse(text) == .null)
  }

  @Test("JSON is read with all its escapes, tabs too")
  func json() throws {
    #expect(try parse("\n{\"a\":\t\"\\ud83d\\ude00\\/\",\n\t\"b\": [1, null]}\n") == ["a": "😀/", "b": [1, nil]])
    #expect(throws: YAMLError(message: "the key \"a\" is there twice", line: 0, column: 0)) {
      try parse(#"{"b": [{"a": 1, "a": 2}]}"#)
    }
  }

  @Test("a flow mapping that is no JSON is read as YAML")
  func flow() throws {
    #expect(try parse("{a: b, c: [d, 'e']}") == ["a": "b", "c": ["d", "e"]])
  }

  @Test(
    "what is wrong is told with its line and column",
    arguments: [
      ("a: 1\nb: 2\na: 3\n", 3, 1, "the key \"a\" is there twice"),
      ("a: &x 1\n", 1, 4, "anchors (&name) are not read; write the value out where it is used"),
      ("a: 1\nb: *x\n", 2, 4, "aliases (*name) are not read; write the value out"),
      ("a: !!int 3\n", 1, 4, "tags (!name) are not read; quote a value to make it text"),
      ("a: &x {b: 1}\n", 1, 4, "anchors (&name) are not read; write the value out where it is used"),
      ("? [a]\n: b\n", 1, 3, "a key must be plain text"),
      ("a: 1\n---\nb: 2\n", 2, 1, "a second document starts here; one is read"),
      ("a:\n  - b\n c\n", 3, 2, "did not find expected key while parsing a block mapping"),
      ("a: b: c\n", 1, 5, "mapping values are not allowed in this context"),
      ("a:\n\t- b\n", 2, 1, "found character that cannot start any token while scanning for the next token"),
      ("a: \"open\n", 2, 1, "found unexpected end of stream while scanning a quoted scalar"),
    ])
  func errors(text: String, line: Int, column: Int, message: String) {
    #expect(throws: YAMLError(message: message, line: line, column: column)) { try parse(text) }
  }

  @Test("broken UTF-8, control characters and UTF-16 are refused")
  func encodings() {
    for bytes in [[0x61, 0x3A, 0x20, 0xFF], [0x61, 0x3A, 0x20, 0x00], [0xFF, 0xFE, 0x61, 0x00], [0xC0, 0xAF]] {
      #expect(throws: YAMLError.self, "\(bytes)") { try YAML.parse(bytes.map { UInt8($0) }) }
    }
  }

  @Test("depth and size have limits")
  func limits() throws {
    func nested(_ depth: Int) -> String {
      String(repeating: "[", count: depth) + "x" + String(repeating: "]", count: depth)
    }
    _ = try parse(nested(YAML.depthMax))
    #expect(throws: YAMLError.self) { try parse(nested(YAML.depthMax + 1)) }
    #expect(throws: YAMLError.self) { try parse(String(repeating: "[", count: 100_000)) }
    #expect(throws: YAMLError.self) { try parse(String(repeating: "- ", count: 100_000)) }
    #expect(throws: YAMLError.self) { try parse(String(repeating: "{a: ", count: 100_000)) }
    #expect(throws: YAMLError.self) { try YAML.parse([UInt8](repeating: 0x20, count: YAML.bytesMax + 1)) }
    _ = try YAML.parse([UInt8](repeating: 0x20, count: YAML.bytesMax))
  }

  @Test("no bytes trap it, and what it reads comes back through JSON", arguments: [1, 2, 3] as [UInt64])
  func hostileBytes(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    let pieces = [
      "a", ": ", "- ", "\n", "  ", "{", "}", "[", "]", ", ", "\"", "'", "|", ">", "#", "&x ", "*x", "!t ", "---\n",
      "\t",
      "1", "~", "? ", "\u{FEFF}", "\\", "é", "%YAML 1.1\n",
    ]
    var read = 0
    for _ in 0..<10_000 {
      var bytes: [UInt8] = []
      for _ in 0..<random.below(24) { bytes += Array(pieces[random.below(pieces.count)].utf8) }
      if random.below(8) == 0, !bytes.isEmpty { bytes[random.below(bytes.count)] = UInt8(random.below(256)) }
      guard let value = try? YAML.parse(bytes) else { continue }
      read += 1
      let again = try? YAML.parse(Array(value.text().utf8))
      let isContainer = value.arrayValue != nil || value.objectValue != nil
      #expect(!isContainer || again == value, "seed \(seed): \(bytes)")
    }
    #expect(read > 100, "seed \(seed): hardly anything was read, so this proves little")
  }

  @Test("lines of keys and elements are found by their places")
  func lines() {
    let text =
      "server:\n  Nm-e: a\npolicies:\n- service: a\n  limits: {pending: 1,\n    in_flight: 2}\n- b\n# end\nlog: [\n x,\n y]\n"
    let lines = YAML.lines(of: Array(text.utf8))
    #expect(
      lines == [
        "server": 1, "server.nm_e": 2, "policies": 3, "policies[0]": 4, "policies[0].service": 4,
        "policies[0].limits": 5, "policies[0].limits.pending": 5, "policies[0].limits.in_flight": 6, "policies[1]": 7,
        "log": 9, "log[0]": 10, "log[1]": 11,
      ])
    #expect(YAML.lines(of: Array("{\"a\": 1,\n\"b\": {\n\"c\": 2}}".utf8)) == ["a": 1, "b": 2, "b.c": 3])
    // Of a broken document, what stands before the mistake.
    #expect(YAML.lines(of: Array("a: 1\nb: [".utf8)) == ["a": 1, "b": 2])
    #expect(YAML.lines(of: []) == [:] && YAML.lines(of: [0xFF, 0xFE, 0]) == [:])
  }

  @Test("a YAML file makes settings")
  func settings() throws {
    var sources = SettingsSources()
    sources.environment = ["MICRO_CONFIG": "x.yaml"]
    sources.readFile = { _ in
      Array("sidecar:\n  drain: 5s\n  max_body: 8192\nserver_metadata:\n  zone: a\nregistry: mdns\n".utf8)
    }
    sources.parseFile = { try YAML.parse($0) }
    let settings = try Settings.load(sources)
    #expect(settings.drain == .seconds(5))
    #expect(settings.maxBodyBytes == 8192)
    #expect(settings.serverMetadata == ["zone": "a"])
    sources.readFile = { _ in Array("sidecar:\n  drain: 5s\n drain: 4s\n".utf8) }
    let error = #expect(throws: SettingsError.self) { try Settings.load(sources) }
    #expect(error?.description.hasPrefix("file x.yaml:3: column 2: did not find expected") == true)
  }
}
