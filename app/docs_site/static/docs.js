// Search while typing, and a mark at the heading being read. Without script the search is a page, and all links work.
"use strict";

(() => {
  const form = document.querySelector(".docs-search");
  const main = document.querySelector("#docs-main");
  const field = form?.querySelector("input");
  let asked = 0;
  let isSearch = /\/docs\/search$/.test(location.pathname);

  async function search() {
    const query = field.value.trim();
    if (query.length < 2) return;
    const number = ++asked;
    const address = new URL(form.action);
    address.searchParams.set("q", query);
    const response = await fetch(address, { headers: { accept: "text/html" } });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const hits = page.querySelector(".hits");
    if (number !== asked || !response.ok || !hits) return;
    // Addresses in the answer are relative to its own address.
    for (const link of hits.querySelectorAll("a")) link.href = new URL(link.getAttribute("href"), address).href;
    main.replaceChildren(document.adoptNode(hits));
    document.querySelector(".docs-contents")?.remove();
    // The view gets its own address, so it can be sent to somebody; “back” leads to the page before.
    history[isSearch ? "replaceState" : "pushState"](null, "", address);
    isSearch = true;
  }
  let timer = null;
  field?.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => search().catch(() => {}), 120); // A failed search leaves the page; Enter still works.
  });

  form?.addEventListener("submit", () => { clearTimeout(timer); asked += 1; });
  addEventListener("popstate", () => location.reload());

  // On a phone the list of pages is collapsed.
  const menu = document.querySelector(".docs-menu");
  if (menu && matchMedia("(max-width: 820px)").matches) menu.open = false;

  const links = new Map(
    [...document.querySelectorAll(".docs-contents a")].map((link) => [link.getAttribute("href").slice(1), link]),
  );
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -75% 0px" });
  for (const anchor of links.keys()) {
    const heading = document.getElementById(anchor);
    if (heading) seen.observe(heading);
  }
})();
