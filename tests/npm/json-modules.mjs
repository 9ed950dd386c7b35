// The parser imports its schema as JSON without an import attribute, which Node refuses: reads such
// files as modules.
import { readFile } from "node:fs/promises";

export async function load(url, context, next) {
  if (!url.endsWith(".json")) {
    return next(url, context);
  }
  const source = `export default ${await readFile(new URL(url), "utf8")};`;
  return { format: "module", shortCircuit: true, source };
}
