"use strict";
// What a page shows, in the address after #, such as #kind=re-rank&words=clip, so that a view can be shared.
// Whatever is as the page came isn't in it. An address without "=" is a place on the page.
const address = {
  state: new URLSearchParams(),
  read() {
    if (!location.hash || location.hash.includes("=")) address.state = new URLSearchParams(location.hash.slice(1));
  },
  get: name => address.state.get(name) ?? "",
  set(values) {
    for (const [name, value] of Object.entries(values))
      if (value) address.state.set(name, value); else address.state.delete(name);
    clearTimeout(address.timer);  // browsers refuse many changes in a row
    address.timer = setTimeout(() => {
      if (`${address.state}` || location.hash.includes("="))
        history.replaceState(history.state, "", `#${address.state}`);
    }, 150);
  },
  follow(restore) { restore(); addEventListener("hashchange", restore); },
};
addEventListener("hashchange", () => { clearTimeout(address.timer); address.read(); });
address.read();
