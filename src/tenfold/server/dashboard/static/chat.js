// A playground: one conversation, kept in this page only.

import { post } from "./api.js";
import { at, count, figure, make, money, option, seconds } from "./dom.js";

const TURNS = 200; // that are kept

export function chatView() {
  const turns = at("chat-turns");
  const text = at("chat-text");
  let messages = [];
  let stopping = null; // of the answer under way
  let served = null;

  at("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  at("chat-stop").addEventListener("click", () => stopping && stopping.abort());
  at("chat-clear").addEventListener("click", () => {
    if (stopping) stopping.abort();
    messages = [];
    turns.replaceChildren();
    text.focus();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });

  function turn(role) {
    const said = make("span", { class: "said" });
    const thought = make("span", { class: "thought" });
    const figures = make("span", { class: "figures" });
    turns.append(make("div", { class: "turn " + role }, make("span", { class: "who", text: role }), thought, said, figures));
    while (turns.children.length > TURNS) turns.firstElementChild.remove();
    turns.scrollTop = turns.scrollHeight;
    return { said, thought, figures };
  }

  async function send() {
    const content = text.value.trim();
    if (!content || stopping) return;
    text.value = "";
    turn("user").said.textContent = content;
    messages = [...messages, { role: "user", content }].slice(-TURNS);
    const mine = messages;
    const shown = turn("assistant");
    stopping = new AbortController();
    at("chat-send").disabled = true;
    at("chat-stop").disabled = false;
    const answer = { text: "", began: performance.now(), first: null, usage: null, finish: null };
    try {
      for await (const event of post("v1/chat/completions", body(mine), stopping.signal)) {
        take(answer, event, shown);
        turns.scrollTop = turns.scrollHeight;
      }
    } catch (error) {
      shown.figures.textContent = error.name === "AbortError" ? "stopped" : error.message;
      shown.figures.classList.toggle("bad", error.name !== "AbortError");
    }
    if (messages === mine && answer.text) messages = [...messages, { role: "assistant", content: answer.text }];
    if (answer.finish) shown.figures.textContent = told(answer, served);
    stopping = null;
    at("chat-send").disabled = false;
    at("chat-stop").disabled = true;
  }

  return {
    update(state) {
      served = state.report.served;
      at("chat-form").hidden = served.operators_only;
      at("chat-elsewhere").hidden = !served.operators_only;
      option(at("chat-class"), served.classes.map((one) => one.name));
    },
  };
}

function take(answer, event, shown) {
  if (event.usage) answer.usage = event.usage;
  const choice = event.choices[0];
  if (!choice) return;
  const { content, reasoning_content: thought } = choice.delta || choice.message;
  if ((content || thought) && answer.first === null) answer.first = performance.now();
  if (thought) shown.thought.append(thought);
  if (content) {
    answer.text += content;
    shown.said.append(content);
    if (shown.said.childNodes.length > 200) shown.said.normalize();
  }
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  if (choice.timeline) answer.timeline = choice.timeline;
}

function body(messages) {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const system = at("chat-system").value.trim();
  const stream = at("chat-stream").checked;
  return {
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    temperature: number("chat-temperature"),
    max_tokens: number("chat-tokens"),
    slo_class: at("chat-class").value || undefined,
    slo_ttft_ms: number("chat-ttft"),
    slo_tpot_ms: number("chat-tpot"),
    timeline: true,
    stream,
    stream_options: stream ? { include_usage: true } : undefined,
  };
}

function told({ began, first, usage, finish, timeline }, served) {
  const parts = [];
  if (usage) {
    const cached = usage.prompt_tokens_details.cached_tokens;
    parts.push(`${count(usage.prompt_tokens)} tokens in${cached ? ` (${count(cached)} cached)` : ""}, ${count(usage.completion_tokens)} out`);
  }
  if (first !== null) parts.push(`first text after ${seconds((first - began) / 1000)}`);
  if (timeline && timeline.tpot) parts.push(`${figure(1 / timeline.tpot, 0)} tokens/s`);
  if (timeline && timeline.queue > 0.05) parts.push(`${seconds(timeline.queue)} in the queue`);
  if (usage && usage.cost !== undefined) parts.push(`cost ${money(usage.cost)}`);
  if (finish !== "stop") parts.push(`ended: ${finish}`);
  return parts.join(" · ");
}
