// Notices that the gallery has grown while the page is open, and says so; shows nothing unasked.

import { RequestError, fetchJson } from "/serve_api.js";
import { byId, button, counted, element } from "/serve_dom.js";

const EVERY_MS = 5000;

// Asks the server now and then, while somebody looks at the page. `count` returns the number of items
// that the page knows, null before it knows; `show` is called when the person wants the new ones.
export function watchGallery(count, show) {
  const box = byId("news");
  let said = null; // how many more, by the text in the box
  const update = (items) => {
    const more = items - count();
    box.hidden = more === 0;
    if (more === said) return;
    said = more;
    if (more === 0) return;
    const text = more > 0 ? counted(more, "new image") : `${counted(-more, "image")} removed`;
    box.replaceChildren(element("span", "", text), button("plain", "Show", () => {
      box.hidden = true;
      said = null;
      show();
    }));
  };
  const look = async () => {
    try {
      if (!document.hidden && count() !== null) {
        const { items } = await fetchJson("/health");
        if (items !== undefined && count() !== null) update(items);
      }
    } catch (error) {
      if (!(error instanceof RequestError)) throw error; // a search says what is wrong
    }
    setTimeout(look, EVERY_MS);
  };
  setTimeout(look, EVERY_MS);
}
