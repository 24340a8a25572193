// Runs Vercel's AI SDK with the three of its provider packages that are used with gateways; see test_ai_sdk.py.
// Reads {url, key, model, script, cuts: {name: model}} and prints each package's results: {api: {whole, stream, …}}.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
let input = "";
for await (const piece of process.stdin) input += piece;
const { url, key: apiKey, model, script, cuts } = JSON.parse(input);

const baseURL = `${url}/v1`;
// Marks each request as an SDK's retry, so that the gateway sends it only once.
const headers = { "x-stainless-retry-count": "1" };
const openai = createOpenAI({ baseURL, apiKey, headers });
const more = { includeUsage: true, supportsStructuredOutputs: true };
const MODELS = {
  responses: openai,
  chat: openai.chat,
  compatible: createOpenAICompatible({ name: "gateway", baseURL, apiKey, headers, ...more }),
  messages: createAnthropic({ baseURL, apiKey, headers }),
};

async function collect(request) {
  const seen = { text: "", finish: null, tokens: 0, calls: 0, errors: [] };
  const result = streamText({ ...request, onError: () => {} });
  try {
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") seen.text += part.text;
      if (part.type === "tool-result") seen.calls += 1;
      if (part.type === "error") seen.errors.push(String(part.error?.message));
      if (part.type === "finish") Object.assign(seen, { finish: part.finishReason, tokens: part.totalUsage.totalTokens });
    }
  } catch (error) {
    seen.errors.push(String(error.message));
  }
  return seen;
}

async function fail(request) {
  try {
    await generateText(request);
    return null;
  } catch (error) {
    return { name: error.name, status: error.statusCode, message: error.message };
  }
}

async function run(make) {
  // Without this, the SDK refers to items stored by OpenAI instead of sending them again.
  const providerOptions = { openai: { store: false } };
  const request = { model: make(model), maxRetries: 0, maxOutputTokens: 300, providerOptions };
  const add = tool({
    description: "Adds.",
    inputSchema: z.object({ a: z.number(), b: z.number() }),
    execute: async ({ a, b }) => a + b,
  });
  const agent = { ...request, prompt: script, tools: { add }, stopWhen: stepCountIs(5) };
  const output = Output.object({ schema: z.object({ city: z.string() }) });
  const broken = (name) => ({ ...request, model: make(name), prompt: "Hello!" });
  const [whole, stream, parsed, stored, missing, ...cut] = await Promise.all([
    generateText(agent),
    collect(agent),
    generateText({ ...request, prompt: "Name a city: Oslo", output }),
    fail({ ...agent, providerOptions: {} }),
    fail(broken("no-such-model")),
    ...Object.values(cuts).map((name) => collect(broken(name))),
  ]);
  return {
    whole: {
      text: whole.steps.map((step) => step.text).join(""),
      finish: whole.finishReason,
      tokens: whole.totalUsage.totalTokens,
      calls: whole.steps.flatMap((step) => step.toolResults).length,
      errors: [],
    },
    stream,
    parsed: parsed.output,
    stored,
    missing,
    cuts: Object.fromEntries(Object.keys(cuts).map((name, index) => [name, cut[index]])),
  };
}

const found = Object.entries(MODELS).map(async ([api, make]) => [api, await run(make)]);
console.log(JSON.stringify(Object.fromEntries(await Promise.all(found))));
