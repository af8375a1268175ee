// Sends each image to the server, one after the other, and shows what it answers.

const part = (id) => document.getElementById(id);
const items = []; // {file, result or error}
let about = { largest: Infinity };
let shown = null; // the item that is shown
let chosen = false; // by the user, so that later answers do not take its place
let working = false;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function probability(p) {
  if (p > 0.9995) return "> 0.999";
  return p < 0.0005 ? "< 0.001" : p.toFixed(3);
}

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => {
    throw new Error("the server does not answer; look at its terminal, or start it again");
  });
  const found = await answer.json().catch(() => ({ error: "the answer was cut off" }));
  if (found.error) throw new Error(found.error);
  return found;
}

function begin(told) {
  about = told;
  document.title = part("title").textContent = about.title;
  part("rule").textContent = about.rule;
  part("training").textContent = about.training;
  for (const note of about.notes) {
    part("notes").append(element("li", note.text, { class: note.grave ? "warning" : "plain" }));
  }
  for (const limit of about.limits) {
    const item = element("li", "");
    item.append(element("b", limit.title), limit.text);
    part("limits").append(item);
  }
}

function add(files) {
  if (!files.length) return;
  if (!working) items.length = 0;
  chosen = false;
  items.push(...[...files].map((file) => ({ file })));
  list();
  if (!working) work();
}

async function work() {
  working = true;
  part("status").classList.add("working");
  for (let at = 0; at < items.length; at++) {
    const item = items[at];
    const count = items.length > 1 ? ` (${at + 1} of ${items.length})` : "";
    part("status").textContent = `Looking at ${item.file.name}${count} …`;
    part("result").classList.toggle("old", !chosen); // what is shown is of another image
    try {
      if (item.file.size > about.largest) {
        throw new Error(`an image may have ${about.largest / 2 ** 20} MB; this file has more`);
      }
      const body = await item.file.arrayBuffer().catch(() => {
        throw new Error("it cannot be read; choose the images themselves, not their folder");
      });
      item.result = await ask("answer", { method: "POST", body });
    } catch (problem) {
      item.error = problem.message;
    }
    if (!chosen || !shown) show(item);
    list();
  }
  working = false;
  part("status").classList.remove("working");
  if (items.length > 1) {
    const failed = items.filter((item) => item.error).length;
    const lost = failed ? `, ${failed} of them not answered` : "";
    part("status").textContent = `${items.length} images done${lost}. Shown: ${told(shown)}`;
  }
}

const told = (item) => `${item.file.name}: ${item.error ?? summary(item.result)}`;

function summary(result) {
  const own = result.classes.find((one) => one.name === result.answer);
  const warning = result.unlike ? ", but the image is unlike the training images" : "";
  return `${result.answer}, probability ${probability(own.probability)}${warning}`;
}

function list() {
  part("queue").hidden = items.length < 2;
  if (items.length < 2) return part("queue").replaceChildren();
  const had = document.activeElement.dataset.at;
  part("queue").replaceChildren(
    ...items.map((item, at) => {
      const done = item.result || item.error;
      const { name } = item.file;
      const button = element("button", name, { type: "button", title: name, "data-at": at });
      let outcome = item.result ? item.result.answer : item.error ? "not answered" : "waiting";
      if (item.result?.unlike) outcome = `unlike, ${outcome}`;
      const bad = item.error || item.result?.unlike;
      button.append(element("small", outcome, bad ? { class: "bad" } : {}));
      button.disabled = !done;
      if (item === shown) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => {
        chosen = true;
        show(item);
        list();
      });
      const line = element("li", "");
      line.append(button);
      return line;
    }),
  );
  const current = part("queue").querySelector("[aria-current]");
  part("queue").scrollTop = current ? current.offsetTop - 20 : 0;
  if (had !== undefined) part("queue").querySelector(`[data-at="${had}"]`)?.focus();
}

function show(item) {
  shown = item;
  part("result").classList.remove("old");
  const result = item.result;
  part("status").textContent = told(item);
  part("result").hidden = false;
  part("name").textContent = item.file.name;
  part("answer").textContent = result?.answer ?? "No answer";
  part("problem").textContent = item.error ?? "";
  part("problem").hidden = Boolean(result);
  part("found").hidden = !result;
  if (!result) return;
  showPicture(result);
  showBars(result);
  const known = { train: "training", val: "validation", test: "test" }[result.known];
  part("known").hidden = !known;
  part("known").textContent = `This very file is one of the run's ${known} images.`;
  showDistance(result);
  part("nearest").replaceChildren(...result.nearest.map(neighbor));
}

function showPicture(result) {
  const [width, height] = result.shape;
  const ratio = Math.min(Math.max(width / height, 0.4), 4);
  part("scan").style.aspectRatio = ratio;
  part("scan").style.maxWidth = `min(100%, ${30 * ratio}rem)`;
  part("picture").src = result.picture;
  part("picture").alt = "The image as the network reads it";
  part("map").removeAttribute("src");
  if (result.map) part("map").src = result.map;
  part("switch").hidden = !result.map;
  part("words").textContent = result.words;
  overlay();
}

function overlay() {
  part("map").hidden = !part("overlay").checked || !shown?.result?.map;
}

function showBars(result) {
  part("bars").replaceChildren(
    ...result.classes.map((one) => {
      const line = element("li", "");
      const bar = element("span", "", { class: "bar" });
      const full = element("span", "", { class: "full" });
      full.style.width = `${100 * one.probability}%`;
      bar.append(full);
      const number = element("span", probability(one.probability), { class: "number" });
      line.append(element("span", one.name, { class: "label" }), number, bar);
      line.classList.toggle("answered", one.name === result.answer);
      if (one.mark !== null) {
        const mark = element("span", "", { class: "mark" });
        mark.style.left = `${100 * one.mark}%`;
        bar.append(mark);
      }
      return line;
    }),
  );
}

function showDistance(result) {
  const far = result.distance?.toFixed(2);
  let words = `Like the training images: distance ${far}, where 1 is the limit.`;
  if (result.unlike) {
    words = `Unlike the training images: distance ${far}, where 1 is the limit. `;
    words += "What the model answers here may mean nothing.";
  }
  if (result.unlike === null) {
    words = "Whether this image is like the training images cannot be told for this run.";
  }
  part("unlike").textContent = words;
  part("unlike").className = `verdict ${result.unlike ? "bad" : "plain"}`;
}

function neighbor(one) {
  const line = element("li", "");
  const words = `training image of the class ${one.label}`;
  line.append(
    one.picture
      ? element("img", "", { src: one.picture, alt: words })
      : element("span", "no picture", { class: "missing" }),
    element("b", one.label),
    element("small", `cosine ${one.similarity.toFixed(3)}`),
    element("small", one.path.split("/").pop(), { class: "path", title: one.path }),
  );
  return line;
}

part("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
part("overlay").addEventListener("change", overlay);
for (const kind of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser opens the file
    part("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
ask("about").then(begin, (problem) => {
  part("title").textContent = problem.message;
});
