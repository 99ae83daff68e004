"use strict";
// Hides the rows that don't meet all filters, and the sections that have none left; the address keeps the filters.
const form = document.querySelector("[data-filters]");
const selects = [...form.querySelectorAll("[data-filter]")], words = form.querySelector("[data-filter-words]");
const rows = [...document.querySelectorAll("[data-section] tbody tr")].map(row => ({row, text: row.textContent.toLowerCase()}));
const sections = [...document.querySelectorAll("[data-section]")], found = document.querySelector("[data-found]");

function filter() {
  const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const {row, text} of rows) {
    const shown = selects.every(select => !select.value || row.dataset[select.dataset.filter] === select.value)
      && asked.every(word => text.includes(word));
    row.hidden = !shown;
    left += shown;
  }
  for (const section of sections) section.hidden = !section.querySelector("tbody tr:not([hidden])");
  found.textContent = `${left} of ${rows.length} ${found.dataset.found}`;
}
function changed() {
  filter();
  address.set({...Object.fromEntries(selects.map(select => [select.dataset.filter, select.value])), words: words.value});
}
form.hidden = false;
form.addEventListener("input", changed);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => setTimeout(changed));
address.follow(() => {
  for (const select of selects) {
    select.value = address.get(select.dataset.filter);
    if (select.selectedIndex < 0) select.value = "";
  }
  words.value = address.get("words");
  filter();
});
