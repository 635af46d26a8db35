// Differential fuzzing of SidecarCore's HTTP/1 parser against llhttp (node's and swift-nio's).
//
//   http1-differential [--runs N] [--seed S] [--fuzz FOLDER]    FOLDER holds Corpus and Dictionaries; default: ..
//   http1-differential --replay FILE...                         one input a file, as a report names them
//
// The rule: whatever we understand of an input, llhttp understands the same way. Same method, target, version, fields,
// framing, persistence, body, trailers and number of messages. We may stop earlier, with an error; never later.
//
// Where we are stricter, on purpose (llhttp accepts, we answer 400 or what is named):
// - a request without Host (HTTP/1.1), with two, or with one that can't be a host
// - bare CR or LF as a line end where llhttp still takes it; empty lines before a message, but for one CRLF
// - Transfer-Encoding that is not exactly `chunked`, that is repeated, or in HTTP/1.0; chunked after another coding
// - repeated Content-Length, also with equal values
// - a target with a fragment, of a scheme other than http and https, with user info, or of the wrong form for its method
// - CONNECT with a body; an expectation other than 100-continue (417)
// - status codes outside 100...599; other versions than 1.0 and 1.1 (505)
// - white space around chunk extensions; chunk sizes over Int.max or of more than 16 digits; long chunk lines
// - a tab behind a Content-Length; interim responses (1xx) that announce a body
// - framing and connection fields in trailers; more than 256 fields or 64 KiB of them (431)
// Where we take more: methods llhttp has no number for. Such inputs are not compared.

import SidecarCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

@main struct Main {
  static func main() {
    var runs = 1_000_000
    var seed = UInt64.random(in: 1...UInt64(UInt32.max))
    var folder = ".."
    var replays: [String] = []
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      switch argument {
      case "--runs": runs = arguments.popFirst().flatMap { Int($0) } ?? runs
      case "--seed": seed = arguments.popFirst().flatMap { UInt64($0) } ?? seed
      case "--fuzz": folder = arguments.popFirst() ?? folder
      case "--replay":
        replays = Array(arguments)
        arguments = []
      default:
        print("unknown argument \(argument)")
        exit(64)
      }
    }
    let comparison = Comparison()
    if !replays.isEmpty {
      for file in replays {
        let input = read(file)
        comparison.show(input)
        if let difference = comparison.difference(input) { print(difference) }
      }
      exit(comparison.failures > 0 ? 1 : 0)
    }
    print("seed \(seed)")
    for (index, name) in ["http1-request", "http1-response"].enumerated() {
      var mutator = Mutator(
        seeds: inputs(in: "\(folder)/Corpus/\(name)"), words: dictionary("\(folder)/Dictionaries/\(name).dict"),
        random: SeededRandom(seed: seed &+ UInt64(index)))
      guard !mutator.seeds.isEmpty, !mutator.words.isEmpty else {
        print("no seeds in \(folder)/Corpus/\(name), or no dictionary")
        exit(66)
      }
      comparison.isRequest = index == 0
      for _ in 0..<runs {
        let input = mutator.next()
        if let difference = comparison.difference(input) { print("\(name), seed \(seed): \(difference)") }
        if comparison.failures >= 10 { exit(1) }
      }
      print("\(name): \(runs) inputs, \(comparison.summary)")
    }
    exit(comparison.failures > 0 ? 1 : 0)
  }

  static func read(_ path: String) -> [UInt8] {
    guard let file = fopen(path, "rb") else { return [] }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    while true {
      let byte = fgetc(file)
      if byte == EOF { return bytes }
      bytes.append(UInt8(truncatingIfNeeded: byte))
    }
  }

  /// The files of a corpus without the four bytes of choices they begin with, in the order of their names.
  static func inputs(in folder: String) -> [[UInt8]] {
    guard let directory = opendir(folder) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if !name.hasPrefix(".") { names.append(name) }
    }
    return names.sorted().map { Array(read("\(folder)/\($0)").dropFirst(4)) }.filter { !$0.isEmpty }
  }

  /// The quoted words of a libFuzzer dictionary.
  static func dictionary(_ path: String) -> [[UInt8]] {
    read(path).split(separator: UInt8(ascii: "\n")).compactMap { line in
      guard line.first == UInt8(ascii: "\""), line.last == UInt8(ascii: "\"") else { return nil }
      var word: [UInt8] = []
      var rest = line.dropFirst().dropLast()
      while let byte = rest.popFirst() {
        guard byte == UInt8(ascii: "\\"), let kind = rest.popFirst() else {
          word.append(byte)
          continue
        }
        if kind == UInt8(ascii: "x") {
          word.append(UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) ?? 0)
          rest = rest.dropFirst(2)
        } else {
          word.append(kind)
        }
      }
      return word
    }
  }
}

final class Comparison {
  var isRequest = true
  private(set) var failures = 0
  private var accepted = 0
  private var refused = 0
  private var stricter = 0
  private let ours = Ours()
  private let theirs = LLHTTP()

  /// What is wrong, nil when all is well.
  func difference(_ input: [UInt8]) -> String? {
    var left = Transcript()
    ours.run(input, isRequest, into: &left)
    let right = theirs.run(input, isRequest)
    let isUnknownMethod = right.error?.hasPrefix("HPE_INVALID_METHOD") == true
    let agree =
      left.error == nil && right.error == nil ? left.bytes == right.bytes : right.bytes.starts(with: left.bytes)
    if agree || isUnknownMethod {
      if left.error == nil { accepted += 1 } else { refused += 1 }
      if left.error != nil, right.error == nil { stricter += 1 }
      return nil
    }
    failures += 1
    return """
      we understand more, or otherwise
      input   "\(escaped(input))"
      ours    \(escaped(left.bytes)) \(left.error ?? "")
      llhttp  \(escaped(right.bytes)) \(right.error ?? "")
      """
  }

  func show(_ input: [UInt8]) {
    var left = Transcript()
    ours.run(input, isRequest, into: &left)
    let right = theirs.run(input, isRequest)
    print("ours    \(escaped(left.bytes)) \(left.error ?? "")\nllhttp  \(escaped(right.bytes)) \(right.error ?? "")")
  }

  var summary: String {
    defer { (accepted, refused, stricter) = (0, 0, 0) }
    return "\(accepted) without error, \(refused) refused (\(stricter) that llhttp takes), \(failures) differences"
  }
}
