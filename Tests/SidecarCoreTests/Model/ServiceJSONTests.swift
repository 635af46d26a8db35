import Testing

@testable import SidecarCore

@Suite("Services as JSON")
struct ServiceJSONTests {
  let greeter = Service(
    name: "go.micro.srv.greeter", version: "latest", metadata: [:],
    endpoints: [
      Endpoint(
        name: "Say.Hello",
        request: Value(name: "Request", type: "Request", values: [Value(name: "name", type: "string")]),
        response: nil, metadata: ["stream": "false"])
    ],
    nodes: [Node(id: "greeter-1", address: "10.0.0.5:9090", metadata: ["b": "2", "a": "1"])])

  @Test("are written with go-micro's keys, none left out, null for what is empty")
  func written() {
    #expect(
      greeter.json().text()
        == #"{"name":"go.micro.srv.greeter","version":"latest","metadata":null,"endpoints":[{"name":"Say.Hello","request":{"name":"Request","type":"Request","values":[{"name":"name","type":"string","values":null}]},"response":null,"metadata":{"stream":"false"}}],"nodes":[{"id":"greeter-1","address":"10.0.0.5:9090","metadata":{"a":"1","b":"2"}}]}"#
    )
    #expect(
      Service(name: "a", version: "").json().text()
        == #"{"name":"a","version":"","metadata":null,"endpoints":null,"nodes":null}"#)
  }

  @Test("survive both address forms")
  func roundTrip() throws {
    for form in NodeAddressForm.allCases {
      #expect(try Service(json: JSONValue(parsing: greeter.json(addressForm: form).text())) == greeter)
    }
  }

  @Test(
    "an address with and without its port",
    arguments: [
      ("10.0.0.5:9090", "10.0.0.5", 9090), ("[::1]:80", "[::1]", 80), ("host:0", "host:0", 0),
      ("_INBOX.abc", "_INBOX.abc", 0), ("::1", "::1", 0), ("host:http", "host:http", 0), ("a:99999", "a:99999", 0),
    ])
  func split(_ address: String, _ host: String, _ port: Int) {
    let json = Node(id: "n", address: address).json(addressForm: .split)
    #expect(json["address"]?.stringValue == host)
    #expect(json["port"]?.intValue == port)
  }

  @Test(
    "the 2018 form is joined when read",
    arguments: [
      (#"{"id":"n","address":"10.0.0.5","port":9090,"metadata":null}"#, "10.0.0.5:9090"),
      (#"{"ID":"n","Address":"fd00::5","Port":9090}"#, "[fd00::5]:9090"),
      (#"{"Id":"n","address":"[fd00::5]","port":9090}"#, "[fd00::5]:9090"),
      (#"{"id":"n","address":"10.0.0.5:9090","port":0}"#, "10.0.0.5:9090"),
      (#"{"id":"n","address":"10.0.0.5:9090","port":9090}"#, "10.0.0.5:9090"),
      (#"{"id":"n","address":"_INBOX.x","port":null}"#, "_INBOX.x"),
    ])
  func joined(_ text: String, _ address: String) throws {
    let node = try Node(json: JSONValue(parsing: text))
    #expect(node.address == address && node.id == "n")
  }

  @Test(
    "garbage is named",
    arguments: [
      ("[]", "service: an object is expected"), ("{}", "service: a name is missing"),
      (#"{"name":1}"#, "service: name must be a string"),
      (#"{"name":"a","nodes":{}}"#, "service: nodes must be an array"),
      (#"{"name":"a","nodes":[1]}"#, "node: an object is expected"),
      (#"{"name":"a","nodes":[{"port":70000}]}"#, "node: port must be a number from 0 to 65535"),
      (#"{"name":"a","nodes":[{"port":-1}]}"#, "node: port must be a number from 0 to 65535"),
      (#"{"name":"a","metadata":{"a":1}}"#, "service: the metadata's values must be strings"),
      (#"{"name":"a","endpoints":[{"name":"x","request":[]}]}"#, "value: an object is expected"),
    ])
  func garbage(_ text: String, _ rule: String) throws {
    let json = try JSONValue(parsing: text)
    let error = #expect(throws: WireError.self) { try Service(json: json) }
    #expect(error?.rule == rule)
  }

  @Test("unknown keys and null entries are passed over")
  func lenient() throws {
    let service = try Service(
      json: JSONValue(
        parsing: #"{"NAME":"a","extra":[1],"nodes":[null,{"id":"n","address":"h:1","metadata":{"k":null}}]}"#))
    #expect(service.nodes == [Node(id: "n", address: "h:1", metadata: ["k": ""])])
  }
}
