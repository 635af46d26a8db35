#!/usr/bin/env node
// A second service, in another language than the one it calls: Front.Greet asks Say.Hello of go.micro.srv.hello through its
// sidecar, and passes errors on as they came.
//
// Serve:   MICRO_SERVER_NAME=go.micro.srv.front MICRO_APP_ADDRESS=127.0.0.1:9091 \
//            micro-sidecar run -- node front.js
// Call:    curl localhost:8081/front/front/greet -d '{"name":"World"}'
"use strict";
const http = require("http");

const sidecar = split(process.env.MICRO_SIDECAR_ADDRESS || "localhost:8081");
const app = split(process.env.MICRO_APP_ADDRESS || "127.0.0.1:9091");

function split(address) {
  const colon = address.lastIndexOf(":");
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}

function read(stream, done) {
  const pieces = [];
  stream.on("data", (piece) => pieces.push(piece));
  stream.on("end", () => done(Buffer.concat(pieces).toString()));
}

function call(path, body, done) {
  const options = { ...sidecar, path, method: "POST", headers: { "Content-Type": "application/json" } };
  const request = http.request(options, (answer) => read(answer, (text) => done(answer.statusCode, text)));
  request.on("error", (error) => done(503, JSON.stringify({ detail: "no sidecar: " + error.message })));
  request.end(body);
}

const server = http.createServer((incoming, outgoing) => {
  const reply = (status, text) => {
    outgoing.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
    outgoing.end(text);
  };
  read(incoming, (body) => {
    if (incoming.method === "GET") return reply(200, '{"status":"ok"}'); // for MICRO_APP_HEALTH=/health
    if (incoming.url !== "/Front/Greet") return reply(404, JSON.stringify({ detail: "no method " + incoming.url }));
    call("/hello/say/hello", body || "{}", (status, text) => {
      if (status !== 200) return reply(status, text);
      reply(200, JSON.stringify({ greeting: "front says: " + JSON.parse(text).msg }));
    });
  });
});
server.listen(app.port, app.host);
process.on("SIGTERM", () => {
  // Calls under way are answered; the sidecar has left the registry by now, so no new ones come.
  server.close(() => process.exit(0));
  server.closeIdleConnections();
});
