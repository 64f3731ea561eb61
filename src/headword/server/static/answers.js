// What the API answers to what is asked.

import * as api from "./api.js";
import { condition } from "./filters.js";

export const MOST = 500; // the API's limit for one answer
export const DEEPEST = 10_000; // and for the place of a hit

const count = new Intl.NumberFormat("en");

export const searching = (asked) => Boolean(asked.words.trim() || asked.like || asked.image);

// Some of the pictures, in as many requests as it takes; `ended` if there are no more.
export async function get(asked, offset, wanted, signal) {
  if (asked.copies) return copies(signal);
  let whole = null;
  const end = offset + wanted;
  for (let at = offset; at < end; at += MOST) {
    const k = Math.min(end - at, MOST);
    const said = searching(asked) ? await search(asked, at, k, signal) : await browse(asked, at, k, signal);
    whole = whole ? { ...said, hits: [...whole.hits, ...said.hits] } : said;
    if (said.hits.length < k) break;
  }
  return { ...whole, ended: whole.hits.length < wanted };
}

function search(asked, offset, k, signal) {
  const request = { offset, k };
  if (asked.words.trim()) request.words = asked.words;
  if (asked.like) request.like = asked.like;
  if (asked.image) request.image = asked.image.data;
  if (asked.tag) request.tag = asked.tag;
  const where = condition(asked);
  if (where) request.where = where;
  if (asked.right.length) request.right = asked.right;
  if (asked.wrong.length) request.wrong = asked.wrong;
  return api.search(request, signal);
}

async function browse(asked, offset, k, signal) {
  const said = await api.pictures({ offset, k, tag: asked.tag, where: condition(asked) }, signal);
  return { ...said, hits: said.pictures };
}

// Pictures that are there more than once, group by group; `starts` a group of so many.
async function copies(signal) {
  const said = await api.duplicates(signal);
  const hits = said.groups.flatMap((group) => group.map((hit, n) => (n ? hit : { ...hit, starts: group.length })));
  return { ...said, hits, total: hits.length, ended: true };
}

export function sentenceOfCopies({ groups, hits, similarity }) {
  if (!groups.length) return `No picture is there twice, by cosines of ${similarity.toFixed(2)} and more.`;
  const number = `${count.format(groups.length)} group${groups.length === 1 ? "" : "s"}`;
  return `${number} of ${count.format(hits.length)} pictures that are there more than once, or nearly`;
}
