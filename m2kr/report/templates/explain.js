(function () {
  function light(event) {
    var panel = event.target.closest && event.target.closest(".mx");
    document.querySelectorAll(".mx-on").forEach(function (each) {
      each.classList.remove("mx-on");
    });
    var at = panel && event.target.closest("[data-t],[data-p]");
    if (!at) return;
    var from = at.hasAttribute("data-t") ? "data-t" : "data-p";
    var to = from === "data-t" ? "data-p" : "data-t";
    at.getAttribute(from).split(" ").forEach(function (place) {
      panel.querySelectorAll("[" + to + '~="' + place + '"]').forEach(function (each) {
        each.classList.add("mx-on");
      });
    });
    at.classList.add("mx-on");
  }
  // One row of a table is reached by Tab, the others from there by the arrow keys.
  function move(event) {
    var row = event.target.closest && event.target.closest("tr[tabindex]");
    var step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    var next = row && step && row[step];
    if (!next) return;
    event.preventDefault();
    row.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  document.addEventListener("keydown", move);
  document.addEventListener("pointerover", light);
  document.addEventListener("focusin", light);
})();
