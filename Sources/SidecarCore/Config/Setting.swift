// One row of the table of settings, its value's type erased.

/// The chapters of the help.
package enum SettingGroup: String, CaseIterable, Sendable {
  case listeners = "Listeners"
  case app = "The app"
  case registry = "Registry and selection"
  case calls = "Calls"
  case limits = "Limits"
  case process = "Process"
}

/// How one setting is spelled, read and printed.
///
/// The flag and the file's key follow from the environment's key as in go-micro: `MICRO_SERVER_NAME` is `--server_name`
/// and `server_name`. Dashes and underscores are the same in both.
package struct Setting: Sendable {
  package let key: String
  /// Other keys of the environment that mean the same, for their age.
  package let aliases: [String]
  package let group: SettingGroup
  package let help: String
  package let expected: String
  package let isList: Bool
  package let shape: SettingShape
  /// The key of the setting whose value the file holds that this one names; nil for all others.
  package let holderOf: String?
  /// Reads the value and puts it into the settings.
  package let apply: @Sendable (RawSetting, inout Settings) throws(SettingMismatch) -> Void
  /// The value as text; nil when there is none.
  package let format: @Sendable (Settings) -> String?
  private let mask: Mask

  package enum Mask: Sendable {
    case nothing
    /// Passwords inside URLs.
    case passwords
    /// Options of registries that are secrets, such as `token=`.
    case options
    /// The whole of it.
    case whole
  }

  init<Value: Sendable>(
    _ key: String, _ path: any WritableKeyPath<Settings, Value> & Sendable, _ kind: SettingKind<Value>,
    _ group: SettingGroup, aliases: [String] = [], mask: Mask = .nothing, _ help: String
  ) {
    self.key = key
    self.aliases = aliases
    self.group = group
    self.help = help
    self.mask = mask
    expected = kind.expected
    isList = kind.isList
    shape = kind.shape
    holderOf = nil
    apply = { (raw, settings) throws(SettingMismatch) in settings[keyPath: path] = try kind.parse(raw) }
    format = { kind.format($0[keyPath: path]) }
  }

  /// The setting `X_FILE` of a secret `X`.
  private init(holding secret: Setting) {
    let kind = SettingKind<String>.text.optional
    let secretKey = secret.key
    key = secretKey + "_FILE"
    aliases = secret.aliases.map { $0 + "_FILE" }
    group = secret.group
    help = "a file with the value of \(secretKey); the line's end is cut off"
    mask = .nothing
    expected = kind.expected
    isList = false
    shape = kind.shape
    holderOf = secretKey
    apply = { (raw, settings) throws(SettingMismatch) in settings.secretPaths[secretKey] = try kind.parse(raw) }
    format = { $0.secretPaths[secretKey] }
  }

  /// The value must not be shown, so it may also come from a file: by the setting's key with `_FILE` behind it.
  package var isSecret: Bool {
    switch mask {
    case .nothing, .options: false
    case .passwords, .whole: true
    }
  }

  /// The setting itself, and for a secret the one that names its file.
  var withHolder: [Setting] { isSecret ? [self, Setting(holding: self)] : [self] }

  /// `server_name` for `MICRO_SERVER_NAME`; also the file's key.
  package var name: String { Self.name(of: key) }

  /// The flag as the help shows it.
  package var flag: String { "--" + name }

  static func name(of key: String) -> String {
    let prefix = "MICRO_"
    return (key.hasPrefix(prefix) ? String(key.dropFirst(prefix.count)) : key).lowercased()
  }

  /// Folds the spelling of a flag or of a file's key.
  package static func folded(_ name: String) -> String {
    String(decoding: name.lowercased().utf8.map { $0 == UInt8(ascii: "-") ? UInt8(ascii: "_") : $0 }, as: UTF8.self)
  }

  /// `text` fit to be shown: secrets become `***`.
  package func shown(_ text: String) -> String {
    switch mask {
    case .nothing: text
    case .whole: text.isEmpty ? text : "***"
    case .options: Self.withoutSecretOptions(text)
    case .passwords:
      text.split(separator: ",", omittingEmptySubsequences: false).map { Self.withoutPassword(String($0)) }
        .joined(separator: ",")
    }
  }

  /// `consul:host?token=***` for options that registries take as secrets; their `_file` forms are no secrets.
  static func withoutSecretOptions(_ text: String) -> String {
    let secrets: Set<String> = ["token", "password", "auth", "key"]
    var shown = ""
    var name = ""
    var isHidden = false
    for character in text {
      switch character {
      case "?", "&", ",":
        name = ""
        isHidden = false
      case "=" where secrets.contains(name):
        if !isHidden { shown += "=***" }
        isHidden = true
        continue
      default: name.append(character)
      }
      if !isHidden { shown.append(character) }
    }
    return shown
  }

  /// `scheme://user:***@host` for what has a password. Without a scheme, `user:password@host` counts as well.
  private static func withoutPassword(_ url: String) -> String {
    guard let at = url.lastIndex(of: "@") else { return url }
    var start = url.startIndex
    for index in url.indices where index < at && url[index...].hasPrefix("://") {
      start = url.index(index, offsetBy: 3)
      break
    }
    guard start <= at, let colon = url[start..<at].firstIndex(of: ":") else { return url }
    return url[...colon] + "***" + url[at...]
  }
}
