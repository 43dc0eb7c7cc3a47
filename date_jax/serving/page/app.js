"use strict";
// Words and a picture go to the server; pictures with boxes come back. A result is clicked to ask on.

const $ = (id) => document.getElementById(id);
const colour = (number) => `hsl(${(29 + number * 222.5) % 360} 85% 50%)`;
const KINDS = ["search", "ground", "instances"];
let picture = null;       // base64 of the file that is asked with
let pictureUrl = "";
let offer = "";           // id of a result that is asked with

const element = (name, fields = {}, ...children) => {
  const node = Object.assign(document.createElement(name), fields);
  node.append(...children);
  return node;
};

async function ask(path, body) {
  const headers = {"content-type": "application/json"};
  if ($("token").value) headers.authorization = `Bearer ${$("token").value}`;
  const options = body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers};
  const answer = await fetch(path, options).catch(() => { throw new Error("The server does not answer."); });
  const content = answer.headers.get("content-type").includes("json") ? await answer.json()
                                                                      : await answer.blob();
  if (answer.status === 401) $("token-label").hidden = false;
  if (!answer.ok) throw new Error(content.error || `status ${answer.status}`);
  return content;
}

function say(text, isWrong = false) {
  $("message").textContent = text;
  $("message").className = isWrong ? "wrong" : "";
}

function loaded(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error("a picture cannot be shown"));
    image.src = url;
  });
}

// A canvas of a picture with boxes; `box` is in pixels of a picture of `width` x `height`.
async function drawing(url, width, height, boxes, side) {
  const image = await loaded(url);
  const scale = side / Math.max(image.naturalWidth, image.naturalHeight);
  const canvas = element("canvas", {width: image.naturalWidth * scale,
                                    height: image.naturalHeight * scale});
  const paper = canvas.getContext("2d");
  paper.drawImage(image, 0, 0, canvas.width, canvas.height);
  paper.lineWidth = Math.max(3, canvas.width / 160);
  boxes.forEach(({box, hue}) => {
    const [left, top, right, bottom] = box.map((x, i) => i % 2 ? x * canvas.height / height
                                                               : x * canvas.width / width);
    paper.strokeStyle = "#0008";
    paper.strokeRect(left, top, right - left, bottom - top);
    paper.strokeStyle = hue;
    paper.strokeRect(left, top, right - left, bottom - top);
  });
  return canvas;
}

async function showBoxes(url, {width, height, answers}, labels) {
  const boxes = answers.map(({box}, number) => ({box, hue: colour(number)}));
  const canvas = await drawing(url, width, height, boxes, 960);
  canvas.id = "drawing";
  canvas.dataset.boxes = answers.length;
  const list = element("ul");
  answers.forEach(({score, box}, number) => {
    const swatch = element("span", {className: "swatch"});
    swatch.style.background = colour(number);
    const sure = score === null ? "" : ` · ${Math.round(100 * score)} % sure`;
    list.append(element("li", {title: box.map(Math.round).join(", ")}, swatch, labels[number] + sure));
  });
  $("results").replaceChildren(element("div", {className: "large"}, canvas, list));
}

async function showAnswers({groups}) {
  $("results").replaceChildren();
  let number = 0;
  for (const {title, answers} of groups) {
    if (title) $("results").append(element("h2", {textContent: title}));
    const cards = element("div", {className: "cards"});
    $("results").append(cards);
    for (const answer of answers) cards.append(await card(answer, number++));
  }
  if (!number) say("Nothing in the catalogue fits.");
}

async function card(answer) {
  const name = answer.text || answer.id;
  const node = element("button", {type: "button", className: "card", title: `Search on from ${name}`});
  try {
    const url = URL.createObjectURL(await ask(`/picture/${encodeURIComponent(answer.id)}`));
    const boxes = answer.box ? [{box: answer.box, hue: colour(0)}] : [];
    node.append(await drawing(url, answer.width, answer.height, boxes, 320));
    URL.revokeObjectURL(url);
  } catch {
    node.append(element("div", {className: "faint", textContent: "no picture"}));
  }
  const sure = answer.box_score == null ? answer.score.toFixed(2)
                                        : `${Math.round(100 * answer.box_score)} % sure`;
  node.append(element("span", {className: "score", textContent: sure}), name);
  node.addEventListener("click", () => askOn(answer));
  return node;
}

async function askOn(answer) {
  offer = answer.id;
  picture = null;
  $("words").value = "";
  try {
    pictureUrl = URL.createObjectURL(await ask(`/picture/${encodeURIComponent(answer.id)}`));
    $("picture").src = pictureUrl;
    $("picture").hidden = false;
    $("drop-text").hidden = true;
  } catch { /* an offer without a picture is asked with by its words */ }
  await submit("search");
}

async function submit(kind) {
  const words = $("words").value.trim();
  const body = {
    ground: () => ({image: picture, queries: words.split(/\s*;\s*/).filter(Boolean)}),
    instances: () => ({image: picture, title: words}),
    search: () => {
      const fields = {words, image: picture, id: offer, where: $("where").value.trim(),
                      old: $("old").value.trim(), new: $("new").value.trim()};
      return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
    },
  }[kind]();
  if (kind !== "search" && !picture) return say("Drop a picture first.", true);
  if (kind === "ground" && !words) return say("Say what to look for; several with ; between.", true);
  if (kind === "search" && !Object.keys(body).length) return say("Type words, or drop a picture.", true);
  say("Looking…");
  const url = pictureUrl;  // another one may be dropped before the answer comes
  document.querySelectorAll("button").forEach((button) => { button.disabled = true; });
  const start = performance.now();
  try {
    const answer = await ask(`/${kind}`, body);
    say(`Answered in ${Math.round(performance.now() - start)} ms.`);
    if (kind === "search") await showAnswers(answer);
    else await showBoxes(url, answer, body.queries || answer.answers.map((_, n) => `product ${n + 1}`));
  } catch (error) {
    say(error.message, true);
  } finally {
    document.querySelectorAll("button").forEach((button) => { button.disabled = false; });
  }
}

async function take(file) {
  if (!file) return;
  pictureUrl = URL.createObjectURL(file);
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  picture = btoa(text);
  offer = "";
  $("picture").src = pictureUrl;
  $("picture").hidden = false;
  $("drop-text").hidden = true;
  say("");
}

function clear() {
  picture = null;
  offer = pictureUrl = "";
  $("question").reset();
  $("picture").hidden = true;
  $("drop-text").hidden = false;
  $("results").replaceChildren();
  say("");
}

async function begin() {
  const about = await ask("/about");
  const can = (question) => about.questions.includes(question);
  $("about").textContent = `${about.task}, step ${about.step}, network ${about.network}`;
  for (const kind of KINDS) {
    $(kind).hidden = !can(kind);
    // The key Enter stands for the first button that submits, also where it is hidden.
    $(kind).type = can(kind) ? "submit" : "button";
  }
  $("where-label").hidden = !can("search");
  $("style").hidden = !can("style");
}

$("question").addEventListener("submit", (event) => {
  event.preventDefault();
  submit(event.submitter ? event.submitter.dataset.ask : KINDS.find((kind) => !$(kind).hidden));
});
$("file").addEventListener("change", () => take($("file").files[0]));
$("picture").addEventListener("error", () => say("The browser cannot show this file.", true));
$("clear").addEventListener("click", clear);
$("token").addEventListener("change", () => begin().catch((error) => say(error.message, true)));
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
}
document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
document.addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
begin().catch((error) => say(error.message, true));
