// Runs the official clients for JavaScript against the AI route, whose upstream is the
// mock: node suite.mjs ROUTE MOCK. The mock's own journal tells how often it was asked.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const [route, mock] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${route}/v1`, apiKey: "any", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: route, apiKey: "any", maxRetries: 0 });

async function asked() {
  const journal = await (await fetch(`${mock}/__aimock/journal`)).json();
  return (Array.isArray(journal) ? journal : journal.entries).length;
}

let failed = 0;
// Each test says how often the provider must have been asked.
async function test(name, calls, run) {
  const before = await asked();
  try {
    await run();
    assert.equal((await asked()) - before, calls, "calls in the provider's journal");
    console.log(`ok   ${name}`);
  } catch (e) {
    failed++;
    console.log(`FAIL ${name}: ${e.stack}`);
  }
}

const user = (content) => [{ role: "user", content }];
const chatTools = ["weather", "traffic"].map((name) => ({
  type: "function",
  function: { name, parameters: { type: "object", properties: { city: { type: "string" } } } },
}));
const messageTools = ["weather", "traffic"].map((name) => ({
  name,
  input_schema: { type: "object", properties: { city: { type: "string" } } },
}));

for (const wire of ["openai", "anthropic"]) {
  const model = `${wire}/some-model`;
  await test(`${wire}: chat`, 1, async () => {
    const got = await openai.chat.completions.create({ model, messages: user("say hello") });
    assert.equal(got.choices[0].message.content, "Hello! How can I help you today?");
    assert.equal(got.choices[0].finish_reason, "stop");
  });
  await test(`${wire}: chat, streamed`, 1, async () => {
    const got = await openai.chat.completions.stream({ model, messages: user("say hello") }).finalChatCompletion();
    assert.equal(got.choices[0].message.content, "Hello! How can I help you today?");
  });
  await test(`${wire}: chat, usage in the stream`, 1, async () => {
    const usages = [];
    for await (const chunk of await openai.chat.completions.create({ model, messages: user("say hello"), stream: true, stream_options: { include_usage: true } })) {
      if (chunk.usage) usages.push(chunk.usage);
    }
    assert.equal(usages.length, 1);
  });
  await test(`${wire}: chat, no usage that was not asked for`, 1, async () => {
    for await (const chunk of await openai.chat.completions.create({ model, messages: user("say hello"), stream: true })) {
      assert.ok(!chunk.usage && chunk.choices.length > 0);
      assert.ok("finish_reason" in chunk.choices[0]);
    }
  });
  await test(`${wire}: chat, parallel streamed tool calls`, 1, async () => {
    const got = await openai.chat.completions.stream({ model, messages: user("call both"), tools: chatTools }).finalChatCompletion();
    const calls = got.choices[0].message.tool_calls;
    assert.deepEqual(calls.map((c) => [c.function.name, JSON.parse(c.function.arguments).city]), [["weather", "Zürich"], ["traffic", "Bern"]]);
    assert.notEqual(calls[0].id, calls[1].id);
  });
  await test(`${wire}: chat, leaving in the middle`, 1, async () => {
    const stream = await openai.chat.completions.create({ model, messages: user("say hello"), stream: true });
    for await (const _ of stream) {
      stream.controller.abort();
      break;
    }
  });
  await test(`${wire}: chat, limited`, 1, async () => {
    await assert.rejects(openai.chat.completions.create({ model, messages: user("be limited") }), OpenAI.RateLimitError);
  });
  await test(`${wire}: chat, an error of the provider`, 1, async () => {
    await assert.rejects(openai.chat.completions.create({ model, messages: user("break") }), OpenAI.InternalServerError);
  });
  await test(`${wire}: message`, 1, async () => {
    const got = await anthropic.messages.create({ model, max_tokens: 100, messages: user("say hello") });
    assert.equal(got.content[0].text, "Hello! How can I help you today?");
    assert.equal(got.stop_reason, "end_turn");
  });
  await test(`${wire}: message, streamed`, 1, async () => {
    const got = await anthropic.messages.stream({ model, max_tokens: 100, messages: user("say hello") }).finalMessage();
    assert.equal(got.content[0].text, "Hello! How can I help you today?");
  });
  await test(`${wire}: message, parallel streamed tool calls`, 1, async () => {
    const blocks = [];
    const stream = anthropic.messages.stream({ model, max_tokens: 100, messages: user("call both"), tools: messageTools });
    stream.on("contentBlock", (block) => blocks.push(block));
    const got = await stream.finalMessage();
    const uses = got.content.filter((b) => b.type === "tool_use");
    assert.deepEqual(uses.map((b) => [b.name, b.input.city]), [["weather", "Zürich"], ["traffic", "Bern"]]);
    assert.equal(blocks.filter((b) => b.type === "tool_use").length, 2);
    assert.equal(got.stop_reason, "tool_use");
  });
  await test(`${wire}: message, limited`, 1, async () => {
    await assert.rejects(anthropic.messages.create({ model, max_tokens: 100, messages: user("be limited") }), Anthropic.RateLimitError);
  });
}
await test("a model that is not there", 0, async () => {
  await assert.rejects(openai.chat.completions.create({ model: "none", messages: user("x") }), OpenAI.NotFoundError);
  await assert.rejects(anthropic.messages.create({ model: "none", max_tokens: 1, messages: user("x") }), Anthropic.NotFoundError);
});
await test("a request that makes no sense", 0, async () => {
  await assert.rejects(openai.chat.completions.create({ model: "openai/x", messages: user("x"), n: 1000 }), OpenAI.BadRequestError);
});
await test("responses", 1, async () => {
  const got = await openai.responses.create({ model: "openai/some-model", input: "say hello" });
  assert.equal(got.output_text, "Hello! How can I help you today?");
});
await test("embeddings", 1, async () => {
  const got = await openai.embeddings.create({ model: "openai/text-embedding-3-small", input: "x" });
  assert.ok(got.data[0].embedding.length > 0);
});
process.exit(failed ? 1 : 0);
