// The page: what is asked, the answer to it, the address, and the keys.

import * as answers from "./answers.js";
import * as api from "./api.js";
import * as detail from "./detail.js";
import * as dialogs from "./dialogs.js";
import * as filters from "./filters.js";
import * as grid from "./grid.js";
import { say } from "./note.js";
import * as selection from "./selection.js";
import * as tags from "./tags.js";
import * as teach from "./teach.js";
import * as locating from "./where.js";
import * as uploads from "./uploads.js";

const $ = (id) => document.getElementById(id);
const words = $("words");
const count = new Intl.NumberFormat("en");

const PAGE = 60; // pictures shown at first, and added by scrolling
const MOST_JUDGED = 100; // hits of one search
const PAUSE = 70; // milliseconds without a key before a search goes out

const EVERYTHING = { tag: null, folder: null, from: null, to: null, copies: null };

// What is asked. Of `like` (a picture of the index) and `image` (one of the user's) at most one is set.
const asked = { words: "", like: null, image: null, ...EVERYTHING, right: [], wrong: [] };
let shown = []; // the pictures on the page
let reached = 0; // how many were answered, one that is left out included
let text = null; // the words that were searched for
let version = ""; // of the index that the last answer came from
let asking = null; // the request under way

const searching = () => answers.searching(asked);
const filtered = () => Object.keys(EVERYTHING).some((name) => asked[name]);

// ---- asking

// Anew; with `place`, as many pictures as were there and scrolled to where they were.
async function answer(place = null) {
  asking?.abort(); // whatever it would say is no longer asked
  const mine = (asking = new AbortController());
  const busy = setTimeout(() => $("grid").setAttribute("aria-busy", "true"), 150);
  const start = performance.now();
  try {
    const said = await answers.get(asked, 0, Math.max(PAGE, place?.count ?? 0), mine.signal);
    if (asking !== mine) return;
    draw(said, performance.now() - start);
    if (place) scrollTo({ top: place.top });
    if (teach.isTaught()) await teach.load(); // labels as they are taught, over those of the index
  } catch (error) {
    if (error.name !== "AbortError" && asking === mine) fail(error);
  } finally {
    clearTimeout(busy);
    if (asking === mine) {
      asking = null;
      $("grid").removeAttribute("aria-busy");
    }
  }
}

// A picture is always most like itself, which nobody asks for.
const others = ({ hits, least_shown: least }) =>
  hits
    .filter((hit) => hit.path !== asked.like)
    .map((hit) => ({
      ...hit,
      right: asked.right.includes(hit.path),
      wrong: asked.wrong.includes(hit.path),
      unlikely: (hit.relevance ?? 1) < (least ?? 0),
    }));

function draw(said, milliseconds) {
  version = said.index_version;
  text = said.text ?? null;
  shown = others(said);
  grid.show(shown, version);
  selection.show();
  goesOn(said);
  tell(sentence(said, milliseconds), shown.length ? refined() : ways());
  const remarks = [];
  if (shown.length && shown.every((hit) => hit.unlikely)) remarks.push("No picture seems to show this; the nearest are:");
  if (said.doubt) remarks.push(`Take these with care: ${said.doubt}.`);
  $("mark").hidden = !remarks.length;
  $("mark").textContent = remarks.join(" ");
}

function goesOn({ hits, ended }, before = 0) {
  reached = before + hits.length;
  $("more").hidden = ended || (searching() && reached + PAGE > answers.DEEPEST);
  $("more").textContent = "Show more";
  watching.unobserve($("more"));
  watching.observe($("more")); // which looks again whether it is in sight
}

function sentence(said, milliseconds) {
  const within = `${asked.tag ? ` tagged “${asked.tag}”` : ""}${filters.sentence(asked)}`;
  if (asked.copies) return answers.sentenceOfCopies(said);
  if (!said.total) return filtered() ? `No pictures${within}.` : "The index has no pictures.";
  if (!searching()) return `${count.format(said.total)} picture${said.total === 1 ? "" : "s"}${within}`;
  const parts = [];
  if (asked.like) parts.push(`like ${grid.name(asked.like)}`);
  if (asked.image) parts.push("like your picture");
  if (said.text) parts.push(`“${said.text}”`);
  for (const word of said.negative) parts.push(`without “${word}”`);
  const { right, wrong } = asked;
  if (right.length || wrong.length) parts.push(`by ${right.length} right and ${wrong.length} wrong`);
  const best = `Best of ${count.format(said.total)}${within}`;
  const likely = said.hits.filter((hit) => hit.relevance >= said.least_shown).length;
  if (likely && likely < said.hits.length) parts.push(`${likely} above the line probably show it`);
  return `${best}: ${parts.join(", ")} · ${Math.max(1, Math.round(milliseconds))} ms`;
}

// What can be done where nothing is shown.
function ways() {
  const found = [];
  if (asked.tag && !tags.has(asked.tag)) found.push(["Without this tag", () => ask({ tag: null })]);
  if (filtered()) found.push(["Show all pictures", () => ask({ ...EVERYTHING, words: "", like: null, image: null })]);
  return found;
}

function refined() {
  const [label, { right, wrong }] = [text, asked];
  const keep = () => teach.keep(label, right, wrong, editable()).catch(teach.tell);
  return label && right.length ? [["Keep as a tag", keep]] : [];
}

function tell(line, buttons = [], problem = false) {
  $("status").textContent = line;
  $("status").classList.toggle("problem", problem);
  $("ways").replaceChildren(
    ...buttons.map(([label, act]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = label;
      button.addEventListener("click", act);
      return button;
    }),
  );
}

// What was shown answered another question: it goes.
function fail(error) {
  shown = [];
  grid.show(shown, version);
  $("more").hidden = true;
  $("mark").hidden = true;
  const found = [["Try again", () => answer()], ...ways()];
  if (asked.image) found.push(["Without the picture", () => ask({ image: null })]);
  tell(error.message, found, true);
}

async function more() {
  if (asking || $("more").hidden) return;
  const mine = (asking = new AbortController());
  try {
    const said = await answers.get(asked, reached, PAGE, mine.signal);
    if (asking !== mine) return;
    if (said.index_version !== version) {
      asking = null;
      await answer({ count: reached + PAGE, top: scrollY });
      return;
    }
    const fresh = others(said);
    shown.push(...fresh);
    grid.add(fresh, version);
    selection.show();
    asking = null;
    goesOn(said, reached);
    keepPlace();
    if (teach.isTaught()) await teach.load();
  } catch (error) {
    if (error.name === "AbortError" || asking !== mine) return;
    $("more").textContent = `${error.message} Try again`;
  } finally {
    if (asking === mine) asking = null;
  }
}

const watching = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), {
  rootMargin: "0px 0px 800px",
});

function ask(changes, { keep = false, place = null } = {}) {
  const differs = (key) => key in changes && changes[key] !== asked[key];
  if (["words", "like", "image"].some(differs)) Object.assign(asked, { right: [], wrong: [] }); // said of another
  if (Object.keys(changes).some(differs)) asked.copies = null;
  Object.assign(asked, changes);
  if (words.value !== asked.words) words.value = asked.words;
  example();
  remember(keep);
  tags.mark(asked.tag);
  filters.mark(asked);
  $("copies").setAttribute("aria-pressed", String(Boolean(asked.copies)));
  return answer(place);
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
  if (!/^image\//.test(file.type) && !/\.(heic|heif|hif|avif|tiff?)$/i.test(file.name)) {
    tell(`${file.name || "That"} is not a picture.`, [], true);
    return;
  }
  await ask({ image: await uploads.take(file), like: null });
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

// ---- the address, and the place on the page, so that Back and a reload lead to what was there

function remember(replace) {
  const { words: typedWords, image, like: path, tag, folder, from, to, copies } = asked;
  const said = { q: typedWords, like: path, picture: image?.id, tag, folder, from, to, copies };
  const given = Object.entries(said).filter(([, value]) => value);
  const address = `/${given.length ? "?" : ""}${new URLSearchParams(given)}`;
  if (address === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", address);
  else {
    keepPlace();
    history.pushState(null, "", address);
  }
}

async function recall() {
  const said = new URLSearchParams(location.search);
  const picture = said.get("picture");
  const image = picture && (await uploads.recall(picture));
  if (picture && !image) say("The picture of this search is kept here no longer; choose it again.");
  const rest = Object.fromEntries(["like", ...Object.keys(EVERYTHING)].map((name) => [name, said.get(name)]));
  return { words: said.get("q") ?? "", image: image || null, ...rest };
}

let keeping;
function keepPlace() {
  clearTimeout(keeping);
  if (shown.length) history.replaceState({ count: reached, top: scrollY }, "");
}
addEventListener("scroll", () => {
  clearTimeout(keeping);
  keeping = setTimeout(() => {
    keepPlace();
    if (teach.isTaught() && shown.length > answers.MOST) teach.load();
  }, 200);
}, { passive: true });
addEventListener("pagehide", keepPlace);
addEventListener("popstate", async ({ state }) => {
  clearTimeout(keeping);
  asking?.abort();
  ask(await recall(), { keep: true, place: state ?? { count: PAGE, top: 0 } });
});

// ---- labels

const editable = () => (teach.isTaught() ? teach.ownLabels() : tags.names());
const showTags = (rows) => tags.show(rows, asked.tag);
const loadTags = async () => showTags((await api.tags()).tags);

async function retag(labels, { several, noneOfThese }) {
  if (several) {
    await api.tag(labels, several);
    await teach.start();
  } else await teach.begin(labels, noneOfThese);
  if (!teach.isTaught()) await loadTags();
  await ask({ tag: tags.has(asked.tag) ? asked.tag : null });
}

async function untag() {
  await api.undoTags();
  await teach.start();
  if (!teach.isTaught()) await loadTags();
  await answer();
}

// ---- keys and clicks

words.addEventListener("input", typed);
words.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && grid.focus(0)) event.preventDefault();
  else if (event.key === "Escape") {
    event.preventDefault();
    clearTimeout(pause);
    if (words.value || asked.like || asked.image) ask({ words: "", like: null, image: null });
    else if (filtered()) ask(EVERYTHING);
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
$("more").addEventListener("click", more);
$("copies").addEventListener("click", () =>
  ask({ words: "", like: null, image: null, ...EVERYTHING, copies: asked.copies ? null : "1" }),
);

const open = (path) => detail.show(path, shown, { version, labels: editable(), text });
grid.listen({
  like,
  open,
  choose: selection.toggle,
  judge: (path, label, said) => teach.judge(path, label, said).catch(teach.tell),
  refine,
  leave: () => words.focus(),
});
uploads.listen(by);
filters.listen({ filter: (changes) => ask(changes), resized: () => grid.show(shown, version) });
selection.listen({ shown: () => shown });
const corrected = (hit) => {
  grid.retag(hit);
  if (!teach.isTaught()) loadTags().catch(teach.tell);
};
detail.listen({ like, toggle: selection.toggle, drawn: (hit, signal) => locating.show(hit, text ?? "", signal), corrected });
locating.listen();
dialogs.listen({ retag, undo: untag, labels: editable, tagged: tags.tagged, taught: teach.isTaught });
tags.listen(async (tag) => {
  await teach.write().catch(teach.tell);
  ask({ tag: tag === asked.tag ? null : tag });
});
teach.listen({
  shown: () => grid.around(answers.MOST),
  version: () => version,
  relabel: grid.relabel,
  showTags,
  editLabels: dialogs.editLabels,
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("textarea, select, input:not([type=checkbox], [type=range])");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
    words.focus();
    words.select();
  } else if (event.key === "?" && !document.querySelector("dialog[open]")) $("help").showModal();
  else return;
  event.preventDefault();
});

// ---- the start

history.scrollRestoration = "manual";
const place = history.state;
words.focus({ preventScroll: true });
Object.assign(asked, await recall());
words.value = asked.words;
try {
  const facts = await api.about();
  version = facts.index_version;
  $("folder").textContent = facts.folder;
  $("folder").title = facts.folder;
  document.title = `${grid.name(facts.folder)} · headword`;
  dialogs.fillAbout(facts);
  await Promise.all([loadTags(), filters.load()]);
  await teach.start();
} catch (error) {
  fail(error);
}
if (words.value !== asked.words) asked.words = words.value; // typed while this was under way
await ask({}, { keep: true, place });
