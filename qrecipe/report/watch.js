"use strict";
/* Puts what is new of the page into place, and leaves what somebody hears or reads where it is. */
let shown = null;
function put(here, there) {
  if (here.outerHTML === there.outerHTML) return;
  if ([...here.querySelectorAll("audio")].some(a => !a.paused)) { shown = null; return; }
  const focus = here.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...here.querySelectorAll("[id]")].map(e => [e.id, e.scrollLeft]);
  here.replaceWith(there);
  for (const [id, left] of scrolled) { const e = document.getElementById(id); if (e) e.scrollLeft = left; }
  if (focus) { const e = document.getElementById(focus); if (e) e.focus({ preventScroll: true }); }
}
function say(text) { const state = document.getElementById("state"); if (state.textContent !== text) state.textContent = text; }
async function refresh() {
  try {
    const version = await (await fetch("/version")).text();
    if (version !== shown) {
      const page = new DOMParser().parseFromString(await (await fetch("/")).text(), "text/html");
      shown = version;
      for (const there of page.querySelectorAll("main > section")) {
        const here = document.getElementById(there.id);
        if (here) put(here, there); else document.querySelector("main").append(there);
      }
      document.title = page.title; document.querySelector("h1").textContent = page.title;
      say(page.getElementById("state").textContent);
    }
  } catch { shown = null; say("qrecipe watch has ended. This page stays as it was."); }
  setTimeout(refresh, 2000);
}
refresh();
