// From a pod to the JSON Patch (RFC 6902) that puts a sidecar into it. No I/O, no clock: the same pod gives the same patch.
//
//   pod ─▶ to be left alone?  ─ yes ─▶ nothing, perhaps with a warning
//             │ no: annotations ─▶ SidecarWish ─▶ DrainPlan ─▶ SidecarContainer ─▶ the sidecar's own check of its settings
//             └▶ operations: container first, app's environment, volumes, labels, annotations

import SidecarCore

/// What is to be done with a pod.
package struct PodDecision: Sendable, Equatable {
  /// `add` operations in order; empty: the pod stays as it is.
  package var operations: [JSONValue] = []
  /// For the one who made the pod.
  package var warnings: [String] = []
}

package struct PodPatch: Sendable {
  /// Containers of a pod that are looked at; a pod has a few.
  static let containersMax = 256

  package let defaults: SidecarDefaults
  /// What the sidecar would say of its settings at its start: nothing, if they are good.
  let check: @Sendable ([String: String]) -> [SettingProblem]

  package init(_ defaults: SidecarDefaults, check: @escaping @Sendable ([String: String]) -> [SettingProblem]) {
    self.defaults = defaults
    self.check = check
  }

  /// What a pod without a word of its own would set: what the injector's own settings come to.
  package static func environmentOfBarePod(_ defaults: SidecarDefaults) -> [String: String] {
    guard let wish = try? SidecarWish([], defaults),
      let plan = try? DrainPlan.make(grace: DrainPlan.graceDefault, wanted: nil)
    else {
      return [:]
    }
    return SidecarContainer(wish: wish, defaults: defaults, plan: plan).environmentForCheck
  }

  /// Errors: the pod cannot have the sidecar it asks for, or is no pod.
  package func decide(_ pod: JSONValue) throws(InjectionError) -> PodDecision {
    guard let spec = pod["spec"], spec.objectValue != nil else {
      throw InjectionError("the object has no spec: it is no pod")
    }
    let metadata = pod["metadata"] ?? .object([])
    let annotations = try members(metadata["annotations"], "metadata.annotations")
    let labels = try members(metadata["labels"], "metadata.labels")
    let containers = try list(spec["containers"], "spec.containers")
    let initContainers = try list(spec["initContainers"], "spec.initContainers")
    let volumes = try list(spec["volumes"], "spec.volumes")
    guard !containers.isEmpty else { throw InjectionError("spec.containers is empty") }

    if let switchedOff = try switchedOff(annotations, labels) { return switchedOff }
    if (containers + initContainers).contains(where: { $0["name"]?.stringValue == SidecarContainer.name }) {
      return PodDecision()
    }
    if spec["hostNetwork"]?.boolValue == true {
      return PodDecision(warnings: ["micro-sidecar is not put into pods with hostNetwork, whose ports are the node's"])
    }
    if let system = spec["os"]?["name"]?.stringValue, system != "linux" {
      return PodDecision(warnings: ["micro-sidecar is for pods of linux, not of \(Shown.quoted(system))"])
    }

    let wish = try SidecarWish(annotations, defaults)
    try checkPorts(wish, containers + initContainers)
    let plan = try DrainPlan.make(grace: try grace(spec), wanted: wish.drainSeconds)
    let sidecar = SidecarContainer(wish: wish, defaults: defaults, plan: plan)
    try checkSettings(sidecar)

    var patch = Operations()
    if wish.isNative {
      patch.addFirst("/spec/initContainers", sidecar.json(), isThere: spec["initContainers"]?.arrayValue != nil)
    } else {
      patch.addFirst("/spec/containers", sidecar.json(), isThere: true)
    }
    for (index, container) in containers.enumerated() {
      // Ours has moved an ordinary pod's containers by one.
      let path = "/spec/containers/\(index + (wish.isNative ? 0 : 1))"
      try addAppEnvironment(container, path, sidecar, &patch)
    }
    try addVolumes(sidecar.volumes, volumes, isThere: spec["volumes"]?.arrayValue != nil, &patch)
    let kind = wish.isNative ? "native" : "classic"
    patch.addMembers(
      "/metadata", "labels", [.init("micro.mu/sidecar", .string(kind))], existing: labels,
      isThere: metadata["labels"]?.objectValue != nil, isParentThere: pod["metadata"]?.objectValue != nil)
    patch.addMembers(
      "/metadata", "annotations", notes(kind, wish, containers), existing: annotations,
      isThere: metadata["annotations"]?.objectValue != nil, isParentThere: true)
    return PodDecision(operations: patch.operations, warnings: wish.warnings)
  }

  // MARK: Shapes

  private func members(_ value: JSONValue?, _ path: String) throws(InjectionError) -> [JSONValue.Member] {
    guard let value, !value.isNull else { return [] }
    guard let members = value.objectValue else { throw InjectionError("\(path) is not a map") }
    return members
  }

  private func list(_ value: JSONValue?, _ path: String) throws(InjectionError) -> [JSONValue] {
    guard let value, !value.isNull else { return [] }
    guard let elements = value.arrayValue, elements.allSatisfy({ $0.objectValue != nil }) else {
      throw InjectionError("\(path) is not a list of objects")
    }
    guard elements.count <= Self.containersMax else {
      throw InjectionError("\(path) has \(elements.count) elements; \(Self.containersMax) are looked at")
    }
    return elements
  }

  private func grace(_ spec: JSONValue) throws(InjectionError) -> Int {
    guard let value = spec["terminationGracePeriodSeconds"], !value.isNull else { return DrainPlan.graceDefault }
    guard let seconds = value.intValue, seconds >= 0 else {
      throw InjectionError("spec.terminationGracePeriodSeconds is no number of seconds")
    }
    return min(seconds, 1_000_000)
  }

  // MARK: Checks

  /// Nil: go on. A label counts as an annotation does, since only labels choose pods for a webhook.
  private func switchedOff(
    _ annotations: [JSONValue.Member], _ labels: [JSONValue.Member]
  ) throws(InjectionError) -> PodDecision? {
    let key = Annotation.inject.key
    for (where_, members) in [("annotation", annotations), ("label", labels)] {
      guard let value = members.last(where: { $0.key == key })?.value else { continue }
      guard let text = value.stringValue, let isOn = Switch.value(text) else {
        throw InjectionError(
          "\(where_) \(key): found \(Shown.quoted(value.stringValue ?? "no text")), expected enabled or disabled")
      }
      if !isOn { return PodDecision() }
    }
    return nil
  }

  private func checkPorts(_ wish: SidecarWish, _ containers: [JSONValue]) throws(InjectionError) {
    let ours = [
      (wish.ports.sidecar, Annotation.sidecarPort), (wish.ports.server, .serverPort), (wish.ports.admin, .adminPort),
    ]
    for container in containers {
      for port in container["ports"]?.arrayValue ?? [] {
        guard let number = port["containerPort"]?.intValue, let (_, annotation) = ours.first(where: { $0.0 == number })
        else {
          continue
        }
        throw InjectionError(
          "the container \(Shown.quoted(container["name"]?.stringValue ?? "")) has port \(number), which the sidecar "
            + "would take: give the sidecar another by \(annotation.key)")
      }
    }
  }

  /// The sidecar's own rules, in the words of the annotations.
  private func checkSettings(_ sidecar: SidecarContainer) throws(InjectionError) {
    let problems = check(sidecar.environmentForCheck)
    guard !problems.isEmpty else { return }
    let spelled: [String: Annotation] = [
      "MICRO_SERVER_NAME": .serviceName, "MICRO_SERVER_VERSION": .serviceVersion, "MICRO_APP_ADDRESS": .appPort,
      "MICRO_APP_PROTOCOL": .appProtocol, "MICRO_APP_HEALTH": .appHealth, "MICRO_REGISTRY": .registry,
      "MICRO_SIDECAR_DRAIN": .drainSeconds,
    ]
    let sentences = problems.prefix(8).map { problem in
      guard case .environment(let key) = problem.source else { return problem.message }
      let isFromEnv = sidecar.wish.environment.contains { $0.key == key }
      let annotation = isFromEnv ? Annotation.env.key + ", \(key)" : spelled[key]?.key ?? key
      return "\(annotation): \(problem.message)"
    }
    throw InjectionError(sentences.joined(separator: "; "))
  }

  // MARK: Parts of the patch

  /// Where the app finds its sidecar, unless it says so itself. MICRO_PROXY_ADDRESS is what go-micro's clients read.
  private func addAppEnvironment(
    _ container: JSONValue, _ path: String, _ sidecar: SidecarContainer, _ patch: inout Operations
  ) throws(InjectionError) {
    let address = "127.0.0.1:\(sidecar.wish.ports.sidecar)"
    var wanted = [("MICRO_SIDECAR_ADDRESS", address), ("MICRO_PROXY_ADDRESS", address)]
    if let port = sidecar.wish.appPort { wanted.append(("MICRO_APP_ADDRESS", "127.0.0.1:\(port)")) }
    let existing = try list(container["env"], "env of a container")
    let known = Set(existing.compactMap { $0["name"]?.stringValue })
    let missing = wanted.filter { !known.contains($0.0) }.map {
      ["name": .string($0.0), "value": .string($0.1)] as JSONValue
    }
    guard !missing.isEmpty else { return }
    if container["env"]?.arrayValue == nil {
      patch.add(path + "/env", .array(missing))
    } else {
      for pair in missing { patch.add(path + "/env/-", pair) }
    }
  }

  private func addVolumes(
    _ wanted: [JSONValue], _ existing: [JSONValue], isThere: Bool, _ patch: inout Operations
  ) throws(InjectionError) {
    var missing: [JSONValue] = []
    for volume in wanted {
      guard let other = existing.first(where: { $0["name"] == volume["name"] }) else {
        missing.append(volume)
        continue
      }
      guard other == volume else {
        throw InjectionError(
          "the pod has a volume \(Shown.quoted(volume["name"]?.stringValue ?? "")) of its own, whose name is the sidecar's"
        )
      }
    }
    guard !missing.isEmpty else { return }
    if isThere {
      for volume in missing { patch.add("/spec/volumes/-", volume) }
    } else {
      patch.add("/spec/volumes", .array(missing))
    }
  }

  /// Annotations the pod gets, beyond those it has.
  private func notes(_ kind: String, _ wish: SidecarWish, _ containers: [JSONValue]) -> [JSONValue.Member] {
    var notes: [JSONValue.Member] = [.init(Annotation.injected.key, .string(kind))]
    if defaults.isScraped {
      notes += [
        .init("prometheus.io/scrape", "true"), .init("prometheus.io/port", .string("\(wish.ports.admin)")),
        .init("prometheus.io/path", "/metrics"),
      ]
    }
    // Where the sidecar is the first of the containers, `kubectl logs` and `exec` would mean it.
    if !wish.isNative, let app = containers[0]["name"]?.stringValue {
      notes.append(.init("kubectl.kubernetes.io/default-container", .string(app)))
    }
    return notes
  }
}

/// The operations of one patch. Everything is an `add`: a pod loses nothing.
private struct Operations {
  var operations: [JSONValue] = []

  mutating func add(_ path: String, _ value: JSONValue) {
    operations.append(["op": "add", "path": .string(path), "value": value])
  }

  mutating func addFirst(_ path: String, _ value: JSONValue, isThere: Bool) {
    if isThere { add(path + "/0", value) } else { add(path, .array([value])) }
  }

  /// Members that are not there yet; scraping is the pod's own as soon as it says one word of it.
  mutating func addMembers(
    _ parent: String, _ name: String, _ members: [JSONValue.Member], existing: [JSONValue.Member], isThere: Bool,
    isParentThere: Bool
  ) {
    let keys = Set(existing.map(\.key))
    let hasOwnScrape = keys.contains { $0.hasPrefix("prometheus.io/") }
    let missing = members.filter {
      !keys.contains($0.key) && !(hasOwnScrape && $0.key.hasPrefix("prometheus.io/"))
    }
    guard !missing.isEmpty else { return }
    if !isParentThere {
      add(parent, .object([.init(name, .object(missing))]))
    } else if !isThere {
      add(parent + "/" + name, .object(missing))
    } else {
      for member in missing { add("\(parent)/\(name)/\(Self.token(member.key))", member.value) }
    }
  }

  /// A key as part of a JSON Pointer (RFC 6901 §3).
  private static func token(_ key: String) -> String {
    key.utf8.reduce(into: "") { text, byte in
      switch byte {
      case UInt8(ascii: "~"): text += "~0"
      case UInt8(ascii: "/"): text += "~1"
      default: text.unicodeScalars.append(Unicode.Scalar(byte))
      }
    }
  }
}
