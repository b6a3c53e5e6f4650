// Loaded before the page is drawn, so that it never flashes in the wrong colours.
(() => {
  const KEY = "poolkeeper.theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // storage may be switched off: the system's colours, and a choice lasts as long as the page
  }

  function show() {
    const theme = chosen ?? (system.matches ? "dark" : "light");
    if (root.dataset.theme === theme) return;
    root.dataset.theme = theme;
    root.dispatchEvent(new Event("themechange"));
  }

  root.addEventListener("themetoggle", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, chosen);
    } catch {
      // see above
    }
    show();
  });
  system.addEventListener("change", show);
  show();
})();
