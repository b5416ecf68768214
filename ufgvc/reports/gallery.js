// Draws one page of a gallery (reports/gallery.py) of the cards of card.js.
(() => {
  "use strict";
  const EACH = 24;
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const { card, nameOf } = cardDrawer(data);
  const part = (name) => document.getElementById("gallery-" + name);
  let page = 0;

  function chosen() {
    const cultivar = part("cultivar").value, order = part("order").value;
    const text = part("search").value.toLowerCase();
    let leaves = data.leaves.filter(
      (leaf) => (!cultivar || nameOf(leaf) === cultivar) && leaf.path.toLowerCase().includes(text));
    if (order === "sure") leaves = leaves.slice().reverse();
    if (order === "path") leaves.sort((a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }));
    return leaves;
  }

  function draw() {
    const leaves = chosen(), pages = Math.max(1, Math.ceil(leaves.length / EACH));
    page = Math.min(page, pages - 1);
    part("cards").replaceChildren(...leaves.slice(page * EACH, (page + 1) * EACH).map(card));
    part("count").textContent = `${leaves.length} of ${data.leaves.length} photographs`;
    part("page").parentElement.hidden = pages === 1;
    part("page").textContent = `page ${page + 1} of ${pages}`;
    part("previous").disabled = page === 0;
    part("next").disabled = page === pages - 1;
  }

  function turn(step) {
    page += step;
    draw();
    part("count").scrollIntoView({ block: "start" });
  }

  for (const name of ["cultivar", "order", "search"]) {
    part(name).addEventListener("input", () => { page = 0; draw(); });
  }
  part("previous").addEventListener("click", () => turn(-1));
  part("next").addEventListener("click", () => turn(1));
  draw();
})();
