// The nodes a watch knows of: what the network said, and how long ago. Kept only while someone watches.
//
// go-micro announces a node three times when it starts and never again, so that only asking tells the living from the
// dead. A round of questions goes out every minute; a node that does not answer is asked twice more, a second apart, and is
// gone after three questions without an answer, or 120 s after it was last heard (the TTL of go-micro's records).

import SidecarCore

struct MDNSTable {
  /// Services known; nodes of further ones are left out and counted.
  static let servicesMaximum = 4096
  /// Nodes of all services; further ones are left out and counted.
  static let nodesMaximum = 16_384
  /// Watches open at once; one more is refused.
  static let watchesMaximum = 64
  /// A first view is whole after this long without news, and at the latest after `gatherMaximum`.
  static let gatherQuiet: Int64 = 120_000_000
  static let gatherMaximum: Int64 = 300_000_000
  /// When the first questions go out, counted from the start of the first watch.
  static let firstRounds: [Int64] = [0, 60_000_000, 150_000_000, 1_000_000_000, 5_000_000_000]
  /// From then on, give or take a tenth.
  static let roundInterval: Int64 = 60_000_000_000
  /// After a round that brought so many new names the next one comes soon, and asks for what was not heard: on a large
  /// network part of the answers to one question is lost, as they come all at once.
  static let crowd = 16
  static let crowdInterval: Int64 = 1_000_000_000
  /// How long an answer may take before a node counts as silent.
  static let answerTime: Int64 = 1_000_000_000
  /// Questions without an answer after which a node is gone.
  static let unansweredMaximum = 3
  /// A node not heard for this long is gone.
  static let heardTimeout: Int64 = 120_000_000_000
  /// A name without nodes is forgotten when no list has named it for this long.
  static let listedTimeout: Int64 = 130_000_000_000
  /// Goodbyes remembered, and for how long. A reply that was under way when its node left may come after the goodbye; such
  /// a node is asked again soon. When there are more, the oldest knowledge is dropped.
  static let goodbyesMaximum = 4096
  static let goodbyeMemory: Int64 = 1_000_000_000
  /// Services asked about at once, fewer where so many answers are to be expected, and the pause before the next ones: a
  /// large network is not asked in one burst.
  static let batch = 32
  static let batchAnswers = 96
  static let batchPause: Int64 = 20_000_000

  struct Known {
    var service: Service
    var heard: Instant
    var unanswered = 0
  }

  struct Entry {
    var names: [DNSName]
    var nodes: [String: Known] = [:]
    var listed: Instant
    /// When this service was last asked for by a round or a check.
    var asked: Instant?
    /// When those that have not answered are asked again, or dropped.
    var check: Instant = .distantFuture
  }

  struct Watch {
    var scope: WatchScope
    /// Set until the snapshot has been given.
    var gatherEnd: Instant?
    var lastNews: Instant

    var snapshotDue: Instant {
      guard let gatherEnd else { return .distantFuture }
      return min(gatherEnd, lastNews.advanced(byNanoseconds: MDNSTable.gatherQuiet))
    }

    func covers(_ service: ServiceName) -> Bool {
      switch scope {
      case .all: true
      case .service(let name): name == service
      }
    }
  }

  var watches: [MDNSToken: Watch] = [:]
  var services: [ServiceName: Entry] = [:]
  var nodeCount = 0
  /// No check is due before this.
  var earliestCheck: Instant = .distantFuture
  /// What watchers have been told, by node: the network's entry, or the rendezvous's before it.
  var view: [MDNSNodeKey: Service] = [:]
  var roundsStarted = Instant(nanoseconds: 0)
  var roundsDone = 0
  var nextRound: Instant = .distantFuture
  /// Names and nodes heard of for the first time since the round began.
  var newInRound = 0
  /// When everything is asked for again, rather than what was not heard.
  var nextWhole: Instant = .distantFuture
  /// Names still to be asked for in this round.
  var queue: [ServiceName] = []
  var queueDue: Instant = .distantFuture
  var goodbyes: [MDNSNodeKey: Instant] = [:]
  /// Entries left out because a table was full.
  var leftOut = 0
  /// Draws the jitter of the rounds.
  var random = SeededRandom(seed: 0)

  var isWatched: Bool { !watches.isEmpty }

  func isInteresting(_ service: ServiceName) -> Bool { watches.values.contains { $0.covers(service) } }
  var watchesAll: Bool { watches.values.contains { $0.scope == .all } }

  /// The ids of a service's nodes, when a watch has had its time to find them all.
  func wholeSet(of service: ServiceName) -> [String]? {
    guard watches.values.contains(where: { $0.covers(service) && $0.gatherEnd == nil }) else { return nil }
    return services[service].map { Array($0.nodes.keys) }
  }

  var nextDue: Instant {
    guard isWatched else { return .distantFuture }
    var due = min(nextRound, queueDue)
    for watch in watches.values { due = min(due, watch.snapshotDue) }
    return min(due, earliestCheck)
  }

  /// The view within a scope, one service for each version, sorted.
  func snapshot(_ scope: WatchScope) -> [Service] {
    switch scope {
    case .all: Self.grouped(Array(view.values))
    case .service(let name): Self.grouped(view.filter { $0.key.service == name }.map(\.value))
    }
  }

  /// Services with a node each, gathered into one for each name and version; nodes sorted by id.
  static func grouped(_ singles: [Service]) -> [Service] {
    struct Version: Hashable {
      var name: ServiceName
      var version: String
    }
    var groups: [Version: Service] = [:]
    for single in singles.sorted(by: { ($0.nodes.first?.id ?? "") < ($1.nodes.first?.id ?? "") }) {
      let version = Version(name: single.name, version: single.version)
      guard var group = groups[version] else {
        groups[version] = single
        continue
      }
      group.nodes += single.nodes
      if group.endpoints.isEmpty { group.endpoints = single.endpoints }
      if group.metadata.isEmpty { group.metadata = single.metadata }
      groups[version] = group
    }
    return groups.values.sorted { ($0.name, $0.version) < ($1.name, $1.version) }
  }
}
