// Shows what /api/v1/openapi.json says. Loads nothing from anywhere else.
"use strict";

const METHODS = ["get", "put", "post", "patch", "delete"];

/** An element with text, which is never markup, and children. */
function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function table(rows) {
  return element("table", "", ...rows.map((row) => element("tr", "", ...row.map((cell) => element("td", cell)))));
}

/** A schema with the names that it refers to, one level deep. */
function schema(document, reference) {
  const name = reference.split("/").pop();
  const text = JSON.stringify(document.components.schemas[name], null, 2);
  return element("details", "", element("summary", name), element("div", "", element("pre", text)));
}

function operation(document, method, path, described) {
  const body = element("div", "", element("p", described.description));
  const parameters = described.parameters ?? [];
  if (parameters.length) {
    body.append(table(parameters.map((p) => [p.name, p.in, p.schema.format ?? p.schema.type, p.description ?? ""])));
  }
  const asked = described.requestBody?.content["application/json"].schema.$ref;
  if (asked) body.append(element("p", "Body:"), schema(document, asked));
  for (const [status, answer] of Object.entries(described.responses)) {
    const content = Object.values(answer.content ?? {})[0];
    body.append(element("p", `${status}: ${answer.description}`));
    if (content) body.append(schema(document, content.schema.$ref));
  }
  const head = element("summary", "", element("b", method), element("code", document.servers[0].url + path));
  head.append(` ${described.summary}`);
  return element("details", "", head, body);
}

async function show() {
  const place = document.getElementById("operations");
  const answer = await fetch("/api/v1/openapi.json");
  if (!answer.ok) throw new Error(`${answer.status} from /api/v1/openapi.json`);
  const api = await answer.json();
  place.replaceChildren();
  let tag = null;
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      if (item[method].tags[0] !== tag) place.append(element("h2", (tag = item[method].tags[0])));
      place.append(operation(api, method, path, item[method]));
    }
  }
}

show().catch((error) => {
  document.getElementById("operations").textContent = `The description cannot be shown: ${error.message}`;
});
