import Testing
@testable import SidecarBuiltins
