// The page for people at `/` of the admin listener: one document without anything from elsewhere, that works offline. It asks
// `/status` each second, and `/tap`, `/call`, `/explain` and `/config` when its reader does.
//
// What registries and callers say is put in as text only (`textContent`), and the policy forbids every script and style but
// the two that stand here, by their hashes; a test works those out again from what is served.

enum AdminPage {
  static let policy =
    "default-src 'none'; script-src 'sha256-9VDXEDQOsw12Q1zSve8M3IoHv1MzB4U4Zq9Sa5yFDAc='; "
    + "style-src 'sha256-KhPutUChHcB7k3etkoFh68AFtEe+mblZMTDnf0RjphA='; connect-src 'self'; img-src data:; "
    + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

  static let html = #"""
    <!doctype html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <link rel="icon" href="data:,">
    <title>micro-sidecar</title>
    <style>
    :root{--bg:#f6f7f9;--card:#fff;--text:#1c2430;--dim:#566173;--line:#d9dee6;--accent:#0b5cad;--good:#0a6b3d;--bad:#b3261e;--warn:#8a5300}
    @media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--text:#e8ecf2;--dim:#a4afbf;--line:#333d4a;--accent:#7db8ff;--good:#6fd49b;--bad:#ff9a91;--warn:#f2bd6b}}
    *{box-sizing:border-box}
    body{margin:0;background:var(--bg);color:var(--text);font:15px/1.45 system-ui,sans-serif}
    header,main{max-width:76rem;margin:0 auto;padding:.75rem 1rem}
    header{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;align-items:baseline}
    h1{font-size:1.25rem;margin:0}h2{font-size:1.05rem;margin:0 0 .5rem}h3{font-size:1rem;margin:0}
    section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.9rem 1rem;margin:0 0 1rem}
    .skip{position:absolute;left:-99rem}.skip:focus{left:.5rem;top:.5rem;background:var(--card);padding:.5rem;z-index:1}
    .dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
    .grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:1rem}
    .scroll{overflow-x:auto}
    table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
    th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
    th{color:var(--dim);font-weight:600;white-space:nowrap}
    td.n,th.n{text-align:right}
    code,pre,textarea,.mono{font:13px/1.4 ui-monospace,monospace}
    pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.25rem 0;padding:.5rem;border:1px solid var(--line);border-radius:.35rem;max-height:22rem;overflow:auto}
    label{display:block;font-weight:600;margin:.4rem 0 .15rem}
    input,select,textarea,button{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--dim);border-radius:.35rem;padding:.35rem .55rem;max-width:100%}
    textarea{width:100%;min-height:6rem}
    button{cursor:pointer;background:var(--accent);border-color:var(--accent);color:var(--card);font-weight:600}
    :focus-visible{outline:3px solid var(--accent);outline-offset:2px}
    .row{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end}.row>div{flex:0 1 auto}.row>div.wide{flex:1 1 14rem}.row>div.wide>*{width:100%}
    svg{width:100%;height:7rem;display:block;background:var(--bg);border-radius:.35rem}
    svg polyline{fill:none;stroke:var(--accent);stroke-width:2;vector-effect:non-scaling-stroke}svg polyline.second{stroke:var(--bad)}
    details{border-top:1px solid var(--line);padding:.45rem 0}summary{cursor:pointer;overflow-wrap:anywhere}
    ul.plain{list-style:none;margin:0;padding:0}
    #tap-lines{max-height:18rem;overflow:auto}
    td.wrap{overflow-wrap:anywhere;min-width:9rem}
    details button{margin-top:.6rem}
    figure{margin:0}caption{text-align:left;color:var(--dim);padding:.3rem 0}
    ::placeholder{color:var(--dim);opacity:1}
    select{padding:.4rem .55rem}
    </style>
    <a class="skip" href="#services">Skip to services</a>
    <header>
    <h1>micro-sidecar</h1>
    <span id="who" class="dim"></span>
    <span id="state" role="status" aria-live="polite">loading</span>
    </header>
    <main>
    <noscript><section>This page needs JavaScript; <a href="/metrics">/metrics</a>, <a href="/nodes">/nodes</a> and <a href="/config">/config</a> do not.</section></noscript>
    <section id="login" aria-labelledby="login-title" hidden>
    <h2 id="login-title">Token</h2>
    <form id="login-form" class="row"><div><label for="token">MICRO_ADMIN_TOKEN</label><input id="token" type="password" autocomplete="current-password" required></div><button>Use it</button></form>
    </section>
    <section aria-labelledby="now-title">
    <h2 id="now-title">Now</h2>
    <div class="grid">
    <figure><figcaption><strong>Requests a second</strong> <span id="rate" class="dim"></span></figcaption><svg id="rate-plot" viewBox="0 0 120 40" preserveAspectRatio="none" role="img" aria-label="Requests a second over two minutes; failures in a second line"><polyline/><polyline class="second"/></svg></figure>
    <figure><figcaption><strong>Latency, ms</strong> <span id="latency" class="dim"></span></figcaption><svg id="latency-plot" viewBox="0 0 120 40" preserveAspectRatio="none" role="img" aria-label="Median and 99th percentile of latency over two minutes"><polyline/><polyline class="second"/></svg></figure>
    </div>
    <p id="facts" class="dim"></p>
    </section>
    <section aria-labelledby="services-title" id="services" tabindex="-1">
    <h2 id="services-title">Services</h2>
    <form id="search-form" class="row" role="search"><div class="wide"><label for="search">Find</label><input id="search" type="search" placeholder="a part of a name"></div><button>Find</button></form>
    <p id="services-count" class="dim" aria-live="polite"></p>
    <div id="services-list"></div>
    <p><button id="more" type="button" hidden>Show more</button></p>
    </section>
    <section aria-labelledby="call-title">
    <h2 id="call-title">Call</h2>
    <form id="call-form">
    <div class="row">
    <div class="wide"><label for="call-service">Service</label><input id="call-service" list="service-names" required autocomplete="off"><datalist id="service-names"></datalist></div>
    <div class="wide"><label for="call-endpoint">Endpoint</label><input id="call-endpoint" list="endpoint-names" required autocomplete="off"><datalist id="endpoint-names"></datalist></div>
    </div>
    <fieldset id="call-fields" hidden><legend>Fields of the request</legend></fieldset>
    <label for="call-request">Request, JSON</label><textarea id="call-request" spellcheck="false">{}</textarea>
    <p class="row"><button>Call</button> <button type="button" id="why">Why this node</button></p>
    </form>
    <div id="call-result" aria-live="polite"></div>
    </section>
    <section aria-labelledby="tap-title">
    <h2 id="tap-title">Live requests</h2>
    <form id="tap-form" class="row">
    <div class="wide"><label for="tap-service">Service</label><input id="tap-service" placeholder="all"></div>
    <div><label for="tap-status">Status</label><input id="tap-status" placeholder="5xx, error …" size="12"></div>
    <div><label for="tap-direction">Direction</label><select id="tap-direction"><option value="">both</option><option>out</option><option>in</option></select></div>
    <button id="tap-button" aria-pressed="false">Start</button>
    </form>
    <p id="tap-note" class="dim" role="status" aria-live="polite"></p>
    <div id="tap-lines" class="scroll" tabindex="0" role="region" aria-label="Requests as they end"><table><thead><tr><th scope="col">Time<th scope="col">Way<th scope="col">Service<th scope="col">Endpoint<th scope="col">Status<th scope="col" class="n">ms<th scope="col">Node</thead><tbody></tbody></table></div>
    </section>
    <section aria-labelledby="registry-title">
    <h2 id="registry-title">Registries, broker, certificates</h2>
    <div class="scroll"><table id="registries"><thead><tr><th scope="col">Name<th scope="col">State<th scope="col" class="n">Services<th scope="col" class="n">Age, s<th scope="col" class="n">Outages<th scope="col">Last error</thead><tbody></tbody></table></div>
    <p id="broker" class="dim"></p>
    <div class="scroll" id="certificates-box" hidden><table id="certificates"><caption>Certificates in use</caption><thead><tr><th scope="col">For<th scope="col">Subject<th scope="col">Ends<th scope="col">File</thead><tbody></tbody></table></div>
    <p id="no-certificates" class="dim">No certificate is in use.</p>
    </section>
    <section aria-labelledby="config-title">
    <h2 id="config-title">Configuration</h2>
    <details id="config"><summary>Settings and where they came from</summary><div class="scroll"><table><thead><tr><th scope="col">Setting<th scope="col">Value<th scope="col">From</thead><tbody></tbody></table></div></details>
    </section>
    </main>
    <script>
    "use strict";
    const $ = id => document.getElementById(id);
    const seen = {points: [], last: null, services: new Map(), search: "", after: [], tap: null};
    /* Everything that comes from elsewhere becomes text, never markup. */
    function el(name, text, kind) {
      const node = document.createElement(name);
      if (text !== undefined && text !== null) node.textContent = String(text);
      if (kind) node.className = kind;
      return node;
    }
    function row(cells) {
      const line = el("tr");
      for (const cell of cells) line.append(cell instanceof Node ? cell : el("td", cell));
      return line;
    }
    const number = text => el("td", text, "n");
    const wide = text => el("td", text, "wrap");
    function token() { try { return sessionStorage.getItem("token") || ""; } catch (error) { return seen.token || ""; } }
    async function ask(path, options = {}) {
      const headers = Object.assign({}, options.headers);
      if (token()) headers.Authorization = "Bearer " + token();
      const reply = await fetch(path, Object.assign({cache: "no-store"}, options, {headers}));
      if (reply.status === 401) {
        if ($("login").hidden) { $("login").hidden = false; if (document.activeElement === document.body) $("token").focus(); }
        throw new Error(token() ? "the token is not right" : "a token is needed");
      }
      if (!reply.ok) throw new Error((await reply.text()).trim() || reply.status);
      $("login").hidden = true;
      return reply;
    }
    function say(text, kind) {
      const state = $("state");
      if (state.textContent !== text) state.textContent = text;
      state.className = kind;
    }
    function quantile(bounds, counts, share) {
      const all = counts.reduce((sum, count) => sum + count, 0);
      if (!all) return null;
      let left = all * share;
      for (let index = 0; index < counts.length; index++) {
        if (counts[index] && left <= counts[index]) {
          const low = index ? bounds[index - 1] : 0, high = index < bounds.length ? bounds[index] : low;
          return (low + (high - low) * left / counts[index]) * 1000;
        }
        left -= counts[index];
      }
      return bounds[bounds.length - 1] * 1000;
    }
    function plot(id, first, second) {
      const top = Math.max(...first, ...second, 1e-9), lines = $(id).querySelectorAll("polyline");
      [first, second].forEach((values, index) => lines[index].setAttribute("points",
        values.map((value, at) => (120 - values.length + 1 + at) + "," + (38 - 36 * value / top).toFixed(2)).join(" ")));
    }
    function digits(value) { return !value ? "0" : value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(3); }
    function drawNow(status) {
      const now = performance.now(), totals = status.totals;
      if (seen.last) {
        const seconds = (now - seen.last.now) / 1000, before = seen.last.totals;
        const counts = totals.buckets.map((count, index) => count - before.buckets[index]);
        seen.points.push({
          rate: Math.max(totals.requests - before.requests, 0) / seconds, failures: Math.max(totals.failures - before.failures, 0) / seconds,
          median: quantile(totals.bounds_seconds, counts, .5) || 0, high: quantile(totals.bounds_seconds, counts, .99) || 0});
        if (seen.points.length > 120) seen.points.shift();
        const point = seen.points[seen.points.length - 1];
        $("rate").textContent = digits(point.rate) + ", " + digits(point.failures) + " failed";
        $("latency").textContent = "median " + digits(point.median) + ", 99th percentile " + digits(point.high);
        plot("rate-plot", seen.points.map(p => p.rate), seen.points.map(p => p.failures));
        plot("latency-plot", seen.points.map(p => p.median), seen.points.map(p => p.high));
      }
      seen.last = {now, totals};
      $("facts").textContent = [totals.requests + " requests", totals.failures + " failed", totals.in_flight + " under way",
        totals.retries + " retries", totals.ejections + " ejections", (status.resident_bytes / 1048576).toFixed(1) + " MiB resident",
        "up " + status.uptime_seconds + " s"].join(" · ");
    }
    const marks = {well: ["well", "good"], out: ["out", "bad"], "half-open": ["being tried", "warn"], unhealthy: ["unhealthy", "bad"], unknown: ["not called yet", "dim"]};
    function nodeTable(service) {
      const table = el("table"), head = el("thead"), body = el("tbody");
      head.append(row(["Node", "Health", "EWMA, ms", "In flight", "Address", "Version", "Dialect"].map((name, index) => Object.assign(el("th", name, index === 2 || index === 3 ? "n" : ""), {scope: "col"}))));
      for (const node of service.nodes) {
        const [text, kind] = marks[node.health] || [node.health, ""];
        body.append(row([wide(node.id), el("td", text + (node.cause && node.health !== "well" ? ": " + node.cause : ""), kind),
          number(node.called && node.latency_ms ? digits(node.latency_ms) : "–"), number(node.in_flight), node.address, wide(node.version), node.dialect]));
      }
      if (!service.nodes.length) body.append(row(["no node"]));
      table.append(head, body);
      const box = el("div", null, "scroll");
      box.append(table);
      return box;
    }
    function drawServices(services) {
      const list = $("services-list"), names = $("service-names"), kept = new Set();
      let previous = null;
      for (const service of services) {
        seen.services.set(service.name, service);
        kept.add(service.name);
        let item = seen.items && seen.items.get(service.name);
        if (!item) {
          item = {box: el("details"), line: el("summary"), nodes: el("div"), shown: ""};
          const use = el("button", "Call it");
          use.type = "button";
          use.addEventListener("click", () => { $("call-service").value = service.name; chooseService(); $("call-endpoint").focus(); });
          item.body = el("div");
          item.body.append(item.nodes, use);
          item.box.append(item.line, item.body);
          (seen.items = seen.items || new Map()).set(service.name, item);
          names.append(Object.assign(el("option"), {value: service.name}));
        }
        const out = service.nodes.filter(node => node.health === "out" || node.health === "unhealthy").length;
        const line = service.name + " · " + service.nodes_count + (service.nodes_count === 1 ? " node" : " nodes") +
          (out ? ", " + out + " out" : "") + (service.stale ? " · stale" : "") + " · " + service.versions.join(", ");
        if (item.line.textContent !== line) item.line.textContent = line;
        item.line.className = out ? "warn" : "";
        if (item.box.open || !item.shown) {
          const text = JSON.stringify(service.nodes);
          if (text !== item.shown) { item.nodes.replaceChildren(nodeTable(service)); item.shown = text; }
        }
        if (item.box.previousElementSibling !== previous || item.box.parentNode !== list) previous ? previous.after(item.box) : list.prepend(item.box);
        previous = item.box;
      }
      for (const [name, item] of seen.items || []) if (!kept.has(name)) { item.box.remove(); seen.items.delete(name); }
    }
    function drawRegistries(registries) {
      $("registries").tBodies[0].replaceChildren(...registries.map(r => row([r.name,
        el("td", r.state, r.state === "current" ? "good" : "warn"), number(r.services), number(r.age_seconds), number(r.outages), wide(r.last_error || "")])));
    }
    function drawCertificates(certificates) {
      $("certificates-box").hidden = !certificates.length;
      $("no-certificates").hidden = certificates.length > 0;
      $("certificates").tBodies[0].replaceChildren(...certificates.map(c => {
        const days = Math.floor((c.not_after * 1000 - Date.now()) / 86400000);
        const left = days < 0 ? "over" : days === 0 ? "within a day" : days === 1 ? "in 1 day" : "in " + days + " days";
        return row([c.use + (c.kind === "authority" ? ", authority" : ""), wide(c.subject),
          el("td", left + ", " + new Date(c.not_after * 1000).toISOString().slice(0, 10), days < 1 ? "bad" : days < 7 ? "warn" : "good"), wide(c.file)]);
      }));
    }
    async function refresh() {
      try {
        let after = "", services = [], status;
        for (let page = 0; page <= seen.after.length; page++) {
          status = await (await ask("/status?search=" + encodeURIComponent(seen.search) + "&after=" + encodeURIComponent(after))).json();
          services = services.concat(status.services);
          if (!status.more) break;
          after = status.services[status.services.length - 1].name;
        }
        const kind = status.phase === "serving" && status.app_healthy ? "good" : "warn";
        say(status.phase + (status.app ? status.app_healthy ? ", app healthy" : ", app not healthy" : ""), kind);
        $("who").textContent = (status.name || "calls only") + " · version " + status.version + " · " + status.sidecar_address;
        $("services-count").textContent = status.services_count + " known" + (status.more ? ", " + services.length + " shown" : "");
        $("more").hidden = !status.more;
        drawNow(status);
        drawServices(services);
        drawRegistries(status.registries);
        drawCertificates(status.certificates);
        if ($("broker").textContent !== status.broker) $("broker").textContent = status.broker;
      } catch (error) { say(error.message === "Failed to fetch" ? "the sidecar does not answer" : error.message, "bad"); }
      clearTimeout(seen.timer);
      seen.timer = setTimeout(refresh, 1000);
    }
    /* The call form. */
    function sample(value, depth = 0) {
      if (!value || depth > 8) return null;
      const type = (value.type || "").replace(/^\*/, "");
      if (value.values && value.values.length) return Object.fromEntries(value.values.map(v => [v.name, sample(v, depth + 1)]));
      if (type.startsWith("[]")) return [];
      if (/int|float|double|number/.test(type)) return 0;
      if (/bool/.test(type)) return false;
      return type === "string" ? "" : {};
    }
    function endpointOf() {
      const service = seen.services.get($("call-service").value);
      return service && service.endpoints.find(e => e.name === $("call-endpoint").value);
    }
    function chooseService() {
      const service = seen.services.get($("call-service").value);
      $("endpoint-names").replaceChildren(...(service ? service.endpoints : []).map(e => Object.assign(el("option"), {value: e.name})));
      if (service && service.endpoints.length && !$("call-endpoint").value) { $("call-endpoint").value = service.endpoints[0].name; chooseEndpoint(); }
    }
    function chooseEndpoint() {
      const endpoint = endpointOf(), box = $("call-fields"), fields = endpoint && endpoint.request && endpoint.request.values || [];
      box.hidden = !fields.length;
      box.replaceChildren(el("legend", "Fields of the request"));
      if (!fields.length) return;
      const request = sample(endpoint.request);
      const write = () => { $("call-request").value = JSON.stringify(request, null, 2); };
      fields.forEach((field, index) => {
        if (typeof request[field.name] === "object") return;
        const label = el("label", field.name + " (" + field.type + ")"), input = el("input");
        label.htmlFor = input.id = "field-" + index;
        const kind = typeof request[field.name];
        input.type = kind === "number" ? "number" : kind === "boolean" ? "checkbox" : "text";
        if (kind === "number") input.step = "any";
        input.addEventListener("input", () => {
          request[field.name] = kind === "number" ? Number(input.value) : kind === "boolean" ? input.checked : input.value;
          write();
        });
        box.append(label, input);
      });
      write();
    }
    function show(title, kind, ...parts) {
      const heading = el("h3", title, kind);
      $("call-result").replaceChildren(heading, ...parts);
    }
    $("call-service").addEventListener("input", chooseService);
    $("call-endpoint").addEventListener("input", chooseEndpoint);
    $("call-form").addEventListener("submit", async event => {
      event.preventDefault();
      try {
        const body = JSON.stringify({service: $("call-service").value, endpoint: $("call-endpoint").value, request: JSON.parse($("call-request").value || "{}")});
        const result = await (await ask("/call", {method: "POST", headers: {"Content-Type": "application/json"}, body})).json();
        const facts = el("p", (result.node ? "node " + result.node + " at " + result.address : "no node") + " · " + result.attempts +
          (result.attempts === 1 ? " attempt" : " attempts") + " · " + digits(result.milliseconds) + " ms" + (result.reason ? " · " + result.reason : ""), "dim");
        const sent = el("details");
        sent.append(el("summary", "Request"), el("pre", JSON.stringify(JSON.parse(body).request, null, 2)));
        show(result.ok ? "Reply" : "Failed", result.ok ? "good" : "bad", facts, el("pre", JSON.stringify(result.ok ? result.reply : result.error, null, 2)), sent);
      } catch (error) { show("Not sent", "bad", el("p", error.message)); }
    });
    $("why").addEventListener("click", async () => {
      try {
        const query = "/explain?service=" + encodeURIComponent($("call-service").value) + "&endpoint=" + encodeURIComponent($("call-endpoint").value);
        show("Why", "", el("pre", JSON.stringify(await (await ask(query)).json(), null, 2)));
      } catch (error) { show("Not explained", "bad", el("p", error.message)); }
    });
    /* Live requests. */
    async function tap(signal) {
      const query = new URLSearchParams({service: $("tap-service").value, status: $("tap-status").value, direction: $("tap-direction").value, rate: 100});
      const reader = (await ask("/tap?" + query, {signal})).body.getReader(), text = new TextDecoder();
      $("tap-note").textContent = "watching";
      const body = $("tap-lines").querySelector("tbody");
      let rest = "", lost = 0;
      for (;;) {
        const {done, value} = await reader.read();
        if (done) return;
        const lines = (rest + text.decode(value, {stream: true})).split("\n");
        rest = lines.pop();
        for (const line of lines.filter(Boolean).slice(-200)) {
          const event = JSON.parse(line);
          if (event.lost) { lost += event.lost; $("tap-note").textContent = "watching; " + lost + " not shown"; continue; }
          body.prepend(row([event.time.slice(11, 23), event.direction, wide(event.service || "–"), wide(event.endpoint || "–"),
            el("td", event.status + (event.reason === "ok" ? "" : " " + event.reason), event.reason === "ok" ? "good" : "bad"),
            number(event.duration_ms), wide(event.node || "–")]));
        }
        while (body.rows.length > 200) body.lastElementChild.remove();
      }
    }
    $("tap-form").addEventListener("submit", async event => {
      event.preventDefault();
      const button = $("tap-button");
      if (seen.tap) { seen.tap.abort(); return; }
      seen.tap = new AbortController();
      button.textContent = "Stop";
      button.setAttribute("aria-pressed", "true");
      let note = "stopped";
      try { await tap(seen.tap.signal); } catch (error) { if (error.name !== "AbortError") note = error.message; }
      seen.tap = null;
      button.textContent = "Start";
      button.setAttribute("aria-pressed", "false");
      $("tap-note").textContent = note;
    });
    $("config").addEventListener("toggle", async () => {
      if (!$("config").open) return;
      try {
        const config = await (await ask("/config")).json();
        $("config").querySelector("tbody").replaceChildren(...config.settings.map(s => {
          const key = el("td");
          key.append(el("code", s.key));
          return row([key, wide(s.value === null ? "–" : s.value), s.source + (s.from && s.source !== "default" ? " " + s.from : "")]);
        }));
      } catch (error) { say(error.message, "bad"); }
    });
    $("search-form").addEventListener("submit", event => { event.preventDefault(); seen.search = $("search").value; seen.after = []; });
    $("more").addEventListener("click", () => { seen.after.push(1); });
    $("login-form").addEventListener("submit", event => {
      event.preventDefault();
      seen.token = $("token").value;
      try { sessionStorage.setItem("token", seen.token); } catch (error) { /* kept for this page only */ }
      $("token").value = "";
      refresh();
    });
    refresh();
    </script>
    </html>
    """#
}
