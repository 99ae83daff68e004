"use strict";
// What pages with a list of queries share; report.js or answers.js comes after it in the same script.
// Every text from outside is set as text, never as markup; files of data come in through `m2kr`.

const report = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, within = document) => within.querySelector(selector);
const number = new Intl.NumberFormat("en");
const count = (n, noun, nouns = noun + "s") => `${number.format(n)} ${n === 1 ? noun : nouns}`;
// Three places as Python rounds them: of two equally near, which only sixteenths have, the even one.
const thousandths = value =>
  (Math.abs(value * 16 % 2) === 1 ? 2 * Math.round(value * 500) / 1000 : value).toFixed(3);
const score = value => thousandths(value).replace(/^(-?)0\./, "$1.").replace("-", "−");

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && typeof child !== "boolean"));
  return node;
}
const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const text = (x, y, words, attributes) => svg("text", {x, y, ...attributes}, words);

const fill = (node, ...children) => { node.replaceChildren(); return build(node, {}, children); };

function select(label, options, value, change, attributes) {
  const list = h("select", {onchange: event => change(event.target.value), ...attributes},
    options.map(([key, name]) => h("option", {value: key}, name)));
  list.value = value;
  return h("label", {class: "choice"}, h("span", {}, label), list);
}

const narrow = matchMedia("(max-width: 859px)");
const dot = system => h("i", {class: `dot c${system % 12}`, "aria-hidden": "true"});
const best = values => Math.max(...values.filter(value => value !== null));

/* ---- parts of plots ---- */

const MARKS = [
  (x, y) => svg("circle", {cx: x, cy: y, r: 4.5}),
  (x, y) => svg("rect", {x: x - 4, y: y - 4, width: 8, height: 8}),
  (x, y) => svg("path", {d: `M${x} ${y - 5.5}l5.2 9.2h-10.4z`}),
  (x, y) => svg("path", {d: `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z`}),
];
const mark = (system, x, y) => build(MARKS[Math.floor(system / 4) % 4](x, y), {class: `mark c${system % 12}`}, []);
const DASHES = ["", "6 3", "2 3"];

function figure(title, sub, content, more) {
  return h("figure", {class: more}, h("figcaption", {}, h("h3", {}, title), sub && h("p", {}, sub)), content);
}

function drawing(width, height, label, ...children) {
  return svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot"}, children);
}

const tick = value => value === 0 ? "0" : value.toFixed(2).replace(/^0\./, ".");
function niceEnd(value) {
  return [.05, .1, .2, .3, .4, .5, .6, .8, 1].find(end => end >= value) ?? value;
}

// Ends of lines labelled beside them, moved apart where they would overlap.
function labels(items, x, top, bottom, most = 18) {
  const gap = 15;
  const sorted = [...items].sort((a, b) => a.y - b.y);
  sorted.forEach((item, place) => { item.at = Math.max(item.y, place ? sorted[place - 1].at + gap : top); });
  let limit = bottom;
  for (const item of sorted.reverse()) { item.at = Math.min(item.at, limit); limit = item.at - gap; }
  return sorted.map(item => [
    svg("path", {class: "leader", d: `M${item.x} ${item.y}L${x - 4} ${item.at}`}),
    text(x, item.at + 4, shortened(item.name, most), {class: `name c${item.system % 12}`}),
  ]);
}
const shortened = (words, most) => words.length > most ? words.slice(0, most - 1) + "…" : words;

/* ---- files of data ---- */

const files = new Map(), waiting = new Map();
window.m2kr = (name, value) => waiting.get(name)?.(value);
function load(name) {
  if (!files.has(name)) {
    files.set(name, new Promise((done, fail) => {
      waiting.set(name, done);
      const script = h("script", {src: `./${name}.js`, charset: "utf-8"});
      script.onload = () => script.remove();
      script.onerror = () => { script.remove(); files.delete(name); fail(new Error(`${name}.js, which belongs beside this page, can’t be read.`)); };
      document.head.append(script);
    }));
  }
  return files.get(name);
}

// The passages of one folder of data, in files that are read when they are looked at.
class Texts {
  constructor(column) {
    this.column = column;
    this.folder = column.browser.folder;
    this.rows = [];
    this.texts = new Map();
    this.hits = new Map();
  }
  chunkOf(passage) {
    let low = 0, high = this.meta.texts.length;
    while (low + 1 < high) { const middle = (low + high) >> 1; this.meta.texts[middle] <= passage ? low = middle : high = middle; }
    return low;
  }
  async chunk(number) {
    const texts = await load(`${this.folder}/texts-${number}`);
    this.texts.set(number, texts);
    return texts;
  }
  async passage(passage) {
    const number = this.chunkOf(passage), texts = await this.chunk(number), place = passage - this.meta.texts[number];
    return {id: texts.id[place], title: texts.title[place], text: texts.text[place], image: texts.image[place], length: texts.length[place]};
  }
  // Passages among those read so far that hold some words.
  passagesWith(words) {
    const passages = new Set();
    for (const [number, texts] of this.texts) {
      texts.text.forEach((body, place) => {
        if (body.toLowerCase().includes(words) || texts.title[place].toLowerCase().includes(words)) passages.add(this.meta.texts[number] + place);
      });
    }
    return passages;
  }
}

async function thumbnail(folder, image) {
  const chunk = await load(`${folder}/images-${Math.floor(image / 32)}`);
  return `data:image/jpeg;base64,${chunk[image % 32]}`;
}

// A picture's place, which is filled when its file has come.
function picture(folder, image, name, at) {
  if (image === -1) return null;
  const box = h("span", {class: `picture ${at}`});
  if (image < 0) box.append(h("span", {class: "lacking"}, image === -2 ? "image missing" : "image left out"));
  else {
    const img = h("img", {alt: name});
    box.append(img);
    thumbnail(folder, image).then(uri => { img.src = uri; }, () => img.replaceWith(h("span", {class: "lacking"}, "image missing")));
  }
  return box;
}

/* ---- answers in texts, as pseudo recall finds them ---- */

function spans(body, answers) {
  const lowered = body.toLowerCase(), found = [];
  for (const answer of new Set(answers.map(each => each.toLowerCase()))) {
    if (!answer) continue;
    for (let start = lowered.indexOf(answer); start >= 0; start = lowered.indexOf(answer, start + 1)) found.push([start, start + answer.length]);
  }
  if (lowered.length !== body.length) { // back to the characters that they came from
    const from = [], to = [];
    let place = 0;
    for (const char of body) {
      for (const _ of char.toLowerCase().split("")) { from.push(place); to.push(place + char.length); }
      place += char.length;
    }
    found.forEach(span => { span[1] = to[span[1] - 1]; span[0] = from[span[0]]; });
  }
  const joined = [];
  for (const [start, end] of found.sort((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (joined.length && start <= joined.at(-1)[1]) joined.at(-1)[1] = Math.max(joined.at(-1)[1], end);
    else joined.push([start, end]);
  }
  return joined;
}

function marked(body, answers) {
  const parts = [];
  let end = 0;
  for (const [start, stop] of spans(body, answers)) { parts.push(body.slice(end, start), h("mark", {}, body.slice(start, stop))); end = stop; }
  return [...parts, body.slice(end)];
}

/* ---- the list of queries, and the one that is looked at ---- */
// A page has `isShown`, `rowNode`, `drawDetail`, `makeBrowser`, `fresh`, `drawKey`, `showSystem`, `drawPlots` and `NOUN`.

const ROW = 76;
const sources = new Map();
const browser = {source: null, rows: [], at: -1, shown: [], filters: {}, words: "", find: "all"};

function openSource(column) {
  if (!sources.has(column.key)) {
    const opening = new Source(column).open();
    sources.set(column.key, opening);
    opening.catch(() => sources.delete(column.key));
  }
  return sources.get(column.key);
}

function applyFilters(keep) {
  const source = browser.source, words = browser.words.trim().toLowerCase();
  const holding = words && source.whole ? source.holding(words) : null;
  browser.rows = source.rows.filter(row => isShown(row)
    && Object.entries(browser.filters).every(([name, value]) => value === "" || row.filters[name] === Number(value))
    && (!words || holding?.has(row.number) || (row.text ??= [row.id, row.question, ...row.answers, ...row.said ?? []].join("\n").toLowerCase()).includes(words)));
  const some = browser.rows.length, all = source.rows.length;
  $("#found").textContent = some === all ? count(all, ...NOUN) : `${number.format(some)} of ${count(all, ...NOUN)}`;
  drawKey();
  const list = $("#list");
  browser.at = browser.rows.findIndex(row => row === keep);
  $("#spacer").style.height = `${some * ROW}px`;
  if (browser.at < 0) list.scrollTop = 0; else reveal();
  drawRows(true);
  if (browser.at < 0 && some && !narrow.matches) go(0, true);
  if (!some) { list.removeAttribute("aria-activedescendant"); }
}

function drawRows(anew) {
  const list = $("#list"), body = $("#rows");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(browser.rows.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const there = new Map(anew ? [] : [...body.children].map(node => [Number(node.dataset.place), node]));
  if (anew) body.replaceChildren();
  for (const [place, node] of there) if (place < first || place >= last) node.remove();
  for (let place = first; place < last; place++) if (!there.has(place)) body.append(rowNode(place));
  clearTimeout(drawRows.timer);
  drawRows.timer = setTimeout(fillPictures, 60);
}

function fillPictures() {
  for (const box of document.querySelectorAll("#rows .small[data-image]")) {
    const image = Number(box.dataset.image);
    box.removeAttribute("data-image");
    if (image === -1) continue;
    if (image < 0) { box.classList.add("blank"); continue; }
    const img = h("img", {alt: ""});
    box.append(img);
    thumbnail(browser.source.folder, image).then(uri => { img.src = uri; }, () => img.remove());
  }
}

function reveal() {
  const list = $("#list"), top = browser.at * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

// Selects a row; its address becomes the page's.
function go(place, quiet) {
  if (!browser.rows.length) return;
  browser.at = Math.max(0, Math.min(browser.rows.length - 1, place));
  reveal();
  drawRows(false);
  for (const node of $("#rows").children) node.setAttribute("aria-selected", String(Number(node.dataset.place) === browser.at));
  $("#list").setAttribute("aria-activedescendant", `row-${browser.at}`);
  setAddress();
  if (!quiet || !narrow.matches) drawDetail();
}

function setAddress() {
  const address = `#${encodeURIComponent(browser.source.column.key)}/${encodeURIComponent(browser.rows[browser.at].id)}`;
  if (location.hash !== address) history.replaceState(history.state, "", address);
}

// On a narrow screen, list and query take turns; the browser's own way back leads to the list, too.
function openDetail() {
  if (narrow.matches && !$("#browser").classList.contains("opened")) history.pushState({detail: true}, "");
  $("#browser").classList.add("opened");
  $("#detail").focus({preventScroll: true});
  $("#detail").scrollTop = 0;
}
function hideDetail() {
  $("#browser").classList.remove("opened");
  if ($("#list")) { drawRows(false); reveal(); $("#list").focus({preventScroll: true}); }
}
const closeDetail = () => history.state?.detail ? history.back() : hideDetail();
addEventListener("popstate", event => { if (!event.state?.detail && $("#browser").classList.contains("opened")) { hideDetail(); setAddress(); } });

// A passage: `rank`, `badges` (class and words), `value` and `right` are of its place in a ranking.
function passageNode(passage, content, {rank, badges = [], value, right} = {}) {
  const body = h("p", {class: "text", dir: "auto"}, content, passage.length ? h("span", {class: "soft"}, ` … (${number.format(passage.length)} characters in all)`) : null);
  const more = h("button", {class: "more", type: "button", hidden: true, "aria-expanded": "false", onclick: () => {
    const open = body.classList.toggle("open");
    more.textContent = open ? "less" : "more";
    more.setAttribute("aria-expanded", String(open));
  }}, "more");
  const node = h("li", {class: right ? "passage right" : "passage"},
    h("div", {class: "head"}, rank && h("span", {class: "rank"}, rank),
      h("span", {class: "names"}, h("bdi", {class: "title", dir: "auto"}, passage.title || passage.id), passage.title && h("bdi", {class: "id"}, passage.id)),
      badges.map(([kind, words]) => h("span", {class: `badge ${kind}`}, words)),
      value !== undefined && h("span", {class: "value", title: "score"}, Number(value.toPrecision(4)))),
    h("div", {class: "body"}, picture(browser.source.folder, passage.image, "Image of the passage", "of-passage"), h("div", {}, body, more)));
  requestAnimationFrame(() => {
    if (body.scrollHeight <= body.clientHeight + 2) return;
    more.hidden = false;
    const answer = $("mark", body);
    if (answer && answer.getBoundingClientRect().bottom > body.getBoundingClientRect().bottom + 1) more.click();
  });
  return node;
}

function step(by) { const before = document.activeElement?.getAttribute?.("aria-label"); go(browser.at + by, false); if (before) drawDetail().then(() => $(`#detail [aria-label="${CSS.escape(before)}"]`)?.focus({preventScroll: true})); $("#detail").scrollTop = 0; }

function splitSelect(column) {
  const withData = report.columns.filter(each => each.browser.folder !== undefined);
  return withData.length > 1 && select("Split", withData.map(each => [each.key, each.label]), column.key, key => { location.hash = `#${encodeURIComponent(key)}/`; }, {id: "source"});
}
function searchBox(changed) {
  const search = h("input", {type: "search", id: "search", placeholder: "Search", "aria-label": "Search questions, answers and ids", autocomplete: "off", spellcheck: "false",
    oninput: event => { clearTimeout(search.timer); search.timer = setTimeout(() => { browser.words = event.target.value; changed(); }, 120); },
    onkeydown: event => { if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); $("#list").focus(); if (browser.at < 0) go(0, true); } }});
  return h("div", {class: "search"}, search);
}
function filterSelects(source, changed) {
  return source.meta.filters.map(filter => select(filter.name,
    [["", "any"], ...filter.values.map((value, place) => [place, value])], browser.filters[filter.name] ?? "", value => { browser.filters[filter.name] = value; changed(); }));
}
function rowList(source) {
  const list = h("div", {id: "list", class: source.rows.every(row => row.image === -1) ? "plain" : "", role: "listbox", tabindex: "0", "aria-label": NOUN[1]}, h("div", {id: "spacer"}), h("div", {id: "rows", role: "presentation"}));
  list.addEventListener("scroll", () => requestAnimationFrame(() => drawRows(false)), {passive: true});
  return list;
}
// What is not in the report, a line each.
function leftOut(column) {
  const left = column.browser;
  return [...left.faults,
    left.queries_left_out && `${count(left.queries_left_out, ...NOUN)} after these left out, to keep the report small.`,
    left.images_left_out && `${count(left.images_left_out, "image")} left out, to keep the report small.`,
    left.images_missing && `${count(left.images_missing, "image")} missing where this report was made.`].filter(Boolean).map(words => h("p", {class: "soft small-note"}, words));
}

async function showBrowser(column, id) {
  if (column.browser.folder === undefined) {
    $("#browser").replaceChildren(h("p", {class: "warning lone"}, column.browser.fault));
    browser.source = null;
    return;
  }
  if (browser.source?.column !== column) {
    $("#browser").replaceChildren(h("p", {class: "soft lone", role: "status"}, `Reading the ${NOUN[1]} …`));
    let source;
    try { source = await openSource(column); }
    catch (error) { $("#browser").replaceChildren(h("p", {class: "warning lone"}, error.message)); return; }
    Object.assign(browser, {source, rows: [], at: -1, filters: {}, words: "", find: "all"}, fresh(source));
    makeBrowser();
    const row = source.byId.get(id);
    applyFilters(row);
    if (row) { go(browser.at, false); if (narrow.matches) openDetail(); }
    else if (id) $("#found").textContent += `; none has the id ${id}`;
    if (!row || !narrow.matches) $("#list").focus({preventScroll: true});
  } else if (id && browser.rows[browser.at]?.id !== id) {
    let place = browser.rows.findIndex(row => row.id === id);
    if (place < 0 && browser.source.byId.has(id)) { // it is filtered away: an address comes first
      Object.assign(browser, {filters: {}, words: "", find: "all"});
      makeBrowser();
      applyFilters(browser.source.byId.get(id));
      place = browser.at;
    }
    if (place >= 0) go(place, false);
  }
}

/* ---- addresses and keys ---- */

const decoded = words => { try { return decodeURIComponent(words); } catch { return words; } };
function route() {
  const [key, ...rest] = location.hash.slice(1).split("/");
  const column = report.columns.find(each => each.key === decoded(key));
  const browsing = Boolean(column) && location.hash.includes("/");
  document.body.classList.toggle("browsing", browsing);
  $("#browser").hidden = !browsing;
  $("#report").hidden = browsing;
  for (const link of document.querySelectorAll("nav a")) {
    const here = browsing ? link.dataset.part === "queries" : link.dataset.part === (key || "scores");
    here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
  if (browsing) showBrowser(column, decoded(rest.join("/")));
  else if (key && /^[a-z]+$/.test(key)) document.getElementById(key)?.scrollIntoView();
  else if (!key) scrollTo(0, 0);
}

document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName), dialog = $("#help");
  if (dialog.open) return;
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    if ($("#browser").classList.contains("opened")) closeDetail();
    else if (document.body.classList.contains("browsing")) typing ? $("#list")?.focus() : location.hash = "#";
    return;
  }
  if (typing) return;
  if (event.key === "?") { event.preventDefault(); dialog.showModal(); return; }
  if (!document.body.classList.contains("browsing") || !browser.source) return;
  const inList = event.target.id === "list" || event.target === document.body || event.target.id === "detail";
  const page = Math.max(1, Math.floor(($("#list").clientHeight || ROW) / ROW) - 1);
  const moves = {j: 1, k: -1};
  if (inList && event.target.id !== "detail") Object.assign(moves, {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity});
  if (event.key in moves) { event.preventDefault(); go(browser.at + moves[event.key], false); $("#detail").scrollTop = 0; }
  else if (event.key === "/") { event.preventDefault(); if ($("#browser").classList.contains("opened")) hideDetail(); $("#search").focus(); $("#search").select(); }
  else if (event.key === "Enter" && inList && browser.at >= 0) { event.preventDefault(); drawDetail(); openDetail(); }
  else if (/^[1-9]$/.test(event.key)) { const place = browser.source.present[Number(event.key) - 1]; if (place !== undefined && browser.at >= 0) showSystem(place); }
});
$("#help-button").addEventListener("click", () => $("#help").showModal());
narrow.addEventListener("change", () => { if ($("#plot-area")) drawPlots(); if (browser.source && browser.at >= 0) drawDetail(); });
addEventListener("resize", () => { if (browser.source && $("#list")) drawRows(false); });
addEventListener("hashchange", route);

