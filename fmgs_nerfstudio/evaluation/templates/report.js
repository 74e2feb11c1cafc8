// The slider between rendering and truth follows the pointer; arrow keys move its (invisible) range input.
for (const pair of document.querySelectorAll(".compare")) {
  const input = pair.querySelector("input");
  const show = (percent) => pair.style.setProperty("--cut", `${percent}%`);
  input.addEventListener("input", () => show(input.value));
  const follow = (event) => {
    if (event.type === "pointermove" && event.pointerType !== "mouse" && event.buttons === 0) return;
    const box = pair.getBoundingClientRect();
    input.value = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
    show(input.value);
  };
  pair.addEventListener("pointerdown", follow);
  pair.addEventListener("pointermove", follow);
}
// A click on a column's title sorts by it; another click turns the order around.
for (const button of document.querySelectorAll("th button")) {
  let ascending = false;
  button.addEventListener("click", () => {
    const column = button.closest("th").cellIndex;
    const body = button.closest("table").tBodies[0];
    ascending = !ascending;
    const value = (row) => row.cells[column].textContent;
    const order = (a, b) => value(a).localeCompare(value(b), "en", { numeric: true });
    body.append(...[...body.rows].sort((a, b) => (ascending ? order(a, b) : order(b, a))));
  });
}
