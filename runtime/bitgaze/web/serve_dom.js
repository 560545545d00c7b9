// Small helpers for the document. Text is always set as text, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(name, className = "", text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

export function setStatus(text, isBusy = false) {
  byId("hits").setAttribute("aria-busy", isBusy);
  byId("status").textContent = text;
}

// Text between backticks is shown as code. The action, if any, is [label, callback] of a button.
export function showMessage(title, text, action) {
  const box = element("div", "message");
  const paragraph = element("p");
  paragraph.append(...text.split("`").map((part, i) => (i % 2 ? element("code", "", part) : part)));
  box.append(element("h2", "", title), paragraph);
  if (action) {
    const [label, callback] = action;
    const button = element("button", "plain", label);
    button.type = "button";
    button.onclick = callback;
    box.append(button);
  }
  byId("message").replaceChildren(box);
}

export const clearMessage = () => byId("message").replaceChildren();

export const lastPart = (key) => key.split(/[/\\]/).filter(Boolean).pop() ?? key;
export const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
