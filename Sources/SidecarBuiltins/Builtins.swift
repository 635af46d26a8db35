// The one list of the plug-ins that come with the binary, and how they are named in settings.

import SidecarCore

/// The table of all built-in plug-ins. Another build adds its own to the value before passing it on.
public func builtinPlugins() throws(ConfigurationError) -> PluginTable {
  var table = PluginTable()
  try table.add(registry: "mdns") { environment throws(ConfigurationError) in
    try MDNSRegistry(environment: environment)
  }
  try table.add(registry: "memory") { MemoryRegistry(environment: $0) }
  try table.add(registry: "kubernetes") { environment throws(ConfigurationError) in
    try KubernetesRegistry(environment: environment)
  }
  try table.add(registry: "eureka") { environment throws(ConfigurationError) in
    try EurekaRegistry(environment: environment)
  }
  try table.add(registry: "file") { environment throws(ConfigurationError) in
    try FileRegistry(environment: environment)
  }
  try table.add(registry: "dns") { environment throws(ConfigurationError) in
    try DNSRegistry(environment: environment)
  }
  try table.add(registry: "consul") { environment throws(ConfigurationError) in
    try ConsulRegistry(environment: environment)
  }
  try table.add(registry: "nats") { environment throws(ConfigurationError) in
    try NATSRegistry(environment: environment)
  }
  for name in ["etcd", "etcdv3"] {
    try table.add(registry: name) { environment throws(ConfigurationError) in
      try EtcdRegistry(environment: environment, named: name)
    }
  }
  try table.add(registry: "etcdv2") { environment throws(ConfigurationError) in
    try EtcdV2Registry(environment: environment)
  }
  for name in ["proxy", "sidecar"] {
    try table.add(registry: name) { environment throws(ConfigurationError) in
      try ProxyRegistry(environment: environment)
    }
  }
  try table.add(registry: "gossip") { environment throws(ConfigurationError) in
    try GossipRegistry(environment: environment)
  }
  try table.add(registry: "zookeeper") { environment throws(ConfigurationError) in
    try ZooKeeperRegistry(environment: environment)
  }
  try addSelectors(to: &table)
  return table
}

private func addSelectors(to table: inout PluginTable) throws(ConfigurationError) {
  try table.add(selector: "ewma") { EWMASelector() }
  try table.add(selector: "leastrequest") { LeastRequestSelector() }
  for name in ["random", "weightedrandom"] { try table.add(selector: name) { RandomSelector() } }
  try table.add(selector: "roundrobin") { RoundRobinSelector() }
  try table.add(selector: "weightedroundrobin") { WeightedRoundRobinSelector() }
  for name in ["blacklist", "cacheblack"] { try table.add(selector: name) { BlacklistSelector() } }
  try table.add(
    selector: "label",
    planned: { argument throws(ConfigurationError) in
      let labels = try LabelSelector.labels(argument: argument)
      return SelectorPlan { LabelSelector(labels) }
    })
  try addKeyed("hash", .mixed, to: &table) { HashSelector() }
  try addKeyed("shard", .highway, to: &table) { ShardSelector() }
  try addKeyed("crc32", .crc32, to: &table) { CRC32Selector() }
  for name in ["named", "mercury"] {
    try table.add(
      selector: name,
      nodesFrom: { environment throws(ConfigurationError) in
        try NamedNodes.refuseArgument(environment.argument, of: name)
        return NamedNodes(name, .name, driver: environment.driver)
      })
  }
  try table.add(
    selector: "static",
    nodesFrom: { environment throws(ConfigurationError) in
      NamedNodes("static", try NamedNodes.rule(argument: environment.argument), driver: environment.driver)
    })
  try table.add(
    selector: "dns",
    nodesFrom: { environment throws(ConfigurationError) in
      try DNSRegistry.nodeSource(environment)
    })
}

/// A selector that goes by a key, which its argument may name: `hash:header=X-User`.
private func addKeyed(
  _ name: String, _ hash: SelectKeyHash, to table: inout PluginTable, _ make: @escaping @Sendable () -> any Selector
) throws(ConfigurationError) {
  try table.add(
    selector: name,
    planned: { argument throws(ConfigurationError) in
      var plan = SelectorPlan(keyHash: hash, make: make)
      if let argument { plan.affinity = try AffinityKey(argument: argument, of: name) }
      return plan
    })
}
