// swift-tools-version:6.1
import PackageDescription

// A package of its own, so that building the sidecar never resolves swift-protobuf. `run` makes what is in Generated.
let package = Package(
  name: "SwiftProtobufOracle",
  dependencies: [.package(url: "https://github.com/apple/swift-protobuf", from: "1.28.0")],
  targets: [
    .executableTarget(
      name: "swift-protobuf-oracle", dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")],
      swiftSettings: [.swiftLanguageMode(.v6)])
  ]
)
