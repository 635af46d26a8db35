// What libFuzzer calls. A target file defines one function:
//
//   func fuzzOne(_ input: UnsafeRawBufferPointer)   // any bytes; returns when all is well, else calls `fail`
//
// It is called again and again in one process, so it must not keep anything from one input to the next.

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  fuzzOne(UnsafeRawBufferPointer(start: start, count: count))
  return 0
}

/// Ends the process; libFuzzer keeps the input that led here.
func fail(_ message: String) -> Never { fatalError(message) }

/// Takes the numbers a target needs from the front of an input, so that the fuzzer chooses them.
struct Choices {
  private(set) var rest: UnsafeRawBufferPointer

  init(_ input: UnsafeRawBufferPointer) { rest = input }

  /// 0 when the input is used up.
  mutating func byte() -> UInt8 {
    guard let first = rest.first else { return 0 }
    rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst())
    return first
  }

  /// Places to cut what is left, in order; each choice is one byte, as a share of the length.
  mutating func cuts(_ count: Int) -> [Int] {
    let shares = (0..<count).map { _ in Int(byte()) }
    return shares.map { $0 * rest.count / 255 }.sorted()
  }
}

/// Calls `body` with each piece of `bytes`, in memory of exactly its size, so that a read beyond it is caught, and gone
/// when `body` returns.
func forEachPiece(_ bytes: UnsafeRawBufferPointer, cutAt cuts: [Int], _ body: (UnsafeRawBufferPointer) -> Bool) {
  var start = 0
  for stop in cuts + [bytes.count] {
    let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: stop - start, alignment: 1)
    defer { piece.deallocate() }
    piece.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[start..<stop]))
    start = stop
    guard body(UnsafeRawBufferPointer(piece)) else { return }
  }
}
