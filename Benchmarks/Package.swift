// swift-tools-version:6.1
import PackageDescription

// A package of its own, so that building the sidecar never builds its benchmarks. It needs nothing but the C library: the
// two programs must cost less than what they measure.
let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]

let package = Package(
  name: "Benchmarks",
  targets: [
    .systemLibrary(name: "CEpoll"),
    .target(name: "BenchSockets", dependencies: ["CEpoll"], swiftSettings: settings),
    .executableTarget(name: "bench-node", dependencies: ["BenchSockets"], swiftSettings: settings),
    .executableTarget(name: "bench-load", dependencies: ["BenchSockets"], swiftSettings: settings),
  ]
)
