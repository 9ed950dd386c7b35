// What GitHub's own implementation says of expressions, in the format of `mayfly expr --batch`: reads
// {"expr", "contexts"} one a line, writes {"value"} or {"error": {"kind", "message"}} one a line.
import { createInterface } from "node:readline";
import { Evaluator, Lexer, Parser, data } from "@actions/expressions";

const status = { success: true, always: true, failure: false, cancelled: false };
const functions = Object.entries(status).map(([name, value]) => ({
  name,
  minArgs: 0,
  maxArgs: 0,
  call: () => new data.BooleanData(value),
}));
const byName = new Map(functions.map((entry) => [entry.name, entry]));

// As text: an object of JavaScript would put keys that are numbers first.
function json(value) {
  switch (value.kind) {
    case data.Kind.Null:
      return "null";
    case data.Kind.Array:
      return `[${value.values().map(json).join()}]`;
    case data.Kind.Dictionary:
      return `{${value.pairs().map((pair) => `${JSON.stringify(pair.key)}:${json(pair.value)}`).join()}}`;
    case data.Kind.Number:
      return JSON.stringify(Number.isFinite(value.value) ? value.value : String(value.value));
    default:
      return JSON.stringify(value.value);
  }
}

function answer({ expr, contexts }) {
  let stage = "lexing";
  try {
    const { tokens } = new Lexer(expr).lex();
    stage = "parsing";
    const tree = new Parser(tokens, Object.keys(contexts ?? {}), functions).parse();
    stage = "evaluation";
    const given = JSON.parse(JSON.stringify(contexts ?? {}), data.reviver);
    return `{"value":${json(new Evaluator(tree, given, byName).evaluate())}}`;
  } catch (error) {
    return JSON.stringify({ error: { kind: stage, message: error.message } });
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(answer(JSON.parse(line)));
}
