// Asks about once a second, while somebody looks, and shows the view that is chosen.

import { ApiError, get, setKey } from "./api.js";
import { forgetInk } from "./chart.js";
import { chatView } from "./chat.js";
import { costView } from "./cost.js";
import { doctorView } from "./doctor.js";
import { at, say } from "./dom.js";
import { poolView } from "./pool.js";
import { requestsView } from "./requests.js";
import { emptyState, question, take } from "./state.js";
import { stepsView } from "./steps.js";
import { trafficView } from "./traffic.js";

const EVERY = 1000; // milliseconds between two questions
const PATIENCE = 10_000;
const THEMES = ["auto", "light", "dark"];

const state = emptyState();
const views = {
  traffic: trafficView(),
  steps: stepsView(),
  pool: poolView(),
  requests: requestsView(),
  doctor: doctorView(),
  cost: costView(),
  chat: chatView(),
};
let chosen = "traffic";
let paused = false;
let locked = false; // until there is a key
let timer = 0;
let asking = false;

async function ask() {
  clearTimeout(timer);
  if (asking) return;
  asking = true;
  try {
    if (!document.hidden && !paused && !locked) await poll();
  } finally {
    asking = false;
    timer = setTimeout(ask, EVERY);
  }
}

async function poll() {
  let report;
  try {
    report = await get(question(state, views[chosen].asksPool), AbortSignal.timeout(PATIENCE));
  } catch (error) {
    trouble(error);
    return;
  }
  take(state, report);
  head();
  show();
}

function show() {
  if (state.report) views[chosen].update(state);
}

function head() {
  const { health, served, steps } = state.report;
  say(at("model"), served.names[0]);
  say(at("backend"), [served.model !== served.names[0] && served.model, served.backend].filter(Boolean).join(", "));
  const restarts = health.restarts ? `, ${health.restarts} restarts` : "";
  mark(health.status === "ready" ? (steps ? "ready" : "ready, no steps told") : health.status, restarts, health.status === "ready");
  say(at("version"), "Tenfold " + served.version);
  say(at("updated"), "as of " + new Date(state.report.now * 1000).toLocaleTimeString());
  at("docs-link").hidden = served.operators_only;
}

function mark(words, more, good) {
  say(at("state"), words + more);
  at("state").className = "state " + (good ? "good" : "bad");
}

function trouble(error) {
  if (error instanceof ApiError && error.status === 401) {
    locked = true;
    at("key-form").hidden = false;
    say(at("key-wrong"), at("key").value ? error.message : "");
    mark("needs a key", "", false);
    at("key").focus();
  } else mark(error instanceof ApiError ? error.message : "no answer", "", false);
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(at("key").value.trim());
  locked = false;
  at("key-form").hidden = true;
  ask();
});

function choose(name, focus) {
  chosen = name in views ? name : "traffic";
  for (const tab of at("tabs").children) {
    const mine = tab.id === "tab-" + chosen;
    tab.setAttribute("aria-selected", String(mine));
    tab.tabIndex = mine ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !mine;
    if (mine && focus) tab.focus();
  }
  history.replaceState(null, "", "#/" + chosen); // not the id of a section: the browser would scroll there
  show();
  if (views[chosen].asksPool) ask();
}

at("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("[role=tab]");
  if (tab) choose(tab.getAttribute("aria-controls"));
});
at("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(views);
  const here = names.indexOf(chosen);
  const to = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: names.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(names[(to + names.length) % names.length], true);
});

function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  say(at("theme"), "Theme: " + name);
  forgetInk();
  show();
}
let look = "auto";
try {
  look = THEMES.find((one) => one === localStorage.getItem("tenfold-theme")) || "auto";
} catch {
  // a browser that keeps nothing
}
at("theme").addEventListener("click", () => {
  look = THEMES[(THEMES.indexOf(look) + 1) % THEMES.length];
  try {
    localStorage.setItem("tenfold-theme", look);
  } catch {
    // until the page is left, then
  }
  theme(look);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(look));

at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  say(at("pause"), paused ? "Go on" : "Pause");
  if (!paused) ask();
});

let redraw = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(redraw);
  redraw = requestAnimationFrame(show);
});
addEventListener("hashchange", () => location.hash.slice(2) in views && choose(location.hash.slice(2)));
document.addEventListener("visibilitychange", () => document.hidden || ask());

theme(look);
choose(location.hash.slice(2));
ask();
