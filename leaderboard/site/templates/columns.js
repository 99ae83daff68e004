"use strict";
// Boxes that show and hide the columns of all tables by their key; the address keeps those that are shown.
const boxes = [...document.querySelectorAll("[data-columns] input")];
function choose() {
  for (const box of boxes)
    for (const cell of document.querySelectorAll(`[data-column="${box.value}"]`)) cell.hidden = !box.checked;
}
document.querySelector("[data-columns]").hidden = false;
for (const box of boxes) box.addEventListener("change", () => {
  choose();
  const usual = boxes.every(box => box.checked === box.defaultChecked);
  address.set({columns: usual ? "" : boxes.filter(box => box.checked).map(box => box.value).join(",") || "none"});
});
address.follow(() => {
  const asked = address.get("columns"), shown = asked.split(",");
  for (const box of boxes) box.checked = asked ? shown.includes(box.value) : box.defaultChecked;
  choose();
});
