/// The status codes of gRPC (grpc/status, codes.proto).
package enum GRPCStatus: Int, Sendable, CaseIterable {
  case ok = 0
  case cancelled, unknown, invalidArgument, deadlineExceeded, notFound, alreadyExists, permissionDenied
  case resourceExhausted, failedPrecondition, aborted, outOfRange, unimplemented, `internal`, unavailable, dataLoss
  case unauthenticated

  /// What go-micro's gRPC server makes of its own error codes (server/grpc/error.go @ v1.18.0 … v6.10.0).
  package init(microCode code: Int) {
    switch code {
    case 200: self = .ok
    case 400: self = .invalidArgument
    case 401: self = .unauthenticated
    case 403: self = .permissionDenied
    case 404: self = .notFound
    case 408: self = .deadlineExceeded
    case 409: self = .alreadyExists
    case 412: self = .failedPrecondition
    case 500: self = .internal
    case 501: self = .unimplemented
    case 503: self = .unavailable
    default: self = .unknown
    }
  }
}
