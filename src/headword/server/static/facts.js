// A fact in a list of names and values.

export function described([key, value]) {
  const row = document.createElement("div");
  const [term, said] = [document.createElement("dt"), document.createElement("dd")];
  term.textContent = key;
  said.textContent = value;
  row.append(term, said);
  return row;
}
