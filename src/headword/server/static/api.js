// The HTTP API (see /openapi.json).

async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is headword app still running?");
  }
  const said = await response.json().catch(() => ({ error: `The server answered ${response.status}.` }));
  if (!response.ok) throw new Error(said.error);
  return said;
}

function post(address, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(address, { method: "POST", headers, body: JSON.stringify(body), signal });
}

function given(values) {
  const entries = Object.entries(values).filter(([, value]) => value !== null && value !== "");
  return new URLSearchParams(entries);
}

const inPath = (path) => path.split("/").map(encodeURIComponent).join("/");

export const about = () => ask("/about");
export const classes = (find, signal) => ask(`/classes?${given({ find, k: 300 })}`, { signal });
export const classify = (path, labels, signal) => post("/classify", { pictures: [path], labels }, signal);
export const pictures = (tag, offset, k, signal) => ask(`/pictures?${given({ tag, offset, k })}`, { signal });
export const search = (request, signal) => post("/search", request, signal);
export const tags = () => ask("/tags");

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
