#!/usr/bin/env node
// A go-micro service written as a plain HTTP server: Say.Hello, with nothing but Node itself.
//
// Serve:   MICRO_SERVER_NAME=go.micro.srv.hello MICRO_APP_ADDRESS=127.0.0.1:9090 \
//            micro-sidecar run -- node hello.js
// Call:    node hello.js call World          (through the sidecar at localhost:8081)
"use strict";
const http = require("http");

const methods = {
  // The framework's call Say.Hello arrives as POST /Say/Hello.
  "/Say/Hello": (request) => ({ msg: "Hello " + (request.name || "World") }),
};

function read(stream, done) {
  const pieces = [];
  stream.on("data", (piece) => pieces.push(piece));
  stream.on("end", () => done(Buffer.concat(pieces).toString()));
}

function serve(host, port) {
  const server = http.createServer((incoming, outgoing) => {
    const reply = (status, answer) => {
      const body = JSON.stringify(answer);
      outgoing.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) });
      outgoing.end(body);
    };
    read(incoming, (body) => {
      if (incoming.method === "GET") return reply(200, { status: "ok" }); // for MICRO_APP_HEALTH=/health
      const method = methods[incoming.url];
      if (!method) return reply(404, { detail: "no method " + incoming.url });
      let request;
      try {
        request = JSON.parse(body || "{}");
      } catch (error) {
        return reply(400, { detail: "not JSON: " + error.message });
      }
      reply(200, method(request || {}));
    });
  });
  server.listen(port, host);
  process.on("SIGTERM", () => process.exit(0));
}

function call(name) {
  const [host, port] = split(process.env.MICRO_SIDECAR_ADDRESS || "localhost:8081");
  const options = { host, port, path: "/hello/say/hello", method: "POST", headers: { "Content-Type": "application/json" } };
  const request = http.request(options, (answer) => {
    read(answer, (body) => {
      if (answer.statusCode !== 200) {
        console.error(body);
        process.exit(1);
      }
      console.log(JSON.parse(body).msg);
    });
  });
  request.on("error", (error) => {
    console.error("no sidecar at " + host + ":" + port + ": " + error.message);
    process.exit(1);
  });
  request.end(JSON.stringify({ name }));
}

function split(address) {
  const colon = address.lastIndexOf(":");
  return [address.slice(0, colon), Number(address.slice(colon + 1))];
}

if (process.argv[2] === "call") call(process.argv.slice(3).join(" ") || "World");
else serve(...split(process.env.MICRO_APP_ADDRESS || "127.0.0.1:9090"));
