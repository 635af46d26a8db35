// Amounts as Kubernetes writes them (apimachinery pkg/api/resource): `20m`, `0.5`, `96Mi`. Of its many forms those that
// people use for a container; the text is handed on as it came.

package struct Quantity: Sendable, Equatable {
  package enum Kind: Sendable { case cpu, memory }

  package var text: String
  /// In cores, or in bytes.
  package var value: Double

  /// Nil for what is no positive amount of `kind`.
  package init?(_ text: String, _ kind: Kind) {
    let digits = text.utf8.prefix { $0 &- UInt8(ascii: "0") < 10 || $0 == UInt8(ascii: ".") }
    guard (1...15).contains(digits.count), digits.first != UInt8(ascii: "."), digits.last != UInt8(ascii: "."),
      let number = Double(String(digits) ?? ""), number > 0,
      let scale = Self.scale(String(text.dropFirst(digits.count)), kind)
    else {
      return nil
    }
    self.text = text
    value = number * scale
  }

  private static func scale(_ suffix: String, _ kind: Kind) -> Double? {
    switch (suffix, kind) {
    case ("", _): 1
    case ("m", .cpu): 0.001
    case ("k", .memory): 1e3
    case ("M", .memory): 1e6
    case ("G", .memory): 1e9
    case ("Ki", .memory): 1024
    case ("Mi", .memory): 1_048_576
    case ("Gi", .memory): 1_073_741_824
    default: nil
    }
  }

  /// An amount, `.some(nil)` for the word `none`, nil for neither.
  static func setting(_ text: String, _ kind: Kind) -> Quantity?? {
    text == "none" ? .some(nil) : Quantity(text, kind).map { .some($0) }
  }

  static func expected(_ kind: Kind) -> String {
    switch kind {
    case .cpu: "cores or thousandths of them, such as 20m or 0.5, or none"
    case .memory: "bytes, such as 96Mi, 1Gi or 100M, or none"
    }
  }
}
