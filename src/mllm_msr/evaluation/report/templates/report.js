// Sorts tables and switches panels. Without scripts the page shows all panels in a fixed order.
document.documentElement.classList.add("live");

function value(row, column) {
  const text = row.cells[column].dataset.value ?? "";
  return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
}

function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const order = (a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === null || y === null) return (x === null) - (y === null); // missing values last
    const ascending = typeof x === "string" || typeof y === "string" ? String(x).localeCompare(String(y)) : x - y;
    return descending ? -ascending : ascending;
  };
  body.append(...[...body.rows].sort(order));
  table.querySelectorAll("thead th").forEach((head, index) => {
    if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // The first click sorts numbers in descending order and names in ascending order.
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
