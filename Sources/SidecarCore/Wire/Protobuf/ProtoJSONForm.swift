// The forms that a protobuf message takes as JSON, and who reads which.

/// How the JSON of a message is written. Reading takes every form.
package struct ProtoJSONForm: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  /// Names as in the .proto file (`user_id`) instead of JSON names (`userId`).
  package static let originalNames = ProtoJSONForm(rawValue: 1)
  /// 64-bit integers as numbers instead of strings.
  package static let plainIntegers = ProtoJSONForm(rawValue: 2)
  /// Enum values as numbers instead of names.
  package static let enumNumbers = ProtoJSONForm(rawValue: 4)
  /// Timestamp, Duration, FieldMask, Any and the wrappers as the messages they are, such as
  /// `{"seconds":1,"nanos":5}`. Struct, Value and ListValue stay plain JSON: the form that encoding/json gives them
  /// can be read by nobody.
  package static let plainWellKnownTypes = ProtoJSONForm(rawValue: 8)

  /// protobuf's own JSON, as Go's protojson and go-micro from 5.14 on write it.
  package static let canonical: ProtoJSONForm = []
  /// What encoding/json makes of generated structs, as go-micro before 5.14 writes it.
  package static let goMicro: ProtoJSONForm = [.originalNames, .plainIntegers, .enumNumbers, .plainWellKnownTypes]
}

/// Who reads the JSON made of a protobuf message (wire/rpc.md §3.4).
package enum JSONAudience: Sendable {
  /// Apps, browsers and people: protobuf's own JSON.
  case people
  /// go-micro from v0.22 on: names as in the .proto file, plain numbers and enum numbers, which every version of it reads;
  /// well-known types in their canonical form, which v1.7 and later insist on.
  case framework
  /// Before that: plain encoding/json throughout.
  case oldFramework

  var form: ProtoJSONForm {
    switch self {
    case .people: .canonical
    case .framework: [.originalNames, .plainIntegers, .enumNumbers]
    case .oldFramework: .goMicro
    }
  }
}
