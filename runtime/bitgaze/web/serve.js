// The page of `bitgaze serve`. What is looked for stands in the address (?key= or ?code=, k, radius,
// name, folder, m.FIELD), so that back, reload and bookmarks work; render() shows what it says.

import { Failure, ask, load } from "/serve_ask.js";
import { card, look, imageOf, pin, show } from "/serve_cards.js";
import { emptyFilters, readFilters, setUpFilters, showFilters, whereOf } from "/serve_filters.js";
import { at, clearMessage, lastPart, megabytes, message, say } from "/serve_words.js";

const FIRST = 24;
const TITLES = {
  not_an_image: "This file cannot be read as a picture",
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
let retry = render;
let ready; // that gallery and browse are there
let started; // when what is on its way was asked for

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

function queryString(parameters, extra = {}) {
  const query = new URLSearchParams(extra);
  query.set("k", parameters.get("k") ?? FIRST);
  const where = whereOf(parameters, browse.fields);
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
    const query = queryString(parameters, { images: "true" });
    const answer = await ask(`/api/search?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    remember(answer.code, { name: file.name || "your picture", image: answer.image, attention: answer.attention });
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
    const isSearch = parameters.has("key") || parameters.has("code");
    at("filters").hidden = !isSearch;
    at("radius").value = parameters.get("radius") ?? gallery.bits;
    showFilters(parameters, browse.fields);
    if (!isSearch) return showStart();
    const query = queryOf(parameters);
    busy(`Searching for pictures like ${query.name}`);
    const [path, by] = parameters.has("key") ? ["/api/search", "key"] : ["/api/search/code", "code"];
    const answer = await ask(`${path}?${queryString(parameters, { [by]: parameters.get(by) })}`);
    shown = { ...answer, k: Number(parameters.get("k") ?? FIRST), ms: performance.now() - started };
    started = undefined;
    showQuery({ ...query, ...(answer.item && imageOf(answer.item)) });
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
  setUpFilters(browse);
}

function showStart() {
  document.title = `bitgaze: ${gallery.name}`;
  at("title").textContent = "Find pictures that look like yours";
  const isTouch = matchMedia("(hover: none)").matches;
  say(`Choose a picture${isTouch ? "" : ", drop it anywhere, paste it"}, or start from one of these.`);
  clearMessage();
  at("query").hidden = true;
  at("more").hidden = true;
  at("hits").replaceChildren(...browse.items.map((item) => card(item, gallery.bits)));
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
  at("hits").replaceChildren(...shown.hits.map((hit, i) => card(hit, gallery.bits, i + 1)));
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

function pinAll(isPinned) {
  for (const one of at("hits").children) pin(one, isPinned);
  at("query").classList.toggle("pinned", isPinned);
  if (isPinned && !at("query").hidden) look(at("query"));
}

function busy(text) {
  started ??= performance.now(); // an upload asks twice: by the picture, then by its code
  say(text, true);
}

function fail(error) {
  if (error.name === "AbortError") return;
  started = undefined;
  say("");
  const again = retry;
  const title = error.code === "no_server" ? "The server does not answer" : (TITLES[error.code] ?? "That did not work");
  const isLasting = ["too_large", "too_many_pixels", "not_an_image", "wrong_token", "no_model"].includes(error.code);
  message(title, error.message, isLasting ? null : ["Try again", again]);
  if (!(error instanceof Failure)) throw error; // a mistake of this page: the console should tell
}

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
  readFilters(parameters, browse.fields);
  parameters.delete("k");
  go(parameters, { replace: true });
}
function clearFilters() {
  emptyFilters();
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

addEventListener("popstate", () => {
  document.activeElement?.blur(); // what somebody writes is left alone, but this is another page
  render();
});
render();
