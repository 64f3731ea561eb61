// The pictures: drawn anew for each answer, with the tiles of pictures that stay kept, so nothing flickers.

import { thumbnailAddress } from "./api.js";

const grid = document.getElementById("grid");
const template = document.getElementById("tile");
const number = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

let tiles = new Map(); // path → element
let current = 0; // the tile that Tab reaches

export const score = (value) => number.format(value).replace(/^-0\.00$/, "0.00").replace("-", "−");
export const name = (path) => path.slice(path.lastIndexOf("/") + 1);

export function show(hits, version) {
  const kept = new Map();
  const focused = document.activeElement?.closest?.("#grid li");
  const best = Math.max(...hits.map((hit) => hit.score ?? 0), 0.01);
  for (const hit of hits) {
    const tile = tiles.get(hit.path) ?? make(hit.path);
    fill(tile, hit, best, version);
    kept.set(hit.path, tile);
  }
  grid.replaceChildren(...kept.values());
  tiles = kept;
  current = 0;
  if (focused?.isConnected) current = [...grid.children].indexOf(focused);
  mark();
  if (focused?.isConnected) focused.querySelector(".like").focus({ preventScroll: true });
}

function make(path) {
  const tile = template.content.firstElementChild.cloneNode(true);
  tile.dataset.path = path;
  tile.querySelector(".file").textContent = name(path);
  tile.querySelector(".file").title = path;
  tile.querySelector(".like").setAttribute("aria-label", `More like ${path}`);
  tile.querySelector(".open").setAttribute("aria-label", `Open ${path}`);
  tile.querySelector(".more-so").setAttribute("aria-label", `${path} is what is searched for`);
  tile.querySelector(".less-so").setAttribute("aria-label", `${path} is not what is searched for`);
  tile.querySelector(".other").setAttribute("aria-label", `Another label for ${path}`);
  return tile;
}

function fill(tile, hit, best, version) {
  const image = tile.querySelector("img");
  const address = thumbnailAddress(hit.path, 320, version);
  if (image.getAttribute("src") !== address) image.src = address;
  const asked = hit.score !== null;
  tile.querySelector(".score").textContent = asked ? score(hit.score) : "";
  tile.classList.toggle("scored", asked);
  const judged = new Map([["more-so", hit.right], ["less-so", hit.wrong]]);
  for (const [kind, on] of judged) tile.querySelector(`.${kind}`).setAttribute("aria-pressed", String(Boolean(on)));
  tile.style.setProperty("--fit", asked ? Math.max(hit.score, 0) / best : 0);
  label(tile, { label: hit.tag, said: null });
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

function mark() {
  for (const [place, tile] of [...grid.children].entries())
    for (const button of tile.querySelectorAll("button")) button.tabIndex = place === current ? 0 : -1;
}

export function focus(place = current) {
  if (!grid.children.length) return false;
  current = Math.min(Math.max(place, 0), grid.children.length - 1);
  mark();
  const tile = grid.children[current];
  tile.querySelector(".like").focus({ preventScroll: true });
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
// gets "right" or "wrong", said of a hit.
export function listen({ like, open, judge, refine, leave }) {
  const say = (tile, said) => judge(tile.dataset.path, tile.dataset.label, said);
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { path } = button.closest("li").dataset;
    if (button.matches(".open")) open(path);
    else if (button.matches(".like")) like(path);
    else if (button.matches(".hit button")) refine(path, HITS[button.className]);
    else say(button.closest("li"), button.className);
  });
  grid.addEventListener("focusin", (event) => {
    current = [...grid.children].indexOf(event.target.closest("li"));
    mark();
  });
  grid.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
    const last = grid.children.length - 1;
    if (event.key in steps) {
      const next = current + steps[event.key];
      if (next < 0) leave();
      else if (next <= last || Math.floor(current / columns()) < Math.floor(last / columns())) focus(next);
    } else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(last);
    else if (event.key === "o") open(grid.children[current].dataset.path);
    else if (event.key === "Escape") leave();
    else if (event.key === "+" || event.key === "-") refine(grid.children[current].dataset.path, HITS[event.key]);
    else if (event.key in JUDGEMENTS) say(grid.children[current], JUDGEMENTS[event.key]);
    else if (/^\d$/.test(event.key)) say(grid.children[current], (Number(event.key) + 9) % 10);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  grid.addEventListener("error", (event) => event.target.closest("li")?.classList.add("gone"), true);
  grid.addEventListener("load", (event) => event.target.closest("li")?.classList.remove("gone"), true);
}
