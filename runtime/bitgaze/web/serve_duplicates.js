// The page of duplicates: groups in one tier, what a person keeps and marks in them, and which are none.
// The address holds the tier; marks are in serve_marks.js.

import { RequestError, fetchJson, fetchSearch } from "/serve_api.js";
import { imageOf, showImage } from "/serve_cards.js";
import { button, byId, clearMessage, counted, dateText, fileSize, folderOf, setStatus, showMessage, showToast } from "/serve_dom.js";
import { Lightbox } from "/serve_lightbox.js";
import { Marks } from "/serve_marks.js";
import { watchGallery } from "/serve_news.js";
import { moveByArrow, setShape, shapeOf } from "/serve_rows.js";

const COUNT = 20;
const NAMES = { identical: ["identical file", "identical files"], copy: ["copy", "copies"], "look-alike": ["look-alike", "look-alikes"] };
const NONE = {
  identical: ["No identical files", "No two files of this gallery have the same bytes."],
  copy: ["No copies", "No image of this gallery is another one, resized, compressed or otherwise altered. Identical files are in a list of their own."],
  "look-alike": ["No look-alikes", "No two different images of this gallery are nearly alike."],
};

let gallery; // from /api/gallery
let root = ""; // the folder that all items share
let answer; // the last one of /api/duplicates
let asked = 0; // how often groups were asked for
const groups = new Map(); // element to its members, the best first

const tierOf = () => new URLSearchParams(location.search).get("tier") ?? "copy";
const marks = new Marks(() => [...groups.keys()].forEach(showMarks));
const lightbox = new Lightbox((key) => (location.href = `/?key=${encodeURIComponent(key)}`), (item) => {
  const group = [...groups.keys()].find((one) => groups.get(one).includes(item));
  if (!group) return [];
  const after = (action) => () => (action(), lightbox.showActions());
  const mark = button("plain", "Marked", after(() => toggle(group, item)));
  mark.textContent = marks.has(item.key) ? "Marked" : "Mark";
  mark.setAttribute("aria-pressed", marks.has(item.key));
  return [mark, button("plain", "Keep only this", after(() => keepOnly(group, item)))];
});

// ---- finding ----------------------------------------------------------------------------------

async function render() {
  try {
    const browse = await fetchJson("/api/browse");
    gallery = await fetchJson("/api/gallery");
    root = browse.root;
    byId("gallery").textContent = `${counted(gallery.items, "image")} in ${gallery.name}`;
    document.title = `Duplicates in ${gallery.name}`;
    marks.open(gallery.id);
    await find();
  } catch (error) {
    showError(error);
  }
}

async function find() {
  const tier = tierOf();
  for (const tab of document.querySelectorAll(".tiers button")) tab.setAttribute("aria-pressed", tab.dataset.tier === tier);
  groups.clear();
  byId("groups").replaceChildren();
  byId("more").hidden = byId("keys").hidden = byId("mark-others").hidden = true;
  clearMessage();
  setStatus(`Comparing ${counted(gallery.items, "image")}`, true);
  answer = await fetchGroups({ tier, count: COUNT });
  showCounts();
  showGroups(answer.groups);
  if (!answer.groups.length) showMessage(...NONE[tier], tier === "copy" && answer.counts.identical ? ["Identical files", () => openTier("identical")] : null);
}

async function showMore() {
  try {
    const next = await fetchGroups({ tier: answer.tier, count: COUNT, first: answer.next, state: answer.state });
    if (next.state !== answer.state) return await find(); // the gallery has changed, and so may have these
    answer = next;
    const last = byId("groups").lastElementChild;
    showGroups(next.groups);
    last?.nextElementSibling?.querySelector(".open").focus({ preventScroll: true });
  } catch (error) {
    showError(error);
  }
}

// Asks until the groups are known, or others are asked for; at most twice a second.
async function fetchGroups(parameters) {
  const turn = ++asked;
  for (let state = parameters.state; ; ) {
    const query = new URLSearchParams({ ...parameters, ...(state && { state }) });
    const pause = new Promise((resolve) => setTimeout(resolve, 500));
    const found = await fetchSearch(`/api/duplicates?${query}`);
    byId("progress").hidden = Boolean(found.groups);
    if (found.groups) return { ...found, next: found.first + found.groups.length };
    state = found.state;
    if (found.total) Object.assign(byId("progress"), { value: found.done, max: found.total });
    else byId("progress").removeAttribute("value");
    await pause;
    if (turn !== asked) throw new DOMException("Others are asked for.", "AbortError");
  }
}

function showError(error) {
  if (error.name === "AbortError") return;
  setStatus("");
  byId("progress").hidden = true;
  showMessage("The duplicates cannot be shown", error.message, ["Try again", render]);
  if (!(error instanceof RequestError)) throw error; // a bug in this page: let the console show it
}

// ---- showing ----------------------------------------------------------------------------------

function showCounts() {
  for (const tab of document.querySelectorAll(".tiers button")) {
    const count = answer.counts[tab.dataset.tier];
    tab.textContent = tab.textContent.replace(/ \d.*/, "");
    if (count !== null) tab.append(` ${count}`);
  }
  const { counts, tier, images, bytes } = answer;
  const advice = tier === "look-alike" ? "Look at each: they may be different images." : `They take ${fileSize(bytes)}.`;
  setStatus(counts[tier] ? `${counted(counts[tier], "group")}: ${counted(images, ...NAMES[tier])} besides the best. ${advice}` : "");
}

function showGroups(found) {
  byId("groups").append(...found.map(makeGroup));
  for (const group of byId("groups").children) showMarks(group);
  byId("keys").hidden = !groups.size;
  byId("mark-others").hidden = !groups.size || answer.tier === "look-alike"; // which have to be looked at
  byId("more").hidden = answer.next >= answer.counts[answer.tier];
}

function makeGroup({ best, others, left_out }) {
  const group = byId("group").content.cloneNode(true).firstElementChild;
  const members = [best, ...others];
  groups.set(group, members);
  group.dataset.leftOut = left_out;
  group.querySelector("h2").textContent = titleOf(members, left_out);
  group.querySelector("ol").append(...members.map((member) => makeMember(group, member)));
  setWidth(group);
  return group;
}

// A group is as wide as its row of images, so that several small groups fit beside each other.
function setWidth(group) {
  const members = groups.get(group);
  group.style.setProperty("--shapes", members.reduce((sum, one) => sum + shapeOf(one), 0).toFixed(4));
  group.style.setProperty("--gaps", members.length - 1);
}

function titleOf([best, ...others], leftOut = 0) {
  const tiers = new Set(others.map(({ tier }) => tier));
  const names = NAMES[["look-alike", "copy", "identical"].find((tier) => tiers.has(tier)) ?? answer.tier];
  const unshown = leftOut ? `; ${leftOut} of them are not shown` : "";
  return `${best.name} and ${counted(others.length + leftOut, ...names)}${unshown}`;
}

function makeMember(group, member) {
  const card = byId("member").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  const isBest = member.tier === null;
  setShape(card, member);
  showImage(part("figure"), imageOf(member), "");
  part("tier").textContent = isBest ? "best" : NAMES[member.tier][0];
  part("tier").classList.toggle("good", isBest);
  part("name").textContent = member.name;
  part("name").title = member.key;
  part("folder").textContent = folderOf(member, root);
  const size = member.width ? `${member.width} \u00d7 ${member.height}` : "";
  const bytes = member.file_bytes === null ? "no file" : fileSize(member.file_bytes);
  const facts = [size, bytes, member.date && dateText(member.date)];
  part("facts").textContent = [size, bytes].filter(Boolean).join(" \u00b7 ");
  part("date").textContent = facts[2] ?? "";
  part("open").setAttribute("aria-label", [`Open ${member.name}`, part("tier").textContent, part("folder").textContent, ...facts.filter(Boolean)].join(", "));
  part("open").onclick = () => {
    const shown = groups.get(group);
    // What the search says of hits; of the best there is nothing to compare.
    const items = shown.map((one) => Object.assign(one, { chances: {}, metadata: {}, ...(one.tier === null && { distance: undefined }) }));
    lightbox.open(items, items.indexOf(member), gallery, root, part("open"));
  };
  part("mark").setAttribute("aria-label", `Mark ${member.name}`);
  part("mark").onclick = () => toggle(group, member);
  part("keep").onclick = () => keepOnly(group, member);
  part("apart").hidden = isBest || member.tier === "identical";
  part("apart").onclick = () => setApart(group, member);
  return card;
}

function showMarks(group) {
  const members = groups.get(group);
  [...group.querySelectorAll("li")].forEach((card, i) => {
    const isMarked = marks.has(members[i].key);
    card.classList.toggle("marked", isMarked);
    card.querySelector(".mark").setAttribute("aria-checked", isMarked);
  });
  const isEmptied = (one) => groups.get(one).every(({ key }) => marks.has(key));
  group.querySelector(".warning").textContent = isEmptied(group) ? "All of these are marked: none would be left." : "";
  marks.warn([...groups.keys()].filter(isEmptied).length);
}

// ---- what a person decides --------------------------------------------------------------------

function toggle(group, member) {
  marks.set(member, !marks.has(member.key));
  showMarks(group);
}

function keepOnly(group, kept) {
  for (const member of groups.get(group)) marks.set(member, member !== kept);
  showMarks(group);
}

// Of all groups on the page, at once.
function markOthers() {
  const before = marks.all();
  for (const [group, members] of groups) keepOnly(group, members[0]);
  showToast(`${counted(marks.all().length - before.length, "more image")} marked in ${counted(groups.size, "group")}.`, ["Undo", () => marks.restore(before)]);
}

// The gallery remembers that a member is no duplicate of the best.
async function setApart(group, member) {
  const members = groups.get(group);
  const keys = [members[0].key, member.key];
  try {
    await setDistinct(keys, true);
    if (marks.has(member.key)) marks.set(member, false);
    const left = members.filter((one) => one !== member);
    const card = group.querySelectorAll("li")[members.indexOf(member)];
    const hadFocus = card.contains(document.activeElement);
    const next = card.nextElementSibling ?? group.nextElementSibling ?? card.previousElementSibling;
    const leftOut = Number(group.dataset.leftOut);
    if (left.length > 1 || leftOut) {
      groups.set(group, left);
      card.remove();
      setWidth(group);
      group.querySelector("h2").textContent = titleOf(left, leftOut);
      showMarks(group);
    } else {
      for (const one of members) if (marks.has(one.key)) marks.set(one, false);
      groups.delete(group);
      group.remove();
      answer.counts[answer.tier] -= 1;
      answer.next -= 1;
    }
    answer.images -= 1;
    answer.bytes -= member.file_bytes ?? 0;
    showCounts();
    if (hadFocus) (next.isConnected ? next.querySelector(".open") : byId("title")).focus();
    showToast(`${member.name} is no duplicate: remembered.`, ["Undo", async () => {
      try {
        await setDistinct(keys, false);
        await find();
      } catch (error) {
        showError(error);
      }
    }]);
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    showToast(error.message);
  }
}

async function setDistinct(keys, distinct) {
  const query = new URLSearchParams({ keys: JSON.stringify(keys), distinct });
  await fetchJson(`/api/distinct?${query}`, { method: "POST" });
  const { state } = await fetchJson(`/api/duplicates?${new URLSearchParams({ tier: answer.tier, count: 1 })}`);
  answer.state = state;
}

// ---- input ------------------------------------------------------------------------------------

byId("groups").addEventListener("keydown", (event) => {
  if (!event.target.matches(".open") || event.altKey || event.ctrlKey || event.metaKey) return;
  const group = event.target.closest(".group");
  const card = event.target.closest("li");
  const member = groups.get(group)[[...card.parentElement.children].indexOf(card)];
  const key = event.key.toLowerCase();
  if (key === " ") toggle(group, member);
  else if (key === "k") keepOnly(group, member);
  else if (key === "d" && !card.querySelector(".apart").hidden) setApart(group, member);
  else return moveByArrow(event, [...byId("groups").querySelectorAll(".open")]);
  event.preventDefault();
});
// A browser clicks a button when the space bar is released.
byId("groups").addEventListener("keyup", (event) => {
  if (event.key === " " && event.target.matches(".open")) event.preventDefault();
});

function openTier(tier) {
  history.pushState(null, "", `?tier=${tier}`);
  return find().catch(showError);
}
document.querySelector(".tiers").addEventListener("click", ({ target }) => target.dataset.tier && openTier(target.dataset.tier));
byId("more").addEventListener("click", showMore);
byId("mark-others").addEventListener("click", markOthers);
addEventListener("popstate", () => find().catch(showError));
for (const link of document.querySelectorAll("nav a")) if (link.pathname === location.pathname) link.setAttribute("aria-current", "page");
watchGallery(() => gallery?.items ?? null, render);
render();
