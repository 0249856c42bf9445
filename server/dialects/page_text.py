"""The HTML of the login page and of `/docs`. No requests to other hosts; light and dark; usable by keyboard.

`{{name}}` is filled in, escaped."""

from typing import Final

__all__ = ["DOCS_PAGE", "LOGIN_PAGE", "SIGNIN_PAGE"]

_STYLE: Final = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --text: #1b1f24; --soft: #5b6470; --line: #d5dae1;
  --accent: #0b63c5; --bad: #b3261e; --code: #eef1f5; }
@media (prefers-color-scheme: dark) { :root { --back: #12151a; --card: #1b2027; --text: #e6e9ee; --soft: #9aa4b1;
  --line: #323a45; --accent: #6cb0ff; --bad: #ff8a80; --code: #242b34; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif }
a { color: var(--accent) }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
input, button { font: inherit; color: inherit; padding: .6rem .8rem; border: 1px solid var(--line);
  border-radius: .4rem; background: var(--back) }
button { background: var(--accent); color: var(--card); border-color: var(--accent); cursor: pointer }
code, pre { font: .9em ui-monospace, monospace; background: var(--code); border-radius: .3rem }
"""

_FORM: Final = """<meta name="viewport" content="width=device-width, initial-scale=1">
<style nonce="{{nonce}}">""" + _STYLE + """
main { max-width: 26rem; margin: 12vh auto 0; padding: 2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem }
h1 { margin: 0 0 1rem; font-size: 1.4rem } label { display: block; margin-bottom: .3rem }
input { width: 100% } button { margin-top: 1rem; width: 100% } .message { color: var(--bad); min-height: 1.5em }
.hint { color: var(--soft); font-size: .9rem }
</style></head><body><main>
<h1>Workbench</h1>
"""

_TOKEN: Final = """<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus
 aria-describedby="message hint">
"""

LOGIN_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Log in · Workbench</title>
""" + _FORM + """<form method="post" action="/login">
""" + _TOKEN + """<input type="hidden" name="next" value="{{next}}">
<p class="message" id="message" role="alert">{{message}}</p>
<button type="submit">Log in</button>
<p class="hint" id="hint">The server prints a link with the token when it starts; the token is also in the file
<code>token</code> of its data directory.</p>
</form></main></body></html>
"""

SIGNIN_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in a program · Workbench</title>
""" + _FORM + """<p>A program on this computer asks to upload models to this workbench. Sign in only if you
started it.</p>
<form method="post" action="/auth/signin?redirectUrl=/deploy">
""" + _TOKEN + """<p class="message" id="message" role="alert">{{message}}</p>
<button type="submit">Sign in</button>
<p class="hint" id="hint">The token goes to the program, which keeps it. One with no more than the scope
<code>deploy</code> will do; the settings page makes such tokens.</p>
</form></main></body></html>
"""

DOCS_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>API · Workbench</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style nonce="{{nonce}}">""" + _STYLE + """
header { position: sticky; top: 0; background: var(--card); border-bottom: 1px solid var(--line); padding: .7rem 1.2rem;
  display: flex; gap: 1rem; align-items: center; flex-wrap: wrap }
header h1 { font-size: 1.1rem; margin: 0 } header input { flex: 1; min-width: 12rem }
main { max-width: 64rem; margin: 0 auto; padding: 1rem 1.2rem 4rem } .soft { color: var(--soft) }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: .4rem 0;
  padding: .5rem .8rem }
summary { cursor: pointer; display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap }
.verb { font-weight: 700; min-width: 4.5rem; color: var(--accent) } .path { font-family: ui-monospace, monospace }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); padding: .3rem .5rem }
pre { padding: .7rem; overflow: auto; white-space: pre-wrap } h2 { margin: 1.6rem 0 .4rem; font-size: 1.2rem }
h3 { font-size: .95rem; margin: .8rem 0 .2rem }
</style></head><body>
<header><h1>Workbench API {{version}}</h1>
<input id="search" type="search" placeholder="Search paths, words, fields" aria-label="Search the API">
<a href="/openapi.json">openapi.json</a></header>
<main id="main" aria-live="polite"><p class="soft">Loading</p><noscript>This page needs JavaScript; the same is in
<a href="/openapi.json">openapi.json</a>.</noscript></main>
<script nonce="{{nonce}}">
"use strict";
const main = document.getElementById("main"), search = document.getElementById("search");
function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
let api;
function follow(schema) {
  return schema && schema.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema;
}
function typeName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf || schema.oneOf) return (schema.anyOf || schema.oneOf).map(typeName).join(" | ");
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return "list of " + (typeName(schema.items) || "anything");
  return [].concat(schema.type || "anything").join(" | ");
}
function limits(schema) {
  const words = {minimum: "at least", maximum: "at most", exclusiveMinimum: "more than", exclusiveMaximum: "less than",
    minLength: "length from", maxLength: "length to", minItems: "items from", maxItems: "items to", pattern: "pattern"};
  const found = Object.keys(words).filter(key => schema[key] !== undefined).map(key => words[key] + " " + schema[key]);
  if (schema.default !== undefined && schema.default !== null) found.push("default " + JSON.stringify(schema.default));
  return found.join(", ");
}
function table(rows) {
  const made = element("table"), head = element("tr");
  for (const title of ["name", "type", "what"]) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  made.append(head);
  for (const row of rows) {
    const line = element("tr"), name = element("td");
    name.append(element("code", row[0]));
    line.append(name, element("td", row[1]), element("td", row[2]));
    made.append(line);
  }
  return made;
}
function fields(schema, depth) {
  const found = follow(schema);
  if (!found) return element("p", "");
  if (found.type === "array") return fields(found.items, depth);
  const box = element("div");
  if (found.description) box.append(element("p", found.description, "soft"));
  if (found.properties) {
    const needed = found.required || [];
    box.append(table(Object.entries(found.properties).map(([name, value]) => [name,
      typeName(value) + (needed.includes(name) ? " (needed)" : ""),
      [value.description || "", limits(value)].filter(Boolean).join("; ")])));
    if (depth < 2) for (const [name, value] of Object.entries(found.properties)) {
      const inner = (value.anyOf || [value]).map(entry => entry.items || entry).find(entry => entry.$ref);
      if (inner) { box.append(element("h3", name + ": " + typeName(inner)), fields(inner, depth + 1)); }
    }
  }
  return box;
}
function body(verb, path, operation) {
  const box = element("div");
  for (const part of (operation.description || "").split("\\n\\n")) box.append(element("p", part));
  if ((operation.parameters || []).length) {
    box.append(element("h3", "Parameters"), table(operation.parameters.map(parameter => [parameter.name,
      typeName(parameter.schema) + (parameter.required ? " (needed)" : ""),
      [parameter.in, parameter.description || "", limits(parameter.schema)].filter(Boolean).join("; ")])));
  }
  if (operation.requestBody) {
    for (const [kind, media] of Object.entries(operation.requestBody.content)) {
      box.append(element("h3", "Body: " + kind));
      if (media.schema) box.append(fields(media.schema, 0));
    }
  }
  box.append(element("h3", "Answers"));
  for (const [status, answer] of Object.entries(operation.responses)) {
    const kinds = Object.entries(answer.content || {});
    box.append(element("p", status + " " + answer.description + (kinds.length ? " · " + kinds.map(([kind, media]) =>
      kind + (media.schema && media.schema.$ref ? " " + typeName(media.schema) : "")).join(", ") : "")));
    if (Number(status) < 300) for (const [, media] of kinds) if (media.schema) box.append(fields(media.schema, 0));
  }
  box.append(element("h3", "Try it"));
  let line = "curl -H 'Authorization: Bearer $TOKEN'" + (verb === "get" ? "" : " -X " + verb.toUpperCase());
  const sent = operation.requestBody && Object.keys(operation.requestBody.content)[0];
  if (sent) line += " -H 'Content-Type: " + sent + "' -d @body";
  box.append(element("pre", line + " " + location.origin + path));
  return box;
}
function show() {
  const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  main.replaceChildren();
  const groups = new Map();
  let count = 0;
  for (const [path, verbs] of Object.entries(api.paths)) for (const [verb, operation] of Object.entries(verbs)) {
    const text = (verb + " " + path + " " + JSON.stringify(operation)).toLowerCase();
    if (!words.every(word => text.includes(word))) continue;
    const details = element("details"), summary = element("summary");
    details.id = operation.operationId;
    summary.append(element("span", operation["x-websocket"] ? "WS" : verb.toUpperCase(), "verb"),
      element("span", path, "path"), element("span", operation.summary, "soft"));
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.childElementCount === 1) details.append(body(verb, path, operation));
    });
    const tag = operation.tags[0];
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push(details);
    count += 1;
  }
  for (const [tag, list] of groups) main.append(element("h2", tag), ...list);
  if (!count) main.append(element("p", "Nothing found. Try a shorter word.", "soft"));
}
async function load() {
  const answer = await fetch("/openapi.json");
  if (!answer.ok) throw new Error("status " + answer.status);
  return answer.json();
}
load().then(found => { api = found; show(); search.addEventListener("input", show); })
  .catch(error => main.replaceChildren(element("p", "The description could not be loaded: " + error.message)));
</script></body></html>
"""
