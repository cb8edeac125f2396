// Pictures on a canvas: a fixed number of pixels, however long the page is open.

import { make, say } from "./dom.js";

let probe = null;
let known = new Map();

/** A colour of the style sheet as it is now, in light or dark. */
export function ink(name) {
  if (!known.has(name)) {
    if (!probe) {
      probe = make("span", { hidden: "" });
      document.body.append(probe);
    }
    probe.style.color = `var(${name})`;
    known.set(name, getComputedStyle(probe).color);
  }
  return known.get(name);
}

/** The theme has changed. */
export function forgetInk() {
  known = new Map();
}

/** A canvas as sharp as its screen, cleared; null while it is not shown. */
export function open(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return null;
  const scale = Math.min(window.devicePixelRatio || 1, 3);
  const pixels = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}

/** A round number that is no smaller. */
export function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((one) => one * power >= value * 0.9999) * power;
}

const LEFT = 54;
const BOTTOM = 20;

/** Lines over the last minutes: `draw(samples)`; `series` are name, colour, and what of a sample. */
export function lines(figure, title, series, tell) {
  const canvas = make("canvas", { role: "img", "aria-label": title });
  const legend = make("ul", { class: "legend" });
  const told = series.map(({ name, colour }) => {
    const mark = make("i");
    mark.style.background = `var(${colour})`;
    const value = make("b");
    legend.append(make("li", {}, mark, name + " ", value));
    return value;
  });
  figure.append(make("figcaption", { text: title }), canvas, legend);
  return (samples) => {
    const last = samples[samples.length - 1];
    series.forEach(({ of }, number) => say(told[number], last ? tell(of(last)) : "–"));
    const words = series.map(({ name }, number) => `${name} ${told[number].textContent}`);
    canvas.setAttribute("aria-label", `${title}: ${words.join(", ")}`);
    const paper = open(canvas);
    if (paper) draw(paper, samples, series, tell);
  };
}

function draw({ pen, width, height }, samples, series, tell) {
  const now = samples.length ? samples[samples.length - 1].at : 0;
  const span = Math.min(600, Math.max(60, now - (samples.length ? samples[0].at : 0)));
  const top = roundUp(samples.reduce((most, one) => Math.max(most, ...series.map(({ of }) => of(one) || 0)), 0));
  const x = (when) => LEFT + (width - LEFT - 4) * (1 - (now - when) / span);
  const y = (value) => height - BOTTOM - (height - BOTTOM - 8) * (value / top);
  pen.strokeStyle = ink("--grid");
  pen.fillStyle = ink("--muted");
  pen.lineWidth = 1;
  for (const part of [0, 0.5, 1]) {
    const line = Math.round(y(top * part)) + 0.5;
    pen.beginPath();
    pen.moveTo(LEFT, line);
    pen.lineTo(width - 4, line);
    pen.stroke();
    pen.textAlign = "right";
    pen.fillText(tell(top * part), LEFT - 6, line + 4);
  }
  pen.textAlign = "left";
  pen.fillText(span > 90 ? `${Math.round(span / 60)} min ago` : `${Math.round(span)} s ago`, LEFT, height - 4);
  pen.textAlign = "right";
  pen.fillText("now", width - 4, height - 4);
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  for (const { colour, of, dash } of series) {
    pen.strokeStyle = ink(colour);
    pen.setLineDash(dash || []);
    pen.beginPath();
    let open = false;
    for (const one of samples) {
      const value = of(one);
      if (value === null || value === undefined || now - one.at > span) {
        open = false;
        continue;
      }
      if (open) pen.lineTo(x(one.at), y(value));
      else pen.moveTo(x(one.at), y(value));
      open = true;
    }
    pen.stroke();
  }
  pen.setLineDash([]);
}

/** A legend that does not change: names and colours. */
export function legend(list, entries) {
  for (const [name, colour] of entries) {
    const mark = make("i");
    mark.style.background = `var(${colour})`;
    list.append(make("li", {}, mark, name));
  }
}

/** Have the arrow keys, Home and End, and the pointer choose among what a canvas shows; `told` says what that is. */
export function choosing(canvas, { told, length, current, choose, find, row = 1 }) {
  canvas.addEventListener("focus", () => {
    told.setAttribute("aria-live", "polite"); // only now: it also changes by itself, once a second
    if (current() === null && length()) choose(length() - 1);
  });
  canvas.addEventListener("blur", () => told.setAttribute("aria-live", "off"));
  canvas.addEventListener("keydown", (event) => {
    const all = length();
    if (!all) return;
    const from = current() ?? all - 1;
    const by = typeof row === "function" ? row() : row;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, ArrowUp: from - by, ArrowDown: from + by, Home: 0, End: all - 1 };
    if (!(event.key in to)) return;
    event.preventDefault();
    choose(Math.min(all - 1, Math.max(0, to[event.key])));
  });
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    choose(find(event.clientX - box.left, event.clientY - box.top));
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
}
