// Words on the page: status, messages, numbers, names. Always as text, never as HTML.

export const at = (id) => document.getElementById(id);

export function say(text, isBusy = false) {
  at("hits").setAttribute("aria-busy", isBusy);
  at("status").textContent = text;
}

// `words` are code. An action is a button: [what it says, what it does].
export function message(title, text, action) {
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

export const clearMessage = () => at("message").replaceChildren();

export function element(name, className = "", text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

export const lastPart = (key) => key.split(/[/\\]/).filter(Boolean).pop() ?? key;
export const megabytes = (bytes) => `${Math.round(bytes / 1e6)} MB`;
