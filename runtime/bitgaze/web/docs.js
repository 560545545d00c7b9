// The API as a page: what /api/openapi.json says, in tables.

const docs = document.getElementById("docs");

// Text with `code` in it; never as HTML.
function element(name, text = "") {
  const made = document.createElement(name);
  made.append(...text.split("`").map((part, i) => (i % 2 ? element("code", part) : part)));
  return made;
}

// A reference leads to a part of the same document.
function resolved(part, all) {
  return part.$ref ? part.$ref.slice(2).split("/").reduce((here, name) => here[name], all) : part;
}

function table(head, rows) {
  const made = element("table");
  const line = (cells, kind) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element(kind, cell)));
    return row;
  };
  made.append(line(head, "th"), ...rows.map((row) => line(row, "td")));
  return made;
}

function typeOf(parameter) {
  const schema = parameter.schema ?? { type: "JSON" };
  const range = schema.maximum === undefined ? "" : `, ${schema.minimum} to ${schema.maximum}`;
  return `${schema.enum?.join(" or ") ?? schema.type}${range}`;
}

function show(path, method, what, all) {
  const parts = [element("h2", `${method.toUpperCase()} ${path}`), element("p", what.description)];
  if (what.parameters) {
    parts.push(table(["argument", "type", "meaning"], what.parameters.map((given) => {
      const parameter = resolved(given, all);
      return [parameter.name, typeOf(parameter), parameter.description];
    })));
  }
  if (what.requestBody) {
    parts.push(element("p", `Body: ${Object.keys(what.requestBody.content).join(", ")}. ${what.requestBody.description}`));
  }
  parts.push(table(["status", "answer"], Object.entries(what.responses).map(([status, given]) => [status, resolved(given, all).description])));
  docs.append(...parts);
}

const answer = await fetch("/api/openapi.json");
if (answer.ok) {
  const all = await answer.json();
  docs.append(element("p", all.info.description));
  for (const [path, methods] of Object.entries(all.paths)) {
    for (const [method, what] of Object.entries(methods)) show(path, method, what, all);
  }
} else docs.append(element("p", (await answer.json()).error.message));
