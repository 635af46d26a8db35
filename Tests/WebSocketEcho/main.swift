// An echo server and an echo client for the Autobahn test suite: the sidecar's WebSocket codec on libuv and nothing else.
//
//   websocket-echo --server PORT [--context]          until it is killed; port 0: the one chosen is printed
//   websocket-echo --client HOST:PORT [--context]     runs all cases of Autobahn's fuzzing server, asks for its report
//
// `--context` lets both directions keep their compression context between messages.

import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

let usage = "usage: websocket-echo --server PORT | --client ADDRESS:PORT [--context]"
var arguments = Array(CommandLine.arguments.dropFirst())
let wish: DeflateWish = arguments.contains("--context") ? .withContext : .withoutContext
arguments.removeAll { $0 == "--context" }
guard arguments.count == 2 else { fatalError(usage) }

let driver = try UVDriver()
switch arguments[0] {
case "--server":
  guard let port = UInt16(arguments[1]), let address = SocketAddress("127.0.0.1:\(port)") else { fatalError(usage) }
  let listener = try driver.listen(on: address, sharedPort: false) { stream in
    stream.handler = EchoPeer(driver, serving: stream, wish)
  }
  // Not `print`, which would keep the line until there are more of them.
  let line = Array("\(listener.address)\n".utf8)
  guard write(1, line, line.count) == line.count else { fatalError("nobody hears which port it is") }
case "--client":
  guard let address = SocketAddress(arguments[1]) else { fatalError(usage) }
  CaseRunner(driver, address, wish) { driver.stop() }.start()
default: fatalError(usage)
}
driver.run()
