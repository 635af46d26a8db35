// Services as go-micro keeps them on pods (go-plugins registry/kubernetes @ v0.16.0 … v5; wire/registry-broker.md §6):
//
//   labels       micro.mu/type: service     micro.mu/selector-<svc>: service
//   annotations  micro.mu/service-<svc>: the Service as JSON
//
// The one annotation has room for one version. Where a pod serves several of one name, which go-micro cannot say, the first
// is there, and the others are an array in `micro.mu/versions-<svc>`, which go-micro's readers leave alone.

import SidecarCore

enum PodEntries {
  static let typeLabel = "micro.mu/type"
  static let labelValue = "service"
  static let servicePrefix = "micro.mu/service-"
  static let versionsPrefix = "micro.mu/versions-"
  static let selectorPrefix = "micro.mu/selector-"
  /// Bytes of a service's name: a label's name has 63, `selector-` included.
  static let nameBytesMax = 54

  static let shape: JSONShape = .members([
    "metadata": .members([
      "name": .whole, "namespace": .whole, "resourceVersion": .whole, "deletionTimestamp": .whole, "labels": .whole,
      "annotations": .whole,
    ]),
    "status": .members(["phase": .whole, "conditions": .whole]),
  ])

  // MARK: Reading

  /// The services of a pod that runs, is not being deleted and, where that is asked for, not unready. `leftOut` hears of
  /// annotations that cannot be read.
  static func services(
    of pod: JSONValue, wantsReadiness: Bool, leftOut: (String, String) -> Void
  ) -> [Service] {
    guard pod["status"]?["phase"]?.stringValue == "Running",
      pod["metadata"]?["deletionTimestamp"]?.isNull ?? true, !wantsReadiness || !isUnready(pod)
    else { return [] }
    return written(on: pod, leftOut: leftOut)
  }

  /// A pod that says nothing about it counts as ready.
  private static func isUnready(_ pod: JSONValue) -> Bool {
    (pod["status"]?["conditions"]?.arrayValue ?? []).contains {
      $0["type"]?.stringValue == "Ready" && $0["status"]?.stringValue == "False"
    }
  }

  /// Whether the annotation is what a pod asks of the injector (`micro.mu/service-name: go.micro.srv.hello`), and not the
  /// entry of a service that is called `name` or `version`, which is an object.
  static func isWish(_ key: String, _ text: String) -> Bool {
    (key == servicePrefix + "name" || key == servicePrefix + "version") && text.utf8.first != UInt8(ascii: "{")
  }

  /// What the annotations say, whatever state the pod is in.
  static func written(on pod: JSONValue, leftOut: (String, String) -> Void) -> [Service] {
    var services: [Service] = []
    for annotation in pod["metadata"]?["annotations"]?.objectValue ?? [] {
      let isOne = annotation.key.hasPrefix(servicePrefix)
      guard isOne || annotation.key.hasPrefix(versionsPrefix), let text = annotation.value.stringValue,
        !isWish(annotation.key, text)
      else {
        continue
      }
      do throws(WireError) {
        let json = try JSONValue(parsing: text)
        for entry in isOne ? [json] : json.arrayValue ?? [] { services.append(try Service(json: entry)) }
      } catch {
        leftOut((pod["metadata"]?["name"]?.stringValue ?? "?") + " " + annotation.key, error.rule)
      }
    }
    return services
  }

  // MARK: Writing

  /// What follows the prefixes for this service; nil when Kubernetes does not take it.
  static func key(_ name: ServiceName) -> String? {
    let bytes = name.utf8.map { byte -> UInt8 in
      let isPlain = isAlphanumeric(byte) || [UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ".")].contains(byte)
      return isPlain ? byte : UInt8(ascii: "_")
    }
    guard !bytes.isEmpty, bytes.count <= nameBytesMax, let last = bytes.last, isAlphanumeric(last) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func isAlphanumeric(_ byte: UInt8) -> Bool {
    byte &- 0x30 < 10 || (byte | 0x20) &- UInt8(ascii: "a") < 26
  }

  /// The annotations of one service name with their values; a nil value takes one away. `versions` sorted.
  static func annotations(_ key: String, _ versions: [Service]) -> [(key: String, value: String?)] {
    let others = versions.dropFirst()
    return [
      (servicePrefix + key, versions.first?.json().text()),
      (versionsPrefix + key, others.isEmpty ? nil : JSONValue.array(others.map { $0.json() }).text()),
    ]
  }

  /// A strategic merge patch of labels and annotations; `isLast`: nothing of ours is left afterwards.
  static func patch(_ content: [(key: String, versions: [Service])], isLast: Bool) -> JSONValue {
    var labels: [JSONValue.Member] = [.init(typeLabel, isLast ? .null : .string(labelValue))]
    var notes: [JSONValue.Member] = []
    for (key, versions) in content {
      labels.append(.init(selectorPrefix + key, versions.isEmpty ? .null : .string(labelValue)))
      for (name, value) in annotations(key, versions) { notes.append(.init(name, value.map { .string($0) } ?? .null)) }
    }
    return ["metadata": ["labels": .object(labels), "annotations": .object(notes)]]
  }
}
