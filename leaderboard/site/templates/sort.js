"use strict";
// Heads of the tables marked data-sort become buttons that sort their rows: numbers by data-value, from the
// highest (ranks from the lowest); texts by letters. What has no value comes last both ways. The address
// keeps the order under the name that data-sort gives, or the id of the table's section.
for (const table of document.querySelectorAll("table[data-sort]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], served = [...body.rows];
  const servedOrders = heads.map(head => head.getAttribute("aria-sort"));
  const name = `sort.${table.dataset.sort || table.closest("section[id]")?.id}`;
  const words = heads.map(head => head.textContent);
  const mark = orders => heads.forEach((head, place) => {
    if (orders[place]) head.setAttribute("aria-sort", orders[place]); else head.removeAttribute("aria-sort");
  });

  function sort(column, order) {
    mark(heads.map((_, place) => place === column ? order : null));
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map(row => {
      const cell = row.cells[column];
      const shown = cell.dataset.value ?? (heads[column].classList.contains("n") ? cell.textContent : "");
      const number = shown.trim() && Number.isFinite(Number(shown)) ? Number(shown) : null;
      return {row, number, words: cell.textContent};
    });
    const numbers = rows.some(({number}) => number !== null);
    rows.sort((a, b) => numbers
      ? (a.number === null) - (b.number === null) || sign * (a.number - b.number)
      : sign * a.words.localeCompare(b.words, "en", {numeric: true}));
    body.append(...rows.map(({row}) => row));
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sorter";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      const up = head.getAttribute("aria-sort") === "ascending";
      const figures = head.classList.contains("n") && words[column] !== "Rank";
      const order = down ? "ascending" : up ? "descending" : figures ? "descending" : "ascending";
      sort(column, order);
      address.set({[name]: `${words[column]} ${order}`});
    });
  });

  let restored = "";
  address.follow(() => {
    const asked = address.get(name);
    if (asked === restored) return;
    restored = asked;
    mark(servedOrders);
    body.append(...served);
    const [, word, order] = asked.match(/^(.*) (ascending|descending)$/) ?? [];
    if (words.includes(word)) sort(words.indexOf(word), order);
  });
}
