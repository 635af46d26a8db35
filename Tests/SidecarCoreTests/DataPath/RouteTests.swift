// Paths, queries and names: from what a caller writes to the call that is meant.

@testable import SidecarCore
import Testing

@Suite struct PathRouteTests {
  @Test(arguments: [
    ("/foo/bar", "ns.foo", "Foo.Bar"),
    ("/foo/bar/baz", "ns.foo", "Bar.Baz"),
    ("/foo/bar/baz/cat", "ns.foo.bar", "Baz.Cat"),
    ("/v1/foo/bar", "ns.v1.foo", "Foo.Bar"),
    ("/v1/foo/bar/baz", "ns.v1.foo", "Bar.Baz"),
    ("/v1/foo", "ns.v1", "V1.Foo"),
    ("/foo/baz-xyz", "ns.foo", "Foo.BazXyz"),
    ("/foo/fooBar", "ns.foo", "Foo.FooBar"),
    ("/vx/foo/bar", "ns.vx", "Foo.Bar"),
    ("/v/foo/bar", "ns.v", "Foo.Bar"),
    ("/v12/foo/bar", "ns.v12.foo", "Foo.Bar"),
    ("/foo/foo~bar", "ns.foo", "Foo.Foo~Bar"),
    ("/foo/foo_bar", "ns.foo", "Foo.Foo_bar"),
    // The full name, with and without dots.
    ("/go.micro.srv.greeter/Say.Hello", "go.micro.srv.greeter", "Say.Hello"),
    ("/hellooo/Hello.Ping", "hellooo", "Hello.Ping"),
  ])
  func aPathNamesAServiceAndAMethod(_ path: String, _ service: String, _ endpoint: String) {
    #expect(PathRoute(path: path, namespace: "ns") == PathRoute(service: service, endpoint: endpoint))
  }

  @Test(arguments: [
    "//foo///bar/", "/./foo/./bar", "/x/../foo/bar", "/../../foo/bar", "/foo/x/%2e%2e/bar", "/%66oo/b%61r",
    "/foo%2Fbar", "/foo/bar/baz/..", "foo/bar",
  ])
  func aPathIsCleanedAfterItIsDecoded(_ path: String) {
    #expect(PathRoute(path: path, namespace: "ns") == PathRoute(service: "ns.foo", endpoint: "Foo.Bar"))
  }

  @Test(arguments: ["", "/", "/foo", "/foo/..", "/%", "/foo/%4", "/foo/%zz", "/foo/%00", "/foo/%0d%0aX", "/f/%ff"])
  func aPathThatNamesNothingIsNone(_ path: String) {
    #expect(PathRoute(path: path, namespace: "ns") == nil)
  }

  @Test func withoutANamespaceNothingIsPutInFront() {
    #expect(PathRoute(path: "/foo/bar", namespace: "") == PathRoute(service: "foo", endpoint: "Foo.Bar"))
  }

  @Test func anEndpointHasOneDotAndTwoNames() {
    #expect(["Say.Hello", "a.b"].allSatisfy(PathRoute.isEndpointName))
    #expect(!["", ".", "Say", "Say.", ".Hello", "a.b.c", ".."].contains(where: PathRoute.isEndpointName))
  }
}

@Suite struct QueryToJSONTests {
  private func json(_ query: String) throws(WireError) -> String {
    let buffer = ByteBuffer()
    let bytes = FixedBytes(query)
    try QueryToJSON.append(bytes.span, to: buffer)
    return String(decoding: buffer.bytes, as: UTF8.self)
  }

  @Test(arguments: [
    ("", "{}"),
    ("a=1", #"{"a":"1"}"#),
    ("name=John+Doe&x=%C3%A9%26", #"{"name":"John Doe","x":"é\u0026"}"#),
    ("a=1&b=2&a=3", #"{"a":["1","3"],"b":"2"}"#),
    ("a&=x&&b==", #"{"a":"","":"x","b":"="}"#),
    (#"q="\"#, #"{"q":"\"\\"}"#),
  ])
  func aQueryIsAnObjectOfStrings(_ query: String, _ expected: String) throws {
    #expect(try json(query) == expected)
  }

  @Test(arguments: ["a=%", "a=%1", "a=%zz", "%=1", "a=%ff"])
  func brokenEncodingIsRefused(_ query: String) {
    #expect(throws: WireError.self) { try json(query) }
  }

  @Test func fieldsAreCounted() throws {
    let most = (0..<QueryToJSON.fieldLimit).map { "f\($0)=1" }.joined(separator: "&")
    #expect(try json(most).utf8.count > most.utf8.count)
    #expect(throws: WireError.self) { try json(most + "&one=more") }
  }
}

@Suite struct QueryShapeTests {
  private static let tree = Value(
    name: "Request", type: "Request",
    values: [
      Value(name: "user_name", type: "string"), Value(name: "age", type: "int32"), Value(name: "id", type: "uint64"),
      Value(name: "ratio", type: "float64"), Value(name: "vip", type: "bool"), Value(name: "mood", type: "Mood"),
      Value(name: "tags", type: "[]string", values: [Value(name: "string", type: "string")]),
      Value(name: "sizes", type: "[]int64", values: [Value(name: "int64", type: "int64")]),
      Value(name: "flags", type: "[]bool"),
      Value(name: "data", type: "[]uint8", values: [Value(name: "uint8", type: "uint8")]),
      Value(
        name: "address", type: "Address",
        values: [
          Value(name: "city", type: "string"), Value(name: "zip", type: "int32"),
          Value(name: "place", type: "Place", values: [Value(name: "lat", type: "float32")]),
        ]),
    ])

  @Test(
    "a query's texts get the types that the registry tells",
    arguments: [
      ("userName=ann&AGE=41&id=18446744073709551615", #"{"user_name":"ann","age":41,"id":18446744073709551615}"#),
      ("ratio=1.5e3&vip=true&age=-1", #"{"ratio":1.5e3,"vip":true,"age":-1}"#),
      ("vip&vip=0", #"{"vip":[true,false]}"#), ("vip", #"{"vip":true}"#), ("vip=no", #"{"vip":"no"}"#),
      ("tags=1", #"{"tags":["1"]}"#), ("tags=1&tags=2&sizes=7", #"{"tags":["1","2"],"sizes":[7]}"#),
      ("flags=true", #"{"flags":[true]}"#), ("data=Zm9v", #"{"data":"Zm9v"}"#), ("mood=3", #"{"mood":"3"}"#),
      ("address.city=Rome&address.zip=118", #"{"address":{"city":"Rome","zip":118}}"#),
      ("address.place.lat=41.9&age=1", #"{"age":1,"address":{"place":{"lat":41.9}}}"#),
      (#"address={"city":"Rome"}"#, #"{"address":{"city":"Rome"}}"#),
      // What does not fit is the service's to judge.
      ("age=old&ratio=NaN&id=1.5", #"{"age":"old","ratio":"NaN","id":"1.5"}"#),
      ("age=01&age= 1", #"{"age":["01",1]}"#),
      ("unknown=1&tags.a=2&mood.x=3&.=4", #"{"unknown":"1","tags.a":"2","mood.x":"3",".":"4"}"#),
      ("user_name=a&userName=b", #"{"user_name":"a","userName":"b"}"#),
    ])
  func shapes(_ query: String, _ expected: String) throws {
    let buffer = ByteBuffer()
    let bytes = FixedBytes(query)
    try QueryToJSON.append(bytes.span, to: buffer)
    let shaped = ByteBuffer()
    QueryShape.shaped(try JSONValue(parsing: buffer.bytes), by: Self.tree).write(into: shaped)
    #expect(String(decoding: shaped.bytes, as: UTF8.self) == expected)
  }
}

@Suite struct RPCBodyTests {
  private func body(json text: String) throws(WireError) -> (RPCBody, request: String) {
    let bytes = FixedBytes(text)
    let body = try RPCBody(json: bytes.span)
    let request = body.decoded.map { String(decoding: $0, as: UTF8.self) }
    return (body, request ?? String(decoding: bytes.span[body.request], as: UTF8.self))
  }

  @Test func namesAreReadInAnyCaseAndTheRequestAsItIs() throws {
    let (body, request) = try body(
      json: #"{"Service":"s","METHOD":"Say.Hello","address":"1.2.3.4:5","Request":{"n": 1.50},"other":[1]}"#)
    #expect(body.service == "s" && body.endpoint == "Say.Hello" && body.address == "1.2.3.4:5")
    #expect(request == #"{"n": 1.50}"#, "digits and blanks stay")
  }

  @Test func theRequestMayBeAStringThatHoldsJSON() throws {
    let (_, request) = try body(json: #"{"service":"s","endpoint":"A.B","request":"{\"a\":\"\\u00e9\"}"}"#)
    #expect(request == #"{"a":"\u00e9"}"#)
    #expect(try body(json: #"{"service":"s","endpoint":"A.B","request":""}"#).request.isEmpty)
    #expect(try body(json: #"{"service":"s","method":"","endpoint":"A.B","address":null}"#).0.address == nil)
  }

  @Test(arguments: [
    ("{", "JSON"), ("[]", "JSON"), (#"{"service":1,"method":"A.B"}"#, "service is not a string"),
    (#"{"method":"A.B"}"#, "invalid service"), (#"{"service":"s"}"#, "invalid method"),
    (#"{"service":"s","method":"A.B","request":"{"}"#, "error decoding request string"),
  ])
  func aBrokenBodyIsRefusedInTheOldWords(_ text: String, _ words: String) {
    let error = #expect(throws: WireError.self) { try body(json: text) }
    #expect(error?.rule.contains(words) == true)
  }

  @Test func aFormHasTheSameFields() throws {
    let bytes = FixedBytes("service=s&method=A.B&request=%7B%22a%22%3A1%7D&address=h%3A1")
    let body = try RPCBody(form: bytes.span)
    #expect(body.service == "s" && body.endpoint == "A.B" && body.address == "h:1")
    #expect(body.decoded.map { String(decoding: $0, as: UTF8.self) } == #"{"a":1}"#)
  }
}

@Suite struct ByteKeyedCacheTests {
  @Test(arguments: 1...20)
  func itNeverAnswersWithAnotherKeysValue(_ seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var cache = ByteKeyedCache<Int>(capacity: 64, seed: random.next())
    var model: [[UInt8]: Int] = [:]
    var hits = 0
    for round in 0..<4_000 {
      // Few distinct keys of all lengths around the hash's words, zeros among them.
      let key = (0..<random.below(20)).map { _ in UInt8(random.below(2)) }
      if random.below(3) == 0 {
        key.withUnsafeBytes { cache.insert($0, round) }
        model[key] = round
      } else if random.below(400) == 0 {
        let parity = random.below(2)
        cache.removeAll { $0 % 2 == parity }
        model = model.filter { $0.value % 2 != parity }
      } else if let found = key.withUnsafeBytes({ cache.find($0) }) {
        hits += 1
        #expect(model[key] == found, "seed \(seed), round \(round)")
      }
    }
    #expect(hits > 100, "seed \(seed)")
  }

  @Test func whatFitsStaysAndLongKeysAreNotKept() {
    var cache = ByteKeyedCache<Int>(capacity: 4, seed: 1)
    for value in 0..<4 { [UInt8(value)].withUnsafeBytes { cache.insert($0, value) } }
    for value in 0..<4 { #expect([UInt8(value)].withUnsafeBytes { cache.find($0) } == value) }
    let long = [UInt8](repeating: 1, count: ByteKeyedCache<Int>.keyMax + 1)
    long.withUnsafeBytes { cache.insert($0, 9) }
    #expect(long.withUnsafeBytes { cache.find($0) } == nil)
  }
}

@Suite struct AdvertiseTests {
  private static func interface(_ name: String, _ address: String, isUp: Bool = true) throws -> NetworkInterface {
    NetworkInterface(
      name: name, index: 1, address: try #require(SocketAddress(host: address, port: 0)), isUp: isUp,
      isMulticastCapable: true)
  }

  @Test(
    arguments: [
      (nil, nil, "0.0.0.0:70", ["127.0.0.1", "8.8.8.8", "10.1.2.3"], "10.1.2.3:70"),
      (nil, nil, "0.0.0.0:70", ["127.0.0.1", "8.8.8.8", "fd00::1"], "8.8.8.8:70"),
      (nil, nil, "[::]:70", ["fe80::1", "2001:db8::1", "fd00::1"], "[fd00::1]:70"),
      (nil, nil, "0.0.0.0:70", ["169.254.1.1", "127.0.0.1"], "127.0.0.1:70"),
      (nil, nil, "192.168.1.9:70", ["10.1.2.3"], "192.168.1.9:70"),
      (nil, "10.9.9.9", "0.0.0.0:70", ["10.1.2.3"], "10.9.9.9:70"),
      (nil, "fd00::9", "0.0.0.0:70", [], "[fd00::9]:70"),
      ("me.example", "10.9.9.9", "0.0.0.0:70", ["10.1.2.3"], "me.example:70"),
      ("me.example:99", nil, "0.0.0.0:70", [], "me.example:99"),
      ("fd00::8", nil, "0.0.0.0:70", [], "[fd00::8]:70"),
    ] as [(String?, String?, String, [String], String)])
  func theAddressOthersDial(
    _ advertise: String?, _ podIP: String?, _ bound: String, _ addresses: [String], _ expected: String
  ) throws {
    let bound = try #require(SocketAddress(bound))
    let interfaces = try addresses.map { try Self.interface("eth0", $0) }
    #expect(
      Advertise.address(advertise: advertise, podIP: podIP, bound: bound, interfaces: interfaces) == expected)
  }

  @Test func anInterfaceThatIsDownIsPassedOver() throws {
    let bound = try #require(SocketAddress("0.0.0.0:70"))
    let interfaces = [try Self.interface("eth0", "10.0.0.1", isUp: false), try Self.interface("eth1", "10.0.0.2")]
    #expect(Advertise.address(advertise: nil, podIP: nil, bound: bound, interfaces: interfaces) == "10.0.0.2:70")
  }
}

@Suite struct AppPathTests {
  @Test(arguments: [
    ("Say.Hello", "/Say/Hello"), ("a-b_c~d.E9", "/a-b_c~d/E9"), ("Say.Hel lo?#/", "/Say/Hel%20lo%3F%23%2F"),
    ("S%2e.Hé", "/S%252e/H%C3%A9"),
  ])
  func anEndpointIsAPathOfTheApp(_ endpoint: String, _ path: String) {
    let buffer = ByteBuffer()
    let bytes = FixedBytes(endpoint)
    AppCall.appendPath(bytes.span, to: buffer)
    #expect(String(decoding: buffer.bytes, as: UTF8.self).lowercased() == path.lowercased())
  }
}
