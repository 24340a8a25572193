// Asks a gateway for an answer from each named model, and prints the official SDK's result as one line of JSON each.
// Usage: node ask.mjs <base url> <key> <stream|whole|retried> <model>...; retried is whole, with the SDK's usual retries.
import OpenAI from "openai";

const [baseURL, apiKey, how, ...models] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: how === "retried" ? 2 : 0, timeout: 30_000 });

async function ask(model) {
  const seen = { model, text: "", finish: null, error: null };
  try {
    const messages = [{ role: "user", content: "Hello!" }];
    const answer = await client.chat.completions.create({ model, messages, stream: how === "stream" });
    if (how !== "stream") {
      return { ...seen, text: answer.choices[0].message.content, finish: answer.choices[0].finish_reason };
    }
    for await (const chunk of answer) {
      seen.text += chunk.choices[0]?.delta?.content ?? "";
      seen.finish ??= chunk.choices[0]?.finish_reason;
    }
  } catch (error) {
    const known = error instanceof OpenAI.APIError;
    seen.error = { name: error.constructor.name, known, status: error.status ?? null, code: error.code ?? null };
    seen.error.message = String(error.message);
  }
  return seen;
}

console.log(JSON.stringify(await Promise.all(models.map(ask))));
