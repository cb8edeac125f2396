// What users see: latencies, goodput, the queue.

import { lines } from "./chart.js";
import { at, count, figure, percent, say, seconds, table, tiles } from "./dom.js";
import { kept, lastMinute, quantile, rate, total } from "./state.js";

const TILES = ["TTFT, p50", "ITL, p50", "Goodput", "Output tokens", "Running", "Waiting", "KV memory", "Refused"];

export function trafficView() {
  const tile = tiles(at("tiles"), TILES);
  const p50 = { name: "p50", colour: "--s1" };
  const p95 = { name: "p95", colour: "--s2" };
  const charts = [
    lines(
      at("chart-ttft"),
      "Time to first token (TTFT), last minute",
      [{ ...p50, of: (one) => one.ttft50 }, { ...p95, of: (one) => one.ttft95 }],
      seconds,
    ),
    lines(
      at("chart-itl"),
      "Gap between tokens (ITL), last minute",
      [{ ...p50, of: (one) => one.itl50 }, { ...p95, of: (one) => one.itl95 }],
      seconds,
    ),
    lines(
      at("chart-rate"),
      "Answers per second",
      [
        { name: "ended", colour: "--s1", of: (one) => one.rate },
        { name: "kept their bounds (goodput)", colour: "--s3", of: (one) => one.good, dash: [6, 4] },
      ],
      tenths,
    ),
    lines(
      at("chart-queue"),
      "Requests in the engine",
      [
        { name: "running", colour: "--s1", of: (one) => one.running },
        { name: "waiting", colour: "--s2", of: (one) => one.waiting },
      ],
      tenths,
    ),
  ];
  const rows = table(at("classes"), [
    "class", "bounds", "ended, last minute", "goodput / s", "kept", "TTFT missed", "TPOT missed", "both", "waiting",
  ]);

  return {
    update(state) {
      const window = lastMinute(state);
      if (!window) return;
      const { stats, served } = state.report;
      const ended = total(window.ended);
      const good = kept(window);
      tile("TTFT, p50", seconds(quantile(window.ttft, 0.5)), more(window.ttft));
      tile("ITL, p50", seconds(quantile(window.itl, 0.5)), more(window.itl));
      const share = ended ? good / ended : null;
      const tone = share === null ? "" : share >= served.slo_target ? "good" : "warn";
      tile("Goodput", figure(rate(good, window.seconds)) + " / s", ended ? percent(share) + " kept their bounds" : "", tone);
      tile("Output tokens", count(rate(window.output_tokens, window.seconds)) + " / s", prompts(window));
      if (stats) {
        tile("Running", count(stats.running), served.max_running ? `of ${served.max_running} places` : "");
        tile("Waiting", count(stats.waiting), "", stats.waiting ? "warn" : "");
        tile("KV memory", percent(stats.blocks_held / stats.blocks), `${count(stats.blocks_cached)} blocks cached`);
        const refused = total(stats.refused_total);
        tile("Refused", count(refused), "429s since the start", refused ? "warn" : "");
      }
      for (const draw of charts) draw(state.samples.items);
      rows(served.classes.map((one) => classRow(one, window, stats)));
      say(
        at("classes-note"),
        `Of the last ${Math.round(window.seconds)} s. Kept: both bounds, or none was promised; target ${percent(served.slo_target)}.`,
      );
    },
  };
}

function tenths(value) {
  return value === null || value === undefined ? "–" : String(Math.round(value * 10) / 10);
}

function more(spread) {
  return `p95 ${seconds(quantile(spread, 0.95))}, p99 ${seconds(quantile(spread, 0.99))}`;
}

function prompts(window) {
  return count(rate(window.prompt_tokens, window.seconds)) + " / s of prompts";
}

function classRow(one, window, stats) {
  const ended = window.ended[one.name] || 0;
  const told = window.outcomes[one.name] || {};
  const bounds = [one.ttft && "TTFT " + seconds(one.ttft), one.tpot && "TPOT " + seconds(one.tpot)].filter(Boolean);
  const good = ended - total(told) + (told.met || 0);
  return [
    one.name,
    bounds.join(", ") || "none",
    count(ended),
    figure(rate(good, window.seconds)),
    ended ? percent(good / ended) : "–",
    count(told.ttft_missed || 0),
    count(told.tpot_missed || 0),
    count(told.both_missed || 0),
    count(stats ? stats.waiting_by_class[one.name] || 0 : null),
  ];
}
