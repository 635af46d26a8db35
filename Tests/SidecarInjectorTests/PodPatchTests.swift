// Pods in, patched pods out: the patch is applied here as an API server applies it, and the result is looked at.

import SidecarBuiltins
import SidecarCore
import Testing

@testable import SidecarInjector

private func json(_ text: String) -> JSONValue {
  guard let value = try? JSONValue(parsing: text) else { fatalError("the test's own JSON is wrong: \(text)") }
  return value
}

/// `add` of RFC 6902 §4.1, as strict as it says. Nil: the patch does not fit the document.
private func apply(_ operations: [JSONValue], to document: JSONValue) -> JSONValue? {
  var document = document
  for operation in operations {
    guard operation["op"] == "add", let path = operation["path"]?.stringValue, let value = operation["value"] else {
      return nil
    }
    let tokens = path.split(separator: "/").map {
      String($0).replacing("~1", with: "/").replacing("~0", with: "~")
    }
    guard path.hasPrefix("/"), let next = add(value, at: tokens[...], to: document) else { return nil }
    document = next
  }
  return document
}

private func add(_ value: JSONValue, at path: ArraySlice<String>, to document: JSONValue) -> JSONValue? {
  guard let token = path.first else { return value }
  let rest = path.dropFirst()
  switch document {
  case .object(var members):
    guard let index = members.firstIndex(where: { $0.key == token }) else {
      guard rest.isEmpty else { return nil }
      members.append(.init(token, value))
      return .object(members)
    }
    guard let next = add(value, at: rest, to: members[index].value) else { return nil }
    members[index].value = next
    return .object(members)
  case .array(var elements):
    if token == "-" {
      guard rest.isEmpty else { return nil }
      elements.append(value)
      return .array(elements)
    }
    guard let index = Int(token) else { return nil }
    if rest.isEmpty {
      guard (0...elements.count).contains(index) else { return nil }
      elements.insert(value, at: index)
      return .array(elements)
    }
    guard elements.indices.contains(index), let next = add(value, at: rest, to: elements[index]) else { return nil }
    elements[index] = next
    return .array(elements)
  default: return nil
  }
}

private func patcher(_ change: (inout SidecarDefaults) -> Void = { _ in }) -> PodPatch {
  var defaults = SidecarDefaults()
  defaults.image = "registry.example/micro-sidecar:1"
  change(&defaults)
  let plugins = try? builtinPlugins()
  let names = plugins.map { Array($0.registries.keys) }
  return PodPatch(defaults) { environment in
    var sources = SettingsSources()
    sources.environment = environment
    sources.registryNames = names
    do throws(SettingsError) {
      _ = try Settings.load(sources)
      return []
    } catch {
      return error.problems
    }
  }
}

private func pod(_ annotations: String = "{}", spec: String = #"{"containers":[{"name":"app","image":"app:1"}]}"#)
  -> JSONValue
{
  json(#"{"metadata":{"name":"p","annotations":\#(annotations)},"spec":\#(spec)}"#)
}

private func values(_ container: JSONValue?) -> [String: String] {
  var values: [String: String] = [:]
  for pair in container?["env"]?.arrayValue ?? [] {
    values[pair["name"]?.stringValue ?? ""] =
      pair["value"]?.stringValue ?? "<\(pair["valueFrom"]?["fieldRef"]?["fieldPath"]?.stringValue ?? "")>"
  }
  return values
}

@Suite("Pods get sidecars")
struct PodPatchTests {
  /// The pod after the patch, which must fit it, and must not be wanted a second time.
  private func injected(
    _ pod: JSONValue, _ patch: PodPatch = patcher(), sourceLocation: SourceLocation = #_sourceLocation
  ) throws -> JSONValue {
    let decision = try patch.decide(pod)
    #expect(!decision.operations.isEmpty, sourceLocation: sourceLocation)
    let after = try #require(apply(decision.operations, to: pod), sourceLocation: sourceLocation)
    #expect(try patch.decide(after).operations == [], "a second time", sourceLocation: sourceLocation)
    return after
  }

  private func refusal(_ pod: JSONValue, _ patch: PodPatch = patcher()) -> String? {
    do throws(InjectionError) {
      _ = try patch.decide(pod)
      return nil
    } catch {
      return error.message
    }
  }

  @Test("a plain pod gets a native sidecar that starts before everything else")
  func native() throws {
    let before = pod(
      #"{"micro.mu/service-name":"go.micro.srv.hello","micro.mu/app-port":"9090","micro.mu/app-health":"/health"}"#,
      spec: #"{"initContainers":[{"name":"migrate"}],"containers":[{"name":"app","image":"app:1"}]}"#)
    let after = try injected(before)
    let sidecar = after["spec"]?["initContainers"]?[0]
    #expect(sidecar?["name"] == "micro-sidecar")
    #expect(sidecar?["restartPolicy"] == "Always")
    #expect(sidecar?["image"] == "registry.example/micro-sidecar:1")
    #expect(after["spec"]?["initContainers"]?[1]?["name"] == "migrate")
    let set = values(sidecar)
    #expect(set["MICRO_SERVER_NAME"] == "go.micro.srv.hello")
    #expect(set["MICRO_APP_ADDRESS"] == "127.0.0.1:9090")
    #expect(set["MICRO_APP_HEALTH"] == "/health")
    #expect(set["MICRO_REGISTRY"] == "kubernetes")
    #expect(set["MICRO_SIDECAR_DRAIN"] == "20s")
    #expect(set["MICRO_SERVER_ID"] == "$(POD_NAME)")
    #expect(set["POD_IP"] == "<status.podIP>")
    #expect(sidecar?["startupProbe"]?["httpGet"]?["path"] == "/startupz")
    #expect(sidecar?["lifecycle"] == json(#"{"preStop":{"exec":{"command":["/micro-sidecar","drain","5s"]}}}"#))
    #expect(
      sidecar?["resources"]
        == json(#"{"requests":{"cpu":"20m","memory":"24Mi"},"limits":{"memory":"96Mi"}}"#))
    #expect(sidecar?["volumeMounts"]?[0]?["name"] == "micro-sidecar-token")
    #expect(after["spec"]?["volumes"]?[0]?["name"] == "micro-sidecar-token")
    #expect(after["spec"]?["containers"]?.arrayValue?.count == 1)
    #expect(
      values(after["spec"]?["containers"]?[0]) == [
        "MICRO_SIDECAR_ADDRESS": "127.0.0.1:8081", "MICRO_PROXY_ADDRESS": "127.0.0.1:8081",
        "MICRO_APP_ADDRESS": "127.0.0.1:9090",
      ])
    #expect(after["metadata"]?["labels"]?["micro.mu/sidecar"] == "native")
    #expect(after["metadata"]?["annotations"]?["micro.mu/injected"] == "native")
    #expect(after["metadata"]?["annotations"]?["prometheus.io/port"] == "8083")
  }

  @Test("a classic sidecar is the first container, and the next one waits for it")
  func classic() throws {
    let after = try injected(
      pod(#"{"micro.mu/native":"false"}"#, spec: #"{"containers":[{"name":"app"},{"name":"log","env":[]}]}"#))
    let containers = after["spec"]?["containers"]?.arrayValue ?? []
    #expect(containers.map { $0["name"] } == ["micro-sidecar", "app", "log"])
    #expect(containers[0]["restartPolicy"] == nil)
    #expect(
      containers[0]["lifecycle"]?["postStart"] == json(#"{"exec":{"command":["/micro-sidecar","wait","60s"]}}"#))
    #expect(values(containers[1])["MICRO_SIDECAR_ADDRESS"] == "127.0.0.1:8081")
    #expect(values(containers[2])["MICRO_SIDECAR_ADDRESS"] == "127.0.0.1:8081")
    #expect(after["metadata"]?["annotations"]?["kubectl.kubernetes.io/default-container"] == "app")
    let byDefault = try injected(pod(), patcher { $0.isNative = false })
    #expect(byDefault["spec"]?["containers"]?[0]?["name"] == "micro-sidecar")
    let backToNative = try injected(pod(#"{"micro.mu/native":"true"}"#), patcher { $0.isNative = false })
    #expect(backToNative["spec"]?["initContainers"]?[0]?["name"] == "micro-sidecar")
  }

  @Test("what a pod already has is kept and not doubled")
  func merges() throws {
    let before = json(
      #"""
      {"metadata":{"name":"p","labels":{"app":"x"},"annotations":{"prometheus.io/scrape":"false"}},
       "spec":{"containers":[{"name":"app","env":[{"name":"MICRO_SIDECAR_ADDRESS","value":"mine"},{"name":"B","value":"1"}]}],
       "volumes":[{"name":"data","emptyDir":{}}]}}
      """#)
    let after = try injected(before)
    let app = after["spec"]?["containers"]?[0]
    #expect(
      values(app) == ["MICRO_SIDECAR_ADDRESS": "mine", "B": "1", "MICRO_PROXY_ADDRESS": "127.0.0.1:8081"])
    #expect(app?["env"]?.arrayValue?.count == 3)
    #expect(after["spec"]?["volumes"]?.arrayValue?.count == 2)
    #expect(after["spec"]?["volumes"]?[0]?["name"] == "data")
    #expect(after["metadata"]?["labels"] == json(#"{"app":"x","micro.mu/sidecar":"native"}"#))
    #expect(after["metadata"]?["annotations"]?["prometheus.io/scrape"] == "false")
    #expect(after["metadata"]?["annotations"]?["prometheus.io/port"] == nil)
    // The very volume, from a pod that was copied, is used again.
    let volume = try #require(after["spec"]?["volumes"]?[1])
    let copied = json(
      #"{"metadata":{},"spec":{"containers":[{"name":"app"}],"volumes":[\#(volume.text())]}}"#)
    #expect(try injected(copied)["spec"]?["volumes"]?.arrayValue?.count == 1)
  }

  @Test(
    "pods that are left alone",
    arguments: [
      (#"{"metadata":{"annotations":{"micro.mu/inject":"disabled"}},"spec":{"containers":[{"name":"a"}]}}"#, ""),
      (#"{"metadata":{"labels":{"micro.mu/inject":"false"}},"spec":{"containers":[{"name":"a"}]}}"#, ""),
      (#"{"spec":{"containers":[{"name":"micro-sidecar"},{"name":"a"}]}}"#, ""),
      (#"{"spec":{"initContainers":[{"name":"micro-sidecar"}],"containers":[{"name":"a"}]}}"#, ""),
      (#"{"spec":{"hostNetwork":true,"containers":[{"name":"a"}]}}"#, "hostNetwork"),
      (#"{"spec":{"os":{"name":"windows"},"containers":[{"name":"a"}]}}"#, "linux"),
    ])
  func leftAlone(text: String, warning: String) throws {
    let decision = try patcher().decide(json(text))
    #expect(decision.operations == [])
    #expect(warning.isEmpty ? decision.warnings == [] : decision.warnings.contains { $0.contains(warning) })
  }

  @Test("pods without metadata, annotations, labels or lists can be patched")
  func bare() throws {
    for text in [
      #"{"spec":{"containers":[{"name":"a"}]}}"#, #"{"metadata":{},"spec":{"containers":[{"name":"a"}]}}"#,
      #"{"metadata":{"annotations":null,"labels":null},"spec":{"containers":[{"name":"a","env":null}],"initContainers":null,"volumes":null}}"#,
      #"{"metadata":{"annotations":{},"labels":{}},"spec":{"containers":[{"name":"a"}],"initContainers":[],"volumes":[]}}"#,
    ] {
      let after = try injected(json(text))
      #expect(after["metadata"]?["labels"]?["micro.mu/sidecar"] == "native")
      #expect(after["metadata"]?["annotations"]?["micro.mu/injected"] == "native")
    }
  }

  @Test(
    "annotations that are wrong are refused, and the message names them and what is right",
    arguments: [
      ("inject", "maybe", "enabled or disabled"), ("app-port", "http", "1 to 65535"), ("app-port", "0", "1 to 65535"),
      ("app-port", "65536", "1 to 65535"), ("app-port", "+80", "1 to 65535"), ("app-port", "8081", "sidecar-port"),
      ("app-port", "8083", "admin-port"), ("app-protocol", "htp", "http or grpc or mucp"),
      ("registry", "consull", "did you mean consul"), ("native", "perhaps", "true or false"),
      ("drain-seconds", "-1", "0 to 3600"), ("drain-seconds", "22", "terminationGracePeriodSeconds to 31 or more"),
      ("sidecar-cpu-request", "20 m", "20m"), ("sidecar-cpu-request", "20Mi", "20m"),
      ("sidecar-memory-limit", "0", "96Mi"), ("sidecar-memory-limit", "96MiB", "96Mi"),
      ("sidecar-memory-limit", "1Mi", "1Mi is its limit"), ("server-port", "80", "1024 to 65535"),
      ("server-port", "8083", "both 8083"), ("secret", "../etc", "the name of a secret"),
      ("env", "MICRO_SIDECAR_NAMESPACE", "KEY=VALUE"), ("env", "1A=2", "KEY=VALUE"),
      ("env", "POD_IP=1.2.3.4", "no POD_IP"), ("env", "MICRO_SIDECAR_WORKERS=many", "MICRO_SIDECAR_WORKERS"),
      ("env", "MICRO_SIDECAR_NAMESPCE=x", "did you mean MICRO_SIDECAR_NAMESPACE"),
    ])
  func refused(name: String, value: String, message: String) throws {
    let annotation = JSONValue.object([.init("micro.mu/" + name, .string(value))]).text()
    let said = try #require(refusal(pod(annotation)))
    #expect(said.contains("micro.mu/\(name)") || said.contains("limit"))
    #expect(said.contains(message), "\(said)")
  }

  @Test("all that is wrong is said at once")
  func allAtOnce() throws {
    let said = try #require(refusal(pod(#"{"micro.mu/app-port":"x","micro.mu/native":"y"}"#)))
    #expect(said.contains("app-port") && said.contains("native"))
  }

  @Test("a port of an app's container is not taken")
  func portTaken() throws {
    let spec = #"{"containers":[{"name":"app","ports":[{"containerPort":8082}]}]}"#
    #expect(try #require(refusal(pod(spec: spec))).contains("micro.mu/server-port"))
    let after = try injected(pod(#"{"micro.mu/server-port":"9082"}"#, spec: spec))
    #expect(values(after["spec"]?["initContainers"]?[0])["MICRO_SERVER_ADDRESS"] == "0.0.0.0:9082")
  }

  @Test("unknown annotations are warned of, the registry's own are not")
  func unknown() throws {
    let decision = try patcher().decide(
      pod(#"{"micro.mu/app-prot":"1","micro.mu/service-greeter":"{}","micro.mu/versions-x":"[]","other/x":"y"}"#))
    #expect(decision.warnings.count == 1)
    #expect(decision.warnings.first?.contains("did you mean micro.mu/app-port?") == true)
  }

  @Test("settings of pods: env overrides, resources, ports, secret, another registry")
  func options() throws {
    let after = try injected(
      pod(
        #"""
        {"micro.mu/registry":"consul:10.0.0.1:8500?token_file=/etc/micro-sidecar/secrets/token,mdns",
         "micro.mu/secret":"consul","micro.mu/env":"MICRO_LOG_FORMAT=text\nMICRO_SIDECAR_CORS=a,b\nX=$(Y)",
         "micro.mu/sidecar-memory-request":"200Mi","micro.mu/sidecar-cpu-limit":"0.5","micro.mu/drain-seconds":"50",
         "micro.mu/sidecar-port":"18081"}
        """#, spec: #"{"terminationGracePeriodSeconds":59,"containers":[{"name":"app"}]}"#))
    let sidecar = after["spec"]?["initContainers"]?[0]
    let set = values(sidecar)
    #expect(set["MICRO_LOG_FORMAT"] == "text")
    #expect(set["MICRO_SIDECAR_CORS"] == "a,b")
    #expect(set["X"] == "$$(Y)")
    #expect(set["MICRO_SIDECAR_DRAIN"] == "50s")
    #expect(sidecar?["env"]?.arrayValue?.count == set.count, "no variable is there twice")
    #expect(
      sidecar?["resources"]
        == json(#"{"requests":{"cpu":"20m","memory":"200Mi"},"limits":{"cpu":"0.5","memory":"200Mi"}}"#))
    #expect(sidecar?["volumeMounts"]?.arrayValue?.count == 1, "no token without the registry kubernetes")
    #expect(after["spec"]?["volumes"]?[0]?["secret"]?["secretName"] == "consul")
    #expect(values(after["spec"]?["containers"]?[0])["MICRO_PROXY_ADDRESS"] == "127.0.0.1:18081")
  }

  @Test("the drain and what surrounds it are less than the grace period, whatever it is")
  func drains() throws {
    for grace in [0, 1, 2, 5, 6, 10, 13, 14, 29, 30, 31, 60, 3600] {
      let plan = try DrainPlan.make(grace: grace, wanted: nil)
      #expect(plan.drain >= 0 && plan.quiet >= 0)
      if grace > DrainPlan.deregistration + DrainPlan.margin {
        #expect(plan.quiet + DrainPlan.deregistration + plan.drain + DrainPlan.margin <= grace, "\(grace)")
      }
    }
    #expect(try DrainPlan.make(grace: 30, wanted: nil) == DrainPlan(grace: 30, quiet: 5, drain: 20))
    // The number a refusal names is enough.
    #expect(try DrainPlan.make(grace: 31, wanted: 22).drain == 22)
  }

  @Test(
    "what is no pod is refused and never a trap",
    arguments: [
      "null", "7", "[]", "{}", #"{"spec":null}"#, #"{"spec":[]}"#, #"{"spec":{}}"#, #"{"spec":{"containers":{}}}"#,
      #"{"spec":{"containers":[7]}}"#, #"{"spec":{"containers":[[]]}}"#, #"{"spec":{"containers":"x"}}"#,
      #"{"metadata":{"annotations":[]},"spec":{"containers":[{}]}}"#,
      #"{"metadata":{"annotations":{"micro.mu/app-port":9090}},"spec":{"containers":[{}]}}"#,
      #"{"metadata":{"labels":"x"},"spec":{"containers":[{}]}}"#,
      #"{"metadata":{"labels":{"micro.mu/inject":7}},"spec":{"containers":[{}]}}"#,
      #"{"spec":{"containers":[{}],"initContainers":7}}"#, #"{"spec":{"containers":[{}],"volumes":{}}}"#,
      #"{"spec":{"containers":[{"env":{}}]}}"#, #"{"spec":{"containers":[{"env":[1]}]}}"#,
      #"{"spec":{"containers":[{}],"terminationGracePeriodSeconds":"30"}}"#,
      #"{"spec":{"containers":[{}],"terminationGracePeriodSeconds":-9223372036854775808}}"#,
      #"{"spec":{"containers":[{}],"volumes":[{"name":"micro-sidecar-token","emptyDir":{}}]}}"#,
    ])
  func notAPod(text: String) {
    #expect(refusal(json(text)) != nil)
  }

  /// Every document that differs from `document` in one value, which is `other`.
  private func variants(of document: JSONValue, with other: JSONValue) -> [JSONValue] {
    var variants = [other]
    switch document {
    case .object(let members):
      for index in members.indices {
        for value in self.variants(of: members[index].value, with: other) {
          var changed = members
          changed[index].value = value
          variants.append(.object(changed))
        }
      }
    case .array(let elements):
      for index in elements.indices {
        for value in self.variants(of: elements[index], with: other) {
          var changed = elements
          changed[index] = value
          variants.append(.array(changed))
        }
      }
    default: break
    }
    return variants
  }

  @Test("a value of any type in any place: refused, or patched so that it fits and is not wanted again")
  func anyTypeAnywhere() throws {
    let whole = json(
      #"""
      {"metadata":{"name":"p","labels":{"a":"b","micro.mu/inject":"enabled"},
        "annotations":{"micro.mu/service-name":"g","micro.mu/app-port":"9090","micro.mu/env":"A=1","micro.mu/secret":"s",
          "micro.mu/drain-seconds":"5","micro.mu/sidecar-cpu-limit":"1","prometheus.io/scrape":"true"}},
       "spec":{"terminationGracePeriodSeconds":30,"hostNetwork":false,"os":{"name":"linux"},
        "initContainers":[{"name":"i","ports":[{"containerPort":1}]}],
        "containers":[{"name":"app","env":[{"name":"MICRO_SIDECAR_ADDRESS","value":"x"}],"ports":[{"containerPort":9090}]}],
        "volumes":[{"name":"v","emptyDir":{}}]}}
      """#)
    let patch = PodPatch(patcher().defaults) { _ in [] }
    var patched = 0
    var refused = 0
    for other in [
      "null", "true", "7", "-1e400", "\"x\"", "\"\"", "[]", "{}", "[7]", "[{}]", #"{"name":"micro-sidecar"}"#,
    ] {
      for pod in variants(of: whole, with: json(other)) {
        do throws(InjectionError) {
          let decision = try patch.decide(pod)
          guard !decision.operations.isEmpty else { continue }
          patched += 1
          guard let after = apply(decision.operations, to: pod) else {
            Issue.record("the patch does not fit \(pod.text())")
            continue
          }
          #expect(try patch.decide(after).operations == [])
        } catch {
          refused += 1
          #expect(!error.message.isEmpty)
        }
      }
    }
    #expect(patched > 100 && refused > 100, "\(patched) patched, \(refused) refused")
  }

  @Test("odd but harmless members do no harm")
  func odd() throws {
    let after = try injected(
      json(
        #"""
        {"metadata":{"name":7,"annotations":{"a/b~c":"x"}},"spec":{"os":[],"hostNetwork":"yes",
         "terminationGracePeriodSeconds":9223372036854775807,
         "containers":[{"ports":[{"containerPort":"x"},7]},{"name":[],"env":[{"name":1}]}]}}
        """#))
    #expect(after["metadata"]?["annotations"]?["a/b~c"] == "x")
    let huge = String(repeating: #"{"name":"a"},"#, count: 300) + #"{"name":"b"}"#
    #expect(try #require(refusal(json(#"{"spec":{"containers":[\#(huge)]}}"#))).contains("301"))
    let long = String(repeating: "x", count: SidecarWish.valueBytesMax + 1)
    #expect(refusal(pod(#"{"micro.mu/service-name":"\#(long)"}"#)) != nil)
  }
}

@Suite("The injector's own settings")
struct InjectorSettingsTests {
  private func problems(_ environment: [String: String]) -> [String] {
    do throws(SettingsError) {
      _ = try InjectorSettings.load(environment)
      return []
    } catch {
      return error.problems.map(\.description)
    }
  }

  @Test("every key is read, and other variables are let be")
  func all() throws {
    let settings = try InjectorSettings.load([
      "MICRO_INJECTOR_IMAGE": "x@sha256:1", "MICRO_INJECTOR_ADDRESS": "127.0.0.1:1", "MICRO_INJECTOR_CERT_FILE": "c",
      "MICRO_INJECTOR_KEY_FILE": "k", "MICRO_INJECTOR_NATIVE": "no", "MICRO_INJECTOR_REGISTRY": "consul",
      "MICRO_INJECTOR_ENV": "A=1,B=", "MICRO_INJECTOR_SCRAPE": "false", "MICRO_INJECTOR_PULL_POLICY": "Never",
      "MICRO_INJECTOR_CPU_REQUEST": "none", "MICRO_INJECTOR_CPU_LIMIT": "1", "MICRO_INJECTOR_MEMORY_REQUEST": "1Mi",
      "MICRO_INJECTOR_MEMORY_LIMIT": "1Gi", "HOME": "/", "MICRO_REGISTRY": "nats",
    ])
    #expect(settings.sidecar.image == "x@sha256:1")
    #expect(settings.address == .loopback(port: 1))
    #expect((settings.certificateFile, settings.keyFile) == ("c", "k"))
    #expect(settings.sidecar.environment == [EnvironmentPair("A", "1"), EnvironmentPair("B", "")])
    #expect(!settings.sidecar.isNative && !settings.sidecar.isScraped)
    #expect(settings.sidecar.resources.cpuRequest == nil)
    #expect(settings.sidecar.resources.cpuLimit?.value == 1)
    #expect(settings.sidecar.pullPolicy == "Never")
  }

  @Test("all mistakes are told at once")
  func mistakes() {
    let said = problems([
      "MICRO_INJECTOR_IMGE": "x", "MICRO_INJECTOR_ADDRESS": "8443", "MICRO_INJECTOR_CPU_REQUEST": "lots",
      "MICRO_INJECTOR_NATIVE": "si", "MICRO_INJECTOR_PULL_POLICY": "always",
    ])
    #expect(said.count == 6)
    #expect(said.contains { $0.contains("did you mean MICRO_INJECTOR_IMAGE") })
    #expect(
      said.contains {
        $0.contains("MICRO_INJECTOR_IMAGE is not set") || $0.contains("MICRO_INJECTOR_IMAGE: is not set")
      })
    #expect(
      problems(["MICRO_INJECTOR_IMAGE": "x", "MICRO_INJECTOR_MEMORY_LIMIT": "1Mi"]) == [
        "settings: the sidecar asks for 24Mi of memory, and 1Mi is its limit"
      ])
  }

  @Test(
    "amounts",
    arguments: [
      ("20m", Quantity.Kind.cpu, 0.02), ("1", .cpu, 1), ("0.5", .cpu, 0.5), ("96Mi", .memory, 100_663_296),
      ("100M", .memory, 1e8), ("1024", .memory, 1024), ("1.5Gi", .memory, 1_610_612_736),
    ] as [(String, Quantity.Kind, Double)])
  func amounts(text: String, kind: Quantity.Kind, value: Double) {
    #expect(Quantity(text, kind)?.value == value)
    #expect(Quantity(text, kind)?.text == text)
  }

  @Test(
    "what is no amount",
    arguments: [
      "", "m", "-1", "1mm", " 1", "1 ", ".5", "5.", "1e3", "1..2", "0", "1Mi", "999999999999999999", "1\u{0}",
    ])
  func noAmounts(text: String) {
    #expect(Quantity(text, .cpu) == nil)
  }
}
