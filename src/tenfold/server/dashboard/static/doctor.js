// What the doctor says, in words; asked every few seconds, and only while it is looked at.

import { get } from "./api.js";
import { at, fill, make, say } from "./dom.js";

const EVERY = 10_000; // milliseconds
const LEVELS = { problem: "Problem", note: "Note", fine: "Fine" };

export function doctorView() {
  let asked = -Infinity;

  function show({ findings, seconds }) {
    const span = seconds === null ? "Counters since the start, and the last minute's steps" : `The last ${Math.round(seconds)} s`;
    say(at("doctor-note"), `${span}. The same as tenfold doctor --url says; the worst comes first.`);
    fill(at("findings"), findings, (one) => one.name, create, update);
  }

  return {
    async update(state) {
      if (performance.now() - asked < EVERY) return;
      if (state.report.health.status !== "ready") {
        say(at("doctor-note"), `The engine is ${state.report.health.status}.`);
        return;
      }
      asked = performance.now();
      try {
        show(await get("debug/doctor"));
      } catch (error) {
        say(at("doctor-note"), error.message);
      }
    },
  };
}

function create() {
  return make("li", {}, make("h3"), make("p"), make("ul"));
}

function update(node, one) {
  const [head, words, advice] = node.children;
  node.className = "level-" + one.level;
  say(head, `${LEVELS[one.level] || one.level}: ${one.name}`);
  head.className = one.level === "problem" ? "bad" : one.level === "fine" ? "good" : "";
  say(words, one.words);
  fill(advice, one.advice, (text) => text, (text) => make("li", { text }), () => {});
}
