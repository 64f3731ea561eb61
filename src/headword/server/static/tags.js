// The tags at the side, with how many pictures have each.

const list = document.getElementById("tags");
const number = new Intl.NumberFormat("en");

let counts = new Map();

export const names = () => [...counts.keys()];
export const count = (tag) => counts.get(tag) ?? 0;
export const has = (tag) => counts.has(tag);
export const tagged = () => [...counts.values()].reduce((sum, n) => sum + n, 0);

export function show(tags, chosen) {
  counts = new Map(tags.map(({ tag, count: n }) => [tag, n]));
  const most = Math.max(...counts.values(), 1);
  const rows = tags.map(({ tag, count: n }) => {
    const row = document.createElement("li");
    const button = document.createElement("button");
    const [label, how] = [document.createElement("span"), document.createElement("span")];
    button.type = "button";
    button.dataset.tag = tag;
    button.style.setProperty("--part", n / most);
    label.textContent = tag;
    how.className = "count";
    how.textContent = number.format(n);
    button.append(label, how);
    row.append(button);
    return row;
  });
  list.replaceChildren(...rows);
  document.getElementById("no-tags").hidden = rows.length > 0;
  mark(chosen);
}

export function mark(chosen) {
  for (const button of list.querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.tag === chosen));
}

export function listen(choose) {
  list.addEventListener("click", (event) => {
    const tag = event.target.closest("button")?.dataset.tag;
    if (tag !== undefined) choose(tag);
  });
}
