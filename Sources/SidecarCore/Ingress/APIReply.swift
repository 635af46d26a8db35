// A whole answer of the listeners that are not the data path.

package struct APIReply: Sendable {
  package var status: Int
  package var contentType: String?
  package var body: [UInt8]

  package init(status: Int, contentType: String? = nil, body: [UInt8] = []) {
    self.status = status
    self.contentType = contentType
    self.body = body
  }

  package static func text(_ status: Int, _ text: String) -> APIReply {
    APIReply(status: status, contentType: "text/plain; charset=utf-8", body: Array((text + "\n").utf8))
  }

  package static func json(_ status: Int = 200, value: JSONValue) -> APIReply {
    let buffer = ByteBuffer(capacity: 1024)
    value.write(into: buffer)
    return APIReply(status: status, contentType: "application/json", body: Array(buffer.bytes))
  }
}
