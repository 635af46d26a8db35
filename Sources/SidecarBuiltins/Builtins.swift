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
  try table.add(selector: "random") { RandomSelector() }
  try table.add(selector: "roundrobin") { RoundRobinSelector() }
  return table
}
