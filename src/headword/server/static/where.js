// Where words are in the picture that is open: a map over it, and a frame about the strongest region.

import * as api from "./api.js";

const $ = (id) => document.getElementById(id);

const PAUSE = 120; // milliseconds that the mouse rests on a word before it is asked about
const MOST = 7; // single words of a query that are offered
const RAMP = [[0, 32, 77], [124, 123, 120], [255, 234, 70]]; // the ends and the middle of cividis

let offered = []; // words about the picture
let chosen = null; // the one whose map stays
let pointed = null; // the one under the mouse, or in focus
let asking = null; // { path, signal, known: words → map }
let pause;

// The picture that is open, the words that were searched for, and a signal that it is open no longer.
export function show({ path, tags }, text, signal) {
  const single = text.split(/\s+/).filter((word) => word.length > 2);
  offered = [...new Set([text, ...(single.length > 1 ? single.slice(0, MOST) : []), ...tags.map(({ tag }) => tag)])].filter(Boolean);
  asking = { path, signal, known: new Map() };
  if (!offered.includes(chosen)) chosen = null;
  pointed = null;
  $("where-words").replaceChildren(...offered.map(chip));
  $("where").hidden = !offered.length;
  draw();
}

function chip(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.word = word;
  button.textContent = word;
  const row = document.createElement("li");
  row.append(button);
  return row;
}

async function draw() {
  const word = pointed ?? chosen;
  for (const button of $("where-words").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.word === chosen));
  $("where").setAttribute("aria-pressed", String(chosen !== null));
  if (word === null) return clear("");
  const mine = asking;
  try {
    if (!mine.known.has(word)) {
      clear(`Looking for “${word}” …`);
      mine.known.set(word, api.maps(mine.path, [word], mine.signal));
    }
    const said = await mine.known.get(word);
    if (mine === asking && word === (pointed ?? chosen)) paint(said.maps[0]);
  } catch (error) {
    mine.known.delete(word);
    if (mine === asking && error.name !== "AbortError") clear(error.message);
  }
}

function clear(line) {
  $("where-over").hidden = true;
  $("where-said").textContent = line;
}

function paint({ words, levels, regions }) {
  const [height, width] = [levels.length, levels[0].length];
  const canvas = $("where-map");
  Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height);
  levels.flat().forEach((level, place) => pixels.data.set([...colour(level / 255), 255], 4 * place));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  $("where-region").hidden = !regions.length;
  if (regions.length) {
    const [left, top, right, bottom] = regions[0].box.map((side) => `${100 * side}%`);
    Object.assign($("where-region").style, { left, top, right: `calc(100% - ${right})`, bottom: `calc(100% - ${bottom})` });
  }
  $("where-said").textContent = regions.length ? `“${words}” is most in the frame.` : `“${words}” is nowhere here.`;
  $("where-over").hidden = false;
  lay();
}

function colour(level) {
  const [from, to] = level < 0.5 ? RAMP.slice(0, 2) : RAMP.slice(1);
  const part = (2 * level) % 1 || Number(level === 1);
  return from.map((channel, n) => channel + part * (to[n] - channel));
}

// Over the picture itself, which its element may be wider or higher than.
function lay() {
  const large = $("picture-large");
  const { offsetLeft, offsetTop, offsetWidth, offsetHeight, naturalWidth, naturalHeight } = large;
  if (!naturalWidth) return;
  const scale = Math.min(offsetWidth / naturalWidth, offsetHeight / naturalHeight);
  const [width, height] = [scale * naturalWidth, scale * naturalHeight];
  Object.assign($("where-over").style, {
    left: `${offsetLeft + (offsetWidth - width) / 2}px`,
    top: `${offsetTop + (offsetHeight - height) / 2}px`,
    width: `${width}px`,
    height: `${height}px`,
  });
}

function choose(word) {
  chosen = word === chosen ? null : word;
  pointed = null;
  draw();
}

function point(word, after) {
  clearTimeout(pause);
  pause = setTimeout(() => {
    if (pointed === word) return;
    pointed = word;
    draw();
  }, after);
}

// The word that an element of the sheet is about: one that is offered, a tag, or a label and its chance.
function wordOf(element) {
  const row = element.closest("#where-words li, #picture-tags li, #picture-fits li");
  return row && (row.querySelector("[data-word]")?.dataset.word ?? row.querySelector("span").textContent);
}

export function listen() {
  $("where").addEventListener("click", () => choose(chosen ?? offered[0]));
  $("where-words").addEventListener("click", (event) => {
    const word = event.target.closest("button")?.dataset.word;
    if (word !== undefined) choose(word);
  });
  $("picture").addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") point(wordOf(event.target), PAUSE);
  });
  $("picture").addEventListener("focusin", (event) => {
    if (event.target.matches(":focus-visible")) point(wordOf(event.target), PAUSE);
  });
  $("picture").addEventListener("keydown", (event) => {
    if (event.key !== "w" || event.target.matches("input") || !offered.length) return;
    choose(chosen ?? offered[0]);
    event.preventDefault();
  });
  $("picture-large").addEventListener("load", lay);
  new ResizeObserver(lay).observe($("picture-large"));
}
