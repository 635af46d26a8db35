// What watches single requests on a worker: access log, traces and taps. While none of them is on there is no observer, and a
// request pays one test of a pointer. Numbers are counted elsewhere, always (`WorkerMetrics`).
//
//   begin ──▶ notes filled as the request goes on ──▶ end: a line, a span, an event for each tap

/// What is noted of one request that is under way. Filled only while there is an observer.
struct CallNotes {
  /// The caller's place in its trace, or the begin of a new one.
  var trace = TraceContext()
  /// Sampled calls only.
  var span: TraceSpan?
  var node: NodeState?
  var attempts = 0
  /// What the caller is told, in its own numbers: HTTP's status, gRPC's, or the framework's code; 0: nothing was said.
  var status = 0
  /// Bytes of payload, heads not counted.
  var bytesIn = 0
  var bytesOut = 0
  /// When the last attempt began.
  var attemptStarted: Instant?
  /// Only while somebody taps.
  var tapped: TapCapture?
  /// The calls of all this object stands for are traced.
  var isTraced = false
  /// The caller's `tracestate` goes on.
  var keepsState: Bool { trace.form == .w3c }

  mutating func note(_ call: OutboundCall) {
    node = call.node
    attempts = call.attempts
    attemptStarted = call.attemptStarted
  }

  mutating func note(_ call: StreamCall) {
    node = call.answeringNode
    attempts = max(call.attempts, call.unaryAttempts)
    bytesIn = call.bytesFromCaller
    bytesOut = call.bytesFromCallee
  }

  /// The span that callees are called by.
  var calleesParent: UInt64 { span?.id ?? trace.parent }
}

/// A request that has ended, as the observer is told of it. The spans are valid during the call.
struct CallEnd {
  var direction: CallDirection
  var dialect: String
  var service: UnsafeRawBufferPointer
  var endpoint: UnsafeRawBufferPointer
  var outcome: MetricOutcome
  /// Nanoseconds from the request's first byte to now.
  var latency: Int64
  /// Where it was counted.
  var series: WorkerMetrics.Handle?
}

/// Loop-confined.
final class CallObserver {
  private unowned(unsafe) let worker: Worker
  let accessLog: AccessLogWriter?
  let tracing: TraceSettings?
  private let spans: SpanBatch
  /// Those who look on at this moment.
  var taps: [Tap] = []

  init(worker: Worker, accessLog: AccessLogFormat?, tracing: TraceSettings?) {
    self.worker = worker
    self.accessLog = accessLog.map { AccessLogWriter($0, worker: worker) }
    self.tracing = tracing
    spans = SpanBatch(worker: worker)
  }

  /// It watches something beyond taps.
  var isLasting: Bool { accessLog != nil || tracing != nil }

  // MARK: The begin

  func begin(_ notes: inout CallNotes, _ head: HTTP1Head) {
    notes = CallNotes()
    if let tracing { begin(&notes, tracing, TraceContext(TraceContext.Headers(head))) }
    if !taps.isEmpty { notes.tapped = TapCapture(head) }
  }

  func begin(_ notes: inout CallNotes, _ fields: HTTP2Fields) {
    notes = CallNotes()
    if let tracing { begin(&notes, tracing, TraceContext(TraceContext.Headers(fields))) }
    if !taps.isEmpty { notes.tapped = TapCapture(fields) }
  }

  private func begin(_ notes: inout CallNotes, _ tracing: TraceSettings, _ context: TraceContext) {
    var context = context
    let isNew = !context.isValid
    if isNew {
      context.high = worker.driver.random.next()
      context.low = worker.driver.random.next() | 1
      context.parent = 0
    }
    let isSampled = context.isSampled ?? tracing.samples(context.low)
    context.isSampled = isSampled
    if isSampled {
      notes.span = TraceSpan(id: newID(), startedUnix: worker.driver.unixNanoseconds)
    } else if context.parent == 0 {
      context.parent = newID()
    }
    notes.trace = context
    notes.isTraced = true
  }

  private func newID() -> UInt64 { worker.driver.random.next() | 1 }

  // MARK: The end

  func end(_ notes: inout CallNotes, _ call: CallEnd) {
    accessLog?.write(notes, call)
    if let span = notes.span {
      finish(span, notes, call)
      if let series = call.series {
        worker.metrics.note(
          series,
          WorkerMetrics.Exemplar(
            traceHigh: notes.trace.high, traceLow: notes.trace.low, latency: call.latency,
            unixNanoseconds: worker.driver.unixNanoseconds))
      }
    }
    for tap in taps { tap.offer(notes, call, worker) }
    notes = CallNotes()
  }

  private func finish(_ span: TraceSpan, _ notes: CallNotes, _ call: CallEnd) {
    let kind = call.outcome.kind
    let isError: Bool =
      switch kind?.row.origin {
      case nil: false
      case .downstream: false
      case .upstream, .control, .local: true
      }
    let record = SpanRecord(
      traceHigh: notes.trace.high, traceLow: notes.trace.low, id: span.id, parent: notes.trace.parent,
      direction: call.direction, dialect: call.dialect, service: String(decoding: call.service, as: UTF8.self),
      endpoint: String(decoding: call.endpoint, as: UTF8.self), startedUnix: span.startedUnix,
      endedUnix: worker.driver.unixNanoseconds, reason: call.outcome.label, isError: isError, status: notes.status,
      node: notes.node?.node.id ?? "", address: notes.node?.node.address ?? "", attempts: notes.attempts,
      events: span.events)
    spans.add(record)
  }

  /// Hands on what is kept here, before the worker stops.
  func flush() {
    spans.handOver()
    accessLog?.flush()
  }

  /// For whoever has stopped the worker's thread.
  func takeRest() -> (lines: ByteBuffer?, spans: [SpanRecord]) { (accessLog?.takeRest(), spans.takeRest()) }
}

extension MetricOutcome {
  /// Nil for `ok`.
  var kind: SidecarError.Kind? { index == 0 ? nil : SidecarError.Kind(rawValue: index &- 1) }
  var label: String { Self.labels[Int(index)] }
}

extension Metadata {
  /// As `append(from:source:into:)`, of a call that is traced: the trace's headers are written anew.
  static func append(from head: HTTP1Head, source: Source, _ notes: CallNotes, into buffer: ByteBuffer) {
    for field in head.fields
    where isForwardable(field, of: head, from: source)
      && !TraceContext.replaces(field.id, head.name(field), keepsState: notes.keepsState)
    {
      HTTP1Writer.copy(field, of: head, to: buffer)
    }
    notes.trace.append(span: notes.calleesParent, to: buffer)
  }
}

extension GRPCMetadata {
  /// The same for gRPC's metadata.
  static func append(from fields: HTTP2Fields, source: Metadata.Source, _ notes: CallNotes, into buffer: ByteBuffer) {
    guard notes.isTraced else { return append(from: fields, source: source, into: buffer) }
    for index in 0..<fields.count {
      let name = fields.name(index)
      guard !fields.isPseudo(index), isForwardable(name, from: source),
        !TraceContext.replaces(HeaderID.identify(name), name, keepsState: notes.keepsState)
      else { continue }
      buffer.append(name)
      buffer.append(": ")
      buffer.append(fields.value(index))
      buffer.append("\r\n")
    }
    notes.trace.append(span: notes.calleesParent, to: buffer)
  }
}
