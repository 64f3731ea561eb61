// A line at the foot of the page about what was just done, with a way to take it back where there is one.

const note = document.getElementById("note");
const text = document.getElementById("note-text");
const button = document.getElementById("note-act");
const SECONDS = 12;

let act = null;
let hiding;

export function say(line, action = null) {
  text.textContent = line;
  act = action?.act ?? null;
  button.hidden = act === null;
  button.textContent = action?.label ?? "";
  note.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(hide, SECONDS * 1000);
}

export function hide() {
  note.hidden = true;
  act = null;
}

button.addEventListener("click", async () => {
  const doing = act;
  hide();
  try {
    await doing?.();
  } catch (error) {
    say(error.message);
  }
});
// Who is about to press the button has all the time they need.
for (const kind of ["pointerenter", "focusin"]) note.addEventListener(kind, () => clearTimeout(hiding));
for (const kind of ["pointerleave", "focusout"])
  note.addEventListener(kind, () => (hiding = setTimeout(hide, SECONDS * 1000)));
