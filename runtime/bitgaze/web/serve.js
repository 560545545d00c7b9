// The page of `bitgaze serve`. What is looked for stands in the address (?key= or ?code=, k, radius,
// name, folder, m.FIELD), so that back, reload and bookmarks work; render() shows what it says.

const at = (id) => document.getElementById(id);
const FIRST = 24;
const TITLES = {
  not_a_picture: "This file cannot be read as a picture",
  too_large: "This file is too large",
  too_many_pixels: "This picture is too large",
  too_slow: "The picture took too long to arrive",
  no_model: "This gallery takes no pictures",
  no_such_item: "This picture is not in the gallery any more",
  gallery_unavailable: "The gallery cannot be read",
  wrong_token: "This page asks for its token",
};

let gallery; // facts from /api/gallery
let browse; // items to start from, folders, fields
let shown = { hits: [], k: FIRST }; // the last answer
let running; // AbortController of the request on its way
let retry = render;
let ready; // that gallery and browse are there
let started; // when what is on its way was asked for

class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// A search takes the place of the one before.
function ask(path, options = {}) {
  running?.abort();
  running = new AbortController();
  return load(path, { ...options, signal: running.signal });
}

async function load(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("no_server", "It may have been stopped, or the connection is gone. Start it again with `bitgaze serve`, then try again.");
  }
  const isJson = answer.headers.get("content-type")?.startsWith("application/json");
  if (!isJson) throw new Failure("odd_answer", `The server answered ${answer.status} and nothing that this page understands. Try again in a moment.`);
  const body = await answer.json();
  if (!answer.ok) throw new Failure(body.error.code, body.error.message);
  return body;
}

function prepared() {
  const both = async () => {
    [gallery, browse] = await Promise.all([load("/api/gallery"), load("/api/browse")]);
    setUp();
  };
  const again = (error) => {
    ready = undefined;
    throw error;
  };
  return (ready ??= both().catch(again));
}

// ---- the address ------------------------------------------------------------------------------

const place = () => new URLSearchParams(location.search);

function go(parameters, { replace = false } = {}) {
  const address = parameters.size ? `?${parameters}` : location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  return render();
}

// The filters of the address as the API's `where`. In a pattern % and _ stand for anything, so
// that a name with one finds a little more than it should, never less.
function whereOf(parameters) {
  const where = {};
  const name = parameters.get("name");
  const folder = parameters.get("folder");
  if (name || folder) {
    const inside = folder ? folder + (folder.includes("\\") ? "\\" : "/") : "";
    where["@key"] = { like: `${inside}%${name ? `${name}%` : ""}` };
  }
  for (const field of browse.fields) {
    const text = parameters.get(`m.${field.name}`);
    if (!text) continue;
    if (field.kind === "choice") where[field.name] = JSON.parse(text);
    else if (field.kind === "text") where[field.name] = { like: `%${text}%` };
    else {
      const [low, high] = text.split("..");
      where[field.name] = { ...(low && { ">=": Number(low) }), ...(high && { "<=": Number(high) }) };
    }
  }
  return Object.keys(where).length ? where : null;
}

function queryString(parameters, extra = {}) {
  const query = new URLSearchParams(extra);
  query.set("k", parameters.get("k") ?? FIRST);
  const where = whereOf(parameters);
  if (where) query.set("where", JSON.stringify(where));
  return query;
}

// ---- searching --------------------------------------------------------------------------------

async function searchFile(file) {
  retry = () => searchFile(file);
  try {
    await prepared();
    if (!gallery.items) return render();
    if (gallery.fingerprint === null) throw new Failure("no_model", "It holds codes without a model. Start from one of its items.");
    const limit = gallery.limits.upload_bytes;
    if (file.size > limit) throw new Failure("too_large", `${file.name} has ${megabytes(file.size)}, the limit is ${megabytes(limit)}. Save a smaller copy and search with that.`);
    const parameters = place();
    busy(`Searching for pictures like ${file.name}`);
    const query = queryString(parameters, { pictures: "true" });
    const answer = await ask(`/api/search?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    remember(answer.code, { name: file.name || "your picture", picture: answer.picture, attention: answer.attention });
    parameters.delete("key");
    parameters.set("code", answer.code);
    await go(parameters);
  } catch (error) {
    fail(error);
  }
}

// Uploaded pictures, small, by their codes, for as long as the tab is open.
function remember(code, query) {
  try {
    sessionStorage.setItem(code, JSON.stringify(query));
  } catch {
    sessionStorage.clear(); // full: the last one is worth more
    sessionStorage.setItem(code, JSON.stringify(query));
  }
}

function queryOf(parameters) {
  const key = parameters.get("key");
  if (key !== null) return { name: lastPart(key) };
  return JSON.parse(sessionStorage.getItem(parameters.get("code")) ?? "null") ?? { name: "a picture from before" };
}

async function render() {
  retry = render;
  const parameters = place();
  try {
    await prepared();
    if (!gallery.items) {
      ready = undefined; // pictures may come
      return showEmpty();
    }
    showFilters(parameters);
    if (!parameters.has("key") && !parameters.has("code")) return showStart();
    const query = queryOf(parameters);
    busy(`Searching for pictures like ${query.name}`);
    const [path, by] = parameters.has("key") ? ["/api/search", "key"] : ["/api/search/code", "code"];
    const answer = await ask(`${path}?${queryString(parameters, { [by]: parameters.get(by) })}`);
    shown = { ...answer, k: Number(parameters.get("k") ?? FIRST), ms: performance.now() - started };
    started = undefined;
    showQuery({ ...query, ...(answer.item && pictureOf(answer.item)) });
    showHits();
  } catch (error) {
    fail(error);
  }
}

// ---- showing ----------------------------------------------------------------------------------

function setUp() {
  const count = new Intl.NumberFormat("en").format(gallery.items);
  at("gallery").textContent = `${count} ${gallery.items === 1 ? "picture" : "pictures"} in ${gallery.name}`;
  document.querySelector(".ways").hidden = gallery.fingerprint === null; // codes, and no model
  at("radius").max = gallery.bits / 2; // at half of the bits, pictures have nothing in common
  at("folders").hidden = !browse.folders.length;
  at("folder").replaceChildren(new Option("all", ""), ...browse.folders.map((f) => new Option(f.name, f.path)));
  at("fields").replaceChildren(...browse.fields.map(fieldControl));
}

function fieldControl(field, position) {
  const box = element("div", "field");
  const id = `field-${position}`;
  const input = (type, name) => Object.assign(element("input"), { type, name, step: "any", autocomplete: "off" });
  if (field.kind === "number") {
    const low = input("number", field.name);
    const high = input("number", field.name);
    [low.placeholder, high.placeholder] = field.values;
    low.setAttribute("aria-label", `${field.name}, from`);
    high.setAttribute("aria-label", `${field.name}, to`);
    const pair = element("div", "span");
    pair.append(low, high);
    box.append(element("span", "label", field.name), pair);
    return box;
  }
  const control = field.kind === "choice" ? element("select") : input("search", field.name);
  if (field.kind === "choice") {
    control.append(new Option("all", ""), ...field.values.map((v) => new Option(v, JSON.stringify(v))));
  }
  control.name = field.name;
  control.id = id;
  const label = element("label", "", field.name);
  label.htmlFor = id;
  box.append(label, control);
  return box;
}

function showFilters(parameters) {
  at("filters").hidden = !parameters.has("key") && !parameters.has("code");
  at("radius").value = parameters.get("radius") ?? gallery.bits;
  at("name").value = parameters.get("name") ?? "";
  at("folder").value = parameters.get("folder") ?? "";
  for (const field of browse.fields) {
    const text = parameters.get(`m.${field.name}`) ?? "";
    const controls = controlsOf(field.name);
    if (field.kind === "number") [controls[0].value, controls[1].value = ""] = text.split("..");
    else controls[0].value = text;
  }
  const count = Object.keys(whereOf(parameters) ?? {}).length;
  at("active").textContent = count ? `(${count} set)` : "";
}

const controlsOf = (name) => [...at("fields").querySelectorAll("input, select")].filter((c) => c.name === name);

function showStart() {
  document.title = `bitgaze: ${gallery.name}`;
  at("title").textContent = "Find pictures that look like yours";
  const isTouch = matchMedia("(hover: none)").matches;
  say(`Choose a picture${isTouch ? "" : ", drop it anywhere, paste it"}, or start from one of these.`);
  clearMessage();
  at("query").hidden = true;
  at("more").hidden = true;
  at("hits").replaceChildren(...browse.items.map((item) => card(item)));
}

function showEmpty() {
  at("title").textContent = "This gallery is empty";
  say("");
  at("hits").replaceChildren();
  message("Put pictures into it", `Run \`bitgaze index ~/Pictures -g ${gallery.name}\` in the folder where the gallery lies, with your own folder of pictures. Then look again.`, ["Look again", render]);
}

function showQuery(query) {
  document.title = `Like ${query.name} - bitgaze`;
  at("title").textContent = `Pictures like ${query.name}`;
  const figure = at("query");
  figure.hidden = false;
  show(figure, query, `the picture that is looked for: ${query.name}`);
  figure.classList.toggle("pinned", at("looks").checked);
  if (at("looks").checked) look(figure);
}

function showHits() {
  clearMessage();
  at("hits").replaceChildren(...shown.hits.map((hit, i) => card(hit, i + 1)));
  if (at("looks").checked) pinAll(true);
  nearEnough();
}

// The radius only hides what was found: moving it asks nothing of the server.
function nearEnough() {
  const slider = at("radius");
  const isAny = Number(slider.value) >= Number(slider.max);
  const radius = isAny ? Infinity : Number(slider.value);
  at("nearest").textContent = isAny ? "any distance" : `at most ${radius} bits differ`;
  at("stranger").textContent = gallery.radius === null ? "" : `Up to ${gallery.radius} bits, one unrelated picture in 10,000 slips in.`;
  slider.setAttribute("aria-valuetext", isAny ? "any distance" : `at most ${radius} bits differ`);
  const cards = [...at("hits").children];
  const near = shown.hits.filter((hit, i) => !(cards[i].hidden = hit.distance > radius));
  at("more").hidden = near.length < shown.k || shown.k >= gallery.limits.hits;
  const time = shown.ms < 1 ? "" : `, in ${Math.round(shown.ms)} ms`;
  if (near.length) {
    clearMessage();
    say(`${near.length} ${near.length === 1 ? "picture" : "pictures"}, nearest first${time}`);
  } else {
    say("No pictures found.");
    message("Nothing fits", shown.hits.length ? `The nearest picture differs in ${shown.hits[0].distance} bits. Allow more with "How near".` : "No picture passes the filters. Clear some of them.", shown.hits.length ? ["Any distance", anyDistance] : ["Clear filters", clearFilters]);
  }
}

function card(item, rank) {
  const card = at("hit").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  const figure = part("figure");
  show(figure, pictureOf(item), "");
  const [folder] = item.key.endsWith(item.name) ? [lastPart(item.key.slice(0, -item.name.length - 1))] : [""];
  part("name").append(...(rank ? [element("b", "", rank)] : []), item.name);
  part("name").title = item.key;
  part("folder").textContent = folder;
  part("go").dataset.key = item.key;
  part("look").setAttribute("aria-label", `Show where the model looked in ${item.name}`);
  part("look").hidden = !item.has_picture;
  let words = "";
  if (rank) {
    const share = Math.max(0, 1 - item.distance / (gallery.bits / 2));
    part("bar").style.setProperty("--share", `${100 * share}%`);
    part("distance").textContent = `${item.distance} of ${gallery.bits} bits differ`;
    part("chances").append(...chances(item));
    part("metadata").textContent = Object.entries(item.metadata).slice(0, 3).map(([n, v]) => `${n}: ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ");
    words = `, number ${rank}, ${part("distance").textContent}, ${[...part("chances").children].map((one) => one.textContent).join(", ")}`;
  } else card.classList.add("start");
  part("go").setAttribute("aria-label", `Search for pictures like ${item.name}${words}`);
  return card;
}

function chances(hit) {
  const parts = [];
  if (hit.probability !== null) {
    const kind = element("span", "", "same kind ");
    kind.append(element("b", "", percent(hit.probability)));
    parts.push(kind);
  }
  if (hit.duplicate >= 0.005) {
    const isLikely = hit.duplicate >= 0.5;
    parts.push(element("span", isLikely ? "same" : "", `same picture ${percent(hit.duplicate)}`));
  }
  return parts;
}

function pictureOf(item) {
  if (!item.has_picture) return { gone: "added by hand, without a file" };
  const query = `key=${encodeURIComponent(item.key)}`;
  return { picture: `/api/thumbnail?${query}`, attention: `/api/attention?${query}` };
}

function show(figure, { picture, attention, gone = "not kept: choose it again to see it" }, words) {
  const plain = figure.querySelector(".picture");
  const heat = figure.querySelector(".attention");
  const note = figure.querySelector(".gone");
  const lose = (text) => {
    plain.hidden = true;
    note.hidden = false;
    note.textContent = text;
  };
  figure.classList.remove("looking");
  heat.classList.remove("there");
  heat.removeAttribute("src");
  heat.hidden = true;
  figure.dataset.attention = attention ?? "";
  plain.hidden = false;
  note.hidden = true;
  plain.alt = words;
  plain.onerror = () => lose("the file is gone or cannot be read");
  if (picture) plain.src = picture;
  else {
    plain.removeAttribute("src");
    lose(gone);
  }
}

// The attention of a picture takes a run of the network: it is asked for when somebody looks.
function look(figure) {
  const heat = figure.querySelector(".attention");
  if (heat.hasAttribute("src") || !figure.dataset.attention) return;
  heat.hidden = false;
  heat.onload = () => heat.classList.add("there");
  heat.onerror = () => (heat.hidden = true);
  heat.src = figure.dataset.attention;
}

function pin(card, isPinned) {
  const figure = card.querySelector(".figure");
  figure.classList.toggle("pinned", isPinned);
  figure.querySelector(".look").setAttribute("aria-pressed", isPinned);
  if (isPinned) look(figure);
}

function pinAll(isPinned) {
  for (const one of at("hits").children) pin(one, isPinned);
  at("query").classList.toggle("pinned", isPinned);
  if (isPinned && !at("query").hidden) look(at("query"));
}

function busy(text) {
  started ??= performance.now(); // an upload asks twice: by the picture, then by its code
  say(text, true);
}

function say(text, isBusy = false) {
  at("hits").setAttribute("aria-busy", isBusy);
  at("status").textContent = text;
}

function fail(error) {
  if (error.name === "AbortError") return;
  started = undefined;
  say("");
  const again = retry;
  const title = error.code === "no_server" ? "The server does not answer" : (TITLES[error.code] ?? "That did not work");
  const isLasting = ["too_large", "too_many_pixels", "not_a_picture", "wrong_token", "no_model"].includes(error.code);
  message(title, error.message, isLasting ? null : ["Try again", again]);
  if (!(error instanceof Failure)) throw error; // a mistake of this page: the console should tell
}

// Text with `code` in it, as paragraphs; never as HTML.
function message(title, text, action) {
  const box = element("div", "message");
  const words = element("p");
  words.append(...text.split("`").map((part, i) => (i % 2 ? element("code", "", part) : part)));
  box.append(element("h2", "", title), words);
  if (action) {
    const button = element("button", "plain", action[0]);
    button.type = "button";
    button.onclick = action[1];
    box.append(button);
  }
  at("message").replaceChildren(box);
}

const clearMessage = () => at("message").replaceChildren();

function element(name, className = "", text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

const lastPart = (key) => key.split(/[/\\]/).filter(Boolean).pop() ?? key;
const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
const percent = (p) => (p > 0.99 ? "> 99%" : p < 0.01 ? "< 1%" : `${Math.round(100 * p)}%`);

// ---- what a person does -----------------------------------------------------------------------

function take(files) {
  if (files.length) searchFile(files[0]);
  else message("There is no picture in that", "Drop or paste a picture file, or choose one.");
}

at("file").addEventListener("change", () => {
  if (at("file").files.length) take(at("file").files);
  at("file").value = ""; // the same file may be chosen again
});
let depth = 0; // dragenter and dragleave come for every element below the pointer
document.addEventListener("dragenter", () => document.body.classList.toggle("dropping", ++depth > 0));
document.addEventListener("dragleave", () => document.body.classList.toggle("dropping", --depth > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const isText = event.target.matches?.("input, select") && !event.clipboardData.files.length;
  if (!isText) take(event.clipboardData.files);
});

at("hits").addEventListener("click", async (event) => {
  const go_ = event.target.closest(".go");
  const look_ = event.target.closest(".look");
  if (look_) pin(look_.closest("li"), look_.getAttribute("aria-pressed") !== "true");
  if (!go_) return;
  const parameters = place();
  parameters.delete("code");
  parameters.delete("k");
  parameters.set("key", go_.dataset.key);
  await go(parameters);
  at("title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
});
for (const [event, isLooking] of [["pointerover", true], ["pointerout", false]]) {
  document.addEventListener(event, ({ target, pointerType }) => {
    const figure = pointerType === "mouse" && target.closest?.(".figure");
    if (!figure || figure.closest(".start")) return;
    figure.classList.toggle("looking", isLooking);
    if (isLooking) look(figure);
  });
}
at("query").addEventListener("click", () => {
  look(at("query"));
  at("query").classList.toggle("pinned");
});
at("looks").addEventListener("change", () => pinAll(at("looks").checked));
at("more").addEventListener("click", () => {
  const parameters = place();
  parameters.set("k", Math.min(2 * shown.k, gallery.limits.hits));
  go(parameters, { replace: true });
});

// Arrow keys go from picture to picture; Tab does, too.
at("hits").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 0, ArrowUp: 0 };
  if (!(event.key in steps) || !event.target.matches(".go")) return;
  event.preventDefault();
  const all = [...at("hits").querySelectorAll("li:not([hidden]) .go")];
  const here = all.indexOf(event.target);
  const top = all[0].closest("li").offsetTop;
  const columns = all.filter((one) => one.closest("li").offsetTop === top).length;
  const step = steps[event.key] || (event.key === "ArrowDown" ? columns : -columns);
  all[here + step]?.focus();
});

at("radius").addEventListener("input", nearEnough);
at("radius").addEventListener("change", () => {
  const parameters = place();
  const isAny = Number(at("radius").value) >= Number(at("radius").max);
  if (isAny) parameters.delete("radius");
  else parameters.set("radius", at("radius").value);
  history.replaceState(null, "", `?${parameters}`);
});
function anyDistance() {
  at("radius").value = at("radius").max;
  at("radius").dispatchEvent(new Event("change"));
  nearEnough();
}

function filter() {
  const parameters = place();
  const set = (name, value) => (value ? parameters.set(name, value) : parameters.delete(name));
  set("name", at("name").value.trim());
  set("folder", at("folder").value);
  for (const field of browse.fields) {
    const values = controlsOf(field.name).map((control) => control.value.trim());
    set(`m.${field.name}`, values.some(Boolean) ? values.join("..") : "");
  }
  parameters.delete("k");
  go(parameters, { replace: true });
}
function clearFilters() {
  for (const control of at("filters").querySelectorAll("details input, details select")) control.value = "";
  filter();
}
let typing;
at("filters").addEventListener("input", (event) => {
  if (!event.target.closest("details")) return;
  clearTimeout(typing);
  typing = setTimeout(filter, event.target.matches("select") ? 0 : 250);
});
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  clearFilters();
});

addEventListener("popstate", render);
render();
