import Testing

@testable import SidecarCore

/// Settings from the parts a test gives; the file is JSON, which the core reads itself.
private func load(
  flags: [String] = [], environment: [String: String] = [:], file: String? = nil, registries: [String]? = nil,
  selectors: [String]? = nil
) throws(SettingsError) -> Settings {
  var sources = SettingsSources()
  let scanned = FlagScanner.scan(flags, options: [])
  sources.flags = scanned.settings
  sources.environment = environment
  sources.registryNames = registries
  sources.selectorNames = selectors
  if let file {
    sources.environment["MICRO_CONFIG"] = "sidecar.yaml"
    sources.readFile = { path in
      #expect(path == "sidecar.yaml")
      return Array(file.utf8)
    }
  }
  return try Settings.load(sources, earlier: scanned.problems)
}

private func problems(
  flags: [String] = [], environment: [String: String] = [:], file: String? = nil, registries: [String]? = nil,
  selectors: [String]? = nil
) -> [String] {
  do {
    _ = try load(
      flags: flags, environment: environment, file: file, registries: registries, selectors: selectors)
    return []
  } catch {
    return error.problems.map(\.description)
  }
}

@Suite("Settings")
struct SettingsTests {
  @Test(
    "secrets among a registry's options are not shown",
    arguments: [
      ("consul:h?token=abc&dc=eu", "consul:h?token=***&dc=eu"),
      ("consul:h?dc=eu&token=a=b,mdns", "consul:h?dc=eu&token=***,mdns"),
      ("etcd:h?password=p&user=u", "etcd:h?password=***&user=u"), ("gossip:h?key=k", "gossip:h?key=***"),
      ("consul:h?auth=u:p", "consul:h?auth=***"), ("nats:h?token_file=/run/x", "nats:h?token_file=/run/x"),
      ("memory", "memory"), ("file:token=x", "file:token=x"), ("a?token=", "a?token=***"),
    ])
  func secretOptions(text: String, shown: String) {
    #expect(Setting.withoutSecretOptions(text) == shown)
    #expect(PluginChoice(text).shown == shown)
  }

  @Test("without any source every setting has its documented default")
  func defaults() throws {
    let settings = try load()
    let shown = Dictionary(uniqueKeysWithValues: Settings.table.map { ($0.key, $0.format(settings) ?? "-") })
    #expect(
      shown == [
        "MICRO_SIDECAR_ADDRESS": "127.0.0.1:8081", "MICRO_SERVER_ADDRESS": "0.0.0.0:0", "MICRO_SERVER_ADVERTISE": "-",
        "MICRO_TRANSPORT": "http", "POD_IP": "-", "MICRO_ADMIN_ADDRESS": "127.0.0.1:8083",
        "MICRO_ADMIN_TOKEN": "-", "MICRO_ADMIN_TOKEN_FILE": "-", "MICRO_ADMIN_TLS_CERT_FILE": "-",
        "MICRO_ADMIN_TLS_KEY_FILE": "-", "MICRO_ADMIN_TLS_CLIENT_CA_FILE": "-",
        "MICRO_ADMIN_TLS_CLIENT_CERT_FILE": "-", "MICRO_ADMIN_TLS_CLIENT_KEY_FILE": "-",
        "MICRO_ADMIN_OPEN_METRICS": "false",
        "MICRO_SIDECAR_HOSTS": "-", "MICRO_SERVER_NAME": "-",
        "MICRO_SERVER_VERSION": "latest", "MICRO_SERVER_ID": "-", "MICRO_SERVER_METADATA": "-",
        "MICRO_APP_ADDRESS": "-", "MICRO_APP_PROTOCOL": "http", "MICRO_APP_STREAMS": "-",
        "MICRO_APP_CONCURRENCY": "off",
        "MICRO_APP_HEALTH": "-",
        "MICRO_APP_HEALTH_PERIOD": "5s", "MICRO_APP_HEALTH_TIMEOUT": "1s", "MICRO_APP_HEALTH_FAILURES": "3",
        "MICRO_APP_HEALTH_SUCCESSES": "1", "MICRO_REGISTRY": "mdns", "MICRO_REGISTRY_ADDRESS": "-",
        "MICRO_REGISTRY_ADDRESS_FILE": "-", "MICRO_SIDECAR_FAULT_HEADER_FILE": "-",
        "MICRO_SIDECAR_SNAPSHOT": "-", "MICRO_SIDECAR_BRIDGE": "-",
        "MICRO_REGISTER_TTL": "90", "MICRO_REGISTER_INTERVAL": "30", "MICRO_SELECTOR": "ewma",
        "STATIC_SELECTOR_DOMAIN_NAME": "-", "STATIC_SELECTOR_PORT_NUMBER": "8080", "MICRO_ZONE": "-",
        "MICRO_SIDECAR_NAMESPACE": "go.micro.srv", "MICRO_CLIENT_REQUEST_TIMEOUT": "5s",
        "MICRO_SIDECAR_CONNECT_TIMEOUT": "1s", "MICRO_CLIENT_RETRIES": "1", "MICRO_SIDECAR_RETRY_BUDGET": "0.2",
        "MICRO_SIDECAR_ATTEMPT_TIMEOUT": "-",
        "MICRO_SIDECAR_HEDGE": "off", "MICRO_SIDECAR_EJECT_FAILURES": "5", "MICRO_SIDECAR_FAULT_HEADER": "-",
        "MICRO_CLIENT_POOL_SIZE": "100",
        "MICRO_CLIENT_POOL_TTL": "1m", "MICRO_SIDECAR_POOL_IDLE": "3s", "MICRO_SIDECAR_COMPAT": "fixed",
        "MICRO_SIDECAR_CODECS": "-", "MICRO_SIDECAR_CONTENT_TYPE": "-",
        "MICRO_DESCRIPTORS": "-",
        "MICRO_SIDECAR_CORS": "*", "MICRO_SIDECAR_MAX_BODY": "4MiB", "MICRO_SIDECAR_MAX_CONNECTIONS": "10000",
        "MICRO_SIDECAR_MAX_IN_FLIGHT": "1024", "MICRO_SIDECAR_IDLE_TIMEOUT": "1m15s",
        "MICRO_SIDECAR_PING_INTERVAL": "30s",
        "MICRO_SIDECAR_HEADER_TIMEOUT": "10s", "MICRO_SIDECAR_WORKERS": "auto",
        "MICRO_SIDECAR_MEMORY_LIMIT": "auto", "MICRO_SIDECAR_CGROUP_ROOT": "/sys/fs/cgroup",
        "MICRO_SIDECAR_DRAIN": "25s",
        "MICRO_SIDECAR_RESTART_DRAIN": "10m", "MICRO_SIDECAR_CORE_DUMPS": "false",
        "MICRO_LOG_LEVEL": "info", "MICRO_LOG_FORMAT": "text", "MICRO_ACCESS_LOG": "-",
        "MICRO_ACCESS_LOG_FORMAT": "text", "MICRO_TRACE_ENDPOINT": "-", "MICRO_TRACE_SAMPLE": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "-", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "-", "OTEL_SERVICE_NAME": "-",
        "MICRO_SIDECAR_TAP_BODIES": "0B", "MICRO_SIDECAR_TAP_MASK": "-", "MICRO_PROXY_ADDRESS": "-",
        "MICRO_CONFIG": "-",
      ])
    #expect(settings.origins.isEmpty)
    #expect(!settings.takesCalls)
  }

  @Test("every default is a value its own parser takes and gives back")
  func defaultsRoundTrip() throws {
    let defaults = Settings()
    for row in Settings.table {
      guard let text = row.format(defaults) else { continue }
      var settings = Settings()
      #expect(throws: Never.self, "\(row.key)") { try row.apply(.text(text), &settings) }
      #expect(row.format(settings) == text, "\(row.key)")
    }
  }

  @Test("keys are unique, names too, and no key is both a setting and something else")
  func tableIsSound() {
    let keys = Settings.table.flatMap { [$0.key] + $0.aliases }
    #expect(Set(keys).count == keys.count)
    #expect(Set(keys).isDisjoint(with: Settings.ignorable))
    #expect(Set(keys).isDisjoint(with: Settings.unsupported.keys))
    #expect(Settings.ignorable.isDisjoint(with: Settings.unsupported.keys))
    for row in Settings.table {
      #expect(!row.help.hasSuffix(".") && !row.help.isEmpty, "\(row.key)")
    }
  }

  @Test("flags come before the environment, that before the file, that before defaults")
  func precedence() throws {
    let file = #"{"server": {"name": "file", "version": "file", "id": "file"}}"#
    let environment = ["MICRO_SERVER_NAME": "environment", "MICRO_SERVER_VERSION": "environment"]
    let settings = try load(flags: ["--server_name", "flag"], environment: environment, file: file)
    #expect(settings.serverName == "flag")
    #expect(settings.serverVersion == "environment")
    #expect(settings.serverID == "file")
    #expect(settings.origins["MICRO_SERVER_NAME"] == .flag("--server_name"))
    #expect(settings.origins["MICRO_SERVER_VERSION"] == .environment("MICRO_SERVER_VERSION"))
    #expect(settings.origins["MICRO_SERVER_ID"] == .file(path: "sidecar.yaml", key: "server.id"))
    #expect(settings.origins["MICRO_REGISTRY"] == nil)
  }

  @Test(
    "flags are read in every spelling",
    arguments: [
      ["--server_name", "a"], ["--server-name", "a"], ["--server_name=a"], ["--Server-Name=a"], ["-server_name", "a"],
      ["--sidecar_server_name=a"], ["--server_name=z", "--server_name=a"],
    ])
  func flagSpellings(arguments: [String]) throws {
    #expect(try load(flags: arguments).serverName == "a")
  }

  @Test("list flags add up where others take the last")
  func repeatedFlags() throws {
    let settings = try load(flags: [
      "--server_metadata", "a=1", "--server_metadata", "b=2=3", "--registry=mdns", "--registry=file:x.yaml",
    ])
    #expect(settings.serverMetadata == ["a": "1", "b": "2=3"])
    #expect(settings.registries == [PluginChoice(name: "mdns"), PluginChoice(name: "file", argument: "x.yaml")])
  }

  @Test("an empty variable of the environment is none, an empty flag is an empty value")
  func emptyValues() throws {
    #expect(try load(environment: ["MICRO_SIDECAR_NAMESPACE": ""]).namespace == "go.micro.srv")
    #expect(try load(flags: ["--sidecar_namespace="]).namespace == nil)
    #expect(try load(flags: ["--sidecar_cors="]).cors == [])
    #expect(problems(flags: ["--server_version="]).count == 1)
  }

  @Test("a file may nest its keys or not, use dashes, and give lists and mappings")
  func fileShapes() throws {
    let settings = try load(
      file: #"""
        {"sidecar-address": "unix:/run/sidecar.sock", "sidecar": {"max_body": 8192, "cors": ["https://a", "https://b"]},
         "server": {"metadata": {"zone": "a", "weight": 3, "canary": true}}, "registry": {"address": ["h:1", "h:2"]},
         "client": {"request-timeout": "250ms"}, "admin_address": null, "register_ttl": 60}
        """#)
    #expect(settings.sidecarAddress == .unix(path: "/run/sidecar.sock"))
    #expect(settings.maxBodyBytes == 8192)
    #expect(settings.cors == ["https://a", "https://b"])
    #expect(settings.serverMetadata == ["zone": "a", "weight": "3", "canary": "true"])
    #expect(settings.registryAddresses == ["h:1", "h:2"])
    #expect(settings.requestTimeout == .milliseconds(250))
    #expect(settings.adminAddress == .loopback(port: 8083))
    #expect(settings.registerTTL == .seconds(60))
  }

  @Test("the names of 2017 still work, and must agree with the new ones")
  func oldNames() throws {
    let settings = try load(environment: [
      "MICRO_SIDECAR_SERVER_NAME": "hello", "MICRO_SIDECAR_SERVER_ADDRESS": "localhost:9090",
      "MICRO_SIDECAR_HEALTHCHECK_URL": "http://localhost:9090/health", "MICRO_SERVER_NAME": "hello",
    ])
    #expect(settings.serverName == "hello")
    #expect(settings.appAddress == .address(.loopback(port: 9090)))
    #expect(settings.appHealth?.path == "/health")
    #expect(settings.origins["MICRO_SERVER_NAME"] == .environment("MICRO_SERVER_NAME"))
    #expect(settings.takesCalls)
    #expect(
      problems(environment: ["MICRO_SIDECAR_SERVER_NAME": "a", "MICRO_SERVER_NAME": "b"]) == [
        "environment MICRO_SIDECAR_SERVER_NAME: sets the same as environment MICRO_SERVER_NAME, to another value; "
          + "keep one of them"
      ])
  }

  @Test("all errors are told at once, flags first, then environment, then file")
  func allErrorsAtOnce() {
    let found = problems(
      flags: ["--sidecar_adress", ":1", "--sidecar_workers=many"],
      environment: [
        "MICRO_SIDECAR_DRIAN": "5s", "MICRO_CLIENT_REQUEST_TIMEOUT": "5", "MICRO_APP_ADDRESS": "http://127.0.0.1:9090",
        "MICRO_ENABLE_TLS": "true", "MICRO_REGISTER_TTL": "soon",
      ],
      file: #"{"log": {"levle": "info"}, "sidecar_max_body": "4m", "server": 5}"#)
    #expect(
      found == [
        "flag --sidecar_adress: no such flag; did you mean --sidecar_address?",
        "environment MICRO_ENABLE_TLS: TLS on the listeners is not in this version; end TLS in front of the sidecar",
        "environment MICRO_SIDECAR_DRIAN: no such setting; did you mean MICRO_SIDECAR_DRAIN?",
        "file sidecar.yaml: log.levle: no such setting; did you mean log_level?",
        "file sidecar.yaml: server: expected a mapping of settings",
        "environment MICRO_APP_ADDRESS: found \"http://127.0.0.1:9090\", expected an address to dial: host:port or "
          + "unix:/path, without http://",
        "environment MICRO_REGISTER_TTL: found \"soon\", expected whole seconds from 0 to 86400, such as 90",
        "environment MICRO_CLIENT_REQUEST_TIMEOUT: found \"5\", expected a duration with its unit from 1ms to 24h, "
          + "such as 25s, 250ms or 1m30s",
        "file sidecar.yaml: sidecar_max_body: found \"4m\", expected a size from 1KiB to 1GiB, such as 4MiB or 65536",
        "flag --sidecar_workers: found \"many\", expected auto or a whole number from 1 to 64",
      ])
  }

  @Test("go-micro's own variables are ignored, with a hint where one looks like a slip")
  func ignoredVariables() throws {
    let settings = try load(environment: [
      "MICRO_BROKER": "nats", "MICRO_REGISTY": "consul", "MICRO_WHATEVER": "1", "HOME": "/root", "MICROSCOPE": "2",
    ])
    #expect(settings.ignored == ["MICRO_BROKER", "MICRO_REGISTY", "MICRO_WHATEVER"])
    #expect(settings.warnings == ["environment MICRO_REGISTY is ignored; did you mean MICRO_REGISTRY?"])
  }

  @Test("what this version cannot do is refused, and switching it off is not")
  func unsupported() throws {
    #expect(problems(environment: ["MICRO_APP_PROTOCOL": "soap"]).first?.contains("MICRO_APP_PROTOCOL") == true)
    #expect(problems(environment: ["MICRO_SIDECAR_HANDLER": "proxy"]).count == 1)
    #expect(problems(flags: ["--enable_tls=true"]).first?.contains("not in this version") == true)
    _ = try load(environment: [
      "MICRO_ENABLE_TLS": "false", "MICRO_DESCRIPTORS": "", "MICRO_SIDECAR_HANDLER": "rpc",
      "MICRO_SIDECAR_COMPAT": "Fixed",
    ])
  }

  @Test("an unknown registry or selector names those there are; go-micro's cache selector is the default")
  func plugins() throws {
    #expect(
      problems(
        environment: ["MICRO_REGISTRY": "mdsn,consul", "MICRO_SELECTOR": "x"], registries: ["mdns", "file", "memory"],
        selectors: ["random", "roundrobin"]) == [
          "environment MICRO_SELECTOR: found selector \"x\", expected one of random, roundrobin",
          "environment MICRO_REGISTRY: found registry \"mdsn\", expected one of file, mdns, memory; did you mean mdns?",
          "environment MICRO_REGISTRY: found registry \"consul\", expected one of file, mdns, memory",
        ])
    #expect(try load(environment: ["MICRO_SELECTOR": "cache"], selectors: ["cache", "ewma"]).selector == "ewma")
    #expect(problems(environment: ["MICRO_REGISTRY": "file:a,file:a"]).count == 1)
    #expect(try load(environment: ["MICRO_REGISTRY": " file:a , file:b"]).registries.count == 2)
  }

  @Test("combinations that cannot work are refused")
  func combinations() {
    #expect(problems(environment: ["MICRO_APP_HEALTH": "/health"]).count == 1)
    #expect(problems(environment: ["MICRO_REGISTER_TTL": "30"]).count == 1)
    #expect(problems(environment: ["MICRO_REGISTER_INTERVAL": "0"]).count == 1)
    #expect(problems(environment: ["MICRO_REGISTER_INTERVAL": "0", "MICRO_REGISTER_TTL": "0"]).isEmpty)
    #expect(
      problems(environment: ["MICRO_ADMIN_ADDRESS": "127.0.0.1:8081"]) == [
        "environment MICRO_ADMIN_ADDRESS: MICRO_ADMIN_ADDRESS 127.0.0.1:8081 and MICRO_SIDECAR_ADDRESS 127.0.0.1:8081 "
          + "cannot both be listened on"
      ])
    #expect(problems(environment: ["MICRO_SERVER_ADDRESS": ":8083"]).count == 1)
    let two = ["MICRO_REGISTRY": "memory,mdns"]
    #expect(problems(environment: two.merging(["MICRO_BRIDGE": "memory->mdns,mdns->memory"]) { $1 }).isEmpty)
    for bridge in ["memory->file", "memory->memory", "memory", "->mdns"] {
      #expect(problems(environment: two.merging(["MICRO_SIDECAR_BRIDGE": bridge]) { $1 }).count > 0, "\(bridge)")
    }
    #expect(problems(environment: ["MICRO_SERVER_ADDRESS": ":8083", "MICRO_ADMIN_ADDRESS": "off"]).isEmpty)
    #expect(problems(environment: ["MICRO_APP_ADDRESS": "localhost:8081", "MICRO_SERVER_NAME": "a"]).count == 1)
    #expect(
      problems(environment: [
        "MICRO_APP_ADDRESS": "10.0.0.9:7000", "MICRO_SERVER_ADDRESS": ":7000", "MICRO_SERVER_NAME": "a",
      ]).isEmpty)
  }

  @Test("a file that cannot be read, parsed or is no mapping is one error with its name")
  func badFiles() {
    #expect(problems(file: "[]") == ["file sidecar.yaml: expected a mapping of settings"])
    #expect(problems(file: "{").first?.hasPrefix("file sidecar.yaml: ") == true)
    #expect(problems(file: "null").isEmpty)
    #expect(
      problems(environment: ["MICRO_CONFIG": "/missing"]) == [
        "environment MICRO_CONFIG: the file /missing cannot be read: "
          + "SettingMismatch(expected: \"no files can be read here\")"
      ])
    #expect(problems(file: #"{"config": "x"}"#) == ["file sidecar.yaml: config: a file cannot name another file"])
    #expect(problems(file: #"{"server_name": "a", "server": {"name": "a"}}"#).count == 1)
    #expect(problems(file: #"{"sidecar": {"cors": [["a"]]}}"#).count == 1)
    #expect(problems(file: #"{"server": {"name": {"x": 1}}}"#).count == 1)
  }

  @Test("what is shown has its control characters taken out and an end")
  func hostileValues() {
    let found = problems(environment: ["MICRO_SIDECAR_WORKERS": "\u{1B}[31m" + String(repeating: "9", count: 5000)])
    #expect(found.count == 1)
    #expect(found[0].utf8.count < 300)
    #expect(!found[0].unicodeScalars.contains { $0.value < 0x20 })
  }

  @Test(
    "addresses to dial",
    arguments: [
      ("127.0.0.1:9090", "127.0.0.1:9090"), (":9090", "127.0.0.1:9090"), ("0.0.0.0:9090", "127.0.0.1:9090"),
      ("[::]:1", "[::1]:1"), ("localhost:1", "127.0.0.1:1"), ("LocalHost:1", "127.0.0.1:1"), ("app:80", "app:80"),
      ("my_app.svc.cluster.local.:80", "my_app.svc.cluster.local.:80"), ("unix:/a b", "unix:/a b"), ("", nil),
      ("9090", nil),
      ("app", nil), ("app:0", nil), ("app:99999", nil), ("300.1.2.3:80", nil), ("a..b:80", nil), ("-a:80", nil),
      ("a b:80", nil), ("http://a:80", nil), ("::1:80", nil), (".:80", nil),
    ] as [(String, String?)])
  func destinations(text: String, expected: String?) {
    #expect(Destination(text)?.description == expected)
  }

  @Test(
    "health checks",
    arguments: [
      ("/healthz", "/healthz"), ("/h?x=1", "/h?x=1"), ("http://127.0.0.1:9/h", "http://127.0.0.1:9/h"),
      ("HTTP://app/", "http://app:80/"), ("http://app", "http://app:80/"), ("http://app?x", "http://app:80/?x"),
      ("https://app/", nil), ("healthz", nil), ("", nil), ("/a b", nil), ("/a\r\nX: y", nil), ("http:///x", nil),
      ("http://unix:/x", nil), ("/#f", nil),
    ] as [(String, String?)])
  func healthChecks(text: String, expected: String?) {
    #expect(AppHealthCheck(text)?.description == expected)
  }

  @Test("passwords in registry addresses are not shown, neither by config nor in errors")
  func masking() throws {
    let settings = try load(environment: [
      "MICRO_REGISTRY_ADDRESS": "etcd://root:s3cret@h:2379,nats://token@h:1,user:s3cret@h:5,http://h:1/a@b"
    ])
    #expect(settings.registryAddresses[0] == "etcd://root:s3cret@h:2379")
    let text = settings.render(.text)
    #expect(text.contains("etcd://root:***@h:2379,nats://token@h:1,user:***@h:5,"))
    #expect(!text.contains("s3cret"))
    #expect(!settings.render(.json).contains("s3cret"))
  }
}

@Suite("Did you mean")
struct NearestNameTests {
  @Test("the nearest name within a third of its length is found, whatever its case and dashes")
  func nearest() {
    let known = ["server_name", "server_id", "sidecar_address", "registry"]
    #expect(NearestName.of("sevrer_name", among: known) == "server_name")
    #expect(NearestName.of("SERVER-NAME", among: known) == "server_name")
    #expect(NearestName.of("registyr", among: known) == "registry")
    #expect(NearestName.of("unrelated", among: known) == nil)
    #expect(NearestName.of("", among: known) == nil)
    #expect(NearestName.of(String(repeating: "registry", count: 40), among: known) == nil)
  }

  @Test("distances are those of a table worked by hand")
  func distances() {
    for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("ab", "ba", 1), ("ca", "abc", 3)] {
      #expect(NearestName.edits(Array(a.utf8), Array(b.utf8)) == expected, "\(a) → \(b)")
      #expect(NearestName.edits(Array(b.utf8), Array(a.utf8)) == expected, "\(b) → \(a)")
    }
  }
}
