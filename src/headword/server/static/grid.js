// The pictures: drawn anew for each answer, with the tiles of pictures that stay kept, so nothing flickers.

import { thumbnailAddress } from "./api.js";
import { thumbnailSize } from "./filters.js";

const grid = document.getElementById("grid");
const template = document.getElementById("tile");
const number = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

let tiles = new Map(); // path → element
let current = 0; // the tile that Tab reaches
let best = 0.01; // the highest score, whose bar is whole

export const score = (value) => number.format(value).replace(/^-0\.00$/, "0.00").replace("-", "−");
export const name = (path) => path.slice(path.lastIndexOf("/") + 1);

export function show(hits, version) {
  const kept = new Map();
  const focused = document.activeElement?.closest?.("#grid li");
  best = Math.max(...hits.slice(0, 100).map((hit) => hit.score ?? 0), 0.01);
  for (const hit of hits) {
    const tile = tiles.get(hit.path) ?? make(hit.path);
    fill(tile, hit, version);
    kept.set(hit.path, tile);
  }
  grid.replaceChildren(...kept.values());
  drawLine();
  tiles = kept;
  current = 0;
  if (focused?.isConnected) current = [...grid.children].indexOf(focused);
  mark();
  if (focused?.isConnected) focused.querySelector(".open").focus({ preventScroll: true });
}

// More pictures, below those that are there.
export function add(hits, version) {
  for (const hit of hits) {
    const tile = make(hit.path);
    fill(tile, hit, version);
    tiles.set(hit.path, tile);
    grid.append(tile);
  }
  drawLine();
}

// Where the answers end: after the last picture that probably shows the words.
function drawLine() {
  const all = [...grid.children];
  const end = all.findLastIndex((tile) => !tile.classList.contains("unlikely")) + 1;
  for (const [place, tile] of all.entries()) tile.classList.toggle("below", place === end && end > 0);
}

const NAMED = {
  open: (path) => `Open ${path}`,
  like: (path) => `More like ${path}`,
  select: (path) => `Select ${path}`,
  "more-so": (path) => `${path} is what is searched for`,
  "less-so": (path) => `${path} is not what is searched for`,
  other: (path) => `Another label for ${path}`,
};

function make(path) {
  const tile = template.content.firstElementChild.cloneNode(true);
  tile.dataset.path = path;
  tile.querySelector(".file").textContent = name(path);
  tile.querySelector(".file").title = path;
  for (const [kind, named] of Object.entries(NAMED))
    tile.querySelector(`.${kind}`).setAttribute("aria-label", named(path));
  return tile;
}

function fill(tile, hit, version) {
  const image = tile.querySelector("img");
  const address = thumbnailAddress(hit.path, thumbnailSize(), version);
  if (image.getAttribute("src") !== address) image.src = address;
  const asked = hit.score !== null;
  tile.querySelector(".score").textContent = asked ? score(hit.score) : "";
  tile.classList.toggle("scored", asked);
  const judged = new Map([["more-so", hit.right], ["less-so", hit.wrong]]);
  for (const [kind, on] of judged) tile.querySelector(`.${kind}`).setAttribute("aria-pressed", String(Boolean(on)));
  tile.style.setProperty("--fit", asked ? Math.min(Math.max(hit.score, 0) / best, 1) : 0);
  tile.classList.toggle("starts", Boolean(hit.starts));
  tile.classList.toggle("unlikely", Boolean(hit.unlikely));
  retag(hit, tile);
}

export function retag(hit, tile = tiles.get(hit.path)) {
  if (!tile) return;
  label(tile, { label: hit.tag, said: null });
  tile.querySelector(".label").textContent = hit.tags.map(({ tag }) => tag).join(", ");
}

function label(tile, { label: said, said: judged }) {
  tile.dataset.label = said ?? "";
  tile.dataset.said = judged ?? "";
  tile.querySelector(".label").textContent = said ?? "";
  for (const [kind, verb] of [["right", "is"], ["wrong", "is not"]]) {
    const button = tile.querySelector(`.${kind}`);
    button.hidden = !said;
    button.setAttribute("aria-label", `${name(tile.dataset.path)} ${verb} ${said}`);
    button.setAttribute("aria-pressed", String(judged === kind));
  }
}

// Labels as they are taught, over those that the index has.
export function relabel(pictures) {
  for (const picture of pictures) if (tiles.has(picture.path)) label(tiles.get(picture.path), picture);
}

// Which are selected: a set, or a map, by path.
export function select(chosen) {
  for (const [path, tile] of tiles)
    tile.querySelector(".select").setAttribute("aria-pressed", String(chosen.has(path)));
}

// Up to `most` paths of pictures, those in view among them.
export function around(most) {
  const all = [...grid.children];
  if (all.length <= most) return all.map((tile) => tile.dataset.path);
  const seen = Math.max(0, all.findIndex((tile) => tile.getBoundingClientRect().bottom > 0));
  const start = Math.min(Math.max(0, seen - most / 2), all.length - most);
  return all.slice(start, start + most).map((tile) => tile.dataset.path);
}

function mark() {
  for (const [place, tile] of [...grid.children].entries()) reach(tile, place === current);
}

function reach(tile, on) {
  for (const button of tile?.querySelectorAll("button") ?? []) button.tabIndex = on ? 0 : -1;
}

function moveTo(place) {
  reach(grid.children[current], false);
  current = place;
  reach(grid.children[current], true);
}

export function focus(place = current) {
  if (!grid.children.length) return false;
  moveTo(Math.min(Math.max(place, 0), grid.children.length - 1));
  const tile = grid.children[current];
  tile.querySelector(".open").focus({ preventScroll: true });
  tile.scrollIntoView({ block: "nearest" });
  return true;
}

function columns() {
  const first = grid.children[0].offsetTop;
  const row = [...grid.children].findIndex((tile) => tile.offsetTop !== first);
  return row === -1 ? grid.children.length : row;
}

const HITS = { "more-so": "right", "less-so": "wrong", "+": "right", "-": "wrong" };
const JUDGEMENTS = { y: "right", n: "wrong", l: "other" };

// Calls back with the path of a picture; `leave` when a key goes up and out of the grid. `judge` gets the
// picture's label, too, and what is said of it: "right", "wrong", "other", or the number of a label. `refine`
// gets "right" or "wrong", said of a hit; `choose` whether a range is selected.
export function listen({ like, open, choose, judge, refine, leave }) {
  const say = (tile, said) => judge(tile.dataset.path, tile.dataset.label, said);
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { path } = button.closest("li").dataset;
    if (button.matches(".open")) open(path);
    else if (button.matches(".like")) like(path);
    else if (button.matches(".select")) choose(path, event.shiftKey);
    else if (button.className in HITS) refine(path, HITS[button.className]);
    else say(button.closest("li"), button.className);
  });
  grid.addEventListener("focusin", (event) => {
    moveTo([...grid.children].indexOf(event.target.closest("li")));
  });
  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
    const last = grid.children.length - 1;
    const { path } = grid.children[current].dataset;
    if (event.key in steps) {
      const next = current + steps[event.key];
      if (next < 0) leave();
      else if (next <= last || Math.floor(current / columns()) < Math.floor(last / columns())) focus(next);
    } else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(last);
    else if (event.key === "o") open(path);
    else if (event.key === "m") like(path);
    else if (event.key.toLowerCase() === "x") choose(path, event.shiftKey);
    else if (event.key === "Escape") leave();
    else if (event.key === "+" || event.key === "-") refine(path, HITS[event.key]);
    else if (event.key in JUDGEMENTS) say(grid.children[current], JUDGEMENTS[event.key]);
    else if (/^\d$/.test(event.key)) say(grid.children[current], (Number(event.key) + 9) % 10);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  grid.addEventListener("error", (event) => event.target.closest("li")?.classList.add("gone"), true);
  grid.addEventListener("load", (event) => event.target.closest("li")?.classList.remove("gone"), true);
}
