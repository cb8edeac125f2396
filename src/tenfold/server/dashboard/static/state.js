// What is known, all of it bounded: however long the page is open, and however much passes.

export const STEPS = 1024;
export const REQUESTS = 500;
export const SAMPLES = 600; // ten minutes
const WINDOW = 60; // seconds that figures are of
const SHORT = 15; // and rates

/** The last so many of what is added. */
export class Ring {
  constructor(limit) {
    this.limit = limit;
    this.items = [];
  }
  add(...items) {
    this.items.push(...items);
    if (this.items.length > this.limit) this.items.splice(0, this.items.length - this.limit);
  }
  clear() {
    this.items.length = 0;
  }
  get length() {
    return this.items.length;
  }
  get last() {
    return this.items[this.items.length - 1];
  }
}

export function emptyState() {
  return {
    report: null,
    made: 0, // steps that were told
    ended: 0, // requests
    steps: new Ring(STEPS),
    requests: new Ring(REQUESTS),
    samples: new Ring(SAMPLES),
    pool: null,
  };
}

/** Where to ask for what is new. */
export function question(state, pool) {
  return `debug/dashboard?steps=${state.made}&requests=${state.ended}` + (pool ? "&pool=true" : "");
}

export function take(state, report) {
  if (state.report && state.report.started !== report.started) forget(state);
  state.report = report;
  if (report.steps) {
    if (report.steps.made < state.made) state.steps.clear(); // another engine: its clock is another, too
    state.steps.add(...report.steps.data);
    state.made = report.steps.made;
  }
  state.requests.add(...report.requests.data);
  state.ended = report.requests.ended;
  if (report.pool) state.pool = report.pool;
  state.samples.add(sampleOf(state, report));
}

function forget(state) {
  state.made = state.ended = 0;
  state.pool = null;
  for (const ring of [state.steps, state.requests, state.samples]) ring.clear();
}

function sampleOf(state, report) {
  const sample = { at: report.now, figures: report.figures };
  const window = since(state, sample, WINDOW);
  const short = since(state, sample, SHORT);
  return {
    ...sample,
    ttft50: quantile(window.ttft, 0.5),
    ttft95: quantile(window.ttft, 0.95),
    itl50: quantile(window.itl, 0.5),
    itl95: quantile(window.itl, 0.95),
    rate: rate(total(short.ended), short.seconds),
    good: rate(kept(short), short.seconds),
    tokens: rate(short.output_tokens, short.seconds),
    running: report.stats ? report.stats.running : null,
    waiting: report.stats ? report.stats.waiting : null,
  };
}

/** By how much the counters grew in the last minute, or as long as they were watched. */
export function lastMinute(state) {
  return state.samples.length ? since(state, state.samples.last, WINDOW) : null;
}

function since(state, now, seconds) {
  const from = state.samples.items.find((one) => one.at >= now.at - seconds) || now;
  const a = from.figures;
  const b = now.figures;
  const outcomes = {};
  for (const [name, told] of Object.entries(b.outcomes)) outcomes[name] = grown(a.outcomes[name] || {}, told);
  return {
    seconds: now.at - from.at,
    ttft: spread(a.ttft, b.ttft),
    itl: spread(a.itl, b.itl),
    prompt_tokens: b.prompt_tokens - a.prompt_tokens,
    output_tokens: b.output_tokens - a.output_tokens,
    ended: grown(a.ended, b.ended),
    answers: grown(a.answers, b.answers),
    outcomes,
  };
}

function grown(before, after) {
  return Object.fromEntries(Object.entries(after).map(([name, count]) => [name, count - (before[name] || 0)]));
}

function spread(before, after) {
  return { bounds: after.bounds, counts: after.counts.map((count, at) => count - before.counts[at]) };
}

export function total(counts) {
  return Object.values(counts).reduce((sum, one) => sum + one, 0);
}

/** Choices that kept their bounds, or had none. */
export function kept(window) {
  const missed = Object.values(window.outcomes).map((told) => total(told) - (told.met || 0));
  return total(window.ended) - missed.reduce((sum, one) => sum + one, 0);
}

export function rate(count, seconds) {
  return seconds > 0 ? count / seconds : null;
}

/** Of counts by size, in the bounds' unit, taken to be even between two bounds; null of nothing. */
export function quantile({ bounds, counts }, part) {
  const all = total(counts);
  if (!all) return null;
  let left = part * all;
  for (let at = 0; at < bounds.length; at++) {
    if (left <= counts[at]) {
      const low = at ? bounds[at - 1] : 0;
      return low + (bounds[at] - low) * (left / counts[at]);
    }
    left -= counts[at];
  }
  return bounds[bounds.length - 1];
}
