import Testing
@testable import SidecarCore
