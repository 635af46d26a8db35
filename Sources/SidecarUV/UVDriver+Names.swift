// Host names and network interfaces.

import CUV
import Glibc
import SidecarCore

extension UVDriver {
  /// libuv asks the system's resolver on its thread pool (4 threads, `UV_THREADPOOL_SIZE`), shared by all loops.
  package func resolve(host: String, completion: @escaping (Result<[SocketAddress], DriverError>) -> Void) {
    if let literal = SocketAddress(host: host, port: 0) {
      later { completion(.success([literal])) }
      return
    }
    let operation = "look up \(host)"
    func fail(_ error: DriverError) { later { completion(.failure(error)) } }
    if isStopping { return }
    // C would cut the name there, and look up another.
    if host.isEmpty || host.utf8.contains(0) {
      return fail(DriverError(operation, status: UV_EAI_NONAME.rawValue))
    }
    let request = UnsafeMutablePointer<uv_getaddrinfo_t>.allocate(capacity: 1)
    let lookup = Lookup(operation: operation, driver: self, completion: completion)
    request.pointee.data = Unmanaged.passRetained(lookup).toOpaque()
    var hints = addrinfo()
    hints.ai_family = AF_UNSPEC
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    let status = uv_getaddrinfo(loop, request, lookupEnded, host, nil, &hints)
    if status < 0 {
      Unmanaged.passUnretained(lookup).release()
      request.deallocate()
      fail(DriverError(operation, status: status))
    }
  }

  package func interfaces() -> [NetworkInterface] {
    var first: UnsafeMutablePointer<ifaddrs>?
    guard getifaddrs(&first) == 0 else { return [] }
    defer { freeifaddrs(first) }
    var found: [NetworkInterface] = []
    var entry = first
    while let current = entry {
      entry = current.pointee.ifa_next
      guard let raw = current.pointee.ifa_addr, let name = current.pointee.ifa_name else { continue }
      let family = Int32(raw.pointee.sa_family)
      guard family == AF_INET || family == AF_INET6 else { continue }
      let length = family == AF_INET ? MemoryLayout<sockaddr_in>.size : MemoryLayout<sockaddr_in6>.size
      guard let address = SocketAddress(sockaddr: raw, length: length) else { continue }
      let flags = Int32(bitPattern: current.pointee.ifa_flags)
      let isUp = flags & Int32(IFF_UP) != 0 && flags & Int32(IFF_RUNNING) != 0
      found.append(
        NetworkInterface(
          name: String(cString: name), index: if_nametoindex(name), address: address, isUp: isUp,
          isMulticastCapable: flags & Int32(IFF_MULTICAST) != 0))
    }
    return found
  }
}

private final class Lookup {
  let operation: String
  unowned(unsafe) let driver: UVDriver
  let completion: (Result<[SocketAddress], DriverError>) -> Void

  init(
    operation: String, driver: UVDriver, completion: @escaping (Result<[SocketAddress], DriverError>) -> Void
  ) {
    self.operation = operation
    self.driver = driver
    self.completion = completion
  }

  func ended(_ status: Int32, _ first: UnsafeMutablePointer<addrinfo>?) {
    if driver.isStopping { return }
    if status < 0 {
      completion(.failure(DriverError(operation, status: status)))
      return
    }
    var v4: [SocketAddress] = []
    var v6: [SocketAddress] = []
    var entry = first
    while let current = entry {
      entry = current.pointee.ai_next
      guard let raw = current.pointee.ai_addr,
        let address = SocketAddress(sockaddr: raw, length: Int(current.pointee.ai_addrlen))
      else { continue }
      if address.isIPv6 {
        if !v6.contains(address) { v6.append(address) }
      } else if !v4.contains(address) {
        v4.append(address)
      }
    }
    if v4.isEmpty, v6.isEmpty {
      completion(.failure(DriverError(operation, status: UV_EAI_NONAME.rawValue)))
    } else {
      completion(.success(v4 + v6))
    }
  }
}

private func lookupEnded(
  _ request: UnsafeMutablePointer<uv_getaddrinfo_t>?, _ status: Int32, _ result: UnsafeMutablePointer<addrinfo>?
) {
  guard let request else { return }
  if let data = request.pointee.data {
    Unmanaged<Lookup>.fromOpaque(data).takeRetainedValue().ended(status, result)
  }
  uv_freeaddrinfo(result)
  request.deallocate()
}
