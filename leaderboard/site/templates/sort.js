"use strict";
// Heads of the tables marked data-sort become buttons that sort their rows: numbers by data-value, from the
// highest (ranks from the lowest); texts by letters. What has no value comes last both ways.
for (const table of document.querySelectorAll("table[data-sort]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sorter";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      const up = head.getAttribute("aria-sort") === "ascending";
      const figures = head.classList.contains("n") && button.textContent !== "Rank";
      const order = down ? "ascending" : up ? "descending" : figures ? "descending" : "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map(row => {
        const cell = row.cells[column];
        const shown = cell.dataset.value ?? (head.classList.contains("n") ? cell.textContent : "");
        const number = shown.trim() && Number.isFinite(Number(shown)) ? Number(shown) : null;
        return {row, number, words: cell.textContent};
      });
      const numbers = rows.some(({number}) => number !== null);
      rows.sort((a, b) => numbers
        ? (a.number === null) - (b.number === null) || sign * (a.number - b.number)
        : sign * a.words.localeCompare(b.words, "en", {numeric: true}));
      table.tBodies[0].append(...rows.map(({row}) => row));
    });
  });
}
