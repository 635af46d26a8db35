// swift-tools-version:6.1
import PackageDescription

// Exclusivity checks stay on in debug builds, and so in every test; in release they cost 26 % of the
// instructions per request (docs/architecture.md, "Measured").
let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release)),
]

// The simulator is optimised in debug builds too: thousands of seeds run in every test, and what they test is the core,
// which keeps its debug checks.
let simSettings = settings + [.unsafeFlags(["-O"], .when(configuration: .debug))]

let package = Package(
  name: "micro-sidecar",
  products: [
    .executable(name: "micro-sidecar", targets: ["micro-sidecar"]),
    .library(name: "SidecarCore", targets: ["SidecarCore"]),
    .library(name: "SidecarConformance", targets: ["SidecarConformance"]),
  ],
  targets: [
    .systemLibrary(name: "CUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
    .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
    .systemLibrary(name: "CNGHTTP2", pkgConfig: "libnghttp2", providers: [.apt(["libnghttp2-dev"])]),
    .systemLibrary(name: "CYaml", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
    // Only its headers: the library is loaded when it is first used. So no pkgConfig, which would link it.
    .systemLibrary(name: "COpenSSL", providers: [.apt(["libssl-dev"])]),
    .target(name: "SidecarCore", dependencies: ["CNGHTTP2", "CZlib"], swiftSettings: settings),
    .target(name: "SidecarTLS", dependencies: ["SidecarCore", "COpenSSL"], swiftSettings: settings),
    .target(
      name: "SidecarBuiltins", dependencies: ["SidecarCore", "SidecarTLS", "CZlib", "CYaml"],
      swiftSettings: settings),
    .target(name: "SidecarInjector", dependencies: ["SidecarCore", "SidecarTLS"], swiftSettings: settings),
    .target(name: "SidecarUV", dependencies: ["SidecarCore", "CUV"], swiftSettings: settings),
    .target(name: "SidecarConformance", dependencies: ["SidecarCore"], swiftSettings: settings),
    .target(name: "SidecarSim", dependencies: ["SidecarCore"], swiftSettings: simSettings),
    .executableTarget(
      name: "micro-sidecar",
      dependencies: ["SidecarCore", "SidecarBuiltins", "SidecarInjector", "SidecarTLS", "SidecarUV"],
      swiftSettings: settings),
    .executableTarget(
      name: "websocket-echo", dependencies: ["SidecarCore", "SidecarUV"], path: "Tests/WebSocketEcho",
      swiftSettings: settings),
    .executableTarget(
      name: "registry-conformance",
      dependencies: ["SidecarCore", "SidecarBuiltins", "SidecarConformance", "SidecarUV"],
      path: "Tests/RegistryConformance", swiftSettings: settings),
    .target(name: "MallocCount", path: "Benchmarks/MallocCount"),
    .executableTarget(
      name: "selector-bench", dependencies: ["SidecarCore", "SidecarBuiltins", "MallocCount"],
      path: "Benchmarks/Selectors",
      swiftSettings: settings),
    .testTarget(
      name: "SidecarCoreTests", dependencies: ["SidecarCore", "SidecarSim"], swiftSettings: settings),
    .testTarget(
      name: "SidecarBuiltinsTests",
      dependencies: ["SidecarBuiltins", "SidecarConformance", "SidecarSim", "SidecarUV"], swiftSettings: settings),
    .testTarget(
      name: "CommandLineTests", dependencies: ["micro-sidecar", "SidecarBuiltins", "SidecarCore"],
      exclude: ["Fixtures"], swiftSettings: settings),
    .testTarget(
      name: "SidecarInjectorTests", dependencies: ["SidecarInjector", "SidecarBuiltins", "SidecarCore"],
      swiftSettings: settings),
    .testTarget(
      name: "SidecarUVTests", dependencies: ["SidecarUV", "SidecarSim"], swiftSettings: settings),
    .testTarget(
      name: "SidecarTLSTests", dependencies: ["SidecarTLS", "SidecarCore"], swiftSettings: settings),
    .testTarget(name: "SidecarSimTests", dependencies: ["SidecarSim"], swiftSettings: settings),
  ]
)
