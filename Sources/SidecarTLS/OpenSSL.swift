// OpenSSL's functions, loaded when the first context is made.

import COpenSSL
import SidecarCore

/// Filled once, by whichever thread comes first, and never changed.
private nonisolated(unsafe) let loaded: (functions: UnsafePointer<openssl_functions>, failure: String?) = {
  let functions = UnsafeMutablePointer<openssl_functions>.allocate(capacity: 1)
  functions.initialize(to: openssl_functions())
  let failure = openssl_load(functions).map { String(cString: $0) }
  return (UnsafePointer(functions), failure)
}()

/// The functions by their C names. Only behind `requireOpenSSL`.
var openssl: openssl_functions {
  @inline(__always) unsafeAddress { loaded.functions }
}
var opensslFunctions: UnsafePointer<openssl_functions> { loaded.functions }

func requireOpenSSL() throws(TLSError) {
  guard let failure = loaded.failure else { return }
  throw TLSError("TLS needs OpenSSL 3, which is not here (\(failure)): install it, as `apt-get install libssl3`")
}
