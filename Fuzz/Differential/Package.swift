// swift-tools-version:6.1
import PackageDescription

// A package of its own, so that neither the sidecar nor its tests ever fetch swift-nio. The core is built again here, by
// way of a link, because only targets of one package see its `package` declarations.
let settings: [SwiftSetting] = [.swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny")]

let package = Package(
  name: "Differential",
  dependencies: [.package(url: "https://github.com/apple/swift-nio.git", exact: "2.101.2")],
  targets: [
    .target(name: "SidecarCore", swiftSettings: settings),
    // NIOHTTP1 is not used itself: it brings CNIOLLHTTP, which is no product.
    .executableTarget(
      name: "http1-differential",
      dependencies: ["SidecarCore", .product(name: "NIOHTTP1", package: "swift-nio")], swiftSettings: settings),
  ]
)
