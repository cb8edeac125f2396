// The engine's steps, one bar each: what was in them, and how long they took beside what was predicted.

import { choosing, ink, legend, open, roundUp } from "./chart.js";
import { at, count, figure, percent, say, seconds, tiles } from "./dom.js";

const SPAN = 2; // seconds of steps that are shown, at most
const LEFT = 56;
const PARTS = [
  ["decode", "--s1"],
  ["prefill", "--s2"],
  ["speculated, right", "--s3"],
  ["speculated, wrong", "--s8"],
];
// The places of a step's row, as the server sends it.
export const [BEGAN, SECONDS, COMPUTING, PREDICTED, DECODE, PREFILL, DRAFTED, ACCEPTED, RUNNING, WAITING, HELD] =
  Array.from({ length: 11 }, (_, place) => place);

export function stepsView() {
  const canvas = at("steps-canvas");
  const tile = tiles(at("steps-tiles"), ["Steps", "Tokens in a step", "A step", "Engine's own part", "Prediction error"]);
  let shown = []; // steps, the latest at the end
  let places = []; // where their bars begin, and how wide they are
  let chosen = null; // the time one began
  let made = 0;

  legend(at("steps-legend"), [...PARTS, ["took", "--ink"], ["predicted", "--s4"]]);

  const current = () => {
    const found = shown.findIndex((step) => step[BEGAN] === chosen);
    return found < 0 ? null : found;
  };
  const choose = (number) => {
    if (number === null || !shown[number]) return;
    chosen = shown[number][BEGAN];
    draw();
    tell();
  };
  choosing(canvas, {
    told: at("steps-told"),
    length: () => shown.length,
    current,
    choose,
    find: (x) => {
      const found = places.findIndex(([begin, width]) => x >= begin && x <= begin + width + 1);
      return found < 0 ? null : found;
    },
  });

  function tell() {
    const step = shown[current() ?? shown.length - 1];
    if (!step) {
      say(at("steps-told"), "The engine has made no step yet.");
      return;
    }
    const drafts = step[DRAFTED] ? `, ${step[DRAFTED]} speculated tokens (${step[ACCEPTED]} right)` : "";
    const off = step[PREDICTED] ? step[SECONDS] / step[PREDICTED] - 1 : null;
    say(
      at("steps-told"),
      `${current() === null ? "The last step" : "This step"}: ${step[DECODE]} sequences in decode, ${count(step[PREFILL])} ` +
        `tokens of prompts${drafts}. It took ${seconds(step[SECONDS])}, predicted ${seconds(step[PREDICTED])}` +
        (off === null ? "" : ` (${off < 0 ? "" : "+"}${(off * 100).toFixed(0)} %)`) +
        `; ${seconds(step[SECONDS] - step[COMPUTING])} of it outside the model. ` +
        `${step[RUNNING]} ran, ${step[WAITING]} waited, ${count(step[HELD])} blocks were held.`,
    );
  }

  function draw() {
    const paper = open(canvas);
    if (!paper || !shown.length) return;
    const { pen, width, height } = paper;
    const floor = Math.round(height * 0.62);
    const total = shown.reduce((sum, step) => sum + step[SECONDS], 0);
    const wide = (width - LEFT - 2) / total;
    const most = roundUp(Math.max(...shown.map((step) => step[DECODE] + step[PREFILL] + step[DRAFTED])));
    const longest = roundUp(Math.max(...shown.map((step) => Math.max(step[SECONDS], step[PREDICTED]))));
    axis(pen, width, 10, floor, String(most), "tokens");
    axis(pen, width, floor + 18, height - 6, seconds(longest), "");
    const time = (value) => height - 6 - (height - 24 - floor) * (value / longest);
    places = [];
    let x = LEFT;
    const now = current();
    shown.forEach((step, number) => {
      const bar = step[SECONDS] * wide;
      const drawn = Math.max(bar - (bar > 3 ? 1 : 0), 0.75);
      const parts = [step[DECODE], step[PREFILL], step[ACCEPTED], step[DRAFTED] - step[ACCEPTED]];
      let y = floor;
      parts.forEach((tokens, part) => {
        const high = (floor - 10) * (tokens / most);
        pen.fillStyle = ink(PARTS[part][1]);
        pen.fillRect(x, y - high, drawn, high);
        y -= high;
      });
      if (number === now) {
        pen.strokeStyle = ink("--ink");
        pen.lineWidth = 1.5;
        pen.strokeRect(x - 1, 8, Math.max(drawn, 2) + 2, height - 14);
      }
      pen.fillStyle = ink("--ink");
      pen.fillRect(x, time(step[SECONDS]) - 1, drawn, 2);
      pen.fillStyle = ink("--s4");
      pen.fillRect(x, time(step[PREDICTED]) - 1, drawn, 2);
      places.push([x, bar]);
      x += bar;
    });
  }

  return {
    update(state) {
      const all = state.steps.items;
      if (state.made !== made || !shown.length) {
        made = state.made;
        let from = all.length;
        for (let span = 0; from > 0 && span < SPAN; from--) span += all[from - 1][SECONDS];
        shown = all.slice(from);
      }
      figures(tile, state, shown);
      draw();
      tell();
    },
  };
}

function axis(pen, width, top, floor, most, unit) {
  pen.strokeStyle = ink("--grid");
  pen.fillStyle = ink("--muted");
  pen.lineWidth = 1;
  for (const y of [top, floor]) {
    pen.beginPath();
    pen.moveTo(LEFT, y + 0.5);
    pen.lineTo(width, y + 0.5);
    pen.stroke();
  }
  pen.textAlign = "right";
  pen.fillText(most, LEFT - 5, top + 8);
  if (unit) pen.fillText(unit, LEFT - 5, top + 22);
  pen.fillText("0", LEFT - 5, floor + 1);
}

function figures(tile, state, steps) {
  const sum = (place) => steps.reduce((all, step) => all + step[place], 0);
  const seen = sum(SECONDS);
  const tokens = sum(DECODE) + sum(PREFILL) + sum(DRAFTED);
  const { stats, steps: told } = state.report;
  tile("Steps", count(stats ? stats.steps_total : null), "since the engine's start");
  tile("Tokens in a step", steps.length ? figure(tokens / steps.length, 1) : "–", `${steps.length} steps shown`);
  const sorted = steps.map((step) => step[SECONDS]).sort((a, b) => a - b);
  tile("A step", seconds(sorted[Math.floor(sorted.length / 2)]), "at the median");
  tile("Engine's own part", seen ? percent(1 - sum(COMPUTING) / seen) : "–", "scheduling, text, sending");
  const error = stats && stats.step_cost_error;
  tile("Prediction error", error === null ? "–" : percent(error), told && told.calibrated ? "median; calibrated here" : "not calibrated yet");
}
