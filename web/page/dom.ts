// Small helpers for the document. Text is always set as text, never as HTML.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export function within<T extends HTMLElement = HTMLElement>(parent: ParentNode, selector: string): T {
  return parent.querySelector(selector) as T;
}

export function element(name: string, className: string, text: string): HTMLElement {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

export function setStatus(text: string, isBusy = false): void {
  byId("hits").setAttribute("aria-busy", String(isBusy));
  byId("status").textContent = text;
}

export function showMessage(title: string, text: string): void {
  const box = element("div", "message", "");
  box.append(element("h2", "", title), element("p", "", text));
  byId("message").replaceChildren(box);
}

export const clearMessage = (): void => byId("message").replaceChildren();

const shown = new WeakMap<HTMLImageElement, string>();

/** Show an image, or why there is none, in a figure. */
export function showImage(figure: HTMLElement, image: Blob | null, reason = ""): void {
  const picture = within<HTMLImageElement>(figure, ".image");
  const note = figure.querySelector<HTMLElement>(".no-image");
  const earlier = shown.get(picture);
  if (earlier !== undefined) URL.revokeObjectURL(earlier);
  shown.delete(picture);
  picture.hidden = image === null;
  if (note) {
    note.hidden = image !== null;
    note.textContent = reason;
  }
  if (image === null) return;
  const url = URL.createObjectURL(image);
  shown.set(picture, url);
  picture.src = url;
}
