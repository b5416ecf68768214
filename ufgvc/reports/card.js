// Draws the card of one predicted photograph. Texts are set as text, so no name can become markup.
// data: {names, training: [[index of the name, address]], unknown}; a leaf is as in reports/gallery.py.
function cardDrawer(data) {
  "use strict";
  const nameOf = (leaf) => (leaf.known ? data.names[leaf.candidates[0][0]] : data.unknown);
  const percent = (share) =>
    (share < 0.0005 ? "<\u00a00.1" : (100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)) + "\u00a0%";

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
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

  return { card, make, nameOf, percent };
}
