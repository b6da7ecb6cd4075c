// Writes src/schema.ts from an OpenAPI document on standard input: its component schemas, as TypeScript.
import { writeFileSync } from "node:fs";
import { text as all } from "node:stream/consumers";
import openapiTS, { astToString } from "openapi-typescript";

const document = JSON.parse(await all(process.stdin));
const { info, openapi } = document;
const only = { openapi, info, paths: {}, components: { schemas: document.components.schemas } };
const text = astToString(await openapiTS(only, { alphabetize: true, defaultNonNullable: false }));
const schemas = text.slice(text.indexOf("export interface components"), text.indexOf("export type $defs"));
const head = "// Made by `npm run schema` from the server's OpenAPI document; do not edit.\n\n";
writeFileSync(process.argv[2] ?? "src/schema.ts", `${head}${schemas}\nexport type schemas = components["schemas"];\n`);
