// What an API server, or whoever reaches its port, asks of the injector. Input: an AdmissionReview, or a pod alone where it is
// none, so that the fuzzer need not find the way there.
// core: Wire/JSON Wire/Numbers Wire/Protobuf/Base64.swift Wire/ByteBuffer.swift Wire/WireError.swift Wire/FixedBytes.swift Model/Service.swift Config/SettingProblem.swift Config/NearestName.swift Ingress/APIReply.swift Observe/UTCTime.swift Driver/SocketAddress.swift
// module: SidecarInjector AdmissionReview.swift Annotations.swift DrainPlan.swift InjectorSettings.swift PodPatch.swift Quantity.swift SidecarContainer.swift

import SidecarCore
import SidecarInjector

private let patch: PodPatch = {
  var defaults = SidecarDefaults()
  defaults.image = "registry.example/micro-sidecar:1"
  return PodPatch(defaults) { _ in [] }
}()

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  let review = AdmissionReview(patch)
  let answer = review.answer(input)
  let again = review.answer(input)
  if answer.reply.body != again.reply.body || answer.outcome != again.outcome {
    fail("the same review, another answer")
  }
  check(answer, input)
  guard let pod = try? JSONValue(parsing: input, depthLimit: 32) else { return }
  decide(pod)
}

/// Whatever was asked, the answer is one that an API server understands.
private func check(_ answer: AdmissionReview.Answer, _ input: UnsafeRawBufferPointer) {
  if answer.outcome == .malformed {
    if answer.reply.status != 400 { fail("what is no review is a bad request") }
    return
  }
  guard answer.reply.status == 200, let said = try? JSONValue(parsing: answer.reply.body),
    let response = said["response"], response["uid"]?.stringValue?.isEmpty == false,
    let isAllowed = response["allowed"]?.boolValue
  else { fail("an answer that is no review") }
  if isAllowed == (answer.outcome == .refused) { fail("refused and allowed") }
  let warnings = response["warnings"]?.arrayValue ?? []
  if warnings.count > 16 || warnings.contains(where: { ($0.stringValue?.count ?? 999) > 256 }) {
    fail("too many words")
  }
  if (response["patch"] == nil) != (answer.outcome != .patched) { fail("a patch that was not told of") }
  guard let asked = try? JSONValue(parsing: input, depthLimit: 64), let pod = asked["request"]?["object"] else {
    return
  }
  decide(pod)
}

/// A patch only adds, fits the pod, and is not wanted a second time.
private func decide(_ pod: JSONValue) {
  guard let decision = try? patch.decide(pod) else { return }
  var after = pod
  for operation in decision.operations {
    guard operation["op"] == "add", let path = operation["path"]?.stringValue, path.hasPrefix("/"),
      let value = operation["value"], let next = add(value, path.split(separator: "/")[...], after)
    else { fail("an operation that does not fit: \(operation.text())") }
    after = next
  }
  guard !decision.operations.isEmpty else { return }
  guard let second = try? patch.decide(after) else { fail("the patched pod is refused") }
  if !second.operations.isEmpty { fail("a second sidecar") }
}

/// RFC 6902's `add`; nil where there is nothing to add to.
private func add(_ value: JSONValue, _ path: ArraySlice<Substring>, _ document: JSONValue) -> JSONValue? {
  guard let token = path.first.map({ unescaped($0) }) else { return value }
  let rest = path.dropFirst()
  switch document {
  case .object(var members):
    guard let index = members.lastIndex(where: { $0.key == token }) else {
      guard rest.isEmpty else { return nil }
      members.append(.init(token, value))
      return .object(members)
    }
    guard let inner = add(value, rest, members[index].value) else { return nil }
    members[index].value = inner
    return .object(members)
  case .array(var elements):
    if rest.isEmpty, token == "-" { return .array(elements + [value]) }
    guard let index = Int(token), index >= 0, index <= elements.count else { return nil }
    if rest.isEmpty {
      elements.insert(value, at: index)
      return .array(elements)
    }
    guard index < elements.count, let inner = add(value, rest, elements[index]) else { return nil }
    elements[index] = inner
    return .array(elements)
  default: return nil
  }
}

private func unescaped(_ token: Substring) -> String {
  var text = ""
  var isEscape = false
  for character in token {
    if isEscape {
      text.append(character == "1" ? "/" : "~")
      isEscape = false
    } else if character == "~" {
      isEscape = true
    } else {
      text.append(character)
    }
  }
  return text
}
