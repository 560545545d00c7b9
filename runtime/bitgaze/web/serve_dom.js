// Small helpers for the document. Text is always set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, className = "", text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

export function button(className, text, action) {
  return Object.assign(element("button", className, text), { type: "button", onclick: action });
}

export function setStatus(text, isBusy = false) {
  byId("results").setAttribute("aria-busy", isBusy);
  byId("status").textContent = text;
}

// Text between backticks is shown as code. The action, if any, is [label, callback] of a button.
export function showMessage(title, text, action) {
  const box = element("div", "message");
  const paragraph = element("p");
  paragraph.append(...text.split("`").map((part, i) => (i % 2 ? element("code", "", part) : part)));
  box.append(element("h2", "", title), paragraph);
  if (action) box.append(button("plain", ...action));
  byId("message").replaceChildren(box);
}

export const clearMessage = () => byId("message").replaceChildren();

let toastEnd;

// Shows a line for some seconds, with one button or none; action as in showMessage.
export function showToast(text, action) {
  const toast = byId("toast");
  const end = () => (toast.hidden = true);
  const undo = action && button("plain", action[0], () => (end(), action[1]()));
  toast.replaceChildren(element("span", "", text), ...(undo ? [undo] : []));
  toast.hidden = false;
  clearTimeout(toastEnd);
  toastEnd = setTimeout(end, 12_000);
}

export const lastPart = (key) => key.split(/[/\\]/).filter(Boolean).pop() ?? key;

// The folder of an item as a person sees it: below the folder that all share, such as "2024 > Italy".
export function folderOf({ key, name }, root = "") {
  if (!key.endsWith(name) || key === name) return "";
  const folder = key.slice(0, -name.length).replace(/[/\\]+$/, "");
  if (folder === root) return lastPart(folder);
  const isBelow = root && /[/\\]/.test(folder[root.length] ?? "") && folder.startsWith(root);
  const parts = folder.slice(isBelow ? root.length : 0).split(/[/\\]/).filter(Boolean);
  return (isBelow ? parts : parts.slice(-2)).join(" \u203a ");
}

const number = new Intl.NumberFormat("en");
export const counted = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;

export function fileSize(bytes) {
  if (bytes < 1000) return counted(bytes, "byte");
  const power = Math.min(4, Math.floor(Math.log10(bytes) / 3));
  const scaled = bytes / 1000 ** power;
  return `${scaled < 10 ? Math.round(10 * scaled) / 10 : Math.round(scaled)} ${["", "kB", "MB", "GB", "TB"][power]}`;
}

// A date as the gallery keeps it, without a time zone: "2024-05-17T18:30:00" becomes "17 May 2024".
export function dateText(date) {
  const parsed = new Date(`${date}Z`);
  if (Number.isNaN(parsed.getTime())) return date;
  return parsed.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
}

// What a browser keeps for a page; without room, or where it is forbidden, nothing.
export function recall(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // it holds for as long as the page is open
  }
}
