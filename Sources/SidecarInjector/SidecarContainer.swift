// The container that is put into a pod, as JSON of the core API. deploy/k8s has the same container written by hand, and a
// test compares the two.

import SidecarCore

struct SidecarContainer {
  static let name = "micro-sidecar"
  static let program = "/micro-sidecar"
  /// As in the image.
  static let user = 65_532
  static let tokenVolume = "micro-sidecar-token"
  static let tokenFolder = "/var/run/secrets/kubernetes.io/serviceaccount"
  static let secretVolume = "micro-sidecar-secret"
  static let secretFolder = "/etc/micro-sidecar/secrets"
  /// Nanoseconds are none of Kubernetes' business: seconds that `wait` gives a sidecar to take calls.
  static let startSeconds = 60

  /// What the pod says of itself: the variable and the field it is read from.
  static let downward: [(key: String, field: String)] = [
    ("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_IP", "status.podIP"),
    ("POD_UID", "metadata.uid"), ("NODE_NAME", "spec.nodeName"), ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
  ]
  static let downwardKeys = Set(downward.map(\.key))

  let wish: SidecarWish
  let defaults: SidecarDefaults
  let plan: DrainPlan

  /// Settings with the values they have, without those that only the pod knows.
  var settings: [EnvironmentPair] {
    var pairs = [
      EnvironmentPair("MICRO_SIDECAR_ADDRESS", "127.0.0.1:\(wish.ports.sidecar)"),
      EnvironmentPair("MICRO_SERVER_ADDRESS", "0.0.0.0:\(wish.ports.server)"),
      EnvironmentPair("MICRO_ADMIN_ADDRESS", "0.0.0.0:\(wish.ports.admin)"),
      // Other machines get health and metrics, and nothing else of it.
      EnvironmentPair("MICRO_ADMIN_OPEN_METRICS", "true"),
      EnvironmentPair("MICRO_REGISTRY", wish.registry),
      EnvironmentPair("MICRO_SIDECAR_DRAIN", "\(plan.drain)s"),
      EnvironmentPair("MICRO_LOG_FORMAT", "json"),
    ]
    if let port = wish.appPort { pairs.append(EnvironmentPair("MICRO_APP_ADDRESS", "127.0.0.1:\(port)")) }
    let optional = [
      ("MICRO_SERVER_NAME", wish.serviceName), ("MICRO_SERVER_VERSION", wish.serviceVersion),
      ("MICRO_APP_PROTOCOL", wish.appProtocol), ("MICRO_APP_HEALTH", wish.appHealth),
    ]
    for (key, value) in optional { if let value { pairs.append(EnvironmentPair(key, value)) } }
    for pair in wish.environment {
      pairs.removeAll { $0.key == pair.key }
      pairs.append(pair)
    }
    return pairs
  }

  /// All of it as the settings' loader sees it in the pod, with stand-ins for what the pod says.
  var environmentForCheck: [String: String] {
    var variables = ["POD_NAME": "pod", "POD_NAMESPACE": "default", "POD_IP": "10.0.0.1"]
    for pair in settings { variables[pair.key] = pair.value }
    return variables
  }

  /// The registry needs the API server.
  var needsToken: Bool {
    wish.registry.split(separator: ",").contains {
      $0 == "kubernetes" || $0.hasPrefix("kubernetes:") || $0.hasPrefix("kubernetes?")
    }
  }

  func json() -> JSONValue {
    var members: [JSONValue.Member] = [.init("name", .string(Self.name)), .init("image", .string(defaults.image))]
    if let policy = defaults.pullPolicy { members.append(.init("imagePullPolicy", .string(policy))) }
    if wish.isNative { members.append(.init("restartPolicy", "Always")) }
    members += [
      .init(
        "ports",
        [
          ["name": "micro", "containerPort": JSONValue(wish.ports.server), "protocol": "TCP"],
          ["name": "micro-admin", "containerPort": JSONValue(wish.ports.admin), "protocol": "TCP"],
        ]),
      .init("env", .array(environment)),
      .init("startupProbe", probe("/startupz", period: 1, failures: Self.startSeconds)),
      .init("readinessProbe", probe("/readyz", period: 5, failures: 3)),
      .init("livenessProbe", probe("/livez", period: 10, failures: 5)),
      .init("lifecycle", lifecycle),
      .init("resources", resources),
      .init(
        "securityContext",
        [
          "allowPrivilegeEscalation": false, "capabilities": ["drop": ["ALL"]], "privileged": false,
          "readOnlyRootFilesystem": true, "runAsGroup": JSONValue(Self.user), "runAsNonRoot": true,
          "runAsUser": JSONValue(Self.user), "seccompProfile": ["type": "RuntimeDefault"],
        ]),
      .init("terminationMessagePolicy", "FallbackToLogsOnError"),
    ]
    if !mounts.isEmpty { members.append(.init("volumeMounts", .array(mounts))) }
    return .object(members)
  }

  private var environment: [JSONValue] {
    Self.downward.map { ["name": .string($0.key), "valueFrom": ["fieldRef": ["fieldPath": .string($0.field)]]] }
      // The node's id in the registry: a sidecar that is started anew in its pod replaces what it left.
      + [["name": "MICRO_SERVER_ID", "value": "$(POD_NAME)"]].filter { _ in
        !wish.environment.contains { $0.key == "MICRO_SERVER_ID" }
      }
      // `$(` would be looked up by Kubernetes: `$$` is a dollar (core API, EnvVar.value).
      + settings.map { ["name": .string($0.key), "value": .string(Self.escaped($0.value))] }
  }

  static func escaped(_ value: String) -> String {
    var escaped: [UInt8] = []
    let bytes = Array(value.utf8)
    for (index, byte) in bytes.enumerated() {
      escaped.append(byte)
      if byte == UInt8(ascii: "$"), index + 1 < bytes.count,
        [UInt8(ascii: "("), UInt8(ascii: "$")].contains(bytes[index + 1])
      {
        escaped.append(byte)
      }
    }
    return String(decoding: escaped, as: UTF8.self)
  }

  private func probe(_ path: String, period: Int, failures: Int) -> JSONValue {
    [
      "httpGet": ["path": .string(path), "port": "micro-admin", "scheme": "HTTP"],
      "periodSeconds": JSONValue(period), "timeoutSeconds": 2, "failureThreshold": JSONValue(failures),
    ]
  }

  private var lifecycle: JSONValue {
    var members: [JSONValue.Member] = []
    // A container's start waits for this hook of the one before it: the app begins when its sidecar takes calls.
    if !wish.isNative {
      members.append(
        .init("postStart", ["exec": ["command": [.string(Self.program), "wait", "\(Self.startSeconds)s"]]]))
    }
    members.append(.init("preStop", ["exec": ["command": [.string(Self.program), "drain", "\(plan.quiet)s"]]]))
    return .object(members)
  }

  private var resources: JSONValue {
    func members(_ cpu: Quantity?, _ memory: Quantity?) -> JSONValue {
      .object(
        [cpu.map { .init("cpu", .string($0.text)) }, memory.map { .init("memory", .string($0.text)) }].compactMap { $0 }
      )
    }
    let all = wish.resources
    return .object(
      [
        JSONValue.Member("requests", members(all.cpuRequest, all.memoryRequest)),
        JSONValue.Member("limits", members(all.cpuLimit, all.memoryLimit)),
      ].filter { $0.value != .object([]) })
  }

  private var mounts: [JSONValue] {
    var mounts: [JSONValue] = []
    if needsToken {
      mounts.append(["name": .string(Self.tokenVolume), "mountPath": .string(Self.tokenFolder), "readOnly": true])
    }
    if wish.secret != nil {
      mounts.append(["name": .string(Self.secretVolume), "mountPath": .string(Self.secretFolder), "readOnly": true])
    }
    return mounts
  }

  /// The volumes of the mounts.
  var volumes: [JSONValue] {
    var volumes: [JSONValue] = []
    if needsToken {
      // A token of the sidecar's own: pods may switch the usual one off, and it is never put into injected containers.
      volumes.append([
        "name": .string(Self.tokenVolume),
        "projected": [
          "defaultMode": 0o444,
          "sources": [
            ["serviceAccountToken": ["path": "token", "expirationSeconds": 3607]],
            ["configMap": ["name": "kube-root-ca.crt", "items": [["key": "ca.crt", "path": "ca.crt"]]]],
            [
              "downwardAPI": [
                "items": [["path": "namespace", "fieldRef": ["apiVersion": "v1", "fieldPath": "metadata.namespace"]]]
              ]
            ],
          ],
        ],
      ])
    }
    if let secret = wish.secret {
      volumes.append([
        "name": .string(Self.secretVolume), "secret": ["secretName": .string(secret), "defaultMode": 0o444],
      ])
    }
    return volumes
  }
}
