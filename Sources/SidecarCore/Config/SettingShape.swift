// What a value of the configuration file looks like, for the JSON Schema: each kind of setting names its shape beside the
// code that reads it. A shape never refuses what the kind reads; bounds of texts such as durations are the kind's alone.

package indirect enum SettingShape: Sendable, Equatable {
  /// Any scalar.
  case text
  /// A scalar whose text matches an ECMA-262 regular expression.
  case pattern(String)
  case integer(ClosedRange<Int>)
  case number(ClosedRange<Double>)
  /// `0.2` or `20%`.
  case share(upTo: Double)
  case flag
  /// One of a few words, letters in any case.
  case words([String])
  /// A Go duration; `0` without a unit where nothing is allowed.
  case duration(allowsZero: Bool)
  /// Bytes, as a number or with a unit.
  case size(ClosedRange<Int>)
  /// Texts with commas between them, or a sequence.
  case list
  /// `key=value` with commas between them, a sequence of such, or a mapping.
  case pairs
  case either([SettingShape])

  /// Alternatives of a schema: a value has to match one of them.
  package var alternatives: [JSONValue] {
    switch self {
    case .text: [Self.scalar]
    case .pattern(let pattern): [["type": "string", "pattern": .string(pattern)], ["type": ["number", "boolean"]]]
    case .integer(let range):
      [
        [
          "type": "integer", "minimum": .number("\(range.lowerBound)"), "maximum": .number("\(range.upperBound)"),
        ], Self.matching("^[+-]?[0-9]+$"),
      ]
    case .number(let range):
      [
        ["type": "number", "minimum": Self.plain(range.lowerBound), "maximum": Self.plain(range.upperBound)],
        Self.matching("^[0-9.eE+-]+$"),
      ]
    case .share(let most):
      [
        ["type": "number", "minimum": .number("0"), "maximum": Self.plain(most)],
        Self.matching("^[0-9.]+%?$"),
      ]
    case .flag: [["enum": [true, false, "true", "false"]]]
    case .words(let words): Self.any(of: words)
    case .duration(let allowsZero):
      [Self.matching("^\\+?(([0-9]+\\.?[0-9]*|\\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$")]
        + (allowsZero ? [["enum": [.number("0"), "0"]]] : [])
    case .size(let range):
      [
        ["type": "integer", "minimum": .number("\(range.lowerBound)"), "maximum": .number("\(range.upperBound)")],
        Self.matching("^[0-9]+(\\.[0-9]+)? *([kKmMgG]([iI][bB]?|[bB])|[bB])?$"),
      ]
    case .list: [Self.scalar, ["type": "array", "items": Self.scalar]]
    case .pairs:
      [
        ["type": "string"], ["type": "array", "items": ["type": "string", "pattern": "="]],
        ["type": "object", "additionalProperties": Self.scalar],
      ]
    case .either(let shapes): shapes.flatMap(\.alternatives)
    }
  }

  static let scalar: JSONValue = ["type": ["string", "number", "boolean"]]

  private static func matching(_ pattern: String) -> JSONValue { ["type": "string", "pattern": .string(pattern)] }

  /// The words as they are usually written, for editors that offer them, and in any case of letters.
  static func any(of words: [String]) -> [JSONValue] {
    let patterns = words.map { word in
      word.unicodeScalars.map { scalar -> String in
        let (upper, lower) = (scalar.properties.uppercaseMapping, scalar.properties.lowercaseMapping)
        return upper == lower ? String(scalar) : "[\(upper)\(lower)]"
      }.joined()
    }
    var alternatives: [JSONValue] = [["enum": .array(words.map { .string($0) })]]
    if patterns != words { alternatives.append(matching("^(" + patterns.joined(separator: "|") + ")$")) }
    // YAML 1.1 readers make these of the bare words.
    if words.contains("off") { alternatives.append(["const": false]) }
    return alternatives
  }

  private static func plain(_ number: Double) -> JSONValue {
    let text = "\(number)"
    return .number(text.hasSuffix(".0") ? String(text.dropLast(2)) : text)
  }

  /// Words a shell can offer; empty when the value is free.
  package var choices: [String] {
    switch self {
    case .flag: ["true", "false"]
    case .words(let words): words
    case .either(let shapes): shapes.flatMap(\.choices)
    case .text, .pattern, .integer, .number, .share, .duration, .size, .list, .pairs: []
    }
  }
}

extension JSONValue {
  /// A schema for values that match one of `alternatives`, which are not empty.
  static func anyOf(_ alternatives: [JSONValue]) -> JSONValue {
    alternatives.count == 1 ? alternatives[0] : ["anyOf": .array(alternatives)]
  }
}
