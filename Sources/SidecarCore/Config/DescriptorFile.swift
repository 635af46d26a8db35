/// A FileDescriptorSet file: one element of `MICRO_DESCRIPTORS`.
package struct DescriptorFile: Hashable, Sendable, CustomStringConvertible {
  /// The go-micro service it is bound to; nil: it is for all.
  package var service: ServiceName?
  package var path: String

  package init(service: ServiceName? = nil, path: String) {
    self.service = service
    self.path = path
  }

  /// `path` or `service=path`; nil for a part that is empty. What stands before the first `=` is a service unless it
  /// has a slash, which no service's name has.
  package init?(_ text: String) {
    guard !text.isEmpty else { return nil }
    guard let equals = text.firstIndex(of: "="), !text[..<equals].contains("/") else {
      self.init(path: text)
      return
    }
    let service = SettingText.trimmed(text[..<equals])
    let path = SettingText.trimmed(text[text.index(after: equals)...])
    guard !service.isEmpty, !path.isEmpty else { return nil }
    self.init(service: service, path: path)
  }

  package var description: String { service.map { "\($0)=\(path)" } ?? path }
}

extension SettingKind<[DescriptorFile]> {
  static var descriptorFiles: SettingKind {
    let paths = SettingKind<[String]>.list(
      of:
        "FileDescriptorSet files, each for all services or bound to one, such as "
        + "common.binpb,go.micro.srv.shop=shop.binpb"
    )
    return SettingKind(
      paths.expected, isList: true, shape: .list,
      parse: { (raw) throws(SettingMismatch) in
        var files: [DescriptorFile] = []
        for text in try paths.parse(raw) {
          guard let file = DescriptorFile(text) else { throw SettingMismatch(paths.expected) }
          files.append(file)
        }
        return files
      },
      format: { $0.isEmpty ? nil : $0.map(\.description).joined(separator: ",") })
  }
}
