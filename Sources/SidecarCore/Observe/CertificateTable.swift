// The certificates in use, and when they end: for metrics and for people.

/// One certificate of a file.
package struct CertificateNote: Equatable, Sendable {
  package enum Kind: String, Sendable {
    /// Ours, or one of the chain behind it.
    case own
    /// One that others' certificates are measured by.
    case authority
  }

  /// What it is used for, such as `admin` or `consul`.
  package var use: String
  package var kind: Kind
  package var file: String
  package var subject: String
  /// Seconds since 1970.
  package var notAfter: Int64

  package init(use: String, kind: Kind, file: String, subject: String, notAfter: Int64) {
    self.use = use
    self.kind = kind
    self.file = file
    self.subject = subject
    self.notAfter = notAfter
  }
}

/// Threading: the control loop (`Sendable` so that plug-ins may hold it).
package final class CertificateTable: @unchecked Sendable {
  /// Certificates of one file; of more only the one that ends first is told.
  package static let perFileMax = 16
  /// Files; of more nothing is told.
  package static let filesMax = 64

  private struct Key: Hashable {
    var use: String
    var file: String
  }
  private var files: [Key: [CertificateNote]] = [:]

  package init() {}

  /// What a file that is in use holds now.
  package func note(
    _ use: String, _ kind: CertificateNote.Kind, file: String, _ found: [(subject: String, notAfter: Int64)]
  ) {
    let key = Key(use: use, file: file)
    guard files[key] != nil || files.count < Self.filesMax else { return }
    var told = found.filter { $0.notAfter >= 0 }
    if told.count > Self.perFileMax, let first = told.min(by: { $0.notAfter < $1.notAfter }) { told = [first] }
    var subjects: Set<String> = []
    // The same name twice is a renewal beside the old one: the later counts.
    files[key] = told.sorted { $0.notAfter > $1.notAfter }.filter { subjects.insert($0.subject).inserted }.map {
      CertificateNote(use: use, kind: kind, file: file, subject: $0.subject, notAfter: $0.notAfter)
    }
  }

  /// Sorted by use, file and end.
  package var notes: [CertificateNote] {
    files.values.flatMap { $0 }.sorted { ($0.use, $0.file, $0.notAfter) < ($1.use, $1.file, $1.notAfter) }
  }

  package func family(_ name: String) -> MetricFamily {
    MetricFamily(
      name, .gauge, "When a certificate in use ends, in seconds since 1970.",
      notes.map {
        .init(
          [("use", $0.use), ("kind", $0.kind.rawValue), ("file", $0.file), ("subject", $0.subject)],
          Double($0.notAfter))
      })
  }

  package func json() -> JSONValue {
    .array(
      notes.map {
        [
          "use": .string($0.use), "kind": .string($0.kind.rawValue), "file": .string($0.file),
          "subject": .string($0.subject), "not_after": JSONValue(Int($0.notAfter)),
        ]
      })
  }
}
