// The sheets beside a picture's own: the label list, what the model is, and the keys; and light and dark.

import * as api from "./api.js";
import { described } from "./facts.js";
import { say } from "./note.js";

const $ = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");

export function listen(given) {
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
  Object.assign(able, given);
  $("labels-open").addEventListener("click", editLabels);
  $("labels-words").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("labels-form").requestSubmit();
  });
  $("labels-form").addEventListener("submit", (event) => {
    event.preventDefault();
    applyLabels();
  });
  for (const id of ["labels-words", "labels-none", "labels-several"]) $(id).addEventListener("input", unconfirm);
  $("labels-several").addEventListener("change", () => ($("labels-none").disabled = $("labels-several").checked));
  $("help-open").addEventListener("click", () => $("help").showModal());
}

// ---- labels

// What the page can do: retag, undo that, labels as they are, how many pictures are tagged, whether by clicks.
const able = { retag: null, undo: null, labels: null, tagged: null, taught: null };
let confirmed = false; // that tags which are there may be replaced

export function editLabels() {
  $("labels-words").value = able.labels().join("\n");
  $("labels-problem").textContent = "";
  $("labels-several").disabled = able.taught(); // what clicks teach is one label a picture
  if (able.taught()) $("labels-several").checked = $("labels-none").disabled = false;
  unconfirm();
  $("labels").showModal();
}

function unconfirm() {
  confirmed = false;
  $("labels-confirm").hidden = true;
  $("labels-apply").textContent = "Tag the folder";
}

async function applyLabels() {
  const lines = $("labels-words").value.split("\n").map((line) => line.replace(/^[\s,]+|[\s,]+$/g, ""));
  const wanted = [...new Set(lines.filter(Boolean))];
  const button = $("labels-apply");
  $("labels-problem").textContent = "";
  if (!wanted.length) {
    $("labels-problem").textContent = "Write at least one label.";
    return;
  }
  const tagged = able.tagged();
  if (tagged && !confirmed) {
    confirmed = true;
    $("labels-confirm").textContent = `This replaces the tags of ${count.format(tagged)} picture${tagged === 1 ? "" : "s"}.`;
    $("labels-confirm").hidden = false;
    button.textContent = "Replace the tags";
    return;
  }
  button.disabled = true;
  button.textContent = "Tagging …";
  try {
    await able.retag(wanted, { several: $("labels-several").checked, noneOfThese: $("labels-none").checked });
    $("labels").close();
    say("The folder is tagged.", { label: "Undo", act: able.undo });
  } catch (error) {
    $("labels-problem").textContent = error.message;
  } finally {
    button.disabled = false;
    unconfirm();
  }
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
  $("about-facts").replaceChildren(...facts.map(described));
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
