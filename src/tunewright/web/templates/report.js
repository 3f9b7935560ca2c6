"use strict";
// Tables whose head is clicked sort by that column; figures by value, words by alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sortRows(table.tBodies[0], column, down ? -1 : 1);
    });
  });
}

function sortRows(body, column, direction) {
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim();
    return { row, text, number: text === "" ? NaN : Number(text) };
  });
  keyed.sort((a, b) => {
    if (a.text === "" || b.text === "") return (a.text === "") - (b.text === "");
    const bothNumbers = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    const order = bothNumbers ? a.number - b.number : a.text.localeCompare(b.text);
    return order * direction;
  });
  body.append(...keyed.map((item) => item.row));
}

// Charts with lines tell the values under the pointer.
for (const chart of document.querySelectorAll(".chart[data-lines]")) {
  const plot = chart.querySelector("svg.plot");
  const lines = JSON.parse(chart.dataset.lines);
  const note = document.createElement("div");
  note.className = "readout";
  note.hidden = true;
  chart.append(note);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width;
    const told = lines.map((line) => {
      const near = line.points.reduce((best, p) =>
        Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best);
      return `${line.name} ${near[2]} (step ${near[1]})`;
    });
    note.textContent = told.join(" · ");
    note.hidden = false;
  });
  plot.addEventListener("pointerleave", () => { note.hidden = true; });
}

// The list of sections shows where the reader is.
const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
const seen = new Set();
const watch = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) seen.add(entry.target.id);
    else seen.delete(entry.target.id);
  }
  const first = [...links.keys()].find((id) => seen.has(id));
  for (const [id, link] of links) {
    if (id === first) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-15% 0px -60% 0px" });
for (const id of links.keys()) watch.observe(document.getElementById(id));
