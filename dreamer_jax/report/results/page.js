// Tables sort by the column whose heading is activated, by pointer or key; rows without a value
// are last in both orders.
const status = document.getElementById("sorted");
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const table = heading.closest("table");
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = [Number(a), Number(b)];
      const order = numbers.some(Number.isNaN)
        ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1];
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
    status.textContent = `${table.caption.textContent}: sorted by ${button.textContent}, `
      + (up ? "ascending" : "descending");
  });
}
