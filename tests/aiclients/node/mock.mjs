// Starts the mock of the providers and prints its URL. It ends with its input.
import { LLMock } from "@copilotkit/aimock";

const mock = new LLMock({ port: 0, logLevel: "silent" });
mock.onMessage("say hello", { content: "Hello! How can I help you today?", usage: { prompt_tokens: 7, completion_tokens: 9, input_tokens: 7, output_tokens: 9 } });
mock.onMessage("call both", {
  toolCalls: [
    { name: "weather", arguments: JSON.stringify({ city: "Zürich" }) },
    { name: "traffic", arguments: JSON.stringify({ city: "Bern" }) },
  ],
});
mock.onMessage("be limited", { error: { message: "slow down", type: "rate_limit_error", code: "rate_limit_exceeded" }, status: 429 });
mock.onMessage("break", { error: { message: "boom", type: "server_error" }, status: 500 });
await mock.start();
console.log(mock.url);
process.stdin.on("end", () => process.exit(0)).resume();
