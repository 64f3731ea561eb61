// The HTTP API (see /openapi.json).

async function get(address, options = {}, read = "json") {
  try {
    const response = await fetch(address, options);
    if (response.ok) return await response[read]();
    const said = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
    throw new Refused(said.error);
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Refused) throw error;
    throw new Error("The server does not answer. Is headword app still running?");
  }
}

class Refused extends Error {}

function post(address, body, signal, read) {
  const headers = { "Content-Type": "application/json" };
  return get(address, { method: "POST", headers, body: JSON.stringify(body), signal }, read);
}

function given(values) {
  const entries = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return new URLSearchParams(entries);
}

const inPath = (path) => path.split("/").map(encodeURIComponent).join("/");

export const about = () => get("/about");
export const classes = (find, signal) => get(`/classes?${given({ find, k: 300 })}`, { signal });
export const classify = (path, labels, signal) => post("/classify", { pictures: [path], labels }, signal);
export const correct = (pictures, add, remove) => post("/tags", { pictures, add, remove });
export const download = (pictures) => post("/download", { pictures }, undefined, "blob");
export const duplicates = (signal) => post("/duplicates", {}, signal);
export const explain = (words, signal) => get(`/explain?${given({ words, k: 6 })}`, { signal });
export const facts = (path, signal) => get(`/facts/${inPath(path)}`, { signal });
export const file = (path) => get(imageAddress(path), {}, "blob");
export const folders = () => get("/folders");
export const maps = (path, words, signal) =>
  get(`/maps/${inPath(path)}?${new URLSearchParams(words.map((word) => ["words", word]))}`, { signal });
export const pictures = (which, signal) => get(`/pictures?${given(which)}`, { signal });
export const search = (request, signal) => post("/search", request, signal);
export const tag = (labels, several) => post("/tag", { labels, multi_label: several });
export const tags = () => get("/tags");
export const undoTags = () => post("/tag/undo", {});

// What is taught: of pictures on the page their labels, and a number of pictures to ask about next.
export const lesson = (shown, suggest) => post("/lesson/state", { shown, suggest });
export const beginLesson = (labels, noneOfThese) => post("/lesson", { labels, none_of_these: noneOfThese });
export const answerLesson = (answers, shown, suggest) => post("/lesson/answers", { answers, shown, suggest });
export const undoLesson = (shown, suggest) => post("/lesson/undo", { shown, suggest });
export const tagLesson = () => post("/lesson/tags", {});
export const saveLesson = () => post("/lesson/classifier", {});

export const imageAddress = (path) => `/images/${inPath(path)}`;
export const thumbnailAddress = (path, size, version) =>
  `/thumbnails/${inPath(path)}?${given({ size, version })}`;
