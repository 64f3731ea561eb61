// Pictures of the user's own: chosen, dropped or pasted, and kept in this browser, so that a search by one
// survives a reload and Back.

const STORE = "pictures";
const KEPT = 20; // of the last ones

function database() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("headword", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { autoIncrement: true });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

async function within(mode, work) {
  const opened = await database();
  try {
    const store = opened.transaction(STORE, mode).objectStore(STORE);
    return await new Promise((resolve, reject) => {
      const request = work(store);
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  } finally {
    opened.close();
  }
}

async function store(file) {
  try {
    const id = await within("readwrite", (pictures) => pictures.add(file));
    await within("readwrite", (pictures) => pictures.delete(IDBKeyRange.upperBound(id - KEPT)));
    return String(id);
  } catch {
    return null; // this browser keeps nothing; the search goes by the picture all the same
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

const known = new Map(); // id → what `take` and `recall` give

// A picture to search by: its `id` in this browser, null if it is not kept; its bytes, and an address to show.
export async function take(file) {
  const id = await store(file);
  const picture = { id, data: await base64(file), address: URL.createObjectURL(file) };
  if (id !== null) known.set(id, picture);
  return picture;
}

// The picture of an id; null if it is no longer kept.
export async function recall(id) {
  if (known.has(id)) return known.get(id);
  try {
    const file = await within("readonly", (pictures) => pictures.get(Number(id)));
    const picture = { id, data: await base64(file), address: URL.createObjectURL(file) };
    known.set(id, picture);
    return picture;
  } catch {
    return null;
  }
}

// Calls back with a file that is dropped on the page, pasted, or chosen.
export function listen(given) {
  const drop = document.getElementById("drop");
  const file = document.getElementById("file");
  document.getElementById("pick").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    const [chosen] = file.files;
    file.value = "";
    if (chosen) given(chosen);
  });

  let depth = 0; // dragenter and dragleave come for every element that is crossed
  const dragsFile = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!dragsFile(event)) return;
    depth += 1;
    drop.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    drop.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => dragsFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    if (!dragsFile(event)) return;
    event.preventDefault();
    depth = 0;
    drop.hidden = true;
    if (event.dataTransfer.files[0]) given(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const pasted = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (pasted) given(pasted);
  });
}
