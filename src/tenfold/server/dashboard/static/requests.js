// Requests and where their time goes, now and of those that ended: why one was slow, in words.

import { legend } from "./chart.js";
import { at, count, fill, make, option, percent, say, seconds, table } from "./dom.js";

const SHOWN = 100; // of each list
export const PHASES = [
  ["tokenize", "--s7", "reading the request and its tokens"],
  ["queue", "--s2", "waiting in the queue for a place"],
  ["prefill", "--s1", "computing the prompt"],
  ["decode", "--s3", "computing its own tokens"],
  ["interference", "--s5", "waiting in its steps for other requests' prompts"],
  ["preempted", "--s8", "without a place, which it had to give up"],
  ["recompute", "--s4", "computing again what it had to give up"],
  ["delivery", "--s6", "on the way from the engine to the client"],
];
const ADVICE = {
  queue: "More came than there was room for: see the doctor on capacity and places.",
  interference: "A TPOT bound (--slo tpot=…) keeps others' prompts smaller.",
  preempted: "KV memory ran out, or a class of more weight needed the place.",
  recompute: "KV memory ran out, or a class of more weight needed the place.",
  prefill: "A prefix that stands in the cache is not computed again; long prompts take their time.",
  delivery: "Its client read slowly, or the server's process had too little of a core.",
};

export function requestsView() {
  legend(at("phases-legend"), PHASES.map(([name, colour]) => [name, colour]));
  const rows = table(at("why-table"), ["phase", "time", "of the whole", ""]);
  let chosen = null; // key of a choice
  let state = null;
  for (const id of ["requests-order", "requests-class", "requests-missed"]) at(id).addEventListener("change", () => draw());

  function draw() {
    if (!state) return;
    const { live, served } = state.report;
    option(at("requests-class"), served.classes.map((one) => one.name));
    fill(at("live"), live.slice(0, SHOWN), (one) => one.id, liveLine, showLive);
    const some = live.length > SHOWN ? `The first ${SHOWN} are shown.` : "";
    say(at("live-note"), live.length ? some : "Nothing runs and nothing waits.");
    const found = choices(state.requests.items);
    fill(at("ended"), found.slice(0, SHOWN), (one) => one.key, endedLine, showEnded);
    const known = state.requests.length;
    say(at("ended-note"), known ? `${count(found.length)} answers of the last ${count(known)} requests.` : "No request has ended yet.");
  }

  function choices(requests) {
    const wanted = at("requests-class").value;
    const only = at("requests-missed").checked;
    const found = [];
    for (const { report, tenant } of requests) {
      report.choices.forEach((line, number) => {
        if (wanted && line.slo_class !== wanted) return;
        if (only && !missed(line).length) return;
        found.push({ key: `${report.id} ${number}`, id: report.id, number, tenant, line, report });
      });
    }
    const order = at("requests-order").value;
    if (order === "slowest") found.sort((a, b) => b.line.total - a.line.total);
    else if (order === "ttft") found.sort((a, b) => (b.line.ttft || 0) - (a.line.ttft || 0));
    else found.reverse();
    return found;
  }

  function endedLine(one) {
    const node = line("button");
    node.firstElementChild.addEventListener("click", () => {
      chosen = one.key;
      tell(one);
      draw();
      at("why").scrollIntoView({ block: "nearest" });
    });
    return node;
  }

  function showEnded(node, one) {
    const row = node.firstElementChild;
    if (one.key === chosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    const bad = missed(one.line);
    const kind = bad.length ? one.line.slo_class + ", missed" : one.line.slo_class;
    show(row, one.id + (one.number ? ` /${one.number}` : ""), kind, one.line, one.line.total, bad.length > 0);
  }

  function tell(one) {
    at("why").hidden = false;
    say(at("why-words"), why(one));
    const told = PHASES.filter(([name]) => one.line[name] > 0).sort(([a], [b]) => one.line[b] - one.line[a]);
    rows(told.map(([name, , words]) => [name, seconds(one.line[name]), percent(one.line[name] / one.line.total), words]));
  }

  return {
    update(now) {
      state = now;
      draw();
    },
  };
}

function line(tag) {
  const row = make(
    tag,
    tag === "button" ? { type: "button" } : { class: "line" },
    make("span", { class: "id" }),
    make("span", { class: "kind" }),
    make("span", { class: "bar", "aria-hidden": "true" }, ...PHASES.map(([name]) => make("i", { title: name }))),
    make("span", { class: "time" }),
  );
  PHASES.forEach(([, colour], number) => (row.children[2].children[number].style.background = `var(${colour})`));
  return make("li", {}, row);
}

function show(row, id, kind, times, all, bad) {
  const [name, told, bar, time] = row.children;
  say(name, id);
  say(told, kind);
  told.className = bad ? "kind bad" : "kind";
  PHASES.forEach(([phase], number) => (bar.children[number].style.width = `${(100 * (times[phase] || 0)) / (all || 1)}%`));
  say(time, seconds(all));
}

function liveLine() {
  return line("div");
}

function showLive(node, one) {
  const tokens = one.phase === "prefill" ? `${count(one.computed)} of ${count(one.prompt_tokens)}` : count(one.output_tokens);
  const kind = one.phase === "waiting" ? "waiting" : `${one.phase}, ${tokens}`;
  const late = one.ttft_bound !== null && !one.output_tokens && one.age > one.ttft_bound;
  show(node.firstElementChild, one.id, `${one.slo_class}: ${kind}`, one.seconds, one.age, late);
}

/** Which bounds were missed, as [name, time, bound]. */
export function missed(line) {
  const found = [];
  if (line.ttft_bound !== null && (line.ttft === null || line.ttft > line.ttft_bound)) {
    found.push(["the first token", line.ttft, line.ttft_bound]);
  }
  if (line.tpot_bound !== null && line.tpot !== null && line.tpot > line.tpot_bound) {
    found.push(["a token", line.tpot, line.tpot_bound]);
  }
  return found;
}

/** Why it took as long as it did. */
export function why({ line, report, tenant }) {
  const order = PHASES.filter(([name]) => line[name] > 0).sort(([a], [b]) => line[b] - line[a]);
  const cached = line.cached_tokens ? `, ${count(line.cached_tokens)} of them found in the cache` : "";
  const words = [
    `${count(line.prompt_tokens)} tokens of prompt${cached}; ${count(line.output_tokens)} came, in ${seconds(line.total)}` +
      (line.ttft === null ? "." : `, the first after ${seconds(line.ttft)}` + (line.tpot === null ? "." : `, then one every ${seconds(line.tpot)}.`)),
  ];
  for (const [what, took, bound] of missed(line)) {
    words.push(took === null ? `${what} never came; its bound was ${seconds(bound)}.` : `Bound missed: ${what} took ${seconds(took)}, not ${seconds(bound)}.`);
  }
  if (order.length) {
    const [name, , meaning] = order[0];
    words.push(`The largest part, ${percent(line[name] / line.total)}, went into ${meaning}.`);
    if (ADVICE[name]) words.push(ADVICE[name]);
  }
  for (const one of line.preemptions.slice(0, 3)) words.push(`It lost its place ${one}.`);
  const accepted = line.draft_tokens ? ` Of ${count(line.draft_tokens)} drafted tokens ${count(line.accepted_tokens)} were right.` : "";
  const ending = report.finish_reasons.filter(Boolean).join(", ");
  words.push(`Class ${line.slo_class}${tenant ? `, tenant ${tenant}` : ""}; ended: ${ending || "?"}; ${seconds(line.machine_seconds)} of the machine.${accepted}`);
  return words.join(" ");
}
