"use strict";
// The routes of /openapi.json, each with what it takes and gives.

const element = (name, text) => Object.assign(document.createElement(name), {textContent: text});

// A schema as an example: names and types, with what is referred to put in its place.
function example(schema, parts) {
  if (schema.$ref) return example(parts[schema.$ref.split("/").pop()], parts);
  if (schema.anyOf) return example(schema.anyOf[0], parts);
  if (schema.prefixItems) return schema.prefixItems.map((item) => example(item, parts));
  if (schema.type === "array") return [example(schema.items, parts)];
  if (schema.properties) {
    const fields = Object.entries(schema.properties);
    return Object.fromEntries(fields.map(([name, part]) => [name, example(part, parts)]));
  }
  return schema.description || schema.type || "anything";
}

async function show() {
  const answer = await fetch("/openapi.json");
  const {paths, components} = await answer.json();
  const parts = components ? components.schemas : {};
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const section = element("section", "");
      section.append(element("h2", `${method.toUpperCase()} ${path}`));
      section.append(element("p", route.description || route.summary));
      const body = route.requestBody;
      const given = route.responses["200"].content["application/json"];
      for (const [title, content] of [["asks", body && body.content["application/json"]],
                                      ["answers", given]]) {
        if (!content || !Object.keys(content.schema).length) continue;
        section.append(element("h3", title));
        section.append(element("pre", JSON.stringify(example(content.schema, parts), null, 2)));
      }
      document.getElementById("routes").append(section);
    }
  }
}

show();
