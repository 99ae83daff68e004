"""The look of explanations: a style sheet and a few lines of script, both put into the page itself.

Every class begins with ``mx-``, so that a panel can stand in another page.
"""

#: Light and dark follow the system. Text stays at 4.5:1 or more on the strongest highlight of both;
#: blue is text and orange the image, which all common kinds of colour vision tell apart.
STYLE = """
.mx-page,.mx{--mx-bg:#f6f7f9;--mx-card:#ffffff;--mx-ink:#1c2128;--mx-soft:#57606a;--mx-line:#d8dee4;
--mx-text:#2f6fdb;--mx-special:#6e7781;--mx-filler:#8250c4;--mx-prefix:#b8860b;--mx-patch:#d9600a;
--mx-veil:rgb(15 20 28/.62);--mx-plate:#23282f;--mx-on:#0b57d0}
@media (prefers-color-scheme:dark){.mx-page,.mx{--mx-bg:#0d1117;--mx-card:#161b22;--mx-ink:#e6edf3;
--mx-soft:#9aa4af;--mx-line:#30363d;--mx-text:#4a8bea;--mx-special:#8b949e;--mx-filler:#a880e8;
--mx-prefix:#d9a928;--mx-patch:#f0813a;--mx-veil:rgb(5 8 12/.7);--mx-plate:#0a0d11;--mx-on:#9ecbff}}
.mx-page{margin:0;background:var(--mx-bg);color-scheme:light dark;padding:32px clamp(16px,4vw,48px)}
.mx-page>*{max-width:1180px;margin-inline:auto}
.mx-page,.mx{color:var(--mx-ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
.mx-page h1{font-size:24px;line-height:1.25;margin:0 auto 4px;letter-spacing:-.01em}
.mx-page a{color:inherit;text-underline-offset:3px}
.mx-facts{color:var(--mx-soft);margin:0 auto 20px}
.mx-facts span+span:not(.mx-badge)::before{content:"·";margin:0 .55em}
.mx-foot{color:var(--mx-soft);font-size:13px;margin-top:20px}
.mx{background:var(--mx-card);border:1px solid var(--mx-line);border-radius:10px;padding:22px 24px;
margin-block:20px;overflow-wrap:anywhere}
.mx *,.mx-page *{box-sizing:border-box}
.mx h2{font-size:18px;line-height:1.3;margin:0}
.mx h3{font-size:12px;letter-spacing:.06em;text-transform:uppercase;color:var(--mx-soft);
font-weight:600;margin:0 0 6px}
.mx-head{display:flex;gap:24px;justify-content:space-between;align-items:flex-start}
.mx-head .mx-facts{margin:2px 0 0;font-size:13px}
.mx-score{text-align:right;margin:0;white-space:nowrap;color:var(--mx-soft);font-size:13px}
.mx-score b{display:block;font-size:24px;line-height:1.15;color:var(--mx-ink);
font-variant-numeric:tabular-nums}
.mx-badge{border:1px solid currentcolor;border-radius:99px;padding:0 8px;font-size:12px;
white-space:nowrap;margin-left:8px}
.mx-bar{display:flex;gap:2px;height:12px;border-radius:6px;overflow:hidden;margin:18px 0 8px}
.mx-bar i{background:var(--c);min-width:0}
.mx-key{display:flex;flex-wrap:wrap;gap:4px 22px;list-style:none;margin:0 0 22px;padding:0;
font-size:13px;font-variant-numeric:tabular-nums}
.mx-key i,.mx-cells i,.mx-dot{display:inline-block;width:10px;height:10px;border-radius:3px;
background:var(--c);margin-right:7px}
.mx-key b{font-weight:600;margin-left:6px}.mx-key span{color:var(--mx-soft);margin-left:6px}
.mx-c-text{--c:var(--mx-text)}.mx-c-special{--c:var(--mx-special)}.mx-c-filler{--c:var(--mx-filler)}
.mx-c-prefix{--c:var(--mx-prefix)}.mx-c-patch{--c:var(--mx-patch)}
.mx-two{display:grid;gap:28px;grid-template-columns:minmax(0,1fr)}
@media (min-width:860px){.mx-two.mx-seen{grid-template-columns:minmax(260px,5fr) minmax(0,7fr)}}
.mx-figure{margin:0}
.mx-figure svg{display:block;width:100%;height:auto;max-height:460px;border-radius:6px;
background:var(--mx-plate)}
.mx-out{fill:var(--mx-veil)}
.mx-heat rect{fill:#ff7a1a;fill-opacity:calc(var(--w)*.75);stroke:#fff;stroke-opacity:.16;
vector-effect:non-scaling-stroke}
.mx-figure:has(input:checked) .mx-heat rect{fill-opacity:0}
.mx-figure:has(input:not(:checked)) .mx-photo{filter:saturate(.1)}
.mx-figure figcaption{font-size:13px;color:var(--mx-soft);margin-top:8px}
.mx-scale{display:flex;align-items:center;gap:8px;font-variant-numeric:tabular-nums}
.mx-scale i{flex:0 1 120px;height:8px;border-radius:4px;border:1px solid var(--mx-line);
background:linear-gradient(90deg,transparent,#ff7a1a)}
.mx-scale label{margin-left:auto;cursor:pointer;white-space:nowrap}
.mx-read{font-size:16px;line-height:1.9;margin:0 0 8px;white-space:pre-wrap;unicode-bidi:isolate}
.mx-long{max-height:26em;overflow:auto;border-block:1px solid var(--mx-line);padding-block:6px}
.mx-read [data-t],.mx-read [data-p]{border-radius:3px;padding:.14em 0;
background:color-mix(in srgb,var(--c,var(--mx-text)) calc(var(--w,0)*55%),transparent)}
.mx-read [data-p]{box-shadow:inset 0 calc(var(--i,0)*-5px) 0 0 var(--mx-patch)}
.mx-none{color:var(--mx-soft)}
.mx-cut{color:var(--mx-soft);text-decoration:line-through;text-decoration-color:var(--mx-line)}
.mx-strip{display:flex;gap:10px;align-items:baseline;font-size:13px;margin:3px 0}
.mx-strip>span:first-child{flex:0 0 132px;color:var(--mx-soft)}
.mx-strip .mx-read{font-size:13px;line-height:1.6;margin:0}
.mx-cells{display:flex;flex-wrap:wrap;gap:3px}
.mx-cells>span{font:12px/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;min-width:14px;
min-height:14px;border-radius:3px;padding:0 3px;outline:1px solid var(--mx-line);outline-offset:-1px;
background:color-mix(in srgb,var(--c) calc(var(--w,0)*55%),transparent)}
.mx-hint{font-size:13px;color:var(--mx-soft);margin:0 0 20px}
.mx-hint u{text-decoration-color:var(--mx-patch);text-decoration-thickness:3px}
.mx-scroll{overflow-x:auto;margin-top:22px}
.mx table,.mx-page>table{border-collapse:collapse;width:100%;font-size:14px;
font-variant-numeric:tabular-nums}
.mx-page>table{margin-block:0 24px}
.mx caption{text-align:left;padding:0}
.mx th,.mx td,.mx-page th,.mx-page td{text-align:left;padding:6px 14px 6px 0;
border-bottom:1px solid var(--mx-line);vertical-align:baseline;font-weight:400}
.mx thead th,.mx-page thead th{font-size:12px;color:var(--mx-soft);font-weight:600}
.mx .mx-n,.mx-page .mx-n{text-align:right;white-space:nowrap}
.mx tr>:last-child{padding-right:0}
.mx mark{background:none;color:inherit;font-weight:650}
.mx-page th small{color:var(--mx-soft);font-size:13px;margin-left:8px}
.mx td.mx-by{color:var(--mx-soft)}
.mx details{margin-top:16px}.mx summary{cursor:pointer;color:var(--mx-soft);font-size:13px}
.mx .mx-on{outline:2px solid var(--mx-on);outline-offset:1px;z-index:1}
.mx-heat .mx-on{stroke:#fff;stroke-opacity:1;stroke-width:3px;outline:none}
.mx-note{border-left:3px solid var(--mx-prefix);padding-left:10px;font-size:13px;margin:12px 0 0}
@media print{.mx-page{padding:0;background:none}.mx{border:0;padding:0}.mx+.mx{break-before:page}
tr,figure{break-inside:avoid}
.mx-long{max-height:none;border:0}.mx-two.mx-seen{grid-template-columns:5fr 7fr}
.mx-scale label{display:none}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""

#: Pointing at a query row outlines the passage token that it matched, and the other way round.
SCRIPT = """
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
  document.addEventListener("pointerover", light);
  document.addEventListener("focusin", light);
})();
"""
