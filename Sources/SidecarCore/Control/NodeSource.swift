// Where calls find nodes when the selector says that they are not in the registries: go-micro's selectors `static`, `dns`
// and `named`. The registries keep what else they are for, to register and to list.

/// A registry that is only looked up and watched, with a catalog of its own. Threading: the control loop only.
final class NodeSource {
  let catalog: Catalog
  let resolver: ServiceResolver
  private let supervisor: WatchSupervisor

  init(_ registry: any Registry, driver: any HostDriver, log: any LogSink) {
    catalog = Catalog(registries: [registry.name], now: driver.now, log: log) { [driver] in driver.later($0) }
    resolver = ServiceResolver(registries: [registry], catalog: catalog, driver: driver)
    supervisor = WatchSupervisor(registry: registry, index: 0, catalog: catalog, driver: driver, log: log)
  }

  func start() {
    supervisor.start()
    resolver.start()
  }

  func stop() {
    supervisor.stop()
    resolver.stop()
  }
}
