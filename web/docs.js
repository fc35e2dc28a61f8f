// Shows what /api/v1/openapi.json says: each operation with its parameters, an example of what is asked and of what is
// answered, the shape of both, and every refusal by its code. Loads nothing from anywhere else.
"use strict";

const METHODS = ["get", "put", "post", "patch", "delete"];

/** An element with children; texts are never markup, but what stands between backticks is code. */
function element(name, ...children) {
  const made = document.createElement(name);
  for (const child of children) {
    if (typeof child !== "string") made.append(child);
    else child.split("`").forEach((part, n) => made.append(n % 2 ? code(part) : part));
  }
  return made;
}

function code(text) {
  const made = document.createElement("code");
  made.textContent = text;
  return made;
}

function pre(value) {
  const made = document.createElement("pre");
  made.textContent = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  made.tabIndex = 0; // so that it can be scrolled by keys
  return made;
}

const nameOf = (reference) => reference.split("/").pop();

/** Every schema that a schema names, by itself or deeper. */
function named(value, found = new Set()) {
  for (const [key, part] of Object.entries(value ?? {})) {
    if (key === "$ref") found.add(nameOf(part));
    else if (part && typeof part === "object") named(part, found);
  }
  return found;
}

/** A shape, closed, and inside of it the shapes that it names. */
function shape(api, name, shown = new Set()) {
  const { examples, ...schema } = api.components.schemas[name] ?? {};
  const seen = new Set([...shown, name]);
  const inner = [...named(schema)].filter((other) => !seen.has(other));
  return element("details", element("summary", "Shape: ", code(name)), pre(schema), ...inner.map((other) => shape(api, other, seen)));
}

/** An example of a body and its shape. */
function body(api, content) {
  const types = Object.keys(content);
  const reference = Object.values(content).map((media) => media.schema?.$ref).find(Boolean);
  const parts = [element("p", `As ${types.map((type) => `\`${type}\``).join(" or ")}:`)];
  if (!reference) return parts;
  const schema = api.components.schemas[nameOf(reference)] ?? {};
  for (const example of schema.examples ?? []) parts.push(pre(example));
  if (schema.description) parts.push(element("p", schema.description));
  parts.push(shape(api, nameOf(reference)));
  return parts;
}

/** What a parameter may be, in a few words. */
function kind(api, { $ref, ...schema }) {
  const { type, format, enum: names, minimum, maximum, examples } = $ref ? api.components.schemas[nameOf($ref)] : schema;
  const range = maximum !== undefined ? `${minimum ?? ""} to ${maximum}` : minimum !== undefined ? `${minimum} and more` : "";
  const one = names?.map((name) => `\`${name}\``).join(", ") ?? examples?.map((example) => `as \`${example}\``).join(" or ");
  return [format ?? type, range, one].filter(Boolean).join(", ");
}

function parameters(api, list) {
  const rows = list.flatMap((parameter) => [
    element("dt", code(parameter.name), ` in ${parameter.in}`),
    element("dd", [parameter.description, kind(api, parameter.schema)].filter(Boolean).join(" ")),
  ]);
  return element("dl", ...rows);
}

function operation(api, method, path, described) {
  const parts = [element("p", described.description)];
  if (described.parameters.length) parts.push(element("h3", "Parameters"), parameters(api, described.parameters));
  if (described.requestBody) parts.push(element("h3", "Asked"), ...body(api, described.requestBody.content));
  const refusals = [];
  for (const [status, answer] of Object.entries(described.responses)) {
    if (answer.content?.["application/problem+json"]) {
      refusals.push(element("dt", status), element("dd", answer.description));
      continue;
    }
    parts.push(element("h3", `${status} ${answer.description}`), ...(answer.content ? body(api, answer.content) : []));
  }
  parts.push(element("h3", "Refused"), element("dl", ...refusals), shape(api, "Problem"));
  const head = element("summary", element("b", method), code(api.servers[0].url + path), element("span", described.summary));
  return element("details", head, element("div", ...parts));
}

async function show() {
  const place = document.getElementById("operations");
  const answer = await fetch("/api/v1/openapi.json");
  if (!answer.ok) throw new Error(`${answer.status} from /api/v1/openapi.json`);
  const api = await answer.json();
  place.replaceChildren();
  const sections = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const tag = item[method].tags[0];
      if (!sections.has(tag)) sections.set(tag, element("section", element("h2", tag)));
      sections.get(tag).append(operation(api, method, path, item[method]));
    }
  }
  place.append(...sections.values());
}

show().catch((error) => {
  document.getElementById("operations").textContent = `The description cannot be shown: ${error.message}`;
});
