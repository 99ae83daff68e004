"use strict";
// Shows the published numbers of one protocol beneath the table; the address keeps which.
const choice = document.querySelector("[data-beside-choice]");
const tables = [...document.querySelectorAll("[data-beside]")];
function show() {
  for (const table of tables) table.hidden = table.dataset.beside !== choice.value;
}
if (choice) {
  choice.addEventListener("input", () => { show(); address.set({published: choice.value}); });
  choice.form.addEventListener("reset", () => setTimeout(() => { show(); address.set({published: ""}); }));
  address.follow(() => {
    choice.value = address.get("published");
    if (choice.selectedIndex < 0) choice.value = "";
    show();
  });
}
