// Keeps an open page up to date: the server says when there is something new, and the page is asked for again.
"use strict";

(() => {
  const live = document.body.dataset.live;
  const pulse = document.getElementById("pulse");
  let tip = null;
  let asking = false;
  let again = false;

  const span = (s) => {
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min`;
    if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
    return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  };

  // Ages grow between two looks.
  const tick = () => {
    const now = Math.floor(Date.now() / 1000);
    for (const time of document.querySelectorAll("time[data-at]")) {
      const age = now - Number(time.dataset.at);
      const text = age >= 0 ? `${span(age)} ago` : `in ${span(-age)}`;
      if (time.textContent !== text) time.textContent = text;
    }
    for (const time of document.querySelectorAll("time[data-since]")) {
      const text = span(Math.max(0, now - Number(time.dataset.since)));
      if (time.textContent !== text) time.textContent = text;
    }
  };

  // Takes over what is different, part by part, so that neither scrolling nor a selection elsewhere is lost.
  const take = (old, fresh) => {
    const ids = (page) => Array.from(page.children, (part) => part.id).join();
    if (ids(old) !== ids(fresh)) {
      old.replaceChildren(...fresh.children);
      return;
    }
    Array.from(old.children).forEach((part, at) => {
      const next = fresh.children[at];
      if (part.innerHTML === next.innerHTML) return;
      const scrolled = Array.from(part.querySelectorAll(".scroll, .flow"), (box) => box.scrollLeft);
      part.replaceChildren(...next.childNodes);
      part.querySelectorAll(".scroll, .flow").forEach((box, index) => { box.scrollLeft = scrolled[index] || 0; });
    });
  };

  const refresh = async () => {
    if (asking) { again = true; return; }
    asking = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const page = fresh.getElementById("page");
      if (page) take(document.getElementById("page"), page);
      document.body.dataset.live = fresh.body.dataset.live;
      tick();
    } catch {
      pulse.dataset.state = "gone";
    }
    asking = false;
    if (again) { again = false; refresh(); }
  };

  const listen = () => {
    const events = new EventSource("/live");
    events.onopen = () => { pulse.dataset.state = "live"; };
    events.onerror = () => { pulse.dataset.state = "gone"; };
    events.onmessage = (event) => {
      pulse.dataset.state = "live";
      const news = event.data !== tip;
      tip = event.data;
      if (document.hidden) { again = true; return; }
      if (document.body.dataset.live === "always" || news) refresh();
    };
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && again) { again = false; refresh(); }
    });
    window.addEventListener("pagehide", () => events.close());
    window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  };

  setInterval(tick, 1000);
  tick();
  if (live === "no") pulse.hidden = true; else listen();

  // As in many other places: a slash leads to the search.
  document.addEventListener("keydown", (event) => {
    const box = document.querySelector(".search input");
    if (event.key === "/" && document.activeElement !== box) { event.preventDefault(); box.focus(); }
  });
})();
