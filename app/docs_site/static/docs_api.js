// Starts Swagger UI in the page's own colours. It calls only the gateway.
"use strict";

(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function showTheme() {
    const theme = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.classList.toggle("dark-mode", theme === "dark");
  }
  showTheme();
  dark.addEventListener("change", showTheme);
  new MutationObserver(showTheme).observe(root, { attributeFilter: ["data-theme"] });

  // The document's server is the root of its host. Below a proxy's prefix it is the path up from this page.
  async function start(place) {
    const address = new URL(place.dataset.document, location.href);
    const spec = await (await fetch(address)).json();
    spec.servers = [{ url: new URL(".", address).href.replace(/\/$/, "") }];
    SwaggerUIBundle({
      spec,
      domNode: place,
      deepLinking: true,
      docExpansion: "list",
      defaultModelsExpandDepth: 0,
      displayRequestDuration: true,
      persistAuthorization: false,
      tryItOutEnabled: true,
      validatorUrl: null,
      presets: [SwaggerUIBundle.presets.apis],
    });
  }
  const place = document.querySelector("#swagger-ui");
  // Swagger UI adds a second <main>, and a list of servers without a label.
  new MutationObserver((_changes, observer) => {
    const [operations, servers] = [place.querySelector("main"), place.querySelector("#servers")];
    if (!operations || !servers) return;
    observer.disconnect();
    operations.setAttribute("role", "region");
    operations.setAttribute("aria-label", "Operations");
    servers.setAttribute("aria-label", "Server");
  }).observe(place, { childList: true, subtree: true });
  start(place).catch((error) => {
    place.textContent = `The document could not be shown (${error.message}). Reload the page.`;
  });
})();
