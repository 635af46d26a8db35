// The client side of the suite: Autobahn's fuzzing server says how many cases there are, runs each on a connection of its
// own, and writes its report when asked.

import SidecarCore

/// Loop-confined. Calls `onDone` when the report is written.
final class CaseRunner {
  private let driver: any Driver
  private let address: SocketAddress
  private let wish: DeflateWish
  private let onDone: () -> Void
  private var peer: EchoPeer?
  private var count = 0
  private var next = 1

  init(_ driver: any Driver, _ address: SocketAddress, _ wish: DeflateWish, onDone: @escaping () -> Void) {
    self.onDone = onDone
    self.driver = driver
    self.address = address
    self.wish = wish
  }

  func start() {
    open("/getCaseCount", echoes: false) { [self] message in
      if let message {
        count = Int(message) ?? 0
      } else {
        precondition(count > 0, "the fuzzing server named no cases")
        runNext()
      }
    }
  }

  private func runNext() {
    guard next <= count else {
      open("/updateReports?agent=micro-sidecar", echoes: false) { [self] message in
        if message == nil { onDone() }
      }
      return
    }
    let number = next
    next += 1
    open("/runCase?case=\(number)&agent=micro-sidecar", echoes: true) { [self] message in
      if message == nil { runNext() }
    }
  }

  private func open(_ path: String, echoes: Bool, onMessage: @escaping (String?) -> Void) {
    peer = EchoPeer(driver, calling: address, path, wish, echoes: echoes, onMessage: onMessage)
  }
}
