// The API as a page: the contents of /api/openapi.json as headings and tables.

const docs = document.getElementById("docs");

// Text between backticks becomes code; nothing is read as HTML.
function element(name, text = "") {
  const made = document.createElement(name);
  made.append(...text.split("`").map((part, i) => (i % 2 ? element("code", part) : part)));
  return made;
}

// Follows a $ref within the document.
function resolve(part, api) {
  return part.$ref ? part.$ref.slice(2).split("/").reduce((node, name) => node[name], api) : part;
}

function table(head, rows) {
  const made = element("table");
  const makeRow = (cells, kind) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element(kind, cell)));
    return row;
  };
  made.append(makeRow(head, "th"), ...rows.map((row) => makeRow(row, "td")));
  return made;
}

function typeOf(parameter) {
  const schema = parameter.schema ?? { type: "JSON" };
  const range = schema.maximum === undefined ? "" : `, ${schema.minimum} to ${schema.maximum}`;
  return `${schema.enum?.join(" or ") ?? schema.type}${range}`;
}

function showOperation(path, method, operation, api) {
  const parts = [element("h2", `${method.toUpperCase()} ${path}`), element("p", operation.description)];
  if (operation.parameters) {
    parts.push(table(["parameter", "type", "meaning"], operation.parameters.map((part) => {
      const parameter = resolve(part, api);
      return [parameter.name, typeOf(parameter), parameter.description];
    })));
  }
  const body = operation.requestBody;
  if (body) parts.push(element("p", `Body: ${Object.keys(body.content).join(", ")}. ${body.description}`));
  parts.push(table(["status", "answer"], Object.entries(operation.responses).map(([status, part]) => [status, resolve(part, api).description])));
  docs.append(...parts);
}

const answer = await fetch("/api/openapi.json");
if (answer.ok) {
  const api = await answer.json();
  docs.append(element("p", api.info.description));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) showOperation(path, method, operation, api);
  }
} else docs.append(element("p", (await answer.json()).error.message));
