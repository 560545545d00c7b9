// Filters: between the controls, the address and the API's `where`.

import { at, element } from "/serve_words.js";

// The filters of the address as the API's `where`. In a pattern % and _ stand for anything, so
// that a name with one finds a little more than it should, never less.
export function whereOf(parameters, fields) {
  const where = {};
  const name = parameters.get("name");
  const folder = parameters.get("folder");
  if (name || folder) {
    const inside = folder ? folder + (folder.includes("\\") ? "\\" : "/") : "";
    where["@key"] = { like: `${inside}%${name ? `${name}%` : ""}` };
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
  at("folders").hidden = !folders.length;
  at("folder").replaceChildren(new Option("all", ""), ...folders.map((f) => new Option(f.name, f.path)));
  at("fields").replaceChildren(...fields.map(fieldControl));
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

// What the address says, into the controls; not into the one in which somebody writes.
export function showFilters(parameters, fields) {
  const set = (control, text) => {
    if (control !== document.activeElement) control.value = text;
  };
  set(at("name"), parameters.get("name") ?? "");
  set(at("folder"), parameters.get("folder") ?? "");
  for (const field of fields) {
    const text = parameters.get(`m.${field.name}`) ?? "";
    const texts = field.kind === "number" ? text.split("..") : [text];
    controlsOf(field.name).forEach((control, i) => set(control, texts[i] ?? ""));
  }
  const count = Object.keys(whereOf(parameters, fields) ?? {}).length;
  at("active").textContent = count ? `(${count} set)` : "";
}

const controlsOf = (name) => [...at("fields").querySelectorAll("input, select")].filter((c) => c.name === name);

// What the controls say, into the address.
export function readFilters(parameters, fields) {
  const set = (name, value) => (value ? parameters.set(name, value) : parameters.delete(name));
  set("name", at("name").value.trim());
  set("folder", at("folder").value);
  for (const field of fields) {
    const values = controlsOf(field.name).map((control) => control.value.trim());
    set(`m.${field.name}`, values.some(Boolean) ? values.join("..") : "");
  }
}

export function emptyFilters() {
  for (const control of at("filters").querySelectorAll("details input, details select")) control.value = "";
}
