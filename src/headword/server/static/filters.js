// Which of the pictures are looked at: a folder, and the dates of their files. And how large they are shown.

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const SIZES = [7, 9, 11, 15, 20, 28]; // rem of a tile, by the slider
const LARGE = 20; // from here on thumbnails of 640 pixels

const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

// The midnight at which a day begins here, as the filter has times; `later` days on.
function midnight(day, later = 0) {
  const [year, month, date] = day.split("-").map(Number);
  const moment = new Date(year, month - 1, date + later);
  return Number.isNaN(moment.valueOf()) ? null : moment.toISOString().slice(0, 19).replace("T", " ");
}

// What is asked as a condition of the API; null where all pictures count.
export function condition({ folder, from, to }) {
  const parts = [];
  if (folder === "/") parts.push("folder = ''");
  else if (folder) parts.push(`path >= ${quoted(`${folder}/`)} and path < ${quoted(`${folder}0`)}`); // 0 follows /
  const [since, until] = [from && midnight(from), to && midnight(to, 1)];
  if (since) parts.push(`modified >= ${quoted(since)}`);
  if (until) parts.push(`modified < ${quoted(until)}`);
  return parts.join(" and ") || null;
}

export function sentence({ folder, from, to }) {
  const parts = [];
  if (folder) parts.push(folder === "/" ? "in no folder" : `in ${folder}`);
  if (from && to) parts.push(`from ${from} to ${to}`);
  else if (from) parts.push(`since ${from}`);
  else if (to) parts.push(`until ${to}`);
  return parts.length ? ` ${parts.join(", ")}` : "";
}

// The folders that pictures lie in, and those above them, each with all that is below it.
export async function load() {
  const { folders } = await api.folders();
  const all = new Map();
  for (const { folder, count: n } of folders) {
    const parts = folder ? folder.split("/") : ["/"];
    for (let depth = 1; depth <= parts.length; depth += 1) {
      const above = parts.slice(0, depth).join("/") || "/";
      all.set(above, (all.get(above) ?? 0) + n);
    }
  }
  const options = [...all].sort().map(([folder, n]) => {
    const option = document.createElement("option");
    option.value = folder;
    option.textContent = `${folder === "/" ? "(no folder)" : folder} · ${count.format(n)}`;
    return option;
  });
  const [every] = $("folders").options;
  $("folders").replaceChildren(every, ...options);
  $("folders-field").hidden = all.size < 2;
}

export function mark({ folder, from, to }) {
  const known = [...$("folders").options].some(({ value }) => value === (folder ?? ""));
  $("folders").value = known ? (folder ?? "") : "";
  $("from").value = from ?? "";
  $("to").value = to ?? "";
  $("filters-clear").hidden = !(folder || from || to);
  if (folder || from || to) $("filters").open = true;
}

// ---- the size of the pictures

function resize() {
  const size = SIZES[$("size").value];
  document.documentElement.style.setProperty("--tile", `${size}rem`);
  document.documentElement.classList.toggle("whole-width", size >= SIZES.at(-1));
}

export const thumbnailSize = () => (SIZES[$("size").value] >= LARGE ? 640 : 320);

export function listen({ filter, resized }) {
  for (const [id, name] of [["folders", "folder"], ["from", "from"], ["to", "to"]])
    $(id).addEventListener("change", () => filter({ [name]: $(id).value || null }));
  $("filters-clear").addEventListener("click", () => filter({ folder: null, from: null, to: null }));
  const chosen = localStorage.getItem("headword-size");
  if (chosen !== null && chosen in SIZES) $("size").value = chosen;
  resize();
  $("size").addEventListener("input", () => {
    localStorage.setItem("headword-size", $("size").value);
    resize();
    resized();
  });
  if (matchMedia("(min-width: 52.01rem)").matches) $("filters").open = true;
}
