// Bytes of reviews in, bytes of answers out.

import SidecarCore
import Testing

@testable import SidecarInjector

private func answer(_ body: String) -> AdmissionReview.Answer { answer(Array(body.utf8)) }

private func answer(_ body: [UInt8]) -> AdmissionReview.Answer {
  var defaults = SidecarDefaults()
  defaults.image = "x:1"
  let review = AdmissionReview(PodPatch(defaults) { _ in [] })
  return body.withUnsafeBytes { review.answer($0) }
}

private func review(_ object: String, operation: String = "CREATE", resource: String = "pods", uid: String = "u-1")
  -> String
{
  #"""
  {"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"\#(uid)","namespace":"shop",
   "resource":{"group":"","version":"v1","resource":"\#(resource)"},"operation":"\#(operation)","object":\#(object)}}
  """#
}

private let pod = #"{"metadata":{"generateName":"hello-"},"spec":{"containers":[{"name":"app"}]}}"#

@Suite("Admission reviews")
struct AdmissionReviewTests {
  private func response(_ answer: AdmissionReview.Answer) throws -> JSONValue {
    let document = try JSONValue(parsing: answer.reply.body)
    #expect(answer.reply.status == 200)
    #expect(document["apiVersion"] == "admission.k8s.io/v1")
    #expect(document["kind"] == "AdmissionReview")
    return try #require(document["response"])
  }

  @Test("a pod is patched, in base64 of a JSON Patch, under the request's uid")
  func patched() throws {
    let answer = answer(review(pod))
    #expect(answer.outcome == .patched)
    #expect(answer.pod == "shop/hello-")
    let response = try response(answer)
    #expect(response["uid"] == "u-1")
    #expect(response["allowed"] == true)
    #expect(response["patchType"] == "JSONPatch")
    // The first operation is `[{"op":"add","path":"/spec/initContainers",…`.
    #expect(
      response["patch"]?.stringValue?.hasPrefix("W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMvaW5pdENvbnRhaW5lcnMi") == true)
  }

  @Test("what is no new pod is let through as it is")
  func unchanged() throws {
    for body in [review(pod, operation: "UPDATE"), review(pod, operation: "DELETE"), review(pod, resource: "services")]
    {
      let answer = answer(body)
      #expect(answer.outcome == .unchanged)
      let response = try response(answer)
      #expect(response["allowed"] == true)
      #expect(response["patch"] == nil && response["patchType"] == nil)
    }
    #expect(try response(answer(review(pod, resource: "services")))["warnings"]?[0] != nil)
  }

  @Test("a pod that cannot be served is refused with a message")
  func refused() throws {
    let answer = answer(
      review(#"{"metadata":{"annotations":{"micro.mu/app-port":"x"}},"spec":{"containers":[{"name":"a"}]}}"#))
    #expect(answer.outcome == .refused)
    let response = try response(answer)
    #expect(response["allowed"] == false)
    #expect(response["status"]?["code"] == 422)
    #expect(response["status"]?["message"]?.stringValue?.contains("micro.mu/app-port") == true)
    #expect(response["patch"] == nil)
  }

  @Test("warnings are bounded in number and length")
  func warnings() throws {
    let many = (0..<200).map { #""micro.mu/\#(String(repeating: "x", count: 300))\#($0)":"1""# }.joined(separator: ",")
    let response = try response(
      answer(review(#"{"metadata":{"annotations":{\#(many)}},"spec":{"containers":[{"name":"a"}]}}"#)))
    let warnings = try #require(response["warnings"]?.arrayValue)
    #expect(warnings.count == AdmissionReview.warningsMax)
    #expect(warnings.allSatisfy { ($0.stringValue?.count ?? 999) <= AdmissionReview.warningCountMax })
  }

  @Test(
    "what is no review is a 400 with the reason",
    arguments: [
      "", "{", "[]", "7", "\"x\"", "{}", #"{"kind":"AdmissionReview"}"#, #"{"kind":7,"apiVersion":[]}"#,
      #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#,
      #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":[]}"#,
      #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":7}}"#,
      #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":""}}"#,
      #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"u"}}"#,
      #"{"kind":"Pod","apiVersion":"v1"}"#, #"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"} x"#,
    ])
  func malformed(body: String) {
    let answer = answer(body)
    #expect(answer.outcome == .malformed)
    #expect(answer.reply.status == 400)
    #expect(!answer.message.isEmpty)
  }

  @Test("deep, wide and broken documents are answered")
  func hostile() {
    #expect(answer(String(repeating: "[", count: 1 << 20)).outcome == .malformed)
    #expect(answer(review(String(repeating: "[", count: 60) + String(repeating: "]", count: 60))).outcome == .refused)
    #expect(answer(review("[" + String(repeating: "[],", count: 900_000) + "[]]")).outcome == .refused)
    #expect(
      answer(review(#"{"spec":{"containers":[\#(String(repeating: "{},", count: 500_000)){}]}}"#)).outcome == .refused)
    #expect(answer([0xFF, 0xFE, 0x00]).outcome == .malformed)
    #expect(answer(review(pod, uid: #"\u0000\ud800"#)).outcome == .patched)
    // Every prefix of a review is no review.
    let whole = Array(review(pod).utf8)
    for end in whole.indices { #expect(answer(Array(whole[..<end])).outcome == .malformed) }
  }
}
