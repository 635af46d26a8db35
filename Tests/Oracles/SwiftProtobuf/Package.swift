// swift-tools-version:6.1
import PackageDescription

// A package of its own, so that building the sidecar never resolves swift-protobuf. `run` copies it
// to .build, beside the messages it generates.
let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")

let package = Package(
  name: "SwiftProtobufOracle",
  dependencies: [.package(url: "https://github.com/apple/swift-protobuf", from: "1.28.0")],
  targets: [
    .target(name: "Messages", dependencies: [protobuf]),
    .executableTarget(
      name: "swift-protobuf-oracle", dependencies: ["Messages", protobuf], swiftSettings: [.swiftLanguageMode(.v6)]),
  ]
)
