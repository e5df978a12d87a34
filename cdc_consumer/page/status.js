// Draws status.json every few seconds. All text goes through textContent: ids of ships are only ever text.
"use strict";

const EVERY_MS = 5000, BUSY_MS = 1000;
const SVG = "http://www.w3.org/2000/svg";
const STATES = { v: ["✓", "verified"], d: ["", "done"], r: ["›", "running"], w: ["·", "waiting"], f: ["!", "failed"], ".": ["", "nothing planned"] };
const byId = (id) => document.getElementById(id);
let paused = false, timer;

// -- text ---------------------------------------------------------------------------------------------------

const count = (n) => n == null ? "–" : Math.round(n).toLocaleString("en");

function compact(n) {
  if (n == null) return "–";
  return Math.abs(n) < 10000 ? count(n) : n.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

function bytes(n) {
  if (n == null) return "unknown";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  for (; Math.abs(n) >= 1000 && power < units.length - 1; power++) n /= 1000;
  return `${n.toFixed(power && n < 100 ? 1 : 0)} ${units[power]}`;
}

function duration(seconds) {
  if (seconds == null) return "–";
  const s = Math.abs(seconds);
  const text = s < 1 ? "0 s" : s < 120 ? `${Math.round(s)} s` : s < 7200 ? `${Math.round(s / 60)} min`
    : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
  return seconds < -1 ? `${text} ahead` : text;
}

const moment = (text) => text ? text.replace("T", " ").replace("+00:00", "") : "–";

// -- elements -------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawing(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// `commands` in a sentence become code.
const withCode = (text) => text.split("`").map((part, at) => at % 2 ? element("code", {}, part) : part);
const cell = (text, number = true) => element("td", number ? { class: "number" } : {}, text);
const head = (text, number = false) => element("th", { scope: "row", ...(number ? { class: "number" } : {}) }, text);
const row = (...cells) => element("tr", {}, ...cells);

function rows(id, made, columns, nothing) {
  byId(id).replaceChildren(...(made.length ? made : [row(element("td", { colspan: columns }, nothing))]));
}

// -- parts of the page ------------------------------------------------------------------------------------------

function verdict(status) {
  const level = status.problems.some((it) => it.level === "bad") ? "bad" : status.problems.length ? "warn" : "good";
  const many = status.problems.length;
  const sentence = many ? `${many} ${many === 1 ? "thing needs" : "things need"} a look` : "All is well";
  byId("verdict").className = level;
  byId("mark").textContent = level === "good" ? "✓" : "!";
  if (byId("sentence").textContent !== sentence) byId("sentence").textContent = sentence;
  document.title = `${many ? `(${many}) ` : ""}narrow-to-wide: ${status.pipeline}`;
  byId("problems").hidden = !many;
  byId("problem-list").replaceChildren(...status.problems.map((it) => element("li", { class: it.level }, ...withCode(it.text))));
}

function tiles(status) {
  const facts = status.facts;
  const late = Math.max(0, ...status.partitions.map((it) => it.late_s));
  const known = status.partitions.length > 0;
  const lag = status.partitions.reduce((sum, it) => sum + it.lag, 0);
  const last = (series) => series.length ? series[series.length - 1] : null;
  const dead = Object.values(status.dead).reduce((sum, n) => sum + n, 0);
  const made = [
    ["Latest partition", !known ? "unknown" : late < 1 ? "on time" : duration(late), known ? `${compact(lag)} records not applied` : "no partition seen yet", late > 3600 ? "bad" : late > 300 ? "warn" : ""],
    ["Samples", `${compact(last(status.rates.samples_per_s))}/s`, `${compact(last(status.rates.rows_per_s))} wide rows/s`, ""],
    ["Proven up to", facts.verified_age_s == null ? "not yet" : `${duration(facts.verified_age_s)} ago`, `${count(facts.verified_ships)} of ${count(facts.ships)} ships`, facts.verify_required ? "warn" : ""],
    ["WAL kept by the slot", bytes(facts.retained_bytes), facts.budget_bytes == null ? "no limit known" : `${bytes(facts.budget_bytes)} left`, status.wal_level],
    ["Dead cells", status.dead_known ? count(dead) : "unknown", `${count(facts.overflow)} cells in overflow`, dead ? "warn" : ""],
  ];
  byId("tiles").replaceChildren(...made.map(([name, value, note, level]) => element("div", { class: level },
    element("dt", {}, name), element("dd", { class: "value" }, value), element("dd", { class: "note" }, note))));
}

function chart(name, series, show, every) {
  const most = Math.max(...series, 0), width = Math.max(1, series.length - 1);
  const y = (n) => (40 - (most ? 38 * n / most : 0)).toFixed(2);
  const points = series.map((n, x) => `${x},${y(n)}`).join(" ");
  const now = series.length ? show(series[series.length - 1]) : "–";
  const words = series.length ? `${name}: now ${now}, at most ${show(most)}.` : `${name}: no figures yet.`;
  const svg = drawing("svg", { viewBox: `0 0 ${width} 41`, preserveAspectRatio: "none", role: "img", "aria-label": words },
    drawing("line", { class: "base", x1: 0, x2: width, y1: 40.5, y2: 40.5 }));
  if (series.length > 1) svg.append(drawing("polygon", { class: "area", points: `0,40 ${points} ${width},40` }),
    drawing("polyline", { class: "line", points }));
  return element("figure", {}, element("figcaption", {}, element("span", {}, name), element("b", {}, now)), svg,
    element("div", { class: "axis" }, element("span", {}, `${duration(series.length * every)} ago`), element("span", {}, `at most ${show(most)}`), element("span", {}, "now")));
}

function charts(rates) {
  byId("charts").replaceChildren(
    chart("Samples applied", rates.samples_per_s, (n) => `${compact(n)}/s`, rates.every_s),
    chart("Wide rows written", rates.rows_per_s, (n) => `${compact(n)}/s`, rates.every_s),
    chart("Latest partition waits", rates.late_s, duration, rates.every_s));
}

function partitions(all) {
  const most = Math.max(1, ...all.map((it) => it.lag));
  rows("partitions", all.map((it) => row(head(String(it.partition), true), cell(count(it.lag)),
    element("td", { class: "bar", "aria-hidden": "true" }, drawing("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" },
      drawing("rect", { width: 100 * it.lag / most, height: 10, rx: 1 }))),
    cell(it.late_s < 1 ? "–" : duration(it.late_s)), cell(it.offset == null ? "not claimed" : count(it.offset)))), 5, "No partition is assigned to this instance, or none has been seen yet.");
}

function ships(all, now) {
  rows("ships", all.map((it) => row(head(it.ship), cell(moment(it.newest), false),
    cell(it.newest ? duration((now - Date.parse(it.newest)) / 1000) : "–"), cell(moment(it.verified), false))), 4, "No ship has wide tables yet.");
}

function summary(cells) {
  const of = (letter) => [...cells].filter((it) => it === letter).length;
  const planned = cells.length - of(".");
  const parts = [`${of("v") + of("d")} of ${planned} done`, `${of("v")} verified`];
  if (of("f")) parts.push(`${of("f")} failed`);
  return parts.join(", ");
}

function heat(history) {
  if (!history) {
    byId("heat-caption").textContent = "Nothing was planned yet: backfill run copies history.";
    byId("heat-head").replaceChildren();
    byId("heat").replaceChildren();
    return;
  }
  const { days, bucket_days: size } = history;
  const each = size === 1 ? "day" : `${size} days`;
  byId("heat-caption").textContent = `Ships and days from ${days[0]}; each square is ${size === 1 ? "a day" : `${size} days`}.`;
  byId("heat-table").classList.toggle("long", days.length > 45);
  const step = Math.max(1, Math.ceil(days.length / 7)), marks = [];
  for (let at = 0; at < days.length; at += step) marks.push(element("td", { colspan: Math.min(step, days.length - at) }, days[at].slice(5)));
  byId("heat-head").replaceChildren(element("tr", { "aria-hidden": "true" }, element("td"), element("td"), ...marks));
  byId("heat").replaceChildren(...history.rows.map((it) => row(head(it.ship), element("td", { class: "summary" }, summary(it.cells)), ...[...it.cells].map((letter, at) => {
    const [mark, word] = STATES[letter];
    const square = element("span", { class: `cell ${letter === "." ? "none" : letter}`, title: `${it.ship}, ${each} from ${days[at]}: ${word}` }, mark);
    return element("td", { "aria-hidden": "true" }, square);
  }))));
}

function backfill(status) {
  const slices = status.slices, facts = status.facts;
  if (!slices) { byId("backfill").textContent = "How far history is copied is not known at present."; return; }
  const all = Object.values(slices).reduce((sum, n) => sum + n, 0);
  const parts = [`${count(slices.done)} of ${count(all)} slices done, ${compact(facts.rows)} rows copied`];
  if (facts.rows_per_s > 0) parts.push(`${compact(facts.rows_per_s)} rows/s`);
  if (facts.eta_s > 0) parts.push(`about ${duration(facts.eta_s)} left`);
  if (slices.failed) parts.push(`${count(slices.failed)} failed`);
  byId("backfill").textContent = all ? `${parts.join(", ")}.` : "";
}

function source(status) {
  const facts = status.facts, made = [];
  const add = (name, ...value) => made.push(element("dt", {}, name), element("dd", {}, ...value));
  add("Connector", status.connector ?? "unknown");
  add("Replication slot", facts.slot_active == null ? "unknown" : facts.slot_active ? "is read" : "is not read");
  add("WAL kept", bytes(facts.retained_bytes));
  if (facts.budget_bytes != null) {
    const whole = facts.budget_bytes + facts.retained_bytes;
    const used = element("meter", { min: 0, max: whole, high: 0.5 * whole, low: 0.5 * whole, optimum: 0, value: facts.retained_bytes, "aria-label": "WAL budget used" });
    add("WAL budget", used, ` ${Math.round(100 * facts.retained_bytes / whole)} % used, ${bytes(facts.budget_bytes)} left`);
  } else add("WAL budget", "no limit known (max_slot_wal_keep_size)");
  add("Heartbeat", facts.heartbeat_age_s == null ? "unknown" : `${duration(facts.heartbeat_age_s)} old`);
  add("Settled position", facts.settled_age_s == null ? "unknown" : `moved ${duration(facts.settled_age_s)} ago`);
  byId("source").replaceChildren(...made);
}

function dead(status) {
  const all = Object.entries(status.dead).map(([reason, cells]) => row(head(reason), cell(count(cells))));
  rows("dead", all, 2, status.dead_known ? "None." : "Not known at present.");
}

// -- the loop -----------------------------------------------------------------------------------------------------

function draw(status) {
  byId("pipeline").textContent = status.pipeline;
  verdict(status);
  tiles(status);
  charts(status.rates);
  backfill(status);
  heat(status.history);
  ships(status.ships, Date.parse(status.at));
  partitions(status.partitions);
  source(status);
  dead(status);
  byId("updated").textContent = new Date(status.at).toLocaleTimeString();
  byId("updated").setAttribute("datetime", status.at);
  document.body.dataset.drawn = "yes";
  document.dispatchEvent(new CustomEvent("drawn", { detail: status }));
  return status.exports?.some((it) => it.state === "running") ? BUSY_MS : EVERY_MS;
}

async function refresh() {
  let next = EVERY_MS;
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch("status.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      next = draw(await answer.json());
    } catch (error) {
      byId("verdict").className = "bad";
      byId("mark").textContent = "!";
      byId("sentence").textContent = "No answer from cdc-consumer: what is below may be old";
    }
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, next);
}

byId("pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
});
document.addEventListener("DOMContentLoaded", refresh);
