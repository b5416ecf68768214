// Sends photographs to the service and draws its answers with the cards of card.js (reports/upload.py).
(() => {
  "use strict";
  const part = (name) => document.getElementById("upload-" + name);
  const limit = Number(document.getElementById("upload").dataset.limit);
  const { make } = cardDrawer({ names: [], training: [], unknown: "" });
  let token = "";  // kept here only, so it is gone when the page is closed
  let waiting = [];  // [photograph, its card] that need a token first

  function say(text) {
    part("status").textContent = text;
  }

  // The answer in the form of a gallery: names and training leaves by number.
  function drawn(answer) {
    const prediction = answer.predictions[0], names = [], training = [];
    const index = (name) => (names.includes(name) ? names.indexOf(name) : names.push(name) - 1);
    const leaf = {
      path: prediction.path, known: prediction.known, why: prediction.why_unknown || "",
      candidates: prediction.candidates.map((each) => [index(each.cultivar), each.probability]),
      nearest: prediction.nearest.map((each) => [training.push([index(each.cultivar), each.thumbnail]) - 1, each.distance]),
      picture: prediction.picture, width: prediction.width, height: prediction.height, has_map: prediction.has_map,
    };
    const { card, nameOf, percent } = cardDrawer({ names, training, unknown: answer.model.unknown });
    const { version, method, cultivars, calibrated } = answer.model;
    const article = card(leaf);
    article.append(make("p", { class: "model" }, `${method}, ${cultivars} cultivars` + (version && `, version ${version}`) +
      (calibrated ? "" : "; its probabilities are not calibrated")));
    say(`${leaf.path}: ${nameOf(leaf)}, ${percent(leaf.candidates[0][1])}`);
    return article;
  }

  function refused(name, message) {
    const text = message.startsWith(name + ": ") ? message.slice(name.length + 2) : message;
    say(`${name}: ${text}`);
    return make("article", { class: "card unknown" }, make("h3", {}, name), make("p", { class: "why" }, text));
  }

  async function ask(photograph) {
    const form = new FormData();
    form.append("files", photograph, photograph.name);
    const headers = token ? { Authorization: "Bearer " + token } : {};
    const answer = await fetch("predict?pictures=true", { method: "POST", body: form, headers });
    const text = await answer.text();
    let content = {};
    try { content = JSON.parse(text); } catch { content = { error: text.slice(0, 200) }; }
    return { status: answer.status, content };
  }

  async function send([photograph, place]) {
    let result;
    try {
      result = await ask(photograph);
    } catch {
      result = { status: 0, content: { error: "the service does not answer" } };
    }
    if (result.status === 401) {
      waiting.push([photograph, place]);
      part("access").hidden = false;
      place.replaceChildren(make("h3", {}, photograph.name), make("p", {}, "waits for the token"));
      say(result.content.error);
      part("token").focus();
      return;
    }
    const text = result.content.error || `the service answered ${result.status}`;
    place.replaceWith(result.status === 200 ? drawn(result.content) : refused(photograph.name, text));
  }

  async function take(photographs) {
    const places = [];
    for (const photograph of photographs) {
      const place = make("article", { class: "card", "aria-busy": "true" },
        make("h3", {}, photograph.name), make("p", {}, "is being read"));
      part("cards").prepend(place);
      if (photograph.size > limit) {
        place.replaceWith(refused(photograph.name, `is larger than ${limit / 1e6} MB`));
      } else {
        places.push([photograph, place]);
      }
    }
    if (places.length) say(`${places.length === 1 ? "a photograph is" : places.length + " photographs are"} being read`);
    for (const pair of places) await send(pair);  // one after another, so that the service can serve others
  }

  for (const name of ["camera", "files"]) {
    part(name).addEventListener("change", (event) => {
      const chosen = [...event.target.files];
      event.target.value = "";  // so that the same file can be chosen again
      take(chosen);
    });
  }
  part("access").addEventListener("submit", async (event) => {
    event.preventDefault();
    token = part("token").value;
    part("token").value = "";
    part("access").hidden = true;
    const again = waiting;
    waiting = [];
    for (const pair of again) await send(pair);
  });
  const drop = part("drop");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  });
})();
