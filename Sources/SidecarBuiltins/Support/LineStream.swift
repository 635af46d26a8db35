// A reply without end that is cut into lines: NDJSON, as watches are told in.

import SidecarCore

/// Threading: the control loop only. Bytes of a line are looked at once each.
final class LineStream {
  private let stream: HTTPReplyStream
  private let lineBytesMax: Int
  private var bytes: [UInt8] = []
  private var start = 0
  private var searched = 0

  /// A line longer than `lineBytesMax` ends the stream with an error.
  init(_ stream: HTTPReplyStream, lineBytesMax: Int) {
    self.stream = stream
    self.lineBytesMax = lineBytesMax
  }

  var head: HTTPReplyHead { stream.head }

  /// The next line that is not empty, without its end; nil when the reply has ended. `until` is for each wait for more.
  func next(silence: Duration, driver: any Driver) async throws(HTTPFailure) -> [UInt8]? {
    while true {
      while let end = bytes[searched...].firstIndex(of: 0x0A) {
        var line = bytes[start..<end]
        start = end + 1
        searched = start
        if line.last == 0x0D { line.removeLast() }
        if !line.isEmpty { return Array(line) }
      }
      bytes.removeFirst(start)
      start = 0
      searched = bytes.count
      guard bytes.count <= lineBytesMax else {
        throw HTTPFailure(
          endpoint: stream.endpoint, cause: .closed("it sent a line of more than \(lineBytesMax) bytes"))
      }
      guard let more = try await stream.next(deadline: driver.now.advanced(by: silence)) else { return nil }
      bytes += more
    }
  }

  func close() { stream.close() }
}
