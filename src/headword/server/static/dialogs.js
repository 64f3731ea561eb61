// The three sheets: a picture by itself, the label list, and what the model is.

import * as api from "./api.js";
import { name, score } from "./grid.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");

export function listen({ retag, labels }) {
  for (const dialog of document.querySelectorAll("dialog")) {
    for (const button of dialog.querySelectorAll(".close, [data-close]"))
      button.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close(); // the shade around the sheet
    });
  }
  $("about-open").addEventListener("click", () => {
    $("about").showModal();
    findClasses();
  });
  $("classes-find").addEventListener("input", findClasses);
  editing = labels;
  $("labels-open").addEventListener("click", editLabels);
  $("labels-words").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("labels-form").requestSubmit();
  });
  $("labels-form").addEventListener("submit", (event) => {
    event.preventDefault();
    applyLabels(retag);
  });
  $("picture").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
  $("picture-like").addEventListener("click", () => {
    $("picture").close();
    open.like(open.hits[open.place].path);
  });
  $("picture").addEventListener("close", () => {
    open.asking?.abort();
    $("picture-large").removeAttribute("src");
  });
}

// ---- labels

let editing = () => [];

export function editLabels() {
  $("labels-words").value = editing().join("\n");
  $("labels-problem").textContent = "";
  $("labels").showModal();
}

async function applyLabels(retag) {
  const lines = $("labels-words").value.split("\n").map((line) => line.replace(/^[\s,]+|[\s,]+$/g, ""));
  const wanted = [...new Set(lines.filter(Boolean))];
  const button = $("labels-apply");
  if (!wanted.length) {
    $("labels-problem").textContent = "Write at least one label.";
    return;
  }
  $("labels-problem").textContent = "";
  button.disabled = true;
  button.textContent = "Tagging …";
  try {
    await retag(wanted, $("labels-none").checked);
    $("labels").close();
  } catch (error) {
    $("labels-problem").textContent = error.message;
  } finally {
    button.disabled = false;
    button.textContent = "Tag the folder";
  }
}

// ---- a picture by itself

const open = { hits: [], place: 0, version: "", labels: [], like: null, asking: null };

export function openPicture(path, hits, { version, labels, like }) {
  const place = hits.findIndex((hit) => hit.path === path);
  Object.assign(open, { hits, place, version, labels, like });
  $("picture").showModal();
  showPicture();
}

function step(by) {
  const place = open.place + by;
  if (place < 0 || place >= open.hits.length) return;
  open.place = place;
  showPicture();
}

async function showPicture() {
  const hit = open.hits[open.place];
  const size = innerWidth * devicePixelRatio > 800 ? 1280 : 640;
  $("picture-large").src = api.thumbnailAddress(hit.path, size, open.version);
  $("picture-large").alt = hit.path;
  $("picture-name").textContent = name(hit.path);
  $("picture-name").title = hit.path;
  $("picture-file").href = api.imageAddress(hit.path);
  const place = `${count.format(open.place + 1)} of ${count.format(open.hits.length)}`;
  $("picture-score").textContent = hit.score === null ? place : `${place} · cosine ${score(hit.score)}`;
  $("picture-fits").replaceChildren();
  open.asking?.abort();
  if (!open.labels.length) return;
  open.asking = new AbortController();
  try {
    const said = await api.classify(hit.path, open.labels, open.asking.signal);
    $("picture-fits").replaceChildren(...said.results[0].slice(0, 5).map(fit));
  } catch (error) {
    if (error.name !== "AbortError") $("picture-score").textContent = error.message;
  }
}

function fit({ label, probability }) {
  const row = document.createElement("li");
  const said = document.createElement("span");
  said.textContent = label;
  const number = document.createElement("span");
  number.className = "count";
  number.textContent = `${(100 * probability).toFixed(probability < 0.0995 ? 1 : 0)} %`;
  row.append(said, number);
  row.style.setProperty("--part", probability);
  return row;
}

// ---- the model

export function fillAbout({ headword, images, index, model, classes }) {
  const { vision, text, pairs, aligner, centre } = model;
  const sources = Object.entries(pairs.sources).map(([source, n]) => `${count.format(n)} from ${source}`);
  const settings = Object.entries(aligner.settings).map(([key, value]) => `${key} ${value}`);
  const unknown = "unknown: see the model's page";
  const facts = [
    ["Classifier", `${vision.kind}:${vision.id}`],
    ["Classifier's licence", vision.licence || unknown],
    ["Head", `${count.format(classes)} classes × ${count.format(vision.head.dim)} features`],
    ["Text encoder", `${text.kind}:${text.id}`],
    ["Text encoder's licence", text.licence || unknown],
    ["Learnt from", `${count.format(pairs.number)} pairs: ${sources.join(", ")}`],
    ["Mapping", `${aligner.name} (${settings.join(", ")})`],
    ["Centred on", centredOn(index, centre)],
    ["Pictures", count.format(images)],
    ["Search", index.engine],
    ["Index last changed", new Date(index.updated).toLocaleString()],
    ["headword", headword],
  ];
  $("about-facts").replaceChildren(
    ...facts
      .map(([key, value]) => {
        const row = document.createElement("div");
        const [term, said] = [document.createElement("dt"), document.createElement("dd")];
        term.textContent = key;
        said.textContent = value;
        row.append(term, said);
        return row;
      }),
  );
}

function centredOn(index, centre) {
  if (index.centre.kind === "collection") return `the ${count.format(index.centre.images)} pictures of this folder`;
  return centre.kind === "pool" ? `${count.format(centre.images)} other pictures` : "nothing";
}

let finding = null;

async function findClasses() {
  finding?.abort();
  const mine = (finding = new AbortController());
  try {
    const said = await api.classes($("classes-find").value.trim(), mine.signal);
    const rows = said.classes.map((label) => {
      const row = document.createElement("li");
      row.textContent = label;
      return row;
    });
    const left = said.total - said.classes.length;
    if (left > 0) {
      const row = document.createElement("li");
      row.className = "soft";
      row.textContent = `and ${count.format(left)} more`;
      rows.push(row);
    }
    $("classes").replaceChildren(...rows);
  } catch (error) {
    if (error.name !== "AbortError") $("classes").textContent = error.message;
  }
}
