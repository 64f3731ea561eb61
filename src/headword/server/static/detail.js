// A picture by itself: large, what its file says of it, its tags and how likely the others are.

import * as api from "./api.js";
import { described } from "./facts.js";
import { name, score } from "./grid.js";
import { copy } from "./selection.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

const open = { hits: [], place: 0, version: "", labels: [], text: null, asking: null };
let page = null; // see `listen`

export const path = () => open.hits[open.place]?.path;

// `text`: the words that were searched for, if any were.
export function show(wanted, hits, { version, labels, text }) {
  const place = hits.findIndex((hit) => hit.path === wanted);
  Object.assign(open, { hits, place, version, labels, text });
  $("picture").showModal();
  draw();
  explain();
}

function step(by) {
  const place = open.place + by;
  if (place < 0 || place >= open.hits.length) return;
  open.place = place;
  draw();
}

function draw() {
  open.asking?.abort();
  open.asking = new AbortController();
  const hit = open.hits[open.place];
  zoom(false);
  const size = innerWidth * devicePixelRatio > 800 ? 1280 : 640;
  $("picture-large").src = api.thumbnailAddress(hit.path, size, open.version);
  $("picture-large").alt = hit.path;
  $("picture-name").textContent = name(hit.path);
  $("picture-path").textContent = hit.path;
  $("picture-file").href = api.imageAddress(hit.path);
  $("picture-download").href = api.imageAddress(hit.path);
  $("picture-download").download = name(hit.path);
  $("picture-before").disabled = open.place === 0;
  $("picture-after").disabled = open.place === open.hits.length - 1;
  const place = `${count.format(open.place + 1)} of ${count.format(open.hits.length)}`;
  $("picture-score").textContent = hit.score === null ? place : `${place} · cosine ${score(hit.score)}`;
  page.drawn(hit, open.asking.signal);
  showTags(hit);
  describe(hit, open.asking.signal);
  judge(hit, open.asking.signal);
}

// ---- what the file says of itself

function bytes(n) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (n >= size) return `${(n / size).toFixed(n < 10 * size ? 1 : 0)} ${unit}`;
  return `${n} bytes`;
}

function rows(facts) {
  const place = facts.latitude === null ? null : `${facts.latitude.toFixed(5)}, ${facts.longitude.toFixed(5)}`;
  return [
    ["Size", `${count.format(facts.width)} × ${count.format(facts.height)} · ${bytes(facts.bytes)} · ${facts.format}`],
    ["Taken", facts.taken && date.format(new Date(facts.taken))],
    ["File changed", date.format(new Date(facts.modified))],
    ["Camera", facts.camera],
    ["Lens", facts.lens],
    ["Exposure", facts.exposure],
    ["Place", place],
    ["Frames", facts.more_frames && "several; the first is searched"],
  ].filter(([, value]) => value);
}

async function describe(hit, signal) {
  $("picture-facts").replaceChildren();
  $("picture-problem").textContent = "";
  try {
    const facts = await api.facts(hit.path, signal);
    $("picture-facts").replaceChildren(...rows(facts).map(described));
  } catch (error) {
    if (error.name !== "AbortError") $("picture-problem").textContent = error.message;
  }
}

// ---- tags, which can be corrected by hand

function showTags(hit) {
  $("picture-new").value = "";
  $("picture-tags").replaceChildren(
    ...hit.tags.map(({ tag, score: chance, by_hand: byHand }) => {
      const row = document.createElement("li");
      const [word, how, remove] = ["span", "span", "button"].map((kind) => document.createElement(kind));
      row.classList.toggle("by-hand", byHand);
      word.textContent = tag;
      how.className = "count";
      how.textContent = byHand ? "by hand" : `${Math.round(100 * chance)} %`;
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `Remove the tag ${tag}`);
      remove.addEventListener("click", () => correct([], [tag]));
      row.append(word, how, remove);
      return row;
    }),
  );
}

async function correct(add, remove) {
  const hit = open.hits[open.place];
  $("picture-problem").textContent = "";
  try {
    const { pictures } = await api.correct([hit.path], add, remove);
    Object.assign(hit, { tag: pictures[0].tag, tag_score: pictures[0].tag_score, tags: pictures[0].tags });
    if (hit === open.hits[open.place]) showTags(hit);
    page.corrected(hit);
  } catch (error) {
    $("picture-problem").textContent = error.message;
  }
}

// ---- labels and their chances

async function judge(hit, signal) {
  $("picture-fits").replaceChildren();
  $("picture-fits-title").hidden = true;
  if (!open.labels.length) return;
  try {
    const said = await api.classify(hit.path, open.labels, signal);
    $("picture-fits").replaceChildren(...said.results[0].slice(0, 8).map(fit));
    $("picture-fits-title").hidden = false;
  } catch (error) {
    if (error.name !== "AbortError") $("picture-problem").textContent = error.message;
  }
}

// ---- why: the classes of the head that the words are made of, which every picture is compared with

async function explain() {
  const { text } = open;
  $("picture-why").replaceChildren();
  $("picture-why-title").hidden = true;
  if (!text) return;
  try {
    const { parts } = await api.explain(text);
    const most = Math.max(...parts.map(({ weight }) => Math.abs(weight)));
    const rows = parts.map(({ name: label, weight }) => fit({ label, probability: Math.abs(weight) / most }, weight.toFixed(2)));
    if (text !== open.text) return;
    $("picture-why").replaceChildren(...rows);
    $("picture-why-title").textContent = `What “${text}” is made of`;
    $("picture-why-title").hidden = false;
  } catch {
    // a model that was trained on captions has no such classes
  }
}

function fit({ label, probability }, number = null) {
  const row = document.createElement("li");
  const [word, chance] = [document.createElement("span"), document.createElement("span")];
  row.style.setProperty("--part", probability);
  word.textContent = label;
  chance.className = "count";
  chance.textContent = number ?? `${(100 * probability).toFixed(probability < 0.0995 ? 1 : 0)} %`;
  row.append(word, chance);
  return row;
}

// ---- zoom: the file as it is, at its own size, to be moved about

function zoom(on = !$("picture-frame").classList.contains("zoomed")) {
  const frame = $("picture-frame");
  frame.classList.toggle("zoomed", on);
  $("picture-zoom").setAttribute("aria-pressed", String(on));
  if (!on) return;
  const large = $("picture-large");
  const small = large.src;
  // What no browser shows (HEIC, TIFF) stays as the server made it, enlarged.
  const once = { once: true, signal: open.asking.signal };
  large.addEventListener("error", () => (large.src = small), once);
  large.addEventListener("load", centre, once);
  large.src = api.imageAddress(path());
}

function centre() {
  const frame = $("picture-frame");
  frame.scrollTo((frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
}

// The mouse moves what a finger scrolls.
function drag(event) {
  const frame = $("picture-frame");
  if (event.pointerType !== "mouse" || !frame.classList.contains("zoomed")) return;
  const [x, y, left, top] = [event.clientX, event.clientY, frame.scrollLeft, frame.scrollTop];
  const move = (moved) => frame.scrollTo(left + x - moved.clientX, top + y - moved.clientY);
  addEventListener("pointermove", move);
  addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
}

// `able`: like, toggle (selected or not), drawn (called with each picture that is shown, and a signal that it
// no longer is), corrected (called with a picture whose tags were).
export function listen(able) {
  page = able;
  const keys = {
    ArrowLeft: () => step(-1),
    ArrowRight: () => step(1),
    z: () => zoom(),
    m: more,
    x: () => page.toggle(path()),
    c: () => copy([path()]),
  };
  $("picture").addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!(event.key in keys)) return;
    const scrolls = event.key.startsWith("Arrow") && $("picture-frame").classList.contains("zoomed");
    if (scrolls && document.activeElement === $("picture-frame")) return;
    event.preventDefault();
    keys[event.key]();
  });
  function more() {
    const like = path();
    $("picture").close();
    page.like(like);
  }
  $("picture-add").addEventListener("submit", (event) => {
    event.preventDefault();
    const tag = $("picture-new").value.trim();
    if (tag) correct([tag], []);
  });
  $("picture-like").addEventListener("click", more);
  $("picture-zoom").addEventListener("click", () => zoom());
  $("picture-large").addEventListener("dblclick", () => zoom());
  $("picture-large").addEventListener("dragstart", (event) => event.preventDefault());
  $("picture-frame").addEventListener("pointerdown", drag);
  $("picture-copy").addEventListener("click", () => copy([path()]));
  $("picture-before").addEventListener("click", () => step(-1));
  $("picture-after").addEventListener("click", () => step(1));
  $("picture").addEventListener("close", () => {
    open.asking?.abort();
    $("picture-large").removeAttribute("src");
  });
}
