import Foundation
import SidecarCore

/// Packets recorded from real go-micro peers (Tests/Fixtures/mdns). Each file says at its head what ran; it may hold packets of
/// other peers too.
struct Recording {
  struct Packet {
    var from: String
    var to: String
    var bytes: [UInt8]
    /// What the recorder's own decoder, which is not ours, read in it: a line for each question and record.
    var lines: [String]
    var isMulticast: Bool { to.hasPrefix("224.0.0.251") }
  }
  var packets: [Packet] = []

  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appendingPathComponent("Fixtures/mdns")

  static let names: [String] = {
    let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return files.filter { $0.hasSuffix(".txt") }.sorted()
  }()

  init(_ name: String) throws {
    let text = try String(contentsOf: Self.folder.appendingPathComponent(name), encoding: .utf8)
    for line in text.split(separator: "\n") {
      if line.hasPrefix("=== UDP ") {
        let words = line.split(separator: " ")
        packets.append(Packet(from: String(words[3]), to: String(words[5]), bytes: [], lines: []))
      } else if packets.isEmpty {
        continue
      } else if line.hasPrefix("  "), line.dropFirst(8).hasPrefix("  "), line.hasSuffix("|") {
        // "  000000  e0 aa …  |..|": sixteen bytes in 48 columns.
        for byte in line.dropFirst(10).prefix(48).split(separator: " ") {
          packets[packets.count - 1].bytes.append(UInt8(byte, radix: 16)!)
        }
      } else if line.hasPrefix("  ") {
        packets[packets.count - 1].lines.append(line.trimmingCharacters(in: .whitespaces))
      }
    }
  }
}

/// A message in the words of the recorder's decoder, TXT contents included.
func recorderLines(_ message: DNSMessage) -> [String] {
  var lines = [
    "DNS id=\(message.id) flags=0x\(hex4(message.flags.rawValue)) "
      + (message.flags.contains(.response) ? "response" : "query")
      + " qd=\(message.questions.count) an=\(message.answers.count) ns=\(message.authorities.count)"
      + " ar=\(message.additionals.count)"
  ]
  for question in message.questions {
    lines.append("Q  \(question.name). \(word(question.type)) class=0x\(hex4(question.classAndUnicast))")
  }
  for (section, records) in [("AN", message.answers), ("NS", message.authorities), ("AR", message.additionals)] {
    for record in records {
      let head =
        "\(section) \(record.name). \(word(record.type)) class=0x\(hex4(record.classAndFlush)) ttl=\(record.ttl) "
      switch record.data {
      case .a(let address): lines.append(head + SocketAddress.ipv4(address: address, port: 0).host)
      case .aaaa(let high, let low):
        lines.append(head + SocketAddress.ipv6(high: high, low: low, zone: 0, port: 0).host)
      case .ptr(let name), .cname(let name): lines.append(head + "\(name).")
      case .srv(let priority, let weight, let port, let target):
        lines.append(head + "prio=\(priority) weight=\(weight) port=\(port) target=\(target).")
      case .txt(let strings):
        lines.append(head + "\(strings.count) strings [\(strings.map { "\($0.count)" }.joined(separator: ", "))]")
        if !strings.isEmpty {
          lines.append("txt strings joined: " + String(decoding: strings.joined(), as: UTF8.self))
        }
      case .other(let type, _): lines.append(head + "type \(type.rawValue)")
      }
    }
  }
  return lines
}

private func hex4(_ number: UInt16) -> String { String(format: "%04x", number) }

private func word(_ type: DNSType) -> String {
  let words: [UInt16: String] = [1: "A", 12: "PTR", 16: "TXT", 28: "AAAA", 33: "SRV", 255: "ANY"]
  return words[type.rawValue] ?? "\(type.rawValue)"
}
