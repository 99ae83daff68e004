"use strict";
// Boxes that choose two systems of a board; the link above the table then compares these.
const pairing = document.querySelector("[data-pairing]"), chosenTwo = [];
const link = pairing.querySelector("a"), plain = {href: link.getAttribute("href"), text: link.textContent};
pairing.querySelector("span").hidden = false;
for (const row of document.querySelectorAll("tr[data-system]")) {
  const name = row.cells[0].querySelector("a").textContent, box = document.createElement("input");
  const title = `${name} ${row.cells[0].querySelector("[data-version]").textContent}`;
  box.type = "checkbox";
  box.setAttribute("aria-label", `Compare ${title}`);
  row.cells[0].prepend(box);
  box.addEventListener("change", () => {
    if (box.checked) chosenTwo.push({box, title, key: row.dataset.system});
    else chosenTwo.splice(chosenTwo.findIndex(one => one.box === box), 1);
    if (chosenTwo.length > 2) chosenTwo.shift().box.checked = false;
    const [a, b] = chosenTwo;
    link.href = plain.href + (a ? `&a=${encodeURIComponent(a.key)}` : "") + (b ? `&b=${encodeURIComponent(b.key)}` : "");
    link.textContent = b ? `Compare ${a.title} with ${b.title}` : plain.text;
    pairing.firstChild.data = b ? "" : "Two systems can be ";
    pairing.querySelector("span").hidden = Boolean(b);
    pairing.classList.toggle("ready", Boolean(a));
  });
}
