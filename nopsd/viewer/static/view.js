// What the pages do beyond links and forms: hints at the pointer, keys, and following a run. Text is set as text alone.
"use strict";

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("role", "tooltip");
document.body.append(tip);

function show(text, box) {
  tip.textContent = text;
  tip.hidden = false;
  const width = document.documentElement.clientWidth, size = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), width - size.width - 8);
  const above = box.top - size.height - 8;
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${(above > 50 ? above : box.bottom + 8) + scrollY}px`;
}

const hide = () => { tip.hidden = true; };

// Titles become hints that also keys and fingers reach; the browser's own would stand in front of them.
function prepare(root) {
  for (const tokens of root.querySelectorAll("[data-tokens]")) {
    [...tokens.children].forEach((token, place) => {
      token.dataset.hint = token.title;
      token.removeAttribute("title");
      token.tabIndex = place === 0 ? 0 : -1;
    });
  }
  for (const hit of root.querySelectorAll(".hit")) {
    const title = hit.querySelector("title");
    if (title) { hit.dataset.hint = title.textContent; title.remove(); }
  }
}

const hinted = event => event.target instanceof Element && event.target.closest("[data-hint]");

document.addEventListener("pointerover", event => {
  const found = hinted(event);
  if (found) show(found.dataset.hint, found.getBoundingClientRect()); else hide();
});
document.addEventListener("focusin", event => {
  const found = hinted(event);
  if (found) show(found.dataset.hint, found.getBoundingClientRect()); else hide();
});
document.addEventListener("scroll", hide, { passive: true });

function focusToken(token) {
  if (!token) return;
  for (const other of token.parentElement.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  token.tabIndex = 0;
  token.focus();
}

function moveInChart(chart, by) {
  const hits = [...chart.querySelectorAll(".hit")], now = hits.findIndex(hit => hit.classList.contains("at"));
  const next = now < 0 ? (by > 0 ? 0 : hits.length - 1) : Math.min(Math.max(now + by, 0), hits.length - 1);
  hits.forEach((hit, place) => hit.classList.toggle("at", place === next));
  if (hits[next]) show(hits[next].dataset.hint, hits[next].getBoundingClientRect());
}

document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const at = document.activeElement, by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "Escape") hide();
  if (at && at.matches("input, select, textarea, pre")) return;
  if (at && at.matches("[data-tokens] > *") && by) {
    focusToken(by > 0 ? at.nextElementSibling : at.previousElementSibling);
    event.preventDefault();
  } else if (at && at.matches(".chart") && by) {
    moveInChart(at, by);
    event.preventDefault();
  } else if (at && at.matches(".chart") && event.key === "Enter") {
    const chosen = at.querySelector("a:has(> .at)");
    if (chosen) location.href = chosen.getAttribute("href");
  } else if (by) {
    const step = document.querySelector(by > 0 ? 'a[rel="next"]' : 'a[rel="prev"]');
    if (step) location.href = step.href;
  } else if (event.key === "/") {
    const first = document.querySelector(".filters input:not([type=hidden])");
    if (first) { first.focus(); event.preventDefault(); }
  }
});

// A live page is fetched again; what has the focus, or is selected or open, is left alone.
async function follow() {
  const main = document.querySelector("main"), busy = main.contains(document.activeElement) && document.activeElement !== main;
  if (document.hidden || busy || String(getSelection()) || main.querySelector(".more[open]")) return;
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html"), fresh = page.querySelector("main");
  prepare(fresh);
  if (fresh.innerHTML === main.innerHTML) return;
  main.replaceChildren(...fresh.childNodes);
  if (!page.body.dataset.live) delete document.body.dataset.live;
}

prepare(document);
if (document.body.dataset.live) {
  setInterval(() => { if (document.body.dataset.live) follow().catch(() => {}); }, 1000 * Number(document.body.dataset.live));
}
