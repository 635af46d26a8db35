// What it costs to choose a node and to take in what came of it, for every selector: `selector-bench [--check]`.
//
// Each round is a whole attempt as the data path makes it: `NodeSet.pick` with the selector behind an existential, `began`,
// `ended`, `mark`. Times are of this thread's CPU, the least of many rounds: others on the machine only ever add to one.
// Every block asked of malloc is counted: a warm attempt takes none. "filling" is an attempt among nodes of which each takes
// one call at once and nearly all have it, so that one fills and one empties with each.
//
// `--check` ends with an error when a bound does not hold, `--few` leaves out the 10,000 (for debug builds, whose times mean
// nothing); `--picks NUMBER` only makes attempts, to be watched from outside.

import Glibc
import MallocCount
import SidecarBuiltins
import SidecarCore

/// CPU time of this thread, in nanoseconds.
func cpuTime() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) * 1e9 + Double(time.tv_nsec)
}

/// Bytes that this process has asked malloc for and not given back, as malloc itself counts them.
func heapBytes() -> Int {
  typealias Report = @convention(c) (Int32, UnsafeMutablePointer<FILE>) -> Int32
  guard let symbol = dlsym(nil, "malloc_info"), let file = tmpfile() else { fatalError("no malloc_info") }
  defer { fclose(file) }
  _ = unsafeBitCast(symbol, to: Report.self)(0, file)
  rewind(file)
  var text = ""
  var line = [UInt8](repeating: 0, count: 512)
  while line.withUnsafeMutableBytes({ fgets($0.baseAddress?.assumingMemoryBound(to: CChar.self), 512, file) }) != nil {
    text += String(decoding: line.prefix { $0 != 0 }, as: UTF8.self)
  }
  // The totals are at the end: free bytes, bytes of mmap, bytes taken from the system.
  func total(_ prefix: String) -> Int {
    guard let found = text.split(separator: "\n").last(where: { $0.hasPrefix(prefix) }),
      let size = found.split(separator: " ").last(where: { $0.hasPrefix("size=") })
    else { return 0 }
    return Int(size.drop { $0 < "0" || $0 > "9" }.prefix { $0 >= "0" && $0 <= "9" }) ?? 0
  }
  return total("<system type=\"current\"") - total("<total type=\"fast\"") - total("<total type=\"rest\"")
    + total("<total type=\"mmap\"")
}

/// One selector with nodes, some of which are unevenly loaded and some unevenly heavy.
final class Field {
  let set: NodeSet
  var selector: any Selector
  var random = SeededRandom(seed: 1)
  var now = Instant(nanoseconds: 1_000_000_000_000)
  private let keys = UnsafeMutablePointer<SelectKey>.allocate(capacity: 64)
  private var wish = NodeSet.Wish()
  private var turn = 0

  static func nodes(_ count: Int, isEven: Bool) -> [CatalogNode] {
    let version = VersionInfo(service: "s", version: "latest", metadata: [:], endpoints: [])
    return (0..<count).map { index in
      CatalogNode(
        node: Node(
          id: "go.micro.srv.greeter-\(index)", address: "10.0.0.1:80",
          metadata: isEven ? [:] : ["weight": "\(1 + index * 7 % 10)"]),
        version: version, target: .opaque("-"), origins: [0])
    }
  }

  /// `full`: each node takes one call at once, and so many of ten nodes have it.
  init(_ plan: SelectorPlan, _ nodes: [CatalogNode], full: Int = 0) {
    var policy = ServicePolicy()
    if full > 0 { policy.limits.inFlightPerNode = 1 }
    set = NodeSet(policy, zone: "")
    selector = plan.make()
    let hash = plan.keyHash
    for number in 0..<64 {
      (keys + number).initialize(to: Array("user-\(number)".utf8).withUnsafeBytes { (hash ?? .mixed).key($0) })
    }
    let candidates = nodes.map { Candidate(node: $0.node, version: "latest") }
    set.rebuild(nodes, candidates: candidates, previous: nodes.map { _ in -1 }, now: now)
    selector.rebuild(Candidates(revision: 1, nodes: candidates))
    if hash == nil { wish.key = nil } else { wish.key = keys[0] }
    // Some latency everywhere, and calls under way.
    for index in nodes.indices {
      set.began(index)
      set.ended(index, .success(latency: 1_000_000 + Int64(index % 7) * 500_000), elapsed: 1, now: now)
      if full == 0 ? index % 3 == 0 : index % 10 < full { set.began(index) }
    }
  }

  @inline(never)
  func attempt() {
    if wish.key != nil {
      turn = (turn &+ 1) & 63
      wish.key = keys[turn]
    }
    now = now.advanced(byNanoseconds: 10_000)
    guard
      let index = set.pick(
        wish, tried: UnsafeBufferPointer(start: nil, count: 0), &selector, random: &random, now: now)
    else { fatalError("no node") }
    set.began(index)
    set.ended(index, .success(latency: 1_500_000), elapsed: 1_500_000, now: now)
    selector.mark(index, revision: 1, outcome: .success(latency: 1_500_000), now: now)
  }

  /// Blocks asked of malloc by `attempts` warm ones.
  func blocks(_ attempts: Int = 10_000) -> Int {
    for _ in 0..<20_000 { attempt() }
    let before = mallocCount()
    for _ in 0..<attempts { attempt() }
    return Int(mallocCount() - before)
  }

  /// Nanoseconds of one attempt.
  func measured() -> Double {
    for _ in 0..<20_000 { attempt() }
    var best = Double.infinity
    for _ in 0..<40 {
      let start = cpuTime()
      for _ in 0..<10_000 { attempt() }
      best = min(best, (cpuTime() - start) / 10_000)
    }
    return best
  }
}

let arguments = CommandLine.arguments
let plugins = try builtinPlugins()
let names = [
  "ewma", "leastrequest", "random", "roundrobin", "weightedroundrobin", "hash", "shard", "crc32", "blacklist",
  "label:region=eu",
]
/// Bounds in nanoseconds and bytes.
let bounds = (few: 100.0, many: 200.0, memory: 256)

if let place = arguments.firstIndex(of: "--picks"), place + 1 < arguments.count, let count = Int(arguments[place + 1]) {
  for name in names {
    let field = Field(try plugins.selector(name), Field.nodes(100, isEven: false))
    for _ in 0..<count { field.attempt() }
  }
  exit(0)
}

func padded(_ text: String, _ width: Int) -> String {
  String(repeating: " ", count: max(width - text.count, 0)) + text
}

var isWithin = true
// First of all, and nothing is given back: what one has freed would hide what the next one takes.
var kept: [Field] = []
var memory: [Int] = []
for name in names {
  let plan = try plugins.selector(name)
  // With weights there is more to remember.
  let nodes = Field.nodes(10_000, isEven: false)
  let before = heapBytes()
  let field = Field(plan, nodes)
  for _ in 0..<1000 { field.attempt() }
  memory.append(max(heapBytes() - before, 0) / 10_000)
  kept.append(field)
}

// Whether blocks are counted at all: whoever stands before malloc must be asked by everybody.
let beforeProbe = mallocCount()
withExtendedLifetime([UInt8](repeating: 1, count: 100_000 + arguments.count)) {}
guard mallocCount() > beforeProbe else { fatalError("malloc is not counted") }

print("selector             10 nodes   10 uneven     10,000   10,000 uneven   10,000 filling   bytes a node   blocks")
for (name, bytes) in zip(names, memory) {
  let plan = try plugins.selector(name)
  var line = name + String(repeating: " ", count: max(18 - name.count, 1))
  for count in [10, 10_000] {
    for isEven in [true, false] {
      if count > 10, arguments.contains("--few") { continue }
      let time = Field(plan, Field.nodes(count, isEven: isEven)).measured()
      if time > (count == 10 ? bounds.few : bounds.many) { isWithin = false }
      line += padded("\(Int(time.rounded())) ns", isEven ? 11 : 12)
    }
  }
  if !arguments.contains("--few") {
    let time = Field(plan, Field.nodes(10_000, isEven: true), full: 9).measured()
    // `shard` ranks all nodes when that of its key is full, `weightedroundrobin` looks for the next one of the same weight.
    if name != "shard", name != "weightedroundrobin", time > bounds.many { isWithin = false }
    line += padded("\(Int(time.rounded())) ns", 18)
  }
  var blocks = 0
  for isEven in [true, false] {
    for full in [0, 9] { blocks += Field(plan, Field.nodes(100, isEven: isEven), full: full).blocks() }
  }
  if bytes > bounds.memory || blocks > 0 { isWithin = false }
  print(line + padded("\(bytes)", 15) + padded("\(blocks)", 9))
}
if arguments.contains("--check"), !isWithin {
  print(
    "above the bounds: \(Int(bounds.few)) ns with 10 nodes, \(Int(bounds.many)) ns with 10,000, \(bounds.memory) bytes a "
      + "node, no block of a warm attempt"
  )
  exit(1)
}
