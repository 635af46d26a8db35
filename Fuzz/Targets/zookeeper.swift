// What a ZooKeeper server may send. Input: the bytes of a frame.
// core: Wire/ZooKeeper Wire/WireError.swift

import SidecarCore

func fuzzOne(_ input: UnsafeRawBufferPointer) {
  let frame = Array(input)
  _ = try? ZooKeeperWire.session(frame)
  _ = try? ZooKeeperWire.event(frame)
  _ = try? ZooKeeperWire.ephemeralOwner(frame)
  if let data = try? ZooKeeperWire.data(frame), data.count > frame.count { fail("more data than came") }
  if let reply = try? ZooKeeperWire.reply(frame), reply.0.body.count != frame.count - 16 { fail("a reply lost bytes") }
  guard let names = try? ZooKeeperWire.children(frame) else { return }
  // Written again they are read the same. Text that is no UTF-8 was replaced when it was read.
  let written = ZooKeeperWire.request(0, .ping) { body in
    body.int32(Int32(names.count))
    for name in names { body.text(name) }
  }
  guard let again = try? ZooKeeperWire.children(Array(written.dropFirst(12))), again == names else {
    fail("children that were written are read differently")
  }
}
