// Pictures that were selected, and what is done with them: their paths, a list, the files. They stay selected
// while something else is searched for.

import * as api from "./api.js";
import * as grid from "./grid.js";
import { say } from "./note.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const MOST = 500; // pictures in one file

const chosen = new Map(); // path → hit
let page = null; // see `listen`
let last = null; // the path that was selected last: where a range begins

const pictures = (n) => `${count.format(n)} picture${n === 1 ? "" : "s"}`;

export const paths = () => [...chosen.keys()];

export function toggle(path, range = false) {
  const shown = page.shown();
  const places = [last, path].map((one) => shown.findIndex((hit) => hit.path === one));
  if (range && !places.includes(-1)) {
    const [from, to] = [Math.min(...places), Math.max(...places)];
    for (const hit of shown.slice(from, to + 1)) chosen.set(hit.path, hit);
  } else if (!chosen.delete(path) && places[1] >= 0) chosen.set(path, shown[places[1]]);
  last = path;
  show();
}

function clear() {
  chosen.clear();
  last = null;
  show();
}

function all() {
  for (const hit of page.shown()) chosen.set(hit.path, hit);
  show();
}

export function show() {
  grid.select(chosen);
  $("selection").hidden = !chosen.size;
  document.documentElement.classList.toggle("selecting", chosen.size > 0);
  $("selection-count").textContent = `${pictures(chosen.size)} selected`;
}

export async function copy(wanted = paths()) {
  try {
    await navigator.clipboard.writeText(wanted.join("\n"));
    say(wanted.length === 1 ? `Copied ${wanted[0]}` : `Copied ${count.format(wanted.length)} paths.`);
  } catch {
    say("This browser does not let the page copy.");
  }
}

// A table for spreadsheets: path, cosine, tags with their chances.
export function table(hits) {
  const cell = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const tagged = (hit) => hit.tags.map(({ tag, score }) => `${tag} (${score.toFixed(3)})`).join("; ");
  const rows = hits.map((hit) => [hit.path, hit.score?.toFixed(4), tagged(hit)].map(cell).join(","));
  return ["path,cosine,tags", ...rows, ""].join("\r\n");
}

export function save(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function download() {
  const wanted = paths();
  if (wanted.length > MOST) {
    say(`${MOST} pictures go into one file at most; select fewer.`);
    return;
  }
  const button = $("selection-download");
  button.disabled = true;
  try {
    if (wanted.length === 1) save(await api.file(wanted[0]), grid.name(wanted[0]));
    else save(await api.download(wanted), "pictures.zip");
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
}

// `able`: shown (the hits on the page).
export function listen(able) {
  page = able;
  $("selection-all").addEventListener("click", all);
  $("selection-copy").addEventListener("click", () => copy());
  $("selection-export").addEventListener("click", () =>
    save(new Blob([table([...chosen.values()])], { type: "text/csv" }), "pictures.csv"),
  );
  $("selection-download").addEventListener("click", download);
  $("selection-clear").addEventListener("click", clear);
}
