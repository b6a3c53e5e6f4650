// Loaded before the page is drawn, so that it never flashes in the wrong colours.
(function () {
  let chosen = null;
  try {
    chosen = localStorage.getItem("poolkeeper.theme");
  } catch {
    // storage may be switched off; the system's choice counts then
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
