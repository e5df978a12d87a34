// The section for exports. The browser itself loads the file, in bounded memory; how far it is, status.json says.
"use strict";

const DAY_MS = 86400000;
const exportForm = byId("export-form");
const exportStates = new Map();
let exportShips = "", exportTouched = false;

// A moment as the form has it; `ms` is of a moment without a time zone, taken for UTC both ways.
const formMoment = (ms) => new Date(ms).toISOString().slice(0, 19);

function say(text, level = "") {
  byId("export-said").className = level;
  byId("export-said").replaceChildren(...withCode(text));
}

// -- what is chosen -------------------------------------------------------------------------------------------

function offerShips(ships) {
  const names = JSON.stringify(ships.map((it) => it.ship));
  if (names === exportShips) return;
  exportShips = names;
  const select = byId("export-ship"), chosen = select.value;
  select.replaceChildren(...ships.map((it) => element("option", { value: it.ship }, it.ship)));
  if (ships.some((it) => it.ship === chosen)) select.value = chosen;
}

// The ship's last day, until a person says otherwise.
function offerPeriod(ships) {
  const newest = ships.find((it) => it.ship === byId("export-ship").value)?.newest;
  if (exportTouched || !newest) return;
  const end = Date.parse(newest) + 1000;
  byId("export-from").value = formMoment(end - DAY_MS);
  byId("export-to").value = formMoment(end);
}

const exportQuery = () => new URLSearchParams(new FormData(exportForm)).toString();

// -- a look, and the file -------------------------------------------------------------------------------------

async function preview() {
  byId("export-preview").hidden = true;
  say("Looking …");
  try {
    const answer = await fetch(`export.json?${exportQuery()}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    return await answer.json();
  } catch (error) {
    say(error.message, "bad");
    return null;
  }
}

function showPreview(found) {
  const waiting = found.overflow ? ` ${count(found.overflow)} cells wait in overflow and are not in the file.` : "";
  say(`About ${count(found.rows)} rows of ${count(found.channels)} channels.${waiting}`);
  const more = found.channels + 1 - found.columns.length;
  byId("export-caption").textContent = `First rows${more > 0 ? `, without ${count(more)} more channels` : ""}`;
  byId("export-head").replaceChildren(row(...found.columns.map((name) => element("th", { scope: "col" }, name))));
  rows("export-rows", found.first.map(([at, ...values]) => row(head(at), ...values.map((it) => cell(it ?? "", false)))),
    found.columns.length, "No value among the first moments.");
  byId("export-preview").hidden = false;
}

async function download() {
  if (!exportForm.reportValidity()) return;
  const query = exportQuery(), found = await preview();
  if (!found) return;
  showPreview(found);
  say(`${found.file}: the browser loads about ${count(found.rows)} rows.`);
  element("a", { href: `export?${query}`, download: found.file }).click();
  setTimeout(refresh, 300);
}

// -- how far downloads are -------------------------------------------------------------------------------------

function progressOf(it) {
  const what = `${it.ship}, ${moment(it.from)} to ${moment(it.to)}, ${it.format}`;
  if (it.state === "whole") return [`${what}: whole, ${count(it.rows)} rows, ${bytes(it.bytes)}`];
  if (it.state === "broken") return [`${what}: broken off after ${count(it.rows)} rows; nothing of it can be used`];
  const bar = element("progress", { max: Math.max(it.of, 1), value: Math.min(it.rows, it.of), "aria-label": `Rows of ${it.ship}` });
  return [bar, ` ${what}: ${count(it.rows)} of about ${count(it.of)} rows, ${bytes(it.bytes)}`];
}

// Ends are said aloud, once; what goes on is only shown.
function tellEnds(all) {
  for (const it of all) {
    if (exportStates.get(it.number) === "running" && it.state !== "running") say(progressOf(it)[0], it.state === "broken" ? "bad" : "");
    exportStates.set(it.number, it.state);
  }
}

document.addEventListener("drawn", ({ detail: status }) => {
  byId("export").hidden = !status.exports;
  if (!status.exports) return;
  offerShips(status.ships);
  offerPeriod(status.ships);
  tellEnds(status.exports);
  byId("export-list").replaceChildren(...status.exports.map((it) => element("li", {}, ...progressOf(it))));
  byId("export-ship").onchange = () => offerPeriod(status.ships);
});
exportForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const found = await preview();
  if (found) showPreview(found);
});
for (const id of ["export-from", "export-to"]) byId(id).addEventListener("input", () => { exportTouched = true; });
byId("export-download").addEventListener("click", download);
