// The page: what is asked, the answer to it, and the keys.

import * as api from "./api.js";
import * as dialogs from "./dialogs.js";
import * as grid from "./grid.js";
import * as teach from "./teach.js";

const $ = (id) => document.getElementById(id);
const words = $("words");
const count = new Intl.NumberFormat("en");

const PAGE = 60; // pictures shown at first, and added by "Show more"
const MOST = 500; // the API's limit for one search
const MOST_JUDGED = 100; // hits of one search
const PAUSE = 70; // milliseconds without a key before a search goes out

// What is asked. Of `like` (a picture of the index) and `image` (one of the user's) at most one is set.
const asked = { words: "", like: null, image: null, tag: null, right: [], wrong: [], k: PAGE };
let shown = []; // the pictures on the page
let version = ""; // of the index that the last answer came from
let images = 0;
let asking = null; // the request under way

const searching = () => Boolean(asked.words.trim() || asked.like || asked.image);

// ---- asking

async function answer() {
  asking?.abort(); // whatever it would say is no longer asked
  const mine = (asking = new AbortController());
  const busy = setTimeout(() => $("grid").setAttribute("aria-busy", "true"), 150);
  const start = performance.now();
  try {
    const said = searching() ? await search(mine.signal) : await browse(mine.signal);
    if (asking !== mine) return;
    draw(said, performance.now() - start);
    if (teach.isTaught()) await teach.load(); // labels as they are taught, over those of the index
  } catch (error) {
    if (error.name === "AbortError" || asking !== mine) return;
    $("status").textContent = error.message;
    $("status").classList.add("problem");
  } finally {
    clearTimeout(busy);
    if (asking === mine) {
      asking = null;
      $("grid").removeAttribute("aria-busy");
    }
  }
}

function search(signal) {
  // A picture is always most like itself: one more is asked for, and it is left out.
  const request = { k: Math.min(asked.k + (asked.like ? 1 : 0), MOST) };
  if (asked.words.trim()) request.words = asked.words;
  if (asked.like) request.like = asked.like;
  if (asked.image) request.image = asked.image.data;
  if (asked.tag) request.tag = asked.tag;
  if (asked.right.length) request.right = asked.right;
  if (asked.wrong.length) request.wrong = asked.wrong;
  return api.search(request, signal);
}

async function browse(signal) {
  const said = await api.pictures(asked.tag, 0, Math.min(asked.k, MOST), signal);
  return { ...said, hits: said.pictures };
}

function draw(said, milliseconds) {
  version = said.index_version;
  shown = said.hits
    .filter((hit) => hit.path !== asked.like)
    .map((hit) => ({ ...hit, right: asked.right.includes(hit.path), wrong: asked.wrong.includes(hit.path) }));
  grid.show(shown, version);
  const total = said.total ?? (asked.tag ? tagCounts.get(asked.tag) : images) ?? 0;
  $("more").hidden = asked.k >= MOST || shown.length < asked.k || shown.length >= total;
  $("status").classList.remove("problem");
  $("status").textContent = sentence(said, total, milliseconds);
  const covered = !said.out_of_depth;
  $("mark").hidden = covered;
  if (!covered)
    $("mark").textContent =
      said.familiarity === null
        ? "The head knows too little to be relied on: take these with care."
        : `Far from what the head knows (familiarity ${Math.round(100 * said.familiarity)} %): take these with care.`;
}

function sentence(said, total, milliseconds) {
  const within = asked.tag ? ` tagged “${asked.tag}”` : "";
  if (!total) return asked.tag ? `No pictures${within}.` : "The index has no pictures.";
  if (!searching()) return `${count.format(total)} picture${total === 1 ? "" : "s"}${within}`;
  const parts = [];
  if (asked.like) parts.push(`like ${grid.name(asked.like)}`);
  if (asked.image) parts.push("like your picture");
  if (said.text) parts.push(`“${said.text}”`);
  for (const word of said.negative) parts.push(`without “${word}”`);
  const { right, wrong } = asked;
  if (right.length || wrong.length) parts.push(`by ${right.length} right and ${wrong.length} wrong`);
  const best = `Best ${count.format(shown.length)} of ${count.format(total)}${within}`;
  return `${best}: ${parts.join(", ")} · ${Math.max(1, Math.round(milliseconds))} ms`;
}

function ask(changes, { keep = false } = {}) {
  const other = ["words", "like", "image"].some((key) => key in changes && changes[key] !== asked[key]);
  if (other) Object.assign(asked, { right: [], wrong: [] }); // they were said of another search
  Object.assign(asked, { k: PAGE }, changes);
  if (words.value !== asked.words) words.value = asked.words;
  example();
  remember(keep);
  markTags();
  return answer();
}

let pause;
function typed() {
  clearTimeout(pause);
  pause = setTimeout(() => ask({ words: words.value }, { keep: true }), PAUSE);
}

// ---- the picture beside the words

function example() {
  const image = $("example-picture");
  if (asked.image) image.src = asked.image.address;
  else if (asked.like) image.src = api.thumbnailAddress(asked.like, 160, version);
  else image.removeAttribute("src");
  $("example").hidden = !(asked.image || asked.like);
  words.placeholder = $("example").hidden ? "Search with any words" : "Add words, or -words";
}

async function by(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) {
    $("status").textContent = `${file.name || "That"} is not a picture.`;
    $("status").classList.add("problem");
    return;
  }
  const data = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  if (asked.image) URL.revokeObjectURL(asked.image.address);
  await ask({ image: { data, address: URL.createObjectURL(file) }, like: null });
}

function like(path) {
  ask({ like: path, image: null, words: "" });
  scrollTo({ top: 0 });
  words.focus({ preventScroll: true });
}

// A hit is right or wrong: the search goes on from there; said again, it is taken back.
function refine(path, said) {
  if (!searching()) return;
  const without = (paths) => paths.filter((one) => one !== path);
  const again = asked[said].includes(path);
  const changes = { right: without(asked.right), wrong: without(asked.wrong) };
  if (!again) changes[said].push(path);
  if (changes.right.length + changes.wrong.length <= MOST_JUDGED) ask(changes, { keep: true });
}

// ---- the address, so that Back works and a search can be sent to someone

function remember(replace) {
  const { words: typedWords, like: path, tag } = asked;
  const said = Object.entries({ q: typedWords, like: path, tag }).filter(([, value]) => value);
  const address = `/${said.length ? "?" : ""}${new URLSearchParams(said)}`;
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}

function recall() {
  const said = new URLSearchParams(location.search);
  return { words: said.get("q") ?? "", like: said.get("like"), tag: said.get("tag"), image: null };
}

// ---- tags

let tagCounts = new Map();

function showTags(tags) {
  tagCounts = new Map(tags.map(({ tag, count: n }) => [tag, n]));
  const most = Math.max(...tagCounts.values(), 1);
  const rows = tags.map(({ tag, count: n }) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.tag = tag;
    button.style.setProperty("--part", n / most);
    const label = document.createElement("span");
    label.textContent = tag;
    const number = document.createElement("span");
    number.className = "count";
    number.textContent = count.format(n);
    button.append(label, number);
    const row = document.createElement("li");
    row.append(button);
    return row;
  });
  $("tags").replaceChildren(...rows);
  $("no-tags").hidden = rows.length > 0;
  markTags();
}

function markTags() {
  for (const button of $("tags").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.tag === asked.tag));
}

const editable = () => (teach.isTaught() ? teach.ownLabels() : [...tagCounts.keys()]);

async function retag(labels, noneOfThese) {
  await teach.begin(labels, noneOfThese);
  if (!teach.isTaught()) showTags((await api.tags()).tags);
  await ask({ tag: tagCounts.has(asked.tag) ? asked.tag : null });
}

// ---- keys, drops, clicks

words.addEventListener("input", typed);
words.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && grid.focus(0)) event.preventDefault();
  else if (event.key === "Escape") {
    event.preventDefault();
    clearTimeout(pause);
    if (words.value || asked.like || asked.image) ask({ words: "", like: null, image: null });
    else if (asked.tag) ask({ tag: null });
  }
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(pause);
  ask({ words: words.value });
});
$("example-remove").addEventListener("click", () => {
  ask({ like: null, image: null });
  words.focus();
});
$("pick").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  by($("file").files[0]);
  $("file").value = "";
});
$("more").addEventListener("click", async () => {
  const before = shown.length;
  asked.k = Math.min(asked.k + PAGE, MOST);
  await answer();
  grid.focus(before);
});
$("tags").addEventListener("click", async (event) => {
  const tag = event.target.closest("button")?.dataset.tag;
  if (tag === undefined) return;
  await teach.write().catch(teach.tell);
  ask({ tag: tag === asked.tag ? null : tag });
});

grid.listen({
  like,
  open: (path) => dialogs.openPicture(path, shown, { version, labels: [...tagCounts.keys()], like }),
  judge: (path, label, said) => teach.judge(path, label, said).catch(teach.tell),
  refine,
  leave: () => words.focus(),
});
dialogs.listen({ retag, labels: editable });
teach.listen({
  shown: () => shown.map(({ path }) => path),
  version: () => version,
  relabel: grid.relabel,
  showTags,
  editLabels: dialogs.editLabels,
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    words.focus();
    words.select();
  }
});

let depth = 0; // dragenter and dragleave come for every element that is crossed
const dragsFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (!dragsFile(event)) return;
  depth += 1;
  $("drop").hidden = false;
});
addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  $("drop").hidden = depth === 0;
});
addEventListener("dragover", (event) => dragsFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!dragsFile(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  by(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) by(file);
});
addEventListener("popstate", () => {
  ask(recall(), { keep: true });
});

// ---- light and dark

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
const markTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
$("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("headword-theme", theme);
  markTheme();
});
dark.addEventListener("change", markTheme);
markTheme();

// ---- the start

words.focus({ preventScroll: true });
Object.assign(asked, recall());
words.value = asked.words;
const facts = await api.about();
images = facts.images;
version = facts.index_version;
$("folder").textContent = facts.folder;
$("folder").title = facts.folder;
document.title = `${grid.name(facts.folder)} · headword`;
dialogs.fillAbout(facts);
showTags((await api.tags()).tags);
await teach.start();
if (words.value !== asked.words) asked.words = words.value; // typed while this was under way
await ask({});
