"use strict";
// Tables sort by any column; figures show the value under the pointer. Without this script all of both is still there:
// the tables in their own order, and the values as titles that a browser shows by itself.

// ---- sorting ---------------------------------------------------------------------------------------------------

function keyOf(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.v ?? cell.textContent.trim();
  return text === "–" || text === "" ? null : text;
}

// Numbers before words, and what is empty last, in either direction.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  const x = Number(a), y = Number(b);
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (Number.isNaN(x) ? a.localeCompare(b) : x - y);
}

function sortBy(header) {
  const table = header.closest("table"), body = table.tBodies[0];
  const column = header.cellIndex, falls = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", falls ? "descending" : "ascending");
  const keyed = Array.from(body.rows, (row) => [keyOf(row, column), row]);
  keyed.sort((a, b) => compare(a[0], b[0], falls ? -1 : 1));
  body.append(...keyed.map((pair) => pair[1]));
}

for (const header of document.querySelectorAll("table.sorts thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...header.childNodes);
  button.addEventListener("click", () => sortBy(header));
  header.append(button);
  header.setAttribute("aria-sort", "none");
}

// ---- values under the pointer ----------------------------------------------------------------------------------

const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

function show(spot) {
  const box = spot.getBoundingClientRect(), width = document.documentElement.clientWidth;
  tip.textContent = spot.dataset.value;
  tip.hidden = false;
  const left = Math.min(box.right + 8, width - tip.offsetWidth - 6);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(left, 6) + window.scrollX}px`;
  tip.style.top = `${(above > 0 ? above : box.bottom + 8) + window.scrollY}px`;
}

for (const spot of document.querySelectorAll(".spots > *")) {
  const title = spot.firstElementChild;
  spot.dataset.value = title.textContent;
  title.remove(); // or the browser shows it a second time
}

document.addEventListener("pointerover", (event) => {
  const spot = event.target.closest?.(".spots > *");
  if (spot) show(spot);
  else tip.hidden = true;
});
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
