// Uses the edge with the clients that others have written, as they are: what they do with
// an answer is what counts. "make edge-clients" installs them and builds what is served.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { connect, createServer as createTunnel } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { CloudEvent, emitterFor, HTTP, httpTransport, Mode } from "cloudevents";
import { EventSource } from "eventsource";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
import WebSocket from "ws";

const timeout = 60_000;
const data = mkdtempSync(join(tmpdir(), "countermand-edgeclients-"));
let product, gateway, admin;

// Two routes beside the shop's: one takes events in, and one gives them out and takes
// them in over the same socket.
const routes = `
  - {id: from-outside, kind: events, match: POST /v1/outside, types: [shop.order.placed.v1]}
  - {id: both-ways, kind: stream, match: GET /v1/both-ways, types: [shop.order.placed.v1], publish: from-outside}
`;

before(async () => {
  product = spawn("../../bin/countermand", ["dev", "--json", "--data-dir", data, "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  for await (const line of createInterface({ input: product.stdout })) {
    const said = JSON.parse(line);
    if (said.event === "ready") {
      ({ http: gateway, admin } = said);
      break;
    }
  }
  assert.ok(gateway, "countermand dev did not get ready");
  product.stdout.resume();
  const table = `${admin}/admin/v1/routes/table`;
  const own = await (await fetch(table)).text();
  const put = await fetch(table, { method: "PUT", headers: { "If-Match": "*" }, body: own + routes });
  assert.equal(put.status, 200, await put.text());
});

after(async () => {
  const ended = new Promise((resolve) => product.once("exit", resolve));
  product.kill("SIGTERM");
  await ended;
  rmSync(data, { recursive: true });
});

const placed = (id) =>
  new CloudEvent({
    id,
    source: "/partners/acme",
    type: "shop.order.placed.v1",
    subject: id,
    time: "2026-11-23T12:00:00Z",
    datacontenttype: "application/json",
    partitionkey: id,
    data: { order_id: id, customer: "eve", currency: "EUR", status: "pending", total: 900 },
  });

// publish sends events with the client's own transport, which tells no status.
const publish = (mode) => emitterFor(httpTransport(`${gateway}/v1/outside`), { mode });

// eventually waits until look returns something.
async function eventually(what, look) {
  for (const end = Date.now() + 20_000; Date.now() < end; await new Promise((r) => setTimeout(r, 50))) {
    const seen = await look();
    if (seen) return seen;
  }
  assert.fail(`waited in vain for ${what}`);
}

// page reads what the broker has of one subject, as the client reads a batch.
async function page(subject) {
  const answer = await fetch(`${gateway}/v1/both-ways?start=earliest&exact.subject=${subject}`, {
    headers: { Accept: "application/cloudevents-batch+json" },
  });
  assert.equal(answer.status, 200);
  return HTTP.toEvent({ headers: Object.fromEntries(answer.headers), body: await answer.text() });
}

// lossy is a way to the gateway on which connections can be cut, as networks do.
async function lossy() {
  const { hostname, port } = new URL(gateway);
  const open = new Set();
  const server = createTunnel((client) => {
    const far = connect(port, hostname);
    for (const [from, to] of [[client, far], [far, client]]) {
      open.add(from);
      from.on("error", () => {}).on("close", () => (open.delete(from), to.destroy())).pipe(to);
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const cut = () => open.forEach((socket) => socket.destroy());
  return { url: `http://127.0.0.1:${server.address().port}`, cut, close: () => (cut(), server.close()) };
}

for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
  test(`cloudevents: an event sent in ${mode} mode comes back as it was`, { timeout }, async () => {
    const sent = placed(randomUUID());
    await publish(mode)(sent);
    const got = await eventually("the event", async () => (await page(sent.subject))[0]);
    assert.ok(got instanceof CloudEvent && got.validate());
    assert.deepEqual(
      [got.id, got.source, got.type, got.subject, got.partitionkey, got.data],
      [sent.id, sent.source, sent.type, sent.subject, sent.partitionkey, sent.data],
    );
  });
}

test("eventsource: goes on after the last event when its connection is lost", { timeout }, async () => {
  const prefix = `sse-${randomUUID()}`;
  const ids = [1, 2, 3].map((n) => `${prefix}-${n}`);
  const named = []; // Last-Event-ID of each connection
  const line = await lossy();
  const source = new EventSource(`${line.url}/v1/both-ways?start=earliest&prefix.subject=${prefix}`, {
    fetch: (url, init) => {
      named.push(init.headers["Last-Event-ID"]);
      return fetch(url, init);
    },
  });
  try {
    const got = [];
    source.onmessage = (e) => got.push(JSON.parse(e.data).id);
    await publish(Mode.BINARY)(placed(ids[0]));
    await eventually("the first event", () => got.length === 1);
    line.cut();
    await publish(Mode.BINARY)(placed(ids[1]));
    await publish(Mode.BINARY)(placed(ids[2]));
    await eventually("the others", () => got.length >= 3);
    assert.deepEqual([...got].sort(), ids);
    assert.equal(got[0], ids[0]);
    assert.equal(named[0], undefined);
    assert.ok(named.length > 1 && named.slice(1).every(Boolean), `connections go on after ${named}`);
  } finally {
    source.close();
    line.close();
  }
});

test("ws: takes events in and gives them out", { timeout }, async () => {
  const sent = placed(`ws-${randomUUID()}`);
  const socket = new WebSocket(`${gateway.replace("http", "ws")}/v1/both-ways?exact.subject=${sent.subject}`, "cloudevents.json");
  const got = [];
  socket.on("message", (text) => got.push(JSON.parse(text)));
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  assert.equal(socket.protocol, "cloudevents.json");
  socket.send(JSON.stringify(sent));
  const accepted = await eventually("the answer", () => got.find((e) => e.type === "countermand.event.accepted.v1"));
  assert.equal(accepted.subject, sent.id);
  const event = await eventually("the event", () => got.find((e) => e.type === sent.type));
  assert.deepEqual([event.id, event.data], [sent.id, sent.data]);
  assert.ok(event.streamposition);
  socket.close(1000);
  const code = await new Promise((resolve) => socket.once("close", resolve));
  assert.equal(code, 1000);
});

test("ws: is refused without the subprotocol, with a problem that says so", { timeout }, async () => {
  const socket = new WebSocket(`${gateway.replace("http", "ws")}/v1/both-ways`);
  socket.on("error", () => {}); // it is told of the answer as well
  const answer = await new Promise((resolve, reject) => socket.once("unexpected-response", (_, r) => resolve(r)).once("open", reject));
  assert.ok(answer.statusCode >= 400 && answer.statusCode < 500, `status ${answer.statusCode}`);
  assert.match(answer.headers["content-type"], /^application\/problem\+json/);
  answer.resume();
  socket.terminate();
});

test("standardwebhooks: verifies what a sink is sent, also while two secrets are in force", { timeout }, async () => {
  const got = [];
  const sink = createServer((request, response) => {
    if (request.method === "OPTIONS") {
      response.setHeader("WebHook-Allowed-Origin", request.headers["webhook-request-origin"]);
      response.end();
      return;
    }
    let body = "";
    request.on("data", (part) => (body += part));
    request.on("end", () => {
      got.push({ headers: request.headers, body });
      response.writeHead(204).end();
    });
  });
  await new Promise((resolve) => sink.listen(0, "127.0.0.1", resolve));
  const ask = async (path, method, body) => {
    const answer = await fetch(`${gateway}/v1/subscriptions${path}`, {
      method,
      headers: { "Content-Type": "application/json" },
      body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    assert.ok(answer.ok, text);
    return text && JSON.parse(text);
  };
  const subject = `hook-${randomUUID()}`;
  const subscription = await ask("", "POST", {
    protocol: "HTTP",
    sink: `http://127.0.0.1:${sink.address().port}/hook`,
    types: ["shop.order.placed.v1"],
    filters: [{ prefix: { subject } }],
  });
  try {
    await eventually("the sink's consent", async () => (await ask(`/${subscription.id}`, "GET")).state === "active");
    const old = subscription.signing[0].secret;
    const check = async (n, secrets) => {
      await publish(Mode.BINARY)(placed(`${subject}-${n}`));
      const { headers, body } = await eventually("the delivery", () => got.find((g) => g.headers["ce-id"] === `${subject}-${n}`));
      for (const secret of secrets) new Webhook(secret).verify(body, headers);
      assert.throws(() => new Webhook(secrets[0]).verify(`${body} `, headers), WebhookVerificationError);
      assert.equal(HTTP.toEvent({ headers, body }).data.order_id, `${subject}-${n}`);
    };
    await check(1, [old]);
    const fresh = (await ask(`/${subscription.id}/secrets`, "POST", { overlap_seconds: 3600 })).signing[0].secret;
    assert.notEqual(fresh, old);
    await check(2, [fresh, old]);
  } finally {
    await ask(`/${subscription.id}`, "DELETE");
    sink.closeAllConnections();
    sink.close();
  }
});
