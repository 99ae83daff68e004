"use strict";
// Boxes that show and hide the columns of all tables by their key.
const boxes = [...document.querySelectorAll("[data-columns] input")];
function choose() {
  for (const box of boxes)
    for (const cell of document.querySelectorAll(`[data-column="${box.value}"]`)) cell.hidden = !box.checked;
}
document.querySelector("[data-columns]").hidden = false;
for (const box of boxes) box.addEventListener("change", choose);
choose();
