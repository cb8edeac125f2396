// What requests used of the machine, and what that costs where there is a price.

import { at, count, figure, money, percent, say, seconds, table, tiles } from "./dom.js";

const ROWS = 100;

export function costView() {
  const tile = tiles(at("cost-tiles"), ["So far", "Machine busy", "Per 1,000 output tokens", "Ended requests' part"]);
  const rows = table(at("bill"), ["class", "tenant", "machine time", "part", "cost"]);

  return {
    update(state) {
      const { stats, served } = state.report;
      if (!stats) return;
      const cost = (used) => (served.price === null ? null : (used * served.price) / 3600);
      const lines = Object.entries(stats.billed_seconds_total).flatMap(([name, tenants]) =>
        Object.entries(tenants).map(([tenant, used]) => ({ name, tenant, used })),
      );
      lines.sort((a, b) => b.used - a.used);
      const billed = lines.reduce((sum, one) => sum + one.used, 0);
      const busy = stats.busy_seconds_total;
      const tokens = stats.generated_tokens_total;
      const up = state.report.now - state.report.started;
      const priced = served.price !== null;
      tile("So far", priced ? money(cost(busy)) : "–", priced ? `busy time, at ${served.price} an hour` : "no price: see below");
      tile("Machine busy", seconds(busy), `${percent(Math.min(1, busy / up))} of the time`);
      tile(
        "Per 1,000 output tokens",
        tokens ? (priced ? money((cost(busy) / tokens) * 1000) : seconds((busy / tokens) * 1000)) : "–",
        `${count(tokens)} tokens so far`,
      );
      tile("Ended requests' part", busy ? percent(billed / busy) : "–", "the rest runs, or was aborted");
      rows(
        lines.slice(0, ROWS).map(({ name, tenant, used }) => [
          name, tenant || "–", seconds(used), billed ? percent(used / billed) : "–", priced ? money(cost(used)) : "–",
        ]),
      );
      const idle = priced ? ` The machine cost ${money(cost(up))} in the ${figure(up / 3600)} h since the start, idle or not.` : "";
      say(
        at("cost-note"),
        (priced ? "A cost has the currency of the price." : "Start the server with --price 0.40 (an hour of the machine) to see costs.") +
          " Each step's time is shared out by what each request had in it." + idle,
      );
    },
  };
}
