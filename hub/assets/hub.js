// Regions that are replaced by their newer self, a panel, keys, news. Pages work without.
(() => {
"use strict";
const $ = (what, of = document) => of.querySelector(what);
const all = (what, of = document) => [...of.querySelectorAll(what)];
const say = text => { $("#status").textContent = text; };
let asked = 0; // The newest request for a region; answers to older ones are dropped.
let returnTo = new URLSearchParams(location.search).get("panel"); // The key of the row that has the panel.
const here = () => location.pathname + location.search;
let shown = here(); // The address of what the page shows.

// --- Replacing

const keyOf = node => node.nodeType === 1 && (node.dataset.key || node.id) || null;

// Makes `old` like `fresh`, touching only what differs, so that focus, scroll and selection stay.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== 1) { if (old.data !== fresh.data) old.data = fresh.data; return; }
  if (old.isEqualNode(fresh)) {
    const fields = all("input,select,option", fresh);
    all("input,select,option", old).forEach((field, place) => keep(field, fields[place]));
    return;
  }
  for (const { name } of [...old.attributes])
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  children(old, fresh);
  keep(old, fresh);
}

// What somebody types or ticks is no attribute.
let restoring = false; // Going back changes the field that has the focus too.
function keep(old, fresh) {
  if (old === document.activeElement && !restoring) return;
  if (old.nodeName === "OPTION") old.selected = fresh.selected;
  else if (old.nodeName === "INPUT") { old.value = fresh.value; old.checked = fresh.checked; }
}

function children(old, fresh) {
  const known = new Map();
  for (const child of old.childNodes) if (keyOf(child)) known.set(keyOf(child), child);
  let at = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = keyOf(child);
    const same = key ? known.get(key) : at && !keyOf(at) ? at : null;
    if (!same) { old.insertBefore(child, at); continue; }
    if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
    morph(same, child);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

async function load(href, region) {
  const answer = await fetch(href, { headers: { "ultra-region": region.slice(1) } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  return { answer, page };
}

// Fetches a page and takes a region of it. Anything unusual is left to the browser. `place` is what becomes
// of the history: `push`, `replace`, or, on the way back, `restore`.
async function into(region, href, { place = "push", top = false } = {}) {
  const number = ++asked;
  try {
    const { answer, page } = await load(href, region);
    if (number !== asked) return false;
    const fresh = $(region, page), old = $(region);
    if (!answer.ok || answer.redirected || !fresh || !old) { location.assign(href); return false; }
    const opens = !$(".panel", old) && $(".panel", fresh);
    restoring = place === "restore";
    morph(old, fresh);
    restoring = false;
    document.title = page.title;
    if (place !== "restore") history[place + "State"](null, "", href);
    shown = here();
    if (top) scrollTo(0, 0);
    if (region === "#page") say(summary());
    if (opens) $(".panel").classList.add("enter");
    ready();
    return true;
  } catch { if (number === asked) location.assign(href); return false; }
}

// How many rows there are, in words.
function summary() {
  const empty = $(".empty h2"), count = rows().length;
  if (empty) return empty.textContent;
  return count + (count === 1 ? " row" : " rows") + ($("#pager-next") ? ", and more on the next page" : "");
}

const focusPanel = () => $("#panel-title")?.focus({ preventScroll: true });
function focusRow() {
  const row = rowOf(returnTo);
  if (row) $(".open", row)?.focus({ preventScroll: true });
}

async function follow(link) {
  const region = link.dataset.into, row = link.closest("[data-row]");
  if (row) returnTo = row.dataset.key;
  const closes = "close" in link.dataset;
  if (!await into(region, link.href, { top: "top" in link.dataset }) || region !== "#panel") return;
  mark();
  if (closes) focusRow(); else focusPanel();
}

const rows = () => all("[data-rows] [data-row]");
const rowOf = key => key && rows().find(row => row.dataset.key === key);

// The row that the panel is about.
function mark() {
  const id = new URLSearchParams(location.search).get("panel");
  for (const row of rows()) row.classList.toggle("opened", !!id && row.dataset.key === id);
}

// --- Clicks, forms, keys

const plain = event => !event.defaultPrevented && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;

document.addEventListener("click", event => {
  for (const menu of all("details[data-menu][open]")) if (!menu.contains(event.target)) menu.open = false;
  const copy = event.target.closest("[data-copy]");
  if (copy) {
    const text = $(copy.dataset.copy).textContent;
    navigator.clipboard.writeText(text).then(() => flash(copy, "Copied"), () => flash(copy, "Not copied"));
    return;
  }
  const sure = event.target.closest("[data-confirm]");
  if (sure && !confirm(sure.dataset.confirm)) { event.preventDefault(); return; }
  if (!plain(event)) return;
  let link = event.target.closest("a");
  if (!link && !event.target.closest("button,summary,input,label") && !String(getSelection()))
    link = event.target.closest("[data-row]")?.querySelector("a.open");
  if (!link) return;
  if (link.dataset.into) { event.preventDefault(); follow(link); }
  else if (!event.target.closest("a")) link.click();
});

// Says on a button, for a moment, what came of it.
function flash(button, text) {
  const label = $("span", button);
  label.dataset.label ??= label.textContent;
  label.textContent = text;
  say(text);
  setTimeout(() => { label.textContent = label.dataset.label; }, 2000);
}

const address = form => {
  const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  return form.action.split("?")[0] + (String(query) && "?" + query);
};
let typing, typed = false; // Whether the text that is being typed has its place in the history.
document.addEventListener("submit", event => {
  const form = event.target;
  if (!form.dataset.into) return;
  event.preventDefault();
  clearTimeout(typing);
  typed = false;
  if (event.submitter) for (const menu of all("details", form)) menu.open = false;
  into(form.dataset.into, address(form));
});
document.addEventListener("change", event => {
  if (event.target.matches("[data-auto]")) event.target.form.requestSubmit();
});
document.addEventListener("input", event => {
  if (!event.target.matches("[data-search]")) return;
  clearTimeout(typing);
  const form = event.target.form;
  typing = setTimeout(() => {
    into(form.dataset.into, address(form), { place: typed ? "replace" : "push" });
    typed = true;
  }, 250);
});
document.addEventListener("focusout", event => { if (event.target.matches("[data-search]")) typed = false; });

addEventListener("popstate", async () => {
  // A fragment is no other page.
  if (!$("#page") || here() === shown) return;
  clearTimeout(typing);
  typed = false;
  if (!await into("#page", location.href, { place: "restore" })) return;
  mark();
  if ($("#panel-title")) focusPanel(); else if (document.activeElement === document.body) focusRow();
});

document.addEventListener("keydown", event => {
  if (event.metaKey || event.ctrlKey || event.altKey) return;
  const typed = event.target.closest("input,select,textarea");
  if (event.key === "Escape") {
    const menu = $("details[data-menu][open]");
    if (menu) { menu.open = false; $("summary", menu).focus(); }
    else if (typed) typed.blur();
    else $("[data-close]")?.click();
  } else if (typed) return;
  else if (event.key === "/" && $("#search")) { event.preventDefault(); $("#search").select(); }
  else if (event.key === "j" || event.key === "k") {
    const list = rows().filter(row => $(".open", row));
    const now = list.findIndex(row => row.contains(document.activeElement));
    const from = now >= 0 ? now : list.findIndex(row => row.dataset.key === returnTo);
    const next = list[Math.max(0, Math.min(list.length - 1, from + (event.key === "j" ? 1 : -1)))];
    if (next) $(".open", next).focus();
  }
});

// --- Times and news

// The same words as in figures.rs.
function ago(at) {
  const s = Math.trunc((Date.now() - at) / 1000);
  if (s < -5) return "in the future";
  if (s < 5) return "now";
  if (s < 60) return s + " s ago";
  if (s < 3600) return Math.trunc(s / 60) + " min ago";
  if (s < 172800) return Math.trunc(s / 3600) + " h ago";
  return new Date(at).toISOString().slice(0, 10);
}

function ready() {
  for (const time of all("time[data-ago]")) {
    const text = ago(Date.parse(time.dateTime));
    if (time.textContent !== text) time.textContent = text;
  }
  for (const at of all("[data-origin]")) at.textContent = location.origin;
  if (navigator.clipboard) for (const button of all("[data-copy]")) button.hidden = false;
}

// Somebody reads: nothing may move.
const busy = list => scrollY > 120 || list.matches(":hover") || list.contains(document.activeElement);

async function refresh() {
  if (document.hidden || new URLSearchParams(location.search).has("after")) return;
  const number = asked, href = location.href;
  let page;
  try {
    const loaded = await load(href, "#page");
    if (!loaded.answer.ok || loaded.answer.redirected) return;
    page = loaded.page;
  } catch { return; }
  if (number !== asked || href !== location.href) return;
  for (const old of all("[data-fresh]")) {
    const fresh = $("#" + old.id, page);
    if (!fresh) continue;
    const before = new Set(all("[data-row]", old).map(row => row.dataset.key));
    const added = all("[data-row]", fresh).filter(row => row.dataset.key && !before.has(row.dataset.key));
    if (before.size && busy(old) && old.id === "list") { quietly(old, fresh, added.length); continue; }
    morph(old, fresh);
    if (before.size) for (const { dataset } of added) rowOf(dataset.key)?.classList.add("new");
  }
  ready();
  mark();
}

// Rows stay where they are; what changed in them is shown, and what is new is announced.
function quietly(old, fresh, count) {
  for (const row of all("[data-row]", fresh)) { const same = rowOf(row.dataset.key); same && morph(same, row.cloneNode(true)); }
  $(".news", old)?.remove();
  if (!count) return;
  const bar = document.createElement("div"), button = document.createElement("button");
  bar.className = "news";
  button.type = "button";
  button.textContent = count + " new";
  button.onclick = () => { bar.remove(); document.activeElement.blur(); morph(old, fresh); ready(); mark(); scrollTo(0, 0); };
  bar.append(button);
  old.prepend(bar);
  say(count + " new rows");
}

const AGAIN = 15000;
let source, told, due, again, late;
function listen() {
  source?.close();
  source = null;
  clearTimeout(again);
  if (document.hidden || !document.body.dataset.live) return;
  source = new EventSource(document.body.dataset.live);
  source.onopen = () => following(true);
  source.onmessage = event => {
    if (told !== undefined && told !== event.data) { clearTimeout(due); due = setTimeout(refresh, 200); }
    told = event.data;
  };
  // A browser tries again by itself, unless it was refused.
  source.onerror = () => {
    if (source?.readyState === EventSource.CLOSED) { following(false); again = setTimeout(listen, AGAIN); }
    else late ??= setTimeout(() => following(false), AGAIN);
  };
}
function following(does) {
  clearTimeout(late);
  late = undefined;
  $("#stale").hidden = does;
}
document.addEventListener("visibilitychange", listen);
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", event => { if (event.persisted) listen(); });
setInterval(ready, 10000);
// Gateways come and go without a record.
setInterval(() => { if ($("#tallies")) refresh(); }, 15000);
ready();
focusPanel();
listen();
})();
