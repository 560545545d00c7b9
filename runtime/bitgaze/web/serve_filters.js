// Filters: the page's controls, the address, and the `where` of the API.

import { byId, element } from "/serve_dom.js";

// The filters in the address as a `where`. In a pattern, % and _ match anything, so a name that
// contains one may match more than it should, but never less.
export function whereOf(parameters, fields) {
  const where = {};
  const name = parameters.get("name");
  const folder = parameters.get("folder");
  if (name || folder) {
    const prefix = folder ? folder + (folder.includes("\\") ? "\\" : "/") : "";
    where["@key"] = { like: `${prefix}%${name ? `${name}%` : ""}` };
  }
  for (const field of fields) {
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

export function setUpFilters({ folders, fields }) {
  byId("folders").hidden = !folders.length;
  byId("folder").replaceChildren(new Option("all", ""), ...folders.map((f) => new Option(f.name, f.path)));
  byId("fields").replaceChildren(...fields.map(makeControl));
}

function makeControl(field, position) {
  const box = element("div", "field");
  const id = `field-${position}`;
  const input = (type, name) => Object.assign(element("input"), { type, name, step: "any", autocomplete: "off" });
  if (field.kind === "number") {
    const low = input("number", field.name);
    const high = input("number", field.name);
    [low.placeholder, high.placeholder] = field.values;
    low.setAttribute("aria-label", `${field.name}, from`);
    high.setAttribute("aria-label", `${field.name}, to`);
    const range = element("div", "number-range");
    range.append(low, high);
    box.append(element("span", "label", field.name), range);
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

// From the address to the controls. The control in use keeps what somebody is typing.
export function showFilters(parameters, fields) {
  const set = (control, text) => {
    if (control !== document.activeElement) control.value = text;
  };
  set(byId("name"), parameters.get("name") ?? "");
  set(byId("folder"), parameters.get("folder") ?? "");
  for (const field of fields) {
    const text = parameters.get(`m.${field.name}`) ?? "";
    const texts = field.kind === "number" ? text.split("..") : [text];
    controlsOf(field.name).forEach((control, i) => set(control, texts[i] ?? ""));
  }
  const count = Object.keys(whereOf(parameters, fields) ?? {}).length;
  byId("filter-count").textContent = count ? `(${count} set)` : "";
}

const controlsOf = (name) => [...byId("fields").querySelectorAll("input, select")].filter((c) => c.name === name);

// From the controls to the address.
export function readFilters(parameters, fields) {
  const set = (name, value) => (value ? parameters.set(name, value) : parameters.delete(name));
  set("name", byId("name").value.trim());
  set("folder", byId("folder").value);
  for (const field of fields) {
    const values = controlsOf(field.name).map((control) => control.value.trim());
    set(`m.${field.name}`, values.some(Boolean) ? values.join("..") : "");
  }
}

export function emptyFilters() {
  for (const control of byId("filters").querySelectorAll("details input, details select")) control.value = "";
}
