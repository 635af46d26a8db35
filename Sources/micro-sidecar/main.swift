// parse → validate → assemble → run.

import SidecarBuiltins
import SidecarCore
import SidecarUV

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

exit(Program(arguments: Array(CommandLine.arguments.dropFirst())).run())
