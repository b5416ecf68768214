// Draws one page of a gallery (reports/gallery.py). Texts are set as text, so no name can become markup.
(() => {
  "use strict";
  const EACH = 24;
  const data = JSON.parse(document.getElementById("gallery-data").textContent);
  const part = (name) => document.getElementById("gallery-" + name);
  const nameOf = (leaf) => (leaf.known ? data.names[leaf.candidates[0][0]] : data.unknown);
  const percent = (share) => (100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0) + "\u00a0%";
  let page = 0;

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function chosen() {
    const cultivar = part("cultivar").value, order = part("order").value;
    const text = part("search").value.toLowerCase();
    let leaves = data.leaves.filter(
      (leaf) => (!cultivar || nameOf(leaf) === cultivar) && leaf.path.toLowerCase().includes(text));
    if (order === "sure") leaves = leaves.slice().reverse();
    if (order === "path") leaves.sort((a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }));
    return leaves;
  }

  function candidate([index, probability]) {
    return make("li", {},
      make("span", {}, data.names[index]),
      make("span", { class: "bar", "aria-hidden": "true" }, make("span", { style: `width:${100 * probability}%` })),
      make("span", { class: "n" }, percent(probability)));
  }

  function neighbour(leaf, [index, distance]) {
    const [label, address] = data.training[index], name = data.names[label];
    const same = label === leaf.candidates[0][0];
    return make("li", same ? { class: "same" } : {},
      make("img", { src: address, alt: "training leaf of " + name, loading: "lazy" }),
      make("span", { title: name }, name),
      make("span", { class: "distance", title: "distance, from 0 (the same) to 2" }, distance.toFixed(3)));
  }

  function card(leaf) {
    const name = nameOf(leaf), likeliest = data.names[leaf.candidates[0][0]];
    const title = make("h3", {}, name, make("span", {}, percent(leaf.candidates[0][1])));
    const article = make("article", { class: leaf.known ? "card" : "card unknown" });
    if (leaf.picture) {
      const alt = leaf.path + (leaf.has_map ? `, and the map of what spoke for ${likeliest}` : "");
      const width = leaf.has_map ? 2 * leaf.width : leaf.width;
      article.append(make("img", { class: "leaf", src: leaf.picture, alt, width, height: leaf.height, loading: "lazy" }));
    } else {
      article.append(make("p", { class: "why" }, "The photograph could not be read again."));
    }
    article.append(title, make("p", { class: "path" }, leaf.path));
    if (leaf.why) article.append(make("p", { class: "why" }, `Unknown: ${leaf.why}. Likeliest: ${likeliest}.`));
    article.append(make("ol", { class: "candidates", "aria-label": "candidates" }, ...leaf.candidates.map(candidate)));
    if (leaf.nearest.length) {
      article.append(make("p", { class: "small" }, "Nearest training leaves"),
        make("ul", { class: "nearest" }, ...leaf.nearest.map((each) => neighbour(leaf, each))));
    }
    return article;
  }

  function draw() {
    const leaves = chosen(), pages = Math.max(1, Math.ceil(leaves.length / EACH));
    page = Math.min(page, pages - 1);
    part("cards").replaceChildren(...leaves.slice(page * EACH, (page + 1) * EACH).map(card));
    part("count").textContent = `${leaves.length} of ${data.leaves.length} photographs`;
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
