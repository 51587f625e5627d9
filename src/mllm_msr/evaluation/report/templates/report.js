// Sorting of tables and choice of panels. Without it the page shows everything, in a fixed order.
document.documentElement.classList.add("live");

function value(row, column) {
  const text = row.cells[column].dataset.value ?? "";
  return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const order = (a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === null || y === null) return (x === null) - (y === null); // what is missing stands last
    const way = typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y)) : x - y;
    return descending ? -way : way;
  };
  body.append(...[...body.rows].sort(order));
  table.querySelectorAll("thead th").forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // Numbers begin with the highest, names with the first.
      const first = column === 0 ? "ascending" : "descending";
      const next = before === null ? first : before === "ascending" ? "descending" : "ascending";
      sortBy(table, column, next === "descending");
    });
  });
}

for (const choices of document.querySelectorAll("[data-choices]")) {
  const panels = document.querySelectorAll(`[data-panel="${choices.dataset.choices}"]`);
  const fields = [...choices.querySelectorAll("select")];
  const show = () => {
    for (const panel of panels) {
      panel.hidden = fields.some((field) => panel.dataset[field.dataset.field] !== field.value);
    }
  };
  choices.addEventListener("change", show);
  show();
}
