// Everything of the page but the chart: its theme, sorting of tables, printing, and what happens if a script fails.

/**
 * Light or dark as the system says, until the button or the address says otherwise. Then the media queries of all style
 * sheets are rewritten, the drawing's too: it knows nothing of this page, so no class on the root would reach it.
 */
function startTheme(repaint) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const rules = [...document.styleSheets]
    .flatMap((sheet) => [...sheet.cssRules])
    .filter((rule) => rule instanceof CSSMediaRule && /prefers-color-scheme:\s*dark/.test(rule.conditionText));
  const asWritten = rules.map((rule) => rule.media.mediaText);
  const button = document.querySelector("#theme");
  let theme = null;
  const isDark = () => (theme ? theme === "dark" : system.matches);
  const set = (wanted) => {
    theme = wanted;
    rules.forEach((rule, i) => (rule.media.mediaText = theme ? (isDark() ? "all" : "not all") : asWritten[i]));
    document.documentElement.style.colorScheme = theme ?? "";
    button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    repaint();
  };
  button.hidden = false;
  button.addEventListener("click", () => set(isDark() ? "light" : "dark"));
  system.addEventListener("change", () => set(theme));
  // Paper is white, and a closed part cannot be opened on it.
  let before = null;
  addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("details:not([open])")];
    before ??= { theme, closed };
    for (const part of closed) part.open = true;
    set("light");
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    for (const part of before.closed) part.open = false;
    set(before.theme);
    before = null;
  });
  set(null);
  return set;
}

/** A click on a heading sorts by that column: numbers from the largest, text from A; the next click turns it round. */
function startTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const ascending = head.ariaSort ? head.ariaSort === "descending" : !numeric;
        for (const other of heads) other.removeAttribute("aria-sort");
        head.ariaSort = ascending ? "ascending" : "descending";
        const key = (row) => row.cells[column].dataset.key;
        // What has no number stays at the end.
        const value = (row) => (key(row) === "nan" ? (ascending ? Infinity : -Infinity) : Number(key(row)));
        const compare = numeric
          ? (a, b) => (value(a) === value(b) ? 0 : value(a) - value(b))
          : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
        const rows = [...table.tBodies[0].rows].sort((a, b) => (ascending ? 1 : -1) * compare(a, b));
        table.tBodies[0].append(...rows);
      });
    });
  }
}

/** What an address may ask for: run.html#run=predicted&theme=dark&window=all */
function obey(chart, setTheme) {
  const asked = new URLSearchParams(location.hash.slice(1));
  if (["light", "dark"].includes(asked.get("theme"))) setTheme(asked.get("theme"));
  if (chart && asked.has("run")) chart.show(asked.get("run"));
  if (chart && ["steady", "fill", "all"].includes(asked.get("window"))) chart[asked.get("window")]();
}

addEventListener("error", (event) => {
  const failed = document.querySelector("#failed");
  failed.textContent = `The chart could not be drawn (${event.message}). The tables are complete.`;
  failed.hidden = false;
});

startTables();
const text = document.querySelector("#run");
const chart = text ? startChart(JSON.parse(text.textContent)) : null;
const setTheme = startTheme(() => chart?.repaint());
obey(chart, setTheme);
addEventListener("hashchange", () => obey(chart, setTheme));
