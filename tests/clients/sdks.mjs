// Runs cases with the official SDKs for Node; sdks.py, its twin for Python, documents the input and output.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const integer = { type: "integer" };
const added = { type: "object", properties: { a: integer, b: integer }, required: ["a", "b"] };
const described = { name: "add", description: "Adds." };
const TOOLS = {
  chat: [{ type: "function", function: { ...described, parameters: added } }],
  responses: [{ type: "function", strict: false, ...described, parameters: added }],
  messages: [{ ...described, input_schema: added }],
};

function makeClients(url, apiKey) {
  // Marks each request as an SDK's retry, so that the gateway sends it only once.
  const more = { apiKey, maxRetries: 0, timeout: 30_000, defaultHeaders: { "x-stainless-retry-count": "1" } };
  return { openai: new OpenAI({ baseURL: `${url}/v1`, ...more }), anthropic: new Anthropic({ baseURL: url, ...more }) };
}

function add(args, seen) {
  seen.calls.push(args);
  return String(args.a + args.b);
}

const APIS = {
  async chat({ openai }, asked, messages, stream, seen) {
    let answer;
    if (stream) {
      const events = openai.chat.completions.stream({ ...asked, messages, stream_options: { include_usage: true } });
      events.on("content", (delta) => (seen.text += delta));
      answer = await events.finalChatCompletion();
    } else {
      answer = await openai.chat.completions.create({ ...asked, messages });
    }
    const { message, finish_reason } = answer.choices[0];
    Object.assign(seen, { text: message.content ?? "", finish: finish_reason, tokens: answer.usage.total_tokens });
    messages.push(message);
    for (const call of message.tool_calls ?? []) {
      const content = add(JSON.parse(call.function.arguments), seen);
      messages.push({ role: "tool", tool_call_id: call.id, content });
    }
  },
  async responses({ openai }, asked, messages, stream, seen) {
    let answer;
    if (stream) {
      const events = openai.responses.stream({ ...asked, input: messages });
      events.on("response.output_text.delta", ({ delta }) => (seen.text += delta));
      answer = await events.finalResponse();
    } else {
      answer = await openai.responses.create({ ...asked, input: messages });
    }
    Object.assign(seen, { text: answer.output_text, finish: answer.status, tokens: answer.usage.total_tokens });
    for (const item of answer.output) {
      messages.push(item);
      if (item.type === "function_call") {
        const output = add(JSON.parse(item.arguments), seen);
        messages.push({ type: "function_call_output", call_id: item.call_id, output });
      }
    }
  },
  async messages({ anthropic }, asked, messages, stream, seen) {
    const body = { max_tokens: 300, ...asked, messages };
    let answer;
    if (stream) {
      const events = anthropic.messages.stream(body);
      events.on("text", (delta) => (seen.text += delta));
      answer = await events.finalMessage();
    } else {
      answer = await anthropic.messages.create(body);
    }
    const { input_tokens, cache_read_input_tokens, output_tokens } = answer.usage;
    seen.text = answer.content.filter((block) => block.type === "text").map((block) => block.text).join("");
    seen.finish = answer.stop_reason;
    seen.tokens = input_tokens + (cache_read_input_tokens ?? 0) + output_tokens;
    messages.push({ role: "assistant", content: answer.content });
    const results = answer.content
      .filter((block) => block.type === "tool_use")
      .map((block) => ({ type: "tool_result", tool_use_id: block.id, content: add(block.input, seen) }));
    if (results.length) messages.push({ role: "user", content: results });
  },
  async completions({ openai }, asked, [{ content: prompt }], stream, seen) {
    if (!stream) {
      const { choices, usage } = await openai.completions.create({ ...asked, prompt });
      Object.assign(seen, { text: choices[0].text, finish: choices[0].finish_reason, tokens: usage.total_tokens });
      return;
    }
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await openai.completions.create({ ...asked, prompt, ...options })) {
      for (const choice of chunk.choices) {
        seen.text += choice.text;
        seen.finish = choice.finish_reason ?? seen.finish;
      }
      seen.tokens = chunk.usage?.total_tokens ?? seen.tokens;
    }
  },
  async embeddings({ openai }, asked, [{ content }], stream, seen) {
    const { data, usage } = await openai.embeddings.create({ ...asked, input: [content, "another"] });
    Object.assign(seen, { vectors: data.map((each) => each.embedding), tokens: usage.total_tokens });
  },
  async count({ anthropic }, asked, messages, stream, seen) {
    seen.tokens = (await anthropic.messages.countTokens({ ...asked, messages })).input_tokens;
  },
  async models({ openai, anthropic }, asked, messages, stream, seen) {
    seen.text = (await openai.models.retrieve(asked.model)).id;
    const listed = [];
    const shown = [];
    for await (const model of openai.models.list()) listed.push(model.id);
    for await (const model of anthropic.models.list({ limit: 1000 })) shown.push(model.id);
    seen.calls = [listed.includes(asked.model), shown.some((id) => id.endsWith(asked.model))];
  },
};

// With tools, a case repeats the request until the model calls no tool any more.
async function run({ api, mode, model, prompt, more }, clients) {
  const seen = { text: "", finish: null, tokens: 0, calls: [], vectors: [], error: null };
  const messages = [{ role: "user", content: prompt }];
  const asked = { model, ...more };
  const hasTools = mode.startsWith("tools");
  if (hasTools) asked.tools = TOOLS[api];
  try {
    for (let calls = -1; calls < seen.calls.length; ) {
      calls = seen.calls.length;
      await APIS[api](clients, asked, messages, ["stream", "tools-streamed"].includes(mode), seen);
      if (!hasTools) break;
    }
  } catch (error) {
    const inner = error.error?.error ?? error.error ?? {};
    seen.error = {
      name: error.constructor.name,
      known: error instanceof OpenAI.OpenAIError || error instanceof Anthropic.AnthropicError,
      status: error.status ?? null,
      code: error.code ?? inner.code ?? inner.type ?? null,
      message: String(error.message),
    };
  }
  return seen;
}

let input = "";
for await (const piece of process.stdin) input += piece;
const { url, cases } = JSON.parse(input);
const clients = Object.fromEntries(cases.map(({ key }) => [key, makeClients(url, key)]));
const found = await Promise.all(cases.map(async (each) => [each.name, await run(each, clients[each.key])]));
console.log(JSON.stringify(Object.fromEntries(found)));
