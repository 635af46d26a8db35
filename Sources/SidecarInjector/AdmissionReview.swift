// The bytes of an AdmissionReview in, those of its answer out (admission.k8s.io/v1).

import SidecarCore

/// What came of a review, for the metrics and the log.
package enum ReviewOutcome: String, CaseIterable, Sendable {
  /// A sidecar was put in.
  case patched
  /// The pod is to stay as it is.
  case unchanged
  /// The pod was refused.
  case refused
  /// It was no review that can be answered.
  case malformed
}

package struct AdmissionReview: Sendable {
  /// Characters of one warning: the API server cuts them off beyond (admission/v1 types.go).
  static let warningCountMax = 256
  static let warningsMax = 16
  /// Levels of a pod, with the deepest of its managed fields, are fewer.
  static let depthMax = JSONValue.depthMax

  private let patch: PodPatch

  package init(_ patch: PodPatch) { self.patch = patch }

  package struct Answer: Sendable {
    package var outcome: ReviewOutcome
    package var reply: APIReply
    /// `namespace/name` of the pod, as far as it has one, for the log.
    package var pod = ""
    package var message = ""
  }

  /// Always an answer; a body that is no review is a 400.
  package func answer(_ body: UnsafeRawBufferPointer) -> Answer {
    let document: JSONValue
    do throws(WireError) {
      document = try JSONValue(parsing: body, depthLimit: Self.depthMax)
    } catch {
      return malformed("the body is no JSON: \(error)")
    }
    guard document["kind"]?.stringValue == "AdmissionReview", let version = document["apiVersion"]?.stringValue else {
      return malformed("expected an AdmissionReview")
    }
    guard version == "admission.k8s.io/v1" else {
      return malformed(
        "expected admission.k8s.io/v1, found \(Shown.quoted(version)): set admissionReviewVersions to [v1]")
    }
    guard let request = document["request"], let uid = request["uid"]?.stringValue, !uid.isEmpty else {
      return malformed("the review has no request with a uid")
    }
    let resource = request["resource"]
    guard resource?["resource"]?.stringValue == "pods", resource?["group"]?.stringValue ?? "" == "",
      request["subResource"]?.stringValue ?? "" == ""
    else {
      return allowed(uid, .unchanged, warnings: ["the micro-sidecar injector was asked about something that is no pod"])
    }
    guard request["operation"]?.stringValue == "CREATE" else { return allowed(uid, .unchanged) }
    guard let pod = request["object"] else { return malformed("the request has no object") }

    var answer: Answer
    do throws(InjectionError) {
      let decision = try patch.decide(pod)
      answer = allowed(
        uid, decision.operations.isEmpty ? .unchanged : .patched, operations: decision.operations,
        warnings: decision.warnings)
    } catch {
      answer = refused(uid, error.message)
    }
    let name = pod["metadata"]?["name"]?.stringValue ?? pod["metadata"]?["generateName"]?.stringValue ?? "?"
    answer.pod = "\(request["namespace"]?.stringValue ?? "?")/\(name)"
    return answer
  }

  private func malformed(_ message: String) -> Answer {
    Answer(outcome: .malformed, reply: .text(400, message), message: message)
  }

  private func allowed(
    _ uid: String, _ outcome: ReviewOutcome, operations: [JSONValue] = [], warnings: [String] = []
  ) -> Answer {
    var members: [JSONValue.Member] = [.init("uid", .string(uid)), .init("allowed", true)]
    if !operations.isEmpty {
      let text = ByteBuffer(capacity: 4096)
      JSONValue.array(operations).write(into: text, escaping: .plain)
      members.append(.init("patchType", "JSONPatch"))
      members.append(.init("patch", .string(Base64.encoded(text.bytes))))
    }
    if !warnings.isEmpty {
      members.append(
        .init(
          "warnings",
          .array(warnings.prefix(Self.warningsMax).map { .string(String($0.prefix(Self.warningCountMax))) })))
    }
    return Answer(outcome: outcome, reply: review(members))
  }

  private func refused(_ uid: String, _ message: String) -> Answer {
    let status: JSONValue = [
      "status": "Failure", "code": 422, "reason": "Invalid",
      "message": .string("micro-sidecar cannot be put into this pod: \(message)"),
    ]
    let reply = review([.init("uid", .string(uid)), .init("allowed", false), .init("status", status)])
    return Answer(outcome: .refused, reply: reply, message: message)
  }

  private func review(_ response: [JSONValue.Member]) -> APIReply {
    .json(value: ["apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": .object(response)])
  }
}
