const { appendFileSync } = require("node:fs");
const { hostname } = require("node:os");

console.log(`node in ${hostname()} says INPUT_WHO=${process.env.INPUT_WHO} in ${process.cwd().replace(/\/[^/]*\/[^/]*$/, "")}`);
appendFileSync(process.env.GITHUB_OUTPUT, "said=node\n");
