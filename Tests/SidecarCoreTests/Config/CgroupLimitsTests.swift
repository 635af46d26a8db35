// What control groups allow, in both versions of the kernel's interface and as containers see them.

import Testing

@testable import SidecarCore

@Suite("Control groups") struct CgroupLimitsTests {
  private func limits(_ files: [String: String]) -> CgroupLimits {
    CgroupLimits(root: "/sys/fs/cgroup") { path in files[path].map { Array($0.utf8) } }
  }

  @Test func `version 2 in a container, which sees its group as the root`() {
    let found = limits([
      "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "150000 100000\n",
      "/sys/fs/cgroup/memory.max": "100663296\n",
    ])
    #expect(found.processors == 1.5)
    #expect(found.memoryBytes == 96 << 20)
    #expect(found.workers == 2)
  }

  @Test func `of nested groups the tightest counts`() {
    let found = limits([
      "/proc/self/cgroup": "0::/pod/app\n", "/sys/fs/cgroup/cpu.max": "max 100000",
      "/sys/fs/cgroup/pod/cpu.max": "300000 100000", "/sys/fs/cgroup/pod/app/cpu.max": "max 100000",
      "/sys/fs/cgroup/pod/memory.max": "max", "/sys/fs/cgroup/pod/app/memory.max": "5000000",
    ])
    #expect(found.processors == 3)
    #expect(found.memoryBytes == 5_000_000)
    #expect(found.workers == 3)
  }

  @Test func `version 1, with groups that share a folder and with their links`() {
    for folder in ["cpu,cpuacct", "cpu"] {
      let found = limits([
        "/proc/self/cgroup": "9:name=systemd:/x\n4:memory:/docker/a\n2:cpu,cpuacct:/docker/a\n",
        "/sys/fs/cgroup/\(folder)/docker/a/cpu.cfs_quota_us": "25000\n",
        "/sys/fs/cgroup/\(folder)/docker/a/cpu.cfs_period_us": "100000\n",
        "/sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "67108864",
      ])
      #expect(found.processors == 0.25)
      #expect(found.memoryBytes == 64 << 20)
      #expect(found.workers == 1, "there is always one")
    }
  }

  @Test func `no limit in either version is no limit`() {
    let old = limits([
      "/proc/self/cgroup": "4:memory:/\n1:cpu:/\n", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
      "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
      "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    ])
    #expect(old == CgroupLimits())
    #expect(old.workers == 1)
    #expect(limits([:]) == CgroupLimits())
  }

  @Test(arguments: [
    "", "x", "1", "0 0", "-5 100", "100 0", "nan 1", "inf 100000", "1e308 1e-308", "max", "9999999999999999999999 1",
  ])
  func `garbage is no limit, and no crash`(_ text: String) {
    let found = limits([
      "/proc/self/cgroup": "0::/\n::\nxx\n5::/../..\n7:cpu:/\n", "/sys/fs/cgroup/cpu.max": text,
      "/sys/fs/cgroup/memory.max": text == "1" ? "-1" : text, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": text,
    ])
    #expect((1...64).contains(found.workers))
    #expect(found.memoryBytes == nil)
  }

  @Test func `what is set counts before what is found`() throws {
    var settings = Settings()
    settings.cgroup.processors = 4
    settings.cgroup.memoryBytes = 100 << 20
    #expect(settings.workers == 4)
    #expect(settings.memoryBytesMax == 100 << 20)
    settings.workerCount = .fixed(2)
    settings.memoryLimit = .off
    #expect(settings.workers == 2)
    #expect(settings.memoryBytesMax == nil)
    settings.memoryLimit = .bytes(1 << 20)
    #expect(settings.memoryBytesMax == 1 << 20)
  }
}

@Suite("Memory") struct MemoryWatchTests {
  @Test func `it is short near the limit and not again at once`() {
    let watch = MemoryWatch(limit: 100 << 20, start: 10 << 20) {}
    #expect(watch.take(20 << 20))
    #expect(!watch.isShort)
    #expect(!watch.take(20 << 20 + 1000), "nobody is told of little")
    #expect(watch.take(91 << 20) && watch.isShort)
    #expect(!watch.take(91 << 20) && watch.isShort)
    #expect(watch.take(88 << 20) && watch.isShort)
    #expect(watch.take(84 << 20) && !watch.isShort)
  }

  @Test func `a limit that hardly holds an idle process refuses nothing`() {
    let watch = MemoryWatch(limit: 12 << 20, start: 11 << 20) {}
    _ = watch.take(12 << 20)
    #expect(!watch.isShort)
    let without = MemoryWatch(limit: nil, start: 0) {}
    _ = without.take(1 << 40)
    #expect(!without.isShort)
  }
}
