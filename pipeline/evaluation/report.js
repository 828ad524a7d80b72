for (const container of document.querySelectorAll("[data-chart]")) {
  const chart = JSON.parse(document.getElementById(container.dataset.chart).textContent);
  vegaEmbed(container, chart, {actions: false, ast: true, renderer: "svg"});
}

const words = new Intl.Collator(undefined, {numeric: true});
const number = text => Number.isNaN(parseFloat(text)) ? -Infinity : parseFloat(text);

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const compare = header.classList.contains("text") ? words.compare : (a, b) => number(a) - number(b);
    const sign = order === "ascending" ? 1 : -1;
    const text = row => row.cells[column].textContent;
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => sign * compare(text(a), text(b))));
    headers.forEach(other => other.setAttribute("aria-sort", other === header ? order : "none"));
  }));
}

for (const filter of document.querySelectorAll("input[data-filters]")) {
  const rows = [...document.getElementById(filter.dataset.filters).tBodies[0].rows];
  filter.addEventListener("input", () => {
    const text = filter.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(text);
    const shown = rows.filter(row => !row.hidden).length;
    document.getElementById(filter.dataset.counts).textContent = `${shown} of ${rows.length} shown`;
  });
}
