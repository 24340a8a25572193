// Additions to pages that also work without script: local times, refresh, keyboard, theme, copying. It calls only the
// page's own address.
"use strict";

(() => {
  const store = {
    get() { try { return localStorage.getItem("theme"); } catch { return null; } },
    set(value) { try { value ? localStorage.setItem("theme", value) : localStorage.removeItem("theme"); } catch { /* private */ } },
  };

  // Before the first paint, because this script is not deferred.
  function showTheme() {
    const theme = store.get();
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    const label = document.querySelector("#theme span");
    if (label) label.textContent = theme || "system";
  }
  function changeTheme() {
    const order = ["", "light", "dark"];
    store.set(order[(order.indexOf(store.get() || "") + 1) % 3]);
    showTheme();
  }
  showTheme();

  // The server sends UTC. The title keeps it.
  const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  function showLocalTimes(inside) {
    for (const element of inside.querySelectorAll("time[data-local]")) {
      const moment = new Date(element.dateTime);
      element.textContent = (element.dataset.local === "clock" ? clock : full).format(moment);
    }
  }
  function showZone() {
    const zone = document.querySelector("#zone");
    if (!zone) return;
    const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
    const isUtc = ["UTC", "Etc/UTC", "GMT", "Etc/GMT"].includes(name);
    zone.textContent = isUtc ? "Times are in UTC." : `Times are in ${name}; point at one to see UTC. Days are days of UTC.`;
  }

  // On a phone the navigation scrolls: the current page is in view, and a fade at an edge says that there is more.
  function showNavigation() {
    const nav = document.querySelector(".side nav");
    if (!nav) return;
    const current = nav.querySelector("[aria-current]");
    if (current) nav.scrollLeft += current.getBoundingClientRect().left - nav.getBoundingClientRect().left - nav.clientWidth / 3;
    const showEdges = () => {
      nav.classList.toggle("more-before", nav.scrollLeft > 1);
      nav.classList.toggle("more-after", nav.scrollLeft + nav.clientWidth < nav.scrollWidth - 1);
    };
    nav.addEventListener("scroll", showEdges, { passive: true });
    new ResizeObserver(showEdges).observe(nav);
  }

  // Each element with data-refresh is replaced by the one with the same id of the same address, every so many seconds.
  let loadedAt = Date.now();
  let timer = null;
  function isReading() {
    const selection = document.getSelection();
    const focus = document.activeElement;
    return document.hidden || (selection && !selection.isCollapsed) ||
      (focus && focus.closest("[data-refresh] form, [data-refresh] details[open]"));
  }
  function showAge(text) {
    const age = document.querySelector("#age");
    if (age) age.textContent = text;
  }
  async function refresh(isAsked) {
    const old = document.querySelector("[data-refresh]");
    if (!old || (!isAsked && isReading())) return;
    try {
      const response = await fetch(location.href, { headers: { accept: "text/html" } });
      const text = await response.text();
      const page = new DOMParser().parseFromString(text, "text/html");
      const fresh = page.getElementById(old.id);
      if (!response.ok || !fresh) throw new Error(String(response.status));
      const open = [...old.querySelectorAll("details")].map((each) => each.open);
      [...fresh.querySelectorAll("details")].forEach((each, index) => { each.open = open[index] || false; });
      const chosen = old.querySelector("tr.chosen a")?.getAttribute("href");
      old.replaceWith(document.adoptNode(fresh));
      if (chosen) choose([...fresh.querySelectorAll("tr a")].find((a) => a.getAttribute("href") === chosen)?.closest("tr"));
      loadedAt = Date.now();
      prepare(fresh);
      showAge(isAsked ? "Refreshed." : "");
    } catch {
      showAge(`The last refresh failed; this is ${Math.round((Date.now() - loadedAt) / 1000)} seconds old.`);
    }
  }
  function startRefresh() {
    const element = document.querySelector("[data-refresh]");
    clearInterval(timer);
    if (element && Number(element.dataset.refresh) > 0) timer = setInterval(refresh, Number(element.dataset.refresh) * 1000);
  }

  // A command has the address that the gateway knows. A proxy may have taken a prefix off, which only the browser knows.
  function correctAddresses(inside) {
    const { origin, root } = document.body.dataset;
    const address = new URL(root, location.href).href.replace(/\/$/, "");
    if (!origin || origin === address) return;
    for (const command of inside.querySelectorAll(".copyable:not(.has-copy) pre:not([data-template])")) {
      command.textContent = command.textContent.replaceAll(`${origin}/`, `${address}/`);
    }
  }

  // Each element of class copyable gets a button that copies its text.
  function prepare(inside) {
    showLocalTimes(inside);
    correctAddresses(inside);
    for (const box of inside.querySelectorAll(".copyable:not(.has-copy)")) {
      box.classList.add("has-copy");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = "Copy";
      button.addEventListener("click", () => copy(box, button));
      box.append(button);
    }
  }
  async function copy(box, button) {
    const text = box.querySelector("pre, code, input");
    try {
      await navigator.clipboard.writeText(text.value ?? text.textContent);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange(); // Without https a page may not use the clipboard: the user copies it.
      range.selectNodeContents(text);
      document.getSelection().removeAllRanges();
      document.getSelection().addRange(range);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  }

  // The keyboard shortcuts are off while somebody types.
  let lastKey = "";
  function choose(row) {
    if (!row) return;
    for (const other of document.querySelectorAll("tr.chosen")) other.classList.remove("chosen");
    row.classList.add("chosen");
  }
  function move(step) {
    const rows = [...document.querySelectorAll("tbody tr:has(a)")];
    const at = rows.findIndex((row) => row.classList.contains("chosen"));
    const row = rows[Math.min(rows.length - 1, Math.max(0, at + step))];
    choose(row);
    row?.querySelector("a").focus();
    row?.scrollIntoView({ block: "nearest" });
  }
  function onKey(event) {
    const typing = event.target.closest("input, textarea, select, [contenteditable], dialog");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key;
    if (lastKey === "g") {
      lastKey = "";
      const link = document.querySelector(`nav a[data-key="${CSS.escape(key)}"]`);
      if (link) { event.preventDefault(); link.click(); }
      return;
    }
    lastKey = key;
    const actions = {
      "/": () => document.querySelector("[data-search]")?.focus(),
      j: () => move(1),
      k: () => move(-1),
      t: changeTheme,
      r: () => refresh(true),
      "?": () => document.querySelector("#help")?.showModal(),
    };
    if (actions[key]) { event.preventDefault(); actions[key](); }
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;
    document.querySelector("#theme")?.addEventListener("click", changeTheme);
    document.querySelector("#help-open")?.addEventListener("click", () => document.querySelector("#help").showModal());
    document.addEventListener("keydown", onKey);
    // A form with a confirmation.
    document.addEventListener("submit", (event) => {
      const question = event.submitter?.dataset.ask;
      if (question && !confirm(question)) event.preventDefault();
    });
    // A choice that takes effect at once.
    document.addEventListener("change", (event) => {
      if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
    });
    // A page that is shown only once gets the address of one that can be reloaded: a reload makes no second key.
    const place = document.querySelector("[data-address]");
    if (place) history.replaceState(null, "", place.dataset.address);
    showTheme();
    showZone();
    showNavigation();
    prepare(document);
    startRefresh();
  });
})();
