// Sorts and copies tables, switches panels and follows the contents. Without scripts the page shows
// all panels in a fixed order.
document.documentElement.classList.add("live");

const make = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// Sorting

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
    head.querySelector("button")?.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      // The first click sorts numbers in descending order and names in ascending order.
      const first = column === 0 ? "ascending" : "descending";
      const next = before === null ? first : before === "ascending" ? "descending" : "ascending";
      sortBy(table, column, next === "descending");
    });
  });
}

// Copying: tables as Markdown, LaTeX and CSV, and the command line

const oneLine = (text) => text.replace(/\s+/g, " ").trim();

// Text of a cell without its remark: the interval of a number is written by each format itself.
function words(cell) {
  const copy = cell.cloneNode(true);
  const remarks = [...copy.querySelectorAll("small")].map((small) => oneLine(small.textContent));
  copy.querySelectorAll("small").forEach((small) => small.remove());
  const main = oneLine(copy.textContent);
  if (cell.dataset.low !== undefined) return { main, low: cell.dataset.low, high: cell.dataset.high, range: remarks[0] };
  return { main: [main, ...remarks.map((text) => (main ? `(${text})` : text))].filter(Boolean).join(" ") };
}

function rows(table) {
  return [...table.rows]
    .filter((row) => row.dataset.copy !== "no")
    .map((row) =>
      [...row.cells]
        .filter((cell) => cell.dataset.copy !== "no")
        .map((cell) => ({
          ...words(cell),
          raw: cell.dataset.value,
          best: cell.classList.contains("best"),
          head: cell.tagName === "TH",
          number: /^[-−+<\d–·]/.test(oneLine(cell.textContent)),
        })),
    );
}

// Whether each column has numbers, which are aligned to the right.
function numeric(body) {
  const widest = body.reduce((one, other) => (other.length > one.length ? other : one), []);
  return widest.map((_, column) => column > 0 && body.some((row) => row[column]?.number));
}

const shown = ({ main, range }) => (range ? `${main} (${range})` : main);

const formats = {
  Markdown(table) {
    const cell = (one) => {
      const text = shown(one).replace(/[\\|]/g, "\\$&");
      return one.best ? `**${text}**` : text;
    };
    const [head, ...body] = rows(table);
    if (!table.tHead) body.unshift(head);
    const names = table.tHead ? head.map(cell) : head.map(() => "");
    const rule = numeric(body).map((right) => (right ? "---:" : "---"));
    return [names, rule, ...body.map((row) => row.map(cell))].map((row) => `| ${row.join(" | ")} |\n`).join("");
  },
  LaTeX(table) {
    const escaped = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "−": "$-$", "–": "--", "▲": "$\\uparrow$", "▼": "$\\downarrow$", "·": "" };
    const cell = (one) => {
      const text = shown(one).replace(/[\\~^−–▲▼·]|[&%$#_{}]/g, (found) => escaped[found] ?? `\\${found}`);
      return one.best ? `\\textbf{${text}}` : text;
    };
    const all = rows(table);
    const columns = numeric(all).map((right) => (right ? "r" : "l")).join("");
    const lines = all.map((row) => `${row.map(cell).join(" & ")} \\\\`);
    if (table.tHead) lines.splice(1, 0, "\\midrule");
    return [`% ${table.dataset.name}; needs the package booktabs`, `\\begin{tabular}{${columns}}`, "\\toprule", ...lines, "\\bottomrule", "\\end{tabular}", ""].join("\n");
  },
  CSV(table) {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const all = rows(table);
    // A column with intervals becomes three columns.
    const wide = (all[0] ?? []).map((_, column) => all.some((row) => row[column]?.low !== undefined));
    const cells = (one, column) => {
      const text = one.raw ?? (one.main === "–" ? "" : one.main);
      if (!wide[column]) return [text];
      return one.head ? [text, `${text} low`, `${text} high`] : [text, one.low ?? "", one.high ?? ""];
    };
    return all.map((row) => `${row.flatMap(cells).map(quoted).join(",")}\n`).join("");
  },
};

const status = document.getElementById("status");
let clearing;

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    status.textContent = `${what} copied`;
  } catch {
    // Without access to the clipboard, show the text for copying by hand.
    const area = make("textarea", { value: text, readOnly: true, rows: 8, ariaLabel: what });
    status.replaceChildren(`${what}: press Ctrl+C, then Escape`, area);
    area.addEventListener("keydown", (event) => event.key === "Escape" && status.replaceChildren());
    area.select();
    return;
  }
  clearTimeout(clearing);
  clearing = setTimeout(() => status.replaceChildren(), 4000);
}

for (const table of document.querySelectorAll("table[data-name]")) {
  const { name } = table.dataset;
  const buttons = Object.entries(formats).map(([format, write]) => {
    const button = make("button", { type: "button", ariaLabel: `Copy “${name}” as ${format}` }, format);
    button.addEventListener("click", () => copy(write(table), `${format} of “${name}”`));
    return button;
  });
  table.parentElement.after(make("div", { className: "copy" }, "Copy as ", ...buttons));
}

for (const text of document.querySelectorAll("pre.command")) {
  const button = make("button", { type: "button" }, "Copy command");
  button.addEventListener("click", () => copy(text.textContent, "Command"));
  text.after(make("div", { className: "copy" }, button));
}

// Panels

for (const choices of document.querySelectorAll("[data-choices]")) {
  const panels = document.querySelectorAll(`[data-panel="${choices.dataset.choices}"]`);
  const fields = [...choices.querySelectorAll("select")];
  const show = () => {
    for (const panel of panels) {
      panel.hidden = fields.some(({ value, dataset }) => value !== "" && panel.dataset[dataset.field] !== value);
    }
  };
  choices.addEventListener("change", show);
  show();
}

// A link to something inside a hidden panel or a closed part shows it.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target?.closest("[data-panel]");
  if (panel?.hidden) {
    const fields = document.querySelectorAll(`[data-choices="${panel.dataset.panel}"] select`);
    for (const field of fields) {
      field.value = panel.dataset[field.dataset.field];
      field.dispatchEvent(new Event("change", { bubbles: true }));
    }
  }
  if (target instanceof HTMLDetailsElement) target.open = true;
  if (panel) target.scrollIntoView();
}

addEventListener("hashchange", reveal);
reveal();

// Contents: always open beside the text, closed above it on narrow screens

const contents = document.querySelector(".contents details");
const beside = matchMedia("(min-width: 1200px)");
const fold = () => { contents.open = beside.matches; };
beside.addEventListener("change", fold);
fold();
contents.addEventListener("click", (event) => { if (event.target.closest("a")) fold(); });

const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const visible = new Set();
const follow = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    visible[isIntersecting ? "add" : "delete"](target.getAttribute("aria-labelledby"));
  }
  const current = [...links.keys()].find((id) => visible.has(id));
  links.forEach((link, id) => (id === current ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
}, { rootMargin: "-10% 0px -60% 0px" });
document.querySelectorAll("section[aria-labelledby]").forEach((section) => follow.observe(section));

// Only boxes that scroll are stops of the Tab key.
const stops = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".wide, .strip, pre").forEach((box) => stops.observe(box));

// Print the closed parts that belong on paper.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.in-print:not([open])")) {
    part.open = true;
    part.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-printed]")) {
    part.open = false;
    delete part.dataset.printed;
  }
});
