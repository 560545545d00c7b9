// The page of `bitgaze serve`. The address holds the whole search (?key=, ?code= or ?words=, region, k,
// radius, name, folder, m.FIELD), so back, reload and bookmarks work; render() shows what the address says.

import { RequestError, fetchJson, fetchSearch } from "/serve_api.js";
import { foldCopies, imageOf, likeness, loadAttention, makeCard, pinAttention, showImage } from "/serve_cards.js";
import { byId, clearMessage, counted, element, fileSize, lastPart, recall, remember, setStatus, showMessage } from "/serve_dom.js";
import { RegionChooser, boxOf, showBox, textOf } from "/serve_region.js";
import { Lightbox } from "/serve_lightbox.js";
import { emptyFilters, readFilters, setUpFilters, showFilters, whereOf } from "/serve_filters.js";
import { watchGallery } from "/serve_news.js";
import { moveByArrow, setShape } from "/serve_rows.js";

const FIRST_HITS = 24;
const TITLES = {
  no_server: "The server does not answer",
  not_an_image: "This file cannot be read as an image",
  too_large: "This file is too large",
  too_many_pixels: "This image is too large",
  too_slow: "The upload took too long",
  no_model: "This gallery has no model",
  no_such_item: "This image is no longer in the gallery",
  unknown_word: "That is no word of this model",
  gallery_unavailable: "The gallery cannot be read",
  wrong_token: "This page requires a token",
};
// Trying again does not help with these.
const PERMANENT = ["too_large", "too_many_pixels", "not_an_image", "wrong_token", "no_model", "unknown_word"];

let gallery; // from /api/gallery
let browse; // from /api/browse: items to start from, folders, fields
let loading; // promise of both
let shown = { hits: [], k: FIRST_HITS }; // the last answer
let retry = render;
let fresh; // the answer to an upload, until it is shown: its code alone would not tell identical files
let upload = {}; // the last image that was searched for, as {file, codes}: of the whole and its parts

function loadGallery() {
  const loadBoth = async () => {
    [gallery, browse] = await Promise.all([fetchJson("/api/gallery"), fetchJson("/api/browse")]);
    setUp();
  };
  return (loading ??= loadBoth().catch((error) => {
    loading = undefined;
    throw error;
  }));
}

// ---- the address ------------------------------------------------------------------------------

const readAddress = () => new URLSearchParams(location.search);

function navigate(parameters, { replace = false } = {}) {
  const address = parameters.size ? `?${parameters}` : location.pathname;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  return render();
}

function searchQuery(parameters, extra = {}) {
  const query = new URLSearchParams(extra);
  query.set("k", parameters.get("k") ?? FIRST_HITS);
  if (parameters.has("region")) query.set("region", parameters.get("region"));
  const where = whereOf(parameters, browse.fields);
  if (where) query.set("where", JSON.stringify(where));
  return query;
}

// ---- searching --------------------------------------------------------------------------------

async function searchFile(file, region = null) {
  retry = () => searchFile(file, region);
  try {
    await loadGallery();
    if (!gallery.items) return render();
    if (gallery.fingerprint === null) throw new RequestError("no_model", "It stores only codes. Start from one of its items instead.");
    const limit = gallery.limits.upload_bytes;
    if (file.size > limit) throw new RequestError("too_large", `${file.name} has ${fileSize(file.size)}, the limit is ${fileSize(limit)}. Save a smaller copy and search with that.`);
    const parameters = readAddress();
    if (region) parameters.set("region", textOf(region));
    else parameters.delete("region");
    setStatus(`Searching for images like ${region ? "a part of " : ""}${file.name}`, true);
    const query = searchQuery(parameters, { images: "true" });
    const answer = await fetchSearch(`/api/search?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
    });
    storeQuery(answer.code, { name: file.name || "your image", image: answer.image, attention: answer.attention, looks: answer.looks });
    if (upload.file !== file) upload = { file, codes: new Set() };
    upload.codes.add(answer.code);
    parameters.delete("key");
    parameters.delete("words");
    parameters.set("code", answer.code);
    fresh = answer;
    await navigate(parameters);
  } catch (error) {
    showError(error);
  }
}

// Thumbnails of uploaded images, by code, for as long as the tab is open.
function storeQuery(code, query) {
  try {
    sessionStorage.setItem(code, JSON.stringify(query));
  } catch {
    sessionStorage.clear(); // full: keep the latest only
    sessionStorage.setItem(code, JSON.stringify(query));
  }
}

function storedQuery(parameters) {
  const key = parameters.get("key");
  if (key !== null) return { name: lastPart(key) };
  return JSON.parse(sessionStorage.getItem(parameters.get("code")) ?? "null") ?? { name: "an earlier image" };
}

async function render() {
  retry = render;
  const parameters = readAddress();
  try {
    await loadGallery();
    if (!gallery.items) {
      loading = undefined; // it may fill
      return showEmpty();
    }
    const words = parameters.get("words");
    const isSearch = parameters.has("key") || parameters.has("code") || words !== null;
    byId("filters").hidden = !isSearch;
    byId("distance").hidden = words !== null;
    if (byId("words") !== document.activeElement) byId("words").value = words ?? "";
    byId("radius").value = parameters.get("radius") ?? gallery.bits;
    showFilters(parameters, browse.fields);
    if (!isSearch) return showStart();
    if (words !== null) return await searchWords(words, parameters);
    const query = storedQuery(parameters);
    const isPart = parameters.has("region");
    setStatus(`Searching for images like ${isPart ? "a part of " : ""}${query.name}`, true);
    const [path, by] = parameters.has("key") ? ["/api/search", "key"] : ["/api/search/code", "code"];
    const isFresh = by === "code" && fresh?.code === parameters.get(by);
    const answer = isFresh ? fresh : await fetchSearch(`${path}?${searchQuery(parameters, { [by]: parameters.get(by) })}`);
    fresh = undefined;
    shown = { ...answer, k: Number(parameters.get("k") ?? FIRST_HITS) };
    showQuery({ looks: answer.looks, ...query, ...(answer.item && { ...answer.item, ...imageOf(answer.item) }) }, parameters);
    showHits();
  } catch (error) {
    showError(error);
  }
}

async function searchWords(words, parameters) {
  setStatus(`Searching for images of ${words}`, true);
  document.title = `${words} - bitgaze`;
  byId("title").textContent = `Images of ${words}`;
  const answer = await fetchSearch(`/api/search/words?${searchQuery(parameters, { words })}`);
  shown = { ...answer, k: Number(parameters.get("k") ?? FIRST_HITS) };
  byId("query").hidden = true;
  byId("part").hidden = true;
  byId("radius").value = byId("radius").max;
  showHits();
}

// ---- showing ----------------------------------------------------------------------------------

function setUp() {
  byId("gallery").textContent = `${counted(gallery.items, "image")} in ${gallery.name}`;
  document.querySelector(".choose").hidden = gallery.fingerprint === null; // no model to encode with
  byId("words-form").hidden = !gallery.words;
  byId("radius").max = gallery.bits / 2; // unrelated images differ in about half of the bits
  setUpFilters(browse);
}

function showStart() {
  document.title = `bitgaze: ${gallery.name}`;
  byId("title").textContent = "Find images that look like yours";
  const isTouch = matchMedia("(hover: none)").matches;
  const how = isTouch ? "Choose an image" : "Choose, drop or paste an image";
  setStatus(gallery.fingerprint === null ? "Start from one of these." : `${how}, or start from one of these.`);
  clearMessage();
  byId("query").hidden = true;
  byId("more").hidden = true;
  byId("hits").replaceChildren(makeRows("Images", browse.items.map((item) => makeCard(item, look()))));
}

const look = () => ({ bits: gallery.bits, root: browse.root });

function makeRows(label, cards) {
  const rows = element("ol", "rows");
  rows.setAttribute("aria-label", label);
  rows.append(...cards);
  return rows;
}

function showEmpty() {
  byId("title").textContent = "This gallery is empty";
  setStatus("");
  byId("hits").replaceChildren();
  showMessage("Add some images", `Go to the folder of the gallery file and run \`bitgaze index ~/Pictures -g ${gallery.name}\`, with your own folder in place of ~/Pictures. Then check again.`, ["Check again", render]);
}

function showQuery(query, parameters) {
  const isPart = parameters.has("region");
  document.title = `Like ${query.name} - bitgaze`;
  byId("title").textContent = isPart ? `Images with this part of ${query.name}` : `Images like ${query.name}`;
  const figure = byId("query");
  figure.hidden = false;
  if (query.width) setShape(figure, query);
  showImage(figure, query, `your image: ${query.name}`);
  figure.classList.toggle("pinned", byId("show-attention").checked);
  if (byId("show-attention").checked) loadAttention(figure);
  // A part can be searched for while the image is at hand: an item's, or the file of this tab.
  const isAtHand = parameters.has("key") ? Boolean(query.image) : upload.codes?.has(parameters.get("code"));
  const isEnabled = gallery.looks > 0 && isAtHand;
  chooser.show({ box: boxOf(parameters.get("region")), looks: query.looks, isEnabled });
}

function searchRegion(region) {
  const parameters = readAddress();
  if (!parameters.has("key")) return searchFile(upload.file, region);
  if (region) parameters.set("region", textOf(region));
  else parameters.delete("region");
  return navigate(parameters);
}

function showHits() {
  clearMessage();
  const cards = new Map(shown.hits.map((hit, i) => [hit.key, makeCard(hit, look(), i + 1)]));
  for (const hit of shown.hits) showBox(cards.get(hit.key).querySelector(".figure"), hit.box);
  const firstOf = (hit) => shown.hits.find(({ key }) => key === (hit.copy_of ?? hit.key));
  const isNear = (hit) => {
    const { distance, probability, same_image } = firstOf(hit);
    if (probability !== undefined) return probability >= 0.5;
    if (same_image >= 0.9) return true; // a copy comes first, however far
    // What is usual is known of whole images only.
    return gallery.unrelated === null || readAddress().has("region") || distance <= gallery.unrelated.radius;
  };
  // Copies follow the first of them, although others may lie between.
  const inOrder = shown.hits.filter(({ copy_of }) => copy_of === null).flatMap((hit) => [hit, ...shown.hits.filter(({ copy_of }) => copy_of === hit.key)]);
  const cardsOf = (hits) => hits.map(({ key }) => cards.get(key));
  const near = inOrder.filter(isNear);
  const far = inOrder.filter((hit) => !isNear(hit));
  byId("hits").replaceChildren(...(near.length || !far.length ? [makeRows("Images", cardsOf(near))] : []));
  if (far.length) byId("hits").append(makeDivider(), makeRows("Images after the divider", cardsOf(far)));
  for (const hit of shown.hits) {
    const copies = cardsOf(shown.hits.filter(({ copy_of }) => copy_of === hit.key));
    if (copies.length) foldCopies(cards.get(hit.key), copies);
  }
  byId("hits").classList.toggle("show-boxes", readAddress().has("region"));
  if (byId("show-attention").checked) pinAll(true);
  applyRadius();
}

function makeDivider() {
  if (shown.words !== undefined) return element("h2", "divider", "Probably something else from here on");
  const title = element("h2", "divider", "Probably unrelated from here on");
  const { expected } = gallery.unrelated;
  title.title = `About ${counted(expected, "unrelated image")} of ${gallery.items} ${expected === 1 ? "is" : "are"} as near as the last one above.`;
  return title;
}

const allCards = () => [...byId("hits").querySelectorAll("li")];
const visibleCards = () => allCards().filter((card) => card.checkVisibility());
const keyOf = (card) => card.querySelector(".open").dataset.key;

// The slider hides hits on the page; moving it asks the server for nothing.
function applyRadius() {
  const slider = byId("radius");
  const isAny = Number(slider.value) >= Number(slider.max);
  const radius = isAny ? Infinity : Number(slider.value);
  const text = isAny ? "any" : radius === 0 ? "the same" : `${likeness(radius, gallery.bits)} or more`;
  byId("radius-text").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  byId("radius-hint").textContent = gallery.radius === null ? "" : `Of 10,000 unrelated images, about one is \u201c${likeness(gallery.radius, gallery.bits)}\u201d.`;
  const near = shown.hits.filter((hit) => (hit.distance ?? 0) <= radius);
  const keys = new Set(near.map(({ key }) => key));
  for (const card of allCards()) card.hidden = !keys.has(keyOf(card));
  for (const title of byId("hits").querySelectorAll(".divider")) title.hidden = !title.nextSibling.querySelector("li:not([hidden])");
  const isLastNear = (shown.hits.at(-1)?.distance ?? 0) <= radius; // only copies may be farther than later ones
  byId("more").hidden = shown.hits.length < shown.k || !isLastNear || shown.k >= gallery.limits.hits;
  if (near.length) {
    clearMessage();
    const order = shown.words === undefined ? "most alike" : "likeliest";
    setStatus(`${counted(near.length, "image")}, ${order} first`);
  } else {
    setStatus("No images found.");
    const least = Math.min(...shown.hits.map(({ distance }) => distance));
    if (shown.hits.length) showMessage("Nothing that alike", `The image that is most alike is \u201c${likeness(least, gallery.bits)}\u201d. Move the slider to see it.`, ["Show all", allowAnyDistance]);
    else if (shown.words !== undefined && !whereOf(readAddress(), browse.fields)) showMessage("Nothing found", "The model saw this in no image. It knows things, not people, names or text.");
    else showMessage("Nothing found", "No image matches the filters.", ["Clear filters", clearFilters]);
  }
}

function pinAll(isPinned) {
  for (const card of allCards()) pinAttention(card, isPinned);
  byId("query").classList.toggle("pinned", isPinned);
  if (isPinned && !byId("query").hidden) loadAttention(byId("query"));
}

// The words of the command line begin with a small letter.
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function showError(error) {
  if (error.name === "AbortError") return;
  setStatus("");
  const action = PERMANENT.includes(error.code) ? null : ["Try again", retry];
  showMessage(TITLES[error.code] ?? "Something went wrong", error.code === "unknown_word" ? sentence(error.message) : error.message, action);
  if (!(error instanceof RequestError)) throw error; // a bug in this page: let the console show it
}

// ---- input ------------------------------------------------------------------------------------

function searchFirst(files) {
  if (files.length) searchFile(files[0]);
  else showMessage("There is no image in that", "Drop or paste an image file, or choose one.");
}

byId("file").addEventListener("change", () => {
  if (byId("file").files.length) searchFirst(byId("file").files);
  byId("file").value = ""; // so that the same file can be chosen again
});
let depth = 0; // dragenter and dragleave fire for every element under the pointer
document.addEventListener("dragenter", () => document.body.classList.toggle("dropping", ++depth > 0));
document.addEventListener("dragleave", () => document.body.classList.toggle("dropping", --depth > 0));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  searchFirst(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  const isText = event.target.matches?.("input, select") && !event.clipboardData.files.length;
  if (!isText) searchFirst(event.clipboardData.files);
});

byId("hits").addEventListener("click", async (event) => {
  const [search, open, eye] = [".search", ".open", ".eye"].map((one) => event.target.closest(one));
  if (eye) pinAttention(eye.closest("li"), eye.getAttribute("aria-pressed") !== "true");
  const isStart = open?.closest(".start");
  if (search || isStart) await searchFrom((search ?? open).dataset.key);
  else if (open) openLightbox(open);
});

byId("words-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const words = byId("words").value.trim();
  const parameters = readAddress();
  for (const name of ["key", "code", "region", "k", "radius", "words"]) parameters.delete(name);
  if (words) parameters.set("words", words);
  await navigate(parameters);
});

async function searchFrom(key) {
  const parameters = readAddress();
  parameters.delete("words");
  parameters.delete("code");
  parameters.delete("region");
  parameters.delete("k");
  parameters.set("key", key);
  await navigate(parameters);
  byId("title").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

const lightbox = new Lightbox(searchFrom);
function openLightbox(opener) {
  const keys = visibleCards().map(keyOf);
  const items = keys.map((key) => shown.hits.find((hit) => hit.key === key));
  lightbox.open(items, keys.indexOf(opener.dataset.key), gallery, browse.root, opener);
}
for (const [event, isHovered] of [["pointerover", true], ["pointerout", false]]) {
  document.addEventListener(event, ({ target, pointerType }) => {
    const figure = pointerType === "mouse" && target.closest?.(".figure");
    if (!figure || figure.closest(".start, dialog")) return;
    figure.classList.toggle("hovered", isHovered);
    if (isHovered) loadAttention(figure);
  });
}
// The query takes the shape of its image, once that is known; before `chooser` draws on it.
byId("query").querySelector(".image").addEventListener("load", ({ target }) => setShape(byId("query"), { width: target.naturalWidth, height: target.naturalHeight }));
const chooser = new RegionChooser(byId("query"), byId("part"), searchRegion);
byId("query").addEventListener("click", ({ target }) => {
  if (chooser.hasDragged || target.closest(".region")) return;
  loadAttention(byId("query"));
  byId("query").classList.toggle("pinned");
});
byId("show-attention").addEventListener("change", () => pinAll(byId("show-attention").checked));
byId("show-details").checked = recall("bitgaze-details") ?? false;
function applyDetails() {
  byId("hits").classList.toggle("show-details", byId("show-details").checked);
}
byId("show-details").addEventListener("change", () => {
  remember("bitgaze-details", byId("show-details").checked);
  applyDetails();
});
applyDetails();
byId("more").addEventListener("click", () => {
  const parameters = readAddress();
  parameters.set("k", Math.min(2 * shown.k, gallery.limits.hits));
  navigate(parameters, { replace: true });
});

// Arrow keys move from image to image, as Tab does.
byId("hits").addEventListener("keydown", (event) => {
  if (event.target.matches(".open")) moveByArrow(event, visibleCards().map((card) => card.querySelector(".open")));
});

byId("radius").addEventListener("input", applyRadius);
byId("radius").addEventListener("change", () => {
  const parameters = readAddress();
  const isAny = Number(byId("radius").value) >= Number(byId("radius").max);
  if (isAny) parameters.delete("radius");
  else parameters.set("radius", byId("radius").value);
  history.replaceState(null, "", `?${parameters}`);
});
function allowAnyDistance() {
  byId("radius").value = byId("radius").max;
  byId("radius").dispatchEvent(new Event("change"));
  applyRadius();
}

function applyFilters() {
  const parameters = readAddress();
  readFilters(parameters, browse.fields);
  parameters.delete("k");
  navigate(parameters, { replace: true });
}
function clearFilters() {
  emptyFilters();
  applyFilters();
}
let typing;
byId("filters").addEventListener("input", (event) => {
  if (!event.target.closest("details")) return;
  clearTimeout(typing);
  typing = setTimeout(applyFilters, event.target.matches("select") ? 0 : 250);
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  clearFilters();
});

addEventListener("popstate", () => {
  document.activeElement?.blur(); // a control in use would keep its text, but this is another search
  render();
});
for (const link of document.querySelectorAll("nav a")) if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
watchGallery(() => gallery?.items ?? null, () => {
  loading = undefined;
  render();
});
render();
