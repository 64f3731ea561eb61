// Labels taught by clicks: under the pictures, and in the sheet that asks about one picture after another.

import * as api from "./api.js";
import { name } from "./grid.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const percent = (share) => `${Math.round(100 * share)} %`;
const MOST = 16; // pictures the API suggests at once

let lesson = { labels: [], answers: 0, accuracy: null, none_of_these: false, shown: [], suggested: [] };
let page = null; // what the page can do; see `listen`
let written = true; // whether the index has these labels as its tags
let last = Promise.resolve(); // requests go one after another, in the order of the clicks

// What the sheet asks about, and what happens when that is answered: the next one, or the sheet closes.
const sheet = { picture: null, queue: false, skipped: new Set(), busy: false };

const labels = () => lesson.labels.map(({ label }) => label);
export const ownLabels = () => labels().slice(0, lesson.none_of_these ? -1 : undefined);
export const isTaught = () => lesson.answers > 0;

const suggestions = () => ($("teach").open && sheet.queue ? Math.min(sheet.skipped.size + 1, MOST) : 0);

function inTurn(request) {
  last = last.catch(() => {}).then(request);
  return last;
}

// Ask something of the lesson, and show what it is then.
function ask(request) {
  return inTurn(async () => {
    lesson = await request();
    show();
  });
}

export const load = () => ask(() => api.lesson(page.shown(), suggestions()));

export async function start() {
  await load();
  written = !isTaught();
}

export async function begin(chosen, noneOfThese) {
  await ask(() => api.beginLesson(chosen, noneOfThese));
  written = false;
  await write();
}

// The labels as tags of the index, so that filters go by them.
export async function write() {
  if (written) return;
  written = true;
  await ask(() => api.tagLesson());
}

async function say(path, label, wrong = false) {
  written = false;
  await ask(() => api.answerLesson([{ path, label, wrong }], page.shown(), suggestions()));
}

// A refined search becomes a label, and what was judged of its hits clicks.
export async function keep(label, right, wrong, known) {
  const alone = !known.length || lesson.none_of_these; // or every picture would have it
  if (!known.includes(label)) await ask(() => api.beginLesson([...known, label], alone));
  const said = [[right, false], [wrong, true]].flatMap(([paths, no]) => paths.map((path) => ({ path, label, wrong: no })));
  await ask(() => api.answerLesson(said, page.shown(), suggestions()));
  written = false;
  await write();
}

async function undo() {
  if (!isTaught()) return;
  written = false;
  await ask(() => api.undoLesson(page.shown(), suggestions()));
}

// What was said of a picture under it.
export async function judge(path, label, said) {
  if (!lesson.labels.length) return page.editLabels();
  if (said === "other") return open({ path, label, probability: null });
  const chosen = typeof said === "number" ? labels()[said] : label;
  if (chosen) await say(path, chosen, said === "wrong");
}

// ---- shown

function show() {
  if (isTaught()) {
    page.relabel(lesson.shown);
    page.showTags(
      lesson.labels
        .slice(0, lesson.none_of_these ? -1 : undefined)
        .filter(({ pictures }) => pictures)
        .map(({ label, pictures }) => ({ tag: label, count: pictures }))
        .sort((a, b) => b.count - a.count),
    );
  }
  const said = sentence();
  $("taught").textContent = said;
  $("teach-state").textContent = said;
  for (const id of ["undo", "save"]) $(id).hidden = !isTaught();
  $("teach-undo").disabled = !isTaught();
}

function sentence() {
  if (!isTaught()) return lesson.labels.length ? "Labels follow their words alone so far." : "";
  const clicks = `${count.format(lesson.answers)} click${lesson.answers === 1 ? "" : "s"}`;
  const estimate = lesson.accuracy === null ? "" : `, ${percent(lesson.accuracy)} of them foreseen by the others`;
  return clicks + estimate;
}

// ---- the sheet

function open(picture = null) {
  Object.assign(sheet, { picture, queue: picture === null, busy: false });
  $("teach-problem").textContent = "";
  $("teach").showModal();
  $("teach").focus(); // or the digits would be typed into the field
  if (picture) draw();
  else next();
}

async function next() {
  await act(load);
}

// Do something about the lesson while the sheet waits; then the next picture, or the page again.
async function act(request) {
  if (sheet.busy) return;
  sheet.busy = true;
  $("teach-problem").textContent = "";
  try {
    await request();
    if (!sheet.queue) $("teach").close();
    else sheet.picture = lesson.suggested.find(({ path }) => !sheet.skipped.has(path)) ?? null;
  } catch (error) {
    $("teach-problem").textContent = error.message;
  } finally {
    sheet.busy = false;
  }
  if (!$("teach").open) return;
  draw();
  if (!$("teach").contains(document.activeElement)) $("teach").focus(); // the button that had it is gone
}

function draw() {
  const { picture } = sheet;
  for (const id of ["teach-picture", "teach-labels", "teach-add", "teach-wrong", "teach-skip"])
    $(id).hidden = !picture;
  $("teach-skip").hidden ||= !sheet.queue;
  if (!picture) {
    $("teach-title").textContent = "Nothing is left to ask";
    $("teach-guess").textContent = "Every picture was shown or skipped.";
    return;
  }
  const size = innerWidth * devicePixelRatio > 800 ? 1280 : 640;
  $("teach-picture").src = api.thumbnailAddress(picture.path, size, page.version());
  $("teach-picture").alt = picture.path;
  $("teach-title").textContent = "What is this?";
  const sure = picture.probability === null ? "" : ` (${percent(picture.probability)})`;
  $("teach-guess").textContent = `${name(picture.path)}: ${picture.label ? `looks like “${picture.label}”${sure}` : "no label"}`;
  $("teach-wrong").hidden ||= !picture.label;
  $("teach-labels").replaceChildren(...lesson.labels.map((row, place) => choice(row, place, picture.label)));
}

function choice({ label, shown }, place, guess) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.label = label;
  button.classList.toggle("guess", label === guess);
  if (place < 10) {
    const key = document.createElement("kbd");
    key.textContent = (place + 1) % 10;
    button.append(key);
  }
  const said = document.createElement("span");
  said.textContent = label;
  const number = document.createElement("span");
  number.className = "count";
  number.textContent = count.format(shown);
  number.title = "pictures shown of it";
  button.append(said, number);
  const row = document.createElement("li");
  row.append(button);
  return row;
}

function choose(label, wrong = false) {
  if (sheet.picture && label) act(() => say(sheet.picture.path, label, wrong));
}

function skip() {
  if (!sheet.queue || !sheet.picture || sheet.busy) return;
  if (sheet.skipped.size >= MOST - 1) sheet.skipped.clear();
  sheet.skipped.add(sheet.picture.path);
  next();
}

async function addLabel() {
  const label = $("teach-new").value.trim();
  if (!label || sheet.busy) return;
  await act(async () => {
    if (!labels().includes(label)) await ask(() => api.beginLesson([...ownLabels(), label], lesson.none_of_these));
    await say(sheet.picture.path, label);
    $("teach-new").value = "";
  });
}

// `able`: shown (paths on the page), version, relabel, showTags, editLabels, closed (after the sheet).
export function listen(able) {
  page = able;
  $("teach-open").addEventListener("click", () => (lesson.labels.length ? open() : page.editLabels()));
  $("undo").addEventListener("click", () => undo().catch(tell));
  $("save").addEventListener("click", save);
  $("teach-labels").addEventListener("click", (event) => choose(event.target.closest("button")?.dataset.label));
  $("teach-wrong").addEventListener("click", () => choose(sheet.picture?.label, true));
  $("teach-skip").addEventListener("click", skip);
  $("teach-undo").addEventListener("click", () => act(undo));
  $("teach-add").addEventListener("submit", (event) => {
    event.preventDefault();
    addLabel();
  });
  $("teach").addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (/^\d$/.test(event.key)) choose(labels()[(Number(event.key) + 9) % 10]);
    else if (event.key === "n") choose(sheet.picture?.label, true);
    else if (event.key === "s") skip();
    else if (event.key === "u") act(undo);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, dialog");
    if (event.key === "u" && !typing && !event.ctrlKey && !event.metaKey) undo().catch(tell);
  });
}

async function save() {
  $("save").disabled = true;
  try {
    const { folder, labels: n, examples } = await api.saveLesson();
    tell({ message: `Saved ${n} labels and ${examples} examples as “${folder}” in the index's folder.` });
  } catch (error) {
    tell(error);
  } finally {
    $("save").disabled = false;
  }
}

export function tell({ message }) {
  $("taught").textContent = message;
}
