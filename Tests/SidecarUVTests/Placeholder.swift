import Testing
@testable import SidecarUV
