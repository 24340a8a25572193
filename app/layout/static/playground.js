// The playground: sends the form to the API endpoints that the session may use, and shows the answers. Model
// output is always shown as text, never as HTML.
"use strict";

(() => {
  const form = document.querySelector("#play");
  const [send, stop, clear] = ["#send", "#stop", "#clear"].map((id) => document.querySelector(id));
  const answers = document.querySelector("#answers");
  const nothing = document.querySelector("#nothing");
  const root = new URL(document.body.dataset.root, location.href).href.replace(/\/$/, "");
  let conversations = []; // One per model: { model, turns: [{ role, content }] }.
  let running = null;

  const field = (name) => form.elements[name].value.trim();
  const number = (name) => { const text = field(name); return text === "" ? undefined : Number(text); };
  const chosenModels = () =>
    [...new Set([...document.querySelectorAll(".model")].map((input) => input.value.trim()).filter(Boolean))];

  function makeBody(model, turns) {
    const system = field("system") || undefined;
    const parameters = { temperature: number("temperature"), top_p: number("top_p"), stream: true };
    const limit = number("max_tokens");
    switch (field("api")) {
      case "/v1/responses":
        return { model, instructions: system, input: turns.length === 1 ? turns[0].content : turns, max_output_tokens: limit, ...parameters };
      case "/v1/messages":
        return { model, system, messages: turns, max_tokens: limit ?? Number(form.dataset.messagesTokens), ...parameters };
      default: {
        const first = system ? [{ role: "system", content: system }] : [];
        return { model, messages: [...first, ...turns], max_tokens: limit, ...parameters };
      }
    }
  }

  // The code changes with the form. An apostrophe is escaped, as calls.py explains.
  function showCode() {
    form.elements.max_tokens.placeholder = field("api") === "/v1/messages" ? form.dataset.messagesTokens : "none";
    const model = chosenModels()[0] || "MODEL";
    const earlier = conversations.find((each) => each.model === model)?.turns || [];
    const message = field("message");
    // Without a new message, this shows the last call that was sent.
    const turns = message || !earlier.length ? [...earlier, { role: "user", content: message || "Hello!" }] : earlier.slice(0, -1);
    const body = JSON.stringify(makeBody(model, turns), null, 2).replaceAll("'", "\\u0027");
    for (const pre of document.querySelectorAll("#code pre")) {
      pre.textContent = pre.dataset.template.replace("{address}", () => root + field("api")).replace("{body}", () => body);
    }
  }

  // Translates an event of each API into { text } to append, { usage }, { error }, or nothing.
  function readEvent(data) {
    if (data.error) return { error: data.error.message || "The request failed." };
    if (data.type === "error") return { error: data.message || data.error?.message || "The request failed." };
    if (data.choices || data.object === "chat.completion.chunk") {
      const delta = data.choices?.[0]?.delta || {};
      return { text: delta.content || "", thought: delta.reasoning_content || delta.reasoning || "", usage: data.usage };
    }
    switch (data.type) {
      case "message_start": return { usage: data.message.usage };
      case "content_block_delta": return { text: data.delta.text || "", thought: data.delta.thinking || "" };
      case "message_delta": return { usage: data.usage };
      case "response.output_text.delta": return { text: data.delta };
      case "response.reasoning_text.delta": return { thought: data.delta };
      case "response.failed": return { error: data.response?.error?.message || "The request failed." };
      case "response.completed":
      case "response.incomplete": return { usage: data.response.usage };
      default: return {};
    }
  }
  async function* readEvents(response) {
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  }

  const milliseconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

  function addTurn(card, role, text) {
    const turn = document.createElement("p");
    turn.className = `turn ${role}`;
    turn.textContent = text;
    card.querySelector(".turns").append(turn);
    return turn;
  }

  async function ask(conversation, signal) {
    const { card, turns, model } = conversation;
    const fact = (name) => card.querySelector(`[data-fact=${name}]`);
    const state = card.querySelector(".state");
    for (const each of card.querySelectorAll("[data-fact]")) each.textContent = "–";
    state.textContent = "waiting";
    addTurn(card, "user", turns.at(-1).content);
    const answer = addTurn(card, "assistant", "");
    const usage = {};
    let text = "", firstAt = null, requestId = null, problem = null;
    const startedAt = performance.now();
    const fail = (message) => {
      state.textContent = "failed";
      if (!text) answer.remove();
      addTurn(card, "error", message || "The connection to the gateway broke. Send the message again.").dataset.unknown = message ? "" : "1";
      turns.pop(); // A message without an answer is not sent again.
    };
    try {
      const api = field("api");
      const body = makeBody(model, turns);
      if (api === "/v1/chat/completions") body.stream_options = { include_usage: true };
      const response = await fetch(form.dataset.calls + api, {
        method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
      requestId = response.headers.get("x-request-id");
      if (!response.ok) {
        const problem = await response.json().catch(() => ({}));
        fail(problem.error?.message || `The gateway answered with status ${response.status}.`);
      } else {
        for await (const event of readEvents(response)) {
          const { text: more, thought, usage: part, error } = readEvent(event);
          if (error) problem = error;
          if ((more || thought) && firstAt === null) {
            firstAt = performance.now();
            state.textContent = "answering";
            fact("first").textContent = milliseconds(firstAt - startedAt);
          }
          if (thought && !text) { answer.classList.add("thinking"); answer.textContent += thought; }
          if (more) {
            if (!text) { answer.classList.remove("thinking"); answer.textContent = ""; }
            text += more;
            answer.append(more);
          }
          if (part) Object.assign(usage, Object.fromEntries(Object.entries(part).filter(([, value]) => value !== null)));
        }
        if (problem) fail(problem);
        else {
          state.textContent = "done";
          turns.push({ role: "assistant", content: text });
        }
      }
    } catch (error) {
      if (error.name === "AbortError") {
        state.textContent = "stopped";
        turns.push({ role: "assistant", content: text || "(stopped)" });
      } else fail(problem); // A failed stream has no end.
    }
    const endedAt = performance.now();
    const [input, output] = [usage.prompt_tokens ?? usage.input_tokens, usage.completion_tokens ?? usage.output_tokens];
    if (output !== undefined) {
      fact("tokens").textContent = `${input ?? "–"}, ${output}`;
      if (firstAt !== null && output > 1) fact("speed").textContent = `${(output / ((endedAt - firstAt) / 1000)).toFixed(1)} tokens/s`;
    }
    if (requestId) await showRecord(card, requestId);
  }

  // The record arrives about a second after the end and has the final cost.
  async function showRecord(card, requestId) {
    const fact = (name) => card.querySelector(`[data-fact=${name}]`);
    const link = document.createElement("a");
    link.href = `${root}/dashboard/requests/${requestId}`;
    link.textContent = "show";
    fact("request").replaceChildren(link);
    for (let wait = 700; wait < 6000; wait *= 1.5) {
      await new Promise((resolve) => setTimeout(resolve, wait));
      const response = await fetch(`${form.dataset.calls}/records/${requestId}`).catch(() => null);
      if (!response || response.status === 204) continue;
      if (!response.ok) return;
      const record = await response.json();
      const usd = record.cost_usd;
      fact("cost").textContent = usd === null ? "unknown" : `${record.cost_kind === "estimated" ? "≈ " : ""}$${usd}`;
      if (record.completion_tokens !== null) fact("tokens").textContent = `${record.prompt_tokens ?? "–"}, ${record.completion_tokens}`;
      // A browser may drop the last event of a stream that has no end; the record has its message.
      const error = card.querySelector(".turn.error:last-child");
      if (error?.dataset.unknown && record.error_message) error.textContent = record.error_message;
      if (record.tokens_per_second !== null) fact("speed").textContent = `${record.tokens_per_second.toFixed(1)} tokens/s`;
      return;
    }
  }

  async function sendAll() {
    if (running || !form.reportValidity()) return;
    const message = field("message");
    nothing.hidden = true;
    const models = chosenModels();
    conversations = models.map((model) => conversations.find((each) => each.model === model) || begin(model));
    answers.replaceChildren(nothing, ...conversations.map((each) => each.card));
    for (const each of conversations) each.turns.push({ role: "user", content: message });
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    answers.setAttribute("aria-busy", "true");
    const done = Promise.all(conversations.map((each) => ask(each, running.signal)));
    form.elements.message.value = "";
    await done;
    running = null;
    send.disabled = false;
    stop.disabled = true;
    answers.setAttribute("aria-busy", "false");
    showCode();
  }
  function begin(model) {
    const card = document.querySelector("#answer").content.cloneNode(true).firstElementChild;
    card.querySelector("h2").textContent = model.split("/").length > 3 ? model.split("/").pop() : model;
    card.querySelector("h2").title = model;
    return { model, turns: [], card };
  }

  send.addEventListener("click", sendAll);
  stop.addEventListener("click", () => running?.abort());
  clear.addEventListener("click", () => {
    running?.abort();
    conversations = [];
    answers.replaceChildren(nothing);
    nothing.hidden = false;
    showCode();
    form.elements.message.focus();
  });
  form.addEventListener("submit", (event) => { event.preventDefault(); sendAll(); });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); sendAll(); }
  });
  for (const input of document.querySelectorAll(".model")) input.addEventListener("input", showCode);
  form.addEventListener("input", showCode);
  showCode();
})();
