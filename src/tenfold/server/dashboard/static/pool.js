// The KV pool: a cell is a block, or several of a large pool.

import { choosing, ink, legend, open } from "./chart.js";
import { at, count, percent, say, table, tiles } from "./dom.js";

const [CACHED, HELD, SHARED, FREE, FIRST] = [0, 1, 2, 3, 4];
const WORDS = { [CACHED]: "cached: nobody holds it, but a prompt may use it again", [FREE]: "free" };
const COLOURS = 8;
const MOST = 4096; // cells
const ROWS = 100; // of the table

export function poolView() {
  const canvas = at("pool-canvas");
  const tile = tiles(at("pool-tiles"), ["Held", "Shared", "Cached", "Free", "Prompt tokens found"]);
  const rows = table(at("pool-holders"), ["request", "tenant", "class", "phase", "tokens", "blocks", "shared"]);
  let pool = null;
  let live = new Map();
  let cells = []; // what is in each, and its first block
  let grid = { columns: 1, size: 8, step: 1 };
  let chosen = null;

  legend(at("pool-legend"), [
    ["held by one (a colour each)", "--s1"],
    ["held by several", "--shared"],
    ["cached", "--cached"],
    ["free", "--free"],
  ]);

  const choose = (number) => {
    if (number === null || number >= cells.length) return;
    chosen = number;
    draw();
    tell();
  };
  choosing(canvas, {
    told: at("pool-told"),
    length: () => cells.length,
    current: () => chosen,
    choose,
    row: () => grid.columns,
    find: (x, y) => {
      const column = Math.floor(x / grid.size);
      return column < grid.columns ? Math.floor(y / grid.size) * grid.columns + column : null;
    },
  });

  function tell() {
    if (chosen === null || !cells[chosen]) {
      say(at("pool-told"), "Point at a block, or go there with the arrow keys.");
      return;
    }
    const [code, block] = cells[chosen];
    say(at("pool-told"), `Block ${count(block)}: ${words(code)}.`);
  }

  function words(code) {
    if (code === SHARED) return "held by several requests with the same prefix";
    if (code === HELD) return "held by a request that is not shown";
    if (code < FIRST) return WORDS[code];
    const one = pool.holders[code - FIRST];
    const seen = live.get(one.id);
    const whose = seen && seen.tenant ? ` of ${seen.tenant}` : "";
    return `held by ${one.id || "another tenant"}${whose}` + (seen ? `, in ${seen.phase}` : "");
  }

  /** Cells of a width that fills the canvas, and the canvas as high as they need. */
  function lay() {
    const step = Math.ceil(pool.blocks / MOST);
    const codes = [];
    let block = 0;
    let next = 0;
    for (const [code, length] of pool.runs) {
      for (; next < block + length; next += step) codes.push([code, next]);
      block += length;
    }
    cells = codes;
    const width = canvas.clientWidth || 600;
    const size = Math.max(5, Math.min(16, Math.floor(Math.sqrt((width * 300) / Math.max(cells.length, 1)))));
    const columns = Math.max(1, Math.floor(width / size));
    grid = { columns, size, step };
    const height = Math.ceil(cells.length / columns) * size + "px";
    if (canvas.style.height !== height) canvas.style.height = height;
  }

  function draw() {
    const paper = open(canvas);
    if (!paper) return;
    const { pen } = paper;
    const { columns, size } = grid;
    cells.forEach(([code], number) => {
      pen.fillStyle = ink(colour(code, pool));
      pen.fillRect((number % columns) * size, Math.floor(number / columns) * size, size - 1, size - 1);
    });
    if (chosen !== null && cells[chosen]) {
      pen.strokeStyle = ink("--accent");
      pen.lineWidth = 2;
      pen.strokeRect((chosen % columns) * size - 1, Math.floor(chosen / columns) * size - 1, size + 1, size + 1);
    }
  }

  return {
    asksPool: true,
    update(state) {
      const { stats, served } = state.report;
      pool = state.pool;
      if (!pool || !stats) return;
      live = new Map(state.report.live.map((one) => [one.id, one]));
      const sum = (wanted) => pool.runs.reduce((all, [code, length]) => all + (code === wanted ? length : 0), 0);
      const whole = pool.blocks === stats.blocks; // then it is newer than the counters
      const free = whole ? sum(FREE) : stats.blocks_free;
      const cached = whole ? sum(CACHED) : stats.blocks_cached;
      const held = stats.blocks - free - cached;
      const part = (blocks) => percent(blocks / stats.blocks);
      tile("Held", count(held), `${part(held)} of ${count(stats.blocks)} blocks`);
      tile("Shared", count(sum(SHARED)), "held by several");
      tile("Cached", count(cached), part(cached));
      tile("Free", count(free), served.block_size ? `${served.block_size} tokens each` : "");
      const asked = stats.cached_tokens_total + stats.prompt_tokens_total;
      tile("Prompt tokens found", asked ? percent(stats.cached_tokens_total / asked) : "–", "in the cache, since the start");
      lay();
      draw();
      tell();
      const holders = pool.holders.filter((one) => one.id).sort((a, b) => b.blocks - a.blocks);
      rows(holders.slice(0, ROWS).map((one) => holderRow(one, live.get(one.id))));
      const words = `${pool.blocks < stats.blocks ? "The first " : ""}${count(pool.blocks)} blocks`;
      canvas.setAttribute("aria-label", `${words}: ${count(held)} held, ${count(cached)} cached`);
    },
  };
}

/** A request keeps its colour while it lives: it follows from its name, not from its place. */
function colour(code, pool) {
  if (code === FREE) return "--free";
  if (code === CACHED) return "--cached";
  if (code === SHARED) return "--shared";
  if (code === HELD) return "--s7";
  let sum = 0;
  for (const letter of pool.holders[code - FIRST].id) sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
  return "--s" + (1 + (sum % COLOURS));
}

function holderRow(one, seen) {
  const tokens = seen ? count(seen.computed) : "–";
  const told = seen ? [seen.tenant || "–", seen.slo_class, seen.phase] : ["–", "–", "–"];
  return [one.id, ...told, tokens, count(one.blocks), count(one.shared)];
}
