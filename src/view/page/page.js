// The page: which slice is shown, and the panels around it.

import { connect, sliceOf, slicesOf } from "./link.js";
import { draw } from "./picture.js";

const $ = (id) => document.getElementById(id);
const PHASES = { receiving: "receiving", segmenting: "segmenting the whole series", complete: "complete", failed: "failed" };
const MASKS = { none: "no mask yet", provisional: "provisional", final: "final" };

const view = {
  state: null, // of all series
  stateAt: 0, // when it came
  series: null, // id of the series that is shown
  slices: [], // of that series, by location
  changes: -1, // of the series when `slices` came
  shown: null, // the slice
  follow: true,
  hidden: new Set(), // classes
  window: null, // [low, high]; null: automatic
};

const summary = (id) => view.state?.series.find((series) => series.id === id);

// ---- which slice is shown

function onSlice(slice) {
  // Another series is not shown while this one arrives.
  if (!view.follow || (slice.series !== view.series && summary(view.series)?.phase === "receiving")) return;
  view.series = slice.series;
  show(slice);
}

function show(slice) {
  view.shown = slice;
  requestAnimationFrame(render);
}

/** Runs `work` now, or once more after the run that is under way: the last request counts, and they never pile up. */
function newestOf(work) {
  let running = false;
  let again = false;
  return async function start() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await work();
    } catch {
      // The connection is lost, and is tried again elsewhere.
    }
    running = false;
    if (again) {
      again = false;
      start();
    }
  };
}

let wanted = null; // index of the slice to fetch
const fetchWanted = newestOf(async () => {
  const [series, index] = [view.series, wanted];
  const slice = series === null || index === null ? null : await sliceOf(series, index);
  if (slice && series === view.series && index === wanted) show(slice);
});

function want(index) {
  wanted = index;
  fetchWanted();
}

const fetchSlices = newestOf(async () => {
  const of = summary(view.series);
  if (!of || (of.changes === view.changes && view.slices.length)) return;
  const changes = of.changes;
  view.slices = (await slicesOf(of.id)) ?? [];
  view.changes = changes;
  // The slice may have got its mask, or a final one, without being sent here.
  if (view.slices.length && (!view.follow || view.shown?.series !== of.id)) want(view.shown?.series === of.id ? view.shown.index : of.newest);
  else if (view.follow && view.shown && maskOf(view.shown.index) !== view.shown.mask) want(view.shown.index);
  requestAnimationFrame(render);
});

const maskOf = (index) => view.slices.find((slice) => slice.index === index)?.mask;

function choose(series) {
  view.series = series;
  view.slices = [];
  view.changes = -1;
  setFollow(summary(series)?.phase === "receiving");
  wanted = summary(series)?.newest ?? null;
  fetchWanted();
  fetchSlices();
}

function setFollow(follow) {
  view.follow = follow;
  $("follow").setAttribute("aria-pressed", follow);
}

function step(by) {
  const place = view.slices.findIndex((slice) => slice.index === view.shown?.index);
  const next = view.slices[place + by];
  if (place < 0 || !next) return;
  setFollow(false);
  want(next.index);
}

function live() {
  setFollow(true);
  const newest = [...(view.state?.series ?? [])].reverse().find((series) => series.newest !== null);
  if (newest) choose(newest.id);
  setFollow(true);
}

// ---- state

function onState(state) {
  const isFirst = view.state === null;
  view.state = state;
  view.stateAt = performance.now();
  if (view.series === null || !summary(view.series)) {
    const newest = [...state.series].reverse().find((series) => series.newest !== null);
    if (newest) {
      view.series = newest.id;
      view.slices = [];
      want(newest.newest);
    } else if (!isFirst && view.shown) {
      view.series = null;
      show(null);
    }
  }
  fetchSlices();
  requestAnimationFrame(render);
}

function onLink(kind, text) {
  $("link").className = kind;
  $("link").textContent = text;
}

// ---- panels

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const names = (text) => text.replaceAll("_", " ");
const seconds = (value) => (value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`);

function bar({ images, provisional, final, expected }) {
  const all = Math.max(images, expected ?? 0, 1);
  const picture = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none" });
  let at = 0;
  const parts = [[final, "#45b48a"], [provisional, "#e0a83a"], [Math.max(images - final - provisional, 0), "#5a626e"]];
  picture.append(svg("rect", { width: 100, height: 4, fill: "#262b33" }));
  for (const [count, fill] of parts) {
    picture.append(svg("rect", { x: at, width: (100 * count) / all, height: 4, fill }));
    at += (100 * count) / all;
  }
  return picture;
}

function listSeries() {
  const series = view.state?.series ?? [];
  $("no-series").hidden = series.length > 0;
  const rows = [...series].reverse().map((one) => {
    const counts = one.expected ? `${one.images} of ${one.expected} images` : `${one.images} images`;
    const button = element("button", { type: "button", title: one.error ?? "" },
      element("span", { className: "name", textContent: one.name ?? one.id }),
      element("span", { className: `phase ${one.phase}`, textContent: one.error ?? PHASES[one.phase] }),
      element("span", { className: "phase", textContent: counts + (one.dropped ? `, ${one.dropped} no longer kept` : "") }),
      bar(one));
    button.setAttribute("aria-current", one.id === view.series);
    button.onclick = () => choose(one.id);
    return element("li", {}, button);
  });
  const focused = [...$("series").querySelectorAll("button")].indexOf(document.activeElement);
  $("series").replaceChildren(...rows);
  if (focused >= 0) $("series").querySelectorAll("button")[focused]?.focus();
}

function listClasses() {
  const classes = (view.state?.classes ?? []).map((one, label) => ({ ...one, label })).filter(({ colour }) => colour);
  const key = classes.map(({ name, colour }) => name + colour).join();
  if ($("classes").dataset.key !== key) {
    $("classes").dataset.key = key;
    $("classes").replaceChildren(...classes.map(({ name, colour, label }) => {
      const box = element("input", { type: "checkbox", checked: !view.hidden.has(label) });
      box.onchange = () => {
        view.hidden[box.checked ? "delete" : "add"](label);
        render();
      };
      const mark = svg("svg", { viewBox: "0 0 12 12" });
      mark.append(svg("rect", { width: 12, height: 12, rx: 3, fill: colour }));
      const area = element("span", { className: "area" });
      return element("li", {}, element("label", {}, box, mark, element("span", { textContent: names(name) }), area));
    }));
  }
  const counts = new Array(256).fill(0);
  view.shown?.mask_pixels?.forEach((label) => counts[label]++);
  const pixel = view.shown?.placement ? view.shown.placement.spacing[0] * view.shown.placement.spacing[1] / 100 : null;
  [...$("classes").querySelectorAll(".area")].forEach((area, place) => {
    const count = counts[classes[place].label];
    area.textContent = view.shown?.mask_pixels && pixel ? `${(count * pixel).toFixed(1)} cm²` : "";
  });
}

function listTimes() {
  const { latency, viewers, lost } = view.state ?? {};
  const one = summary(view.series);
  const rows = [];
  if (one) {
    const waits = one.waiting_since_ns === null
      ? 0 : (view.state.now_ns - one.waiting_since_ns) * 1e-9 + (performance.now() - view.stateAt) / 1000;
    rows.push(["Images without mask", String(one.waiting)]);
    if (one.waiting) rows.push(["the first waits for", seconds(waits)]);
  }
  if (latency?.mask_secs) {
    rows.push(["Image to mask", seconds(latency.mask_secs.median)], ["95 % below", seconds(latency.mask_secs.p95)]);
  }
  if (latency?.page_secs) rows.push(["Mask to page", seconds(latency.page_secs.median)]);
  if (viewers) rows.push(["Open pages", String(viewers)]);
  if (lost) rows.push(["Not shown in time", String(lost)]);
  $("times").replaceChildren(...rows.flatMap(([name, value]) => [
    element("dt", { textContent: name }), element("dd", { textContent: value })]));
}

function drawStrip() {
  const canvas = $("strip");
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d");
  context.fillStyle = "#262b33";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const colours = { none: "#5a626e", provisional: "#e0a83a", final: "#45b48a" };
  const width = canvas.width / Math.max(view.slices.length, 1);
  view.slices.forEach(({ index, mask }, place) => {
    const isShown = index === view.shown?.index;
    context.fillStyle = isShown ? "#ffffff" : colours[mask];
    const gap = width > 4 ? ratio : 0;
    context.fillRect(place * width, isShown ? 0 : canvas.height * 0.2, width - gap, isShown ? canvas.height : canvas.height * 0.6);
  });
}

function placeSlider() {
  const place = view.slices.findIndex((slice) => slice.index === view.shown?.index);
  $("slider").max = Math.max(view.slices.length - 1, 0);
  $("slider").disabled = view.slices.length < 2;
  if (place >= 0) $("slider").value = place;
  $("position").textContent = place >= 0 ? `${place + 1} / ${view.slices.length}` : "";
}

// ---- grey window

function greyWindow() {
  return view.window ?? view.shown?.window ?? [0, 1];
}

function setWindow(level, width) {
  view.window = [level - width / 2, level + width / 2];
  render();
}

function showWindow() {
  const [low, high] = greyWindow();
  const [from, to] = view.shown?.window ?? [0, 1];
  const range = to - from;
  const number = (value) => (range > 20 ? value.toFixed(0) : value.toPrecision(3));
  Object.assign($("level"), { min: from - range / 2, max: to + range / 2, value: (low + high) / 2 });
  Object.assign($("width"), { min: range / 100, max: range * 2, value: high - low });
  $("level-value").textContent = number((low + high) / 2);
  $("width-value").textContent = number(high - low);
  $("auto").setAttribute("aria-pressed", view.window === null);
  $("grey").textContent = view.shown ? `L ${number((low + high) / 2)}  W ${number(high - low)}` : "";
}

function dragWindow(event) {
  if (!view.shown || event.buttons !== 1) return;
  const [low, high] = greyWindow();
  const unit = (view.shown.window[1] - view.shown.window[0]) / 400;
  setWindow((low + high) / 2 - event.movementY * unit, Math.max(high - low + event.movementX * unit, unit));
}

// ---- everything

function render() {
  const { shown } = view;
  const one = shown && summary(shown.series);
  const colours = (view.state?.classes ?? []).map(({ colour }, label) => (view.hidden.has(label) ? null : colour));
  $("picture").dataset.index = shown?.index ?? "";
  $("picture").dataset.mask = shown?.mask ?? "";
  draw($("picture"), shown, { window: greyWindow(), colours, fill: $("fill").checked });
  $("no-picture").hidden = Boolean(shown);
  $("case").textContent = one?.name ?? shown?.series ?? "";
  $("place").textContent = shown
    ? `image ${shown.index + 1}` + (shown.placement ? ` · ${shown.placement.location.toFixed(1)} mm` : "") : "";
  $("mask").className = `badge ${shown?.mask ?? ""}`;
  $("mask").textContent = shown ? MASKS[shown.mask] : "";
  $("size").textContent = shown ? `${shown.columns} × ${shown.rows}` : "";
  showWindow();
  listSeries();
  listClasses();
  listTimes();
  placeSlider();
  drawStrip();
}

$("follow").onclick = () => (view.follow ? setFollow(false) : live());
$("slider").oninput = () => {
  const slice = view.slices[Number($("slider").value)];
  setFollow(false);
  if (slice) want(slice.index);
};
$("fill").onchange = render;
$("auto").onclick = () => {
  view.window = view.window === null ? [...greyWindow()] : null;
  render();
};
for (const id of ["level", "width"]) $(id).oninput = () => setWindow(Number($("level").value), Number($("width").value));
$("picture").onpointerdown = (event) => $("picture").setPointerCapture(event.pointerId);
$("picture").onpointermove = dragWindow;
$("picture").onwheel = (event) => step(Math.sign(event.deltaY));
addEventListener("keydown", (event) => {
  if (event.target.type === "range" || event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), l: live, L: live, a: $("auto").onclick, A: $("auto").onclick };
  keys[event.key]?.();
});
addEventListener("resize", render);
setInterval(listTimes, 500);
connect({ onState, onSlice, onLink });
render();
