// The few calls of the Kubernetes API that the registry makes, and what their failures mean.

import SidecarCore

/// Threading: the control loop only.
final class KubernetesAPI: @unchecked Sendable {
  /// Objects of one page of a list.
  static let pageObjects = 500

  let options: KubernetesOptions
  let client: HTTPClient

  init(_ options: KubernetesOptions, driver: any HostDriver) {
    self.options = options
    client = HTTPClient(driver: driver, endpoints: options.endpoints, tls: options.tls)
  }

  /// A registry's view of the same API at one server only.
  init(_ other: KubernetesAPI, at endpoint: HTTPEndpoint) {
    options = other.options
    client = HTTPClient(driver: other.client.driver, endpoints: [endpoint], tls: other.options.tls)
  }

  var resource: String { options.mode == .pods ? "pods" : "endpointslices" }
  private var group: String { options.mode == .pods ? "" : "discovery.k8s.io" }

  private func collection(_ query: [(String, String?)]) -> String {
    let root = options.mode == .pods ? "/api/v1" : "/apis/discovery.k8s.io/v1"
    let scope = options.namespace == "*" ? "" : "/namespaces/" + HTTPText.escape(options.namespace)
    let selector = options.selector.isEmpty ? [] : [("labelSelector", String?.some(options.selector))]
    return root + scope + "/" + resource + HTTPText.query(selector + query)
  }

  private func request(
    _ method: HTTPRequest.Method, _ target: String, body: [UInt8]? = nil, type: String = "application/json"
  ) throws(RegistryError) -> HTTPRequest {
    var headers = [("Accept", "application/json")]
    do throws(ConfigurationError) {
      if let token = try options.token() { headers.append(("Authorization", "Bearer " + token)) }
    } catch {
      throw .unavailable(error.message)
    }
    if body != nil { headers.append(("Content-Type", type)) }
    return HTTPRequest(method, target, body: body, headers: headers)
  }

  private func call(_ request: HTTPRequest) async throws(RegistryError) -> HTTPReply {
    do throws(HTTPFailure) {
      return try await client.call(request, within: .seconds(10))
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : error.description)
    }
  }

  /// One page; `limit` 0: all at once.
  func list(limit: Int, next: String?) async throws(RegistryError) -> HTTPReply {
    var query: [(String, String?)] = limit > 0 ? [("limit", "\(limit)")] : []
    if let next { query.append(("continue", next)) }
    return try await call(try request(.get, collection(query)))
  }

  /// Changes after `version`. The server ends the watch after `seconds` by itself.
  func watch(after version: String, seconds: Int) async throws(RegistryError) -> HTTPReplyStream {
    let query: [(String, String?)] = [
      ("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", version),
      ("timeoutSeconds", "\(seconds)"),
    ]
    let request = try request(.get, collection(query))
    do throws(HTTPFailure) {
      return try await client.stream(request, within: .seconds(10))
    } catch {
      throw .unavailable(error.cause == .cancelled ? "cancelled" : error.description)
    }
  }

  /// Merges `patch` into our own pod.
  func patchPod(_ patch: JSONValue, isTrial: Bool = false) async throws(RegistryError) -> HTTPReply {
    let target = "/api/v1/namespaces/\(HTTPText.escape(options.podNamespace))/pods/\(HTTPText.escape(options.pod))"
    return try await call(
      try request(
        .patch, target + (isTrial ? "?dryRun=All" : ""), body: Array(patch.text().utf8),
        type: "application/strategic-merge-patch+json"))
  }

  /// What a reply that is no success says. `verb` as RBAC calls it.
  func failure(_ status: Int, _ body: [UInt8], verb: String, at endpoint: HTTPEndpoint) -> RegistryError {
    let said = (try? JSONValue(parsing: body))?["message"]?.stringValue ?? HTTPText.short(body)
    switch status {
    case 401:
      return .refused(
        "the API server \(endpoint) does not accept the token (401 \(said)): the service account or its token is gone")
    case 403:
      return .refused(
        "the API server \(endpoint) does not allow `\(verb)` on \(resourceName(verb)) (403 \(said)); \(rule(verb))")
    case 404 where verb == "patch":
      return .refused(
        "there is no pod \(options.pod) in namespace \(options.podNamespace); give the sidecar its pod's name and namespace "
          + "as POD_NAME and POD_NAMESPACE (downward API: metadata.name, metadata.namespace)")
    case 400, 404, 413, 422: return .invalid("the API server \(endpoint) does not take it: \(status) \(said)")
    default: return .unavailable("the API server \(endpoint): \(status) \(said)")
    }
  }

  private func resourceName(_ verb: String) -> String {
    let namespace = verb == "patch" ? options.podNamespace : options.namespace
    return (verb == "patch" ? "pods" : resource)
      + (namespace == "*" ? " of all namespaces" : " in namespace \(namespace)")
  }

  /// The rule that is missing where `verb` is not allowed.
  func rule(_ verb: String) -> String {
    let verbs = options.mode == .pods ? "list, watch, patch" : "list, watch"
    return "add to the \(options.namespace == "*" ? "ClusterRole" : "Role") of its service account: "
      + "{apiGroups: [\"\(group)\"], resources: [\(resource)], verbs: [\(verbs)]}"
  }
}
