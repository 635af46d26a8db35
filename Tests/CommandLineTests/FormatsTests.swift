import SidecarCore
import Testing

@testable import micro_sidecar

private let plain = Style(isColoured: false)

@Suite("What commands print")
struct FormatsTests {
  @Test("list prints sorted names, each once")
  func list() {
    #expect(Formats.services(["go.b", "go.a", "go.b"], .text) == "go.a\ngo.b\n")
    #expect(Formats.services([], .text) == "")
    #expect(Formats.services(["b", "a"], .json) == "{\n\t\"services\": [\n\t\t\"a\",\n\t\t\"b\"\n\t]\n}\n")
  }

  @Test("get prints what the fixtures say", arguments: Fixture.all(in: "get-service"))
  func get(fixture: Fixture) throws {
    let versions = try #require(try JSONValue(parsing: fixture["services"]).arrayValue).map { try Service(json: $0) }
    #expect(Formats.service(versions, .text) == fixture["text"])
  }

  @Test("get as JSON is what the registry API answers, and reads back the same")
  func getJSON() throws {
    for fixture in Fixture.all(in: "get-service") {
      let versions = try #require(try JSONValue(parsing: fixture["services"]).arrayValue).map { try Service(json: $0) }
      let again = try #require(try JSONValue(parsing: Formats.service(versions, .json)).arrayValue)
      #expect(try again.map { try Service(json: $0) } == versions.sorted { $0.version < $1.version })
    }
  }

  @Test("a reply is indented with tabs, on one line, or byte for byte")
  func reply() {
    let body = Array(#"{"msg":"Hello <John>", "n":9007199254740993,"l":[],"o":{}}"#.utf8)
    func text(_ output: OutputFormat) -> String { String(decoding: Formats.reply(body, output), as: UTF8.self) }
    #expect(
      text(.text) == "{\n\t\"msg\": \"Hello <John>\",\n\t\"n\": 9007199254740993,\n\t\"l\": [],\n\t\"o\": {}\n}\n")
    #expect(text(.json) == #"{"msg":"Hello <John>","n":9007199254740993,"l":[],"o":{}}"# + "\n")
    #expect(Formats.reply(body, .raw) == body)
    #expect(Formats.reply([0, 255], .text) == [0, 255])
  }

  @Test("a failed call shows who was called and the framework's error")
  func failure() throws {
    let call = CallArguments(service: "go.micro.srv.a", endpoint: "B.C")
    let error = MicroError(id: "go.micro.client", code: 404, detail: "service go.micro.srv.a: not found")
    #expect(
      Formats.failure(call, error, .text)
        == #"error calling go.micro.srv.a.B.C: {"id":"go.micro.client","code":404,"detail":"service go.micro.srv.a: not found","status":"Not Found"}"#
        + "\n")
    #expect(try JSONValue(parsing: Formats.failure(call, error, .json))["code"] == 404)
    #expect(
      Formats.failure(call, MicroError(parsing: "boom\u{1B}"), .text)
        == "error calling go.micro.srv.a.B.C: boom\u{FFFD}\n")
    #expect(try JSONValue(parsing: Formats.failure(call, MicroError(parsing: "boom"), .json))["detail"] == "boom")
  }

  @Test("health lists the nodes of each version")
  func health() throws {
    let nodes = [
      Formats.NodeHealth(version: "2", id: "a-3", address: "10.0.0.3:1", status: "ok", isHealthy: true),
      Formats.NodeHealth(
        version: "1", id: "a-2", address: "10.0.0.2:1", status: "connection refused", isHealthy: false),
      Formats.NodeHealth(version: "1", id: "a-1", address: "[fd00::1]:1", status: "ok", isHealthy: true),
    ]
    #expect(
      Formats.health(service: "a", nodes, .text, plain)
        == """
        service  a

        version 1

        node\t\taddress:port\t\tstatus
        a-1\t\t[fd00::1]:1\t\tok
        a-2\t\t10.0.0.2:1\t\tconnection refused

        version 2

        node\t\taddress:port\t\tstatus
        a-3\t\t10.0.0.3:1\t\tok

        """)
    let coloured = Formats.health(service: "a", nodes, .text, Style(isColoured: true))
    #expect(coloured.contains("\u{1B}[32mok\u{1B}[0m") && coloured.contains("\u{1B}[31mconnection refused\u{1B}[0m"))
    let json = try JSONValue(parsing: Formats.health(service: "a", nodes, .json, Style(isColoured: true)))
    #expect(json["nodes"]?[1]?["healthy"] == false)
    #expect(Formats.health(status: "ok", isHealthy: true, .text, plain) == "ok\n")
    #expect(try JSONValue(parsing: Formats.health(status: "no", isHealthy: false, .json, plain))["healthy"] == false)
  }

  @Test("doctor aligns what it looked at, with advice below")
  func doctor() throws {
    let findings = [
      Formats.Finding(subject: "port 8081", verdict: .ok, detail: "free"),
      Formats.Finding(
        subject: "multicast", verdict: .warning, detail: "no answer on tun0", advice: "set another interface"),
      Formats.Finding(subject: "registry mdns", verdict: .problem, detail: "nothing heard"),
    ]
    #expect(
      Formats.findings(findings, .text, plain)
        == """
        ok      port 8081      free
        warning multicast      no answer on tun0
                               set another interface
        problem registry mdns  nothing heard

        """)
    let json = try JSONValue(parsing: Formats.findings(findings, .json, plain))
    #expect(json["healthy"] == false)
    #expect(json["findings"]?[1]?["verdict"] == "warning")
    #expect(try JSONValue(parsing: Formats.findings(Array(findings[..<2]), .json, plain))["healthy"] == true)
    #expect(Formats.findings([], .text, plain) == "")
  }

  @Test("problems are told to machines with their lines")
  func problems() throws {
    let found = [
      SettingProblem(.file(path: "a.yaml", key: "b"), "wrong", line: 7), SettingProblem(.environment("MICRO_X"), "bad"),
    ]
    let rows = try JSONValue(parsing: Formats.problems(found, .json, plain))["errors"]
    #expect(rows?[0]?["line"] == 7 && rows?[0]?["message"] == "wrong")
    #expect(rows?[1]?["line"] == .null && rows?[1]?["source"] == "environment MICRO_X")
    #expect(
      Formats.problems(found, .text, plain) == "error: file a.yaml:7: b: wrong\nerror: environment MICRO_X: bad\n")
  }

  @Test("what a registry holds cannot move the cursor")
  func hostileText() throws {
    let service = Service(
      name: "a\u{1B}[2J", version: "1\n2", endpoints: [Endpoint(name: "x\r", request: Value(name: "", type: ""))],
      nodes: [Node(id: "\u{9B}", address: "h\u{0}:1", metadata: ["k\u{202E}": "v\t"])])
    for text in [
      Formats.service([service], .text), Formats.service([service], .json), Formats.services(["\u{7}"], .text),
      Formats.problems([SettingProblem(.flag("-\u{1B}"), "x\ny")], .text, plain),
    ] {
      #expect(!text.unicodeScalars.contains { ($0.value < 0x20 && $0 != "\n" && $0 != "\t") || $0.value == 0x9B })
    }
    // Escapes, not replacements: a machine reads the same text.
    #expect(try JSONValue(parsing: Formats.service([service], .json))[0]?["nodes"]?[0]?["id"] == "\u{9B}")
    #expect(Formats.service([service], .text).split(separator: "\n").count == 8)
  }

  @Test(
    "field names are shown in snake case",
    arguments: [
      ("name", "name"), ("Name", "name"), ("firstName", "first_name"), ("UserID", "user_id"),
      ("HTTPServer", "http_server"),
      ("already_snake", "already_snake"), ("Already_Snake", "already_snake"), ("", ""), ("A", "a"), ("x2Y", "x2_y"),
      ("größeX", "größe_x"),
    ])
  func snakeCase(name: String, expected: String) {
    #expect(SnakeCase.of(name) == expected)
  }

  @Test("versions are printed for people and machines")
  func version() throws {
    #expect(Formats.version("0.1.0", libuv: "1.44.2", .text) == "micro-sidecar 0.1.0 (libuv 1.44.2)\n")
    #expect(try JSONValue(parsing: Formats.version("0.1.0", libuv: "1.44.2", .json))["version"] == "0.1.0")
  }
}
