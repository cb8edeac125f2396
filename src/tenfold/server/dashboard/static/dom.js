// Elements and figures in words. Texts are only ever set as text.

export const at = (id) => document.getElementById(id);

export function make(tag, options = {}, ...children) {
  const { text, ...attributes } = options;
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

/** Set a text where it is another: what stays is not drawn anew, and a reader is not told twice. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Have one child of `parent` for each of `items`, in their order: those with a known key are kept, so focus stays where
 * it is; those that are gone are removed, so nothing grows.
 */
export function fill(parent, items, keyOf, create, update) {
  const wanted = new Set(items.map((item) => String(keyOf(item))));
  const known = new Map();
  for (const node of [...parent.children]) {
    if (wanted.has(node.dataset.key) && !known.has(node.dataset.key)) known.set(node.dataset.key, node);
    else node.remove();
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let node = known.get(key);
    if (!node) {
      node = create(item);
      node.dataset.key = key;
    }
    if (node === place) place = place.nextElementSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  }
}

/** Named figures, each with a line below it: `set(name, figure, more, tone)`. */
export function tiles(list, names) {
  const made = new Map();
  for (const name of names) {
    const figure = make("dd", { text: "–" });
    const more = make("dd", { class: "more" });
    list.append(make("div", {}, make("dt", { text: name }), figure, more));
    made.set(name, [figure, more]);
  }
  return (name, figure, more = "", tone = "") => {
    const [one, two] = made.get(name);
    say(one, figure);
    say(two, more);
    one.className = tone;
  };
}

/** A table with these heads: the function it gives takes its rows, arrays of texts. */
export function table(node, heads) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { text, scope: "col" })));
  const body = make("tbody");
  node.append(make("thead", {}, head), body);
  return (rows) => {
    const create = () => make("tr", {}, ...heads.map(() => make("td")));
    const update = (line, [, row]) => row.forEach((text, column) => say(line.children[column], text));
    fill(body, [...rows.entries()], ([number]) => number, create, update);
  };
}

export function option(select, values) {
  const more = values.filter((value) => ![...select.options].some((one) => one.value === value));
  select.append(...more.map((value) => make("option", { value, text: value })));
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3) return (value * 1e6).toFixed(0) + " µs";
  if (size < 0.1) return (value * 1e3).toFixed(1) + " ms";
  if (size < 1) return (value * 1e3).toFixed(0) + " ms";
  if (size < 100) return value.toFixed(2) + " s";
  return size < 7200 ? (value / 60).toFixed(1) + " min" : (value / 3600).toFixed(1) + " h";
}

export function count(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
}

export function figure(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

export function percent(part) {
  return part === null || !Number.isFinite(part) ? "–" : (part * 100).toFixed(part > 0.995 && part < 1 ? 2 : 0) + " %";
}

/** Money of no currency: as many digits as it takes. */
export function money(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : value.toPrecision(3).replace(/e-(\d+)$/, " × 10⁻$1");
}
