// What a process leaves to the one that takes its place: where it listens, and what the new one could not find out by itself
// before it must answer. As JSON, since the two may be of different versions; what the reader does not know it passes over.

package struct Bequest: Sendable {
  /// One of the addresses that are listened at.
  package struct Place: Equatable, Sendable {
    package enum Role: String, CaseIterable, Sendable { case app, framework, admin }

    package var role: Role
    /// As the settings have it; the new process must have the same.
    package var configured: String
    package var bound: SocketAddress
    /// Sockets that listen there, one for each worker that has its own.
    package var sockets: Int
  }

  package var places: [Place] = []
  package var serverID: String?
  package var isWithdrawn = false
  package var isAppHealthy = true
  /// What `LeaseTable.bequest` says.
  package var leases: JSONValue = .array([])
  /// What `SnapshotFile.content` says.
  package var registries: JSONValue = .null
  /// The numbers of the sockets in this process, in the order of `places`. No part of the text.
  package var numbers: [Int32] = []

  package init() {}

  private static let format = 1

  package func json() -> JSONValue {
    .object([
      .init("format", JSONValue(Self.format)),
      .init(
        "places",
        .array(
          places.map {
            [
              "role": .string($0.role.rawValue), "configured": .string($0.configured),
              "bound": .string($0.bound.description), "sockets": JSONValue($0.sockets),
            ]
          })),
      .init("server_id", serverID.map { .string($0) } ?? .null), .init("withdrawn", .bool(isWithdrawn)),
      .init("app_healthy", .bool(isAppHealthy)), .init("leases", leases), .init("registries", registries),
    ])
  }

  /// Reads what `json` wrote; `first` is the number of the first socket. Errors: it is not that.
  package init(json: JSONValue, first: Int32) throws(WireError) {
    guard json["format"]?.intValue == Self.format else { throw WireError("its format is not known to this version") }
    var next = first
    for value in json["places"]?.arrayValue ?? [] {
      guard let role = value["role"]?.stringValue.flatMap({ Place.Role(rawValue: $0) }),
        let configured = value["configured"]?.stringValue,
        let bound = value["bound"]?.stringValue.flatMap({ SocketAddress($0) }),
        let sockets = value["sockets"]?.intValue, (1...64).contains(sockets)
      else { throw WireError("a place is not one") }
      places.append(Place(role: role, configured: configured, bound: bound, sockets: Int(sockets)))
      for _ in 0..<sockets {
        numbers.append(next)
        next += 1
      }
    }
    serverID = json["server_id"]?.stringValue
    isWithdrawn = json["withdrawn"]?.boolValue ?? false
    isAppHealthy = json["app_healthy"]?.boolValue ?? true
    leases = json["leases"] ?? .array([])
    registries = json["registries"] ?? .null
  }

  package func place(_ role: Place.Role) -> Place? { places.first { $0.role == role } }

  /// The numbers of a place's sockets.
  package func numbers(of role: Place.Role) -> [Int32] {
    var start = 0
    for place in places {
      if place.role == role { return Array(numbers[start..<min(start + place.sockets, numbers.count)]) }
      start += place.sockets
    }
    return []
  }

  /// Which of a place's sockets each of `workers` listens at: every socket is somebody's, and every worker has one.
  package static func shares(of numbers: [Int32], among workers: Int) -> [[Int32]] {
    var shares: [[Int32]] = Array(repeating: [], count: max(workers, 1))
    guard !numbers.isEmpty else { return shares }
    for turn in 0..<max(numbers.count, shares.count) {
      shares[turn % shares.count].append(numbers[turn % numbers.count])
    }
    return shares
  }

  /// Why a process with `settings` cannot take the places; nil: it can.
  package func problem(for settings: Settings) -> SettingProblem? {
    func problem(_ key: String, _ role: Place.Role, _ wanted: SocketAddress?) -> SettingProblem? {
      let left = place(role)?.configured
      guard wanted?.description != left else { return nil }
      return SettingProblem(
        settings.origins[key] ?? .combination,
        "\(key) is \(wanted?.description ?? "off") and was \(left ?? "off"): a restart in place keeps its addresses; stop and start the sidecar instead"
      )
    }
    return problem("MICRO_SIDECAR_ADDRESS", .app, settings.sidecarAddress)
      ?? problem("MICRO_SERVER_ADDRESS", .framework, settings.takesCalls ? settings.serverAddress : nil)
      ?? problem("MICRO_ADMIN_ADDRESS", .admin, settings.adminAddress)
  }
}
