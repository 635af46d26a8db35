import Testing
@testable import SidecarSim
