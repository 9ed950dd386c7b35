const fs = require("fs");
const who = process.env.INPUT_WHO_TO_GREET;
console.log(`Hello, ${who} from ${process.env.INPUT_WHERE}`);
fs.appendFileSync(process.env.GITHUB_OUTPUT, `said=${who}\n`);
process.exitCode = Number(process.env.INPUT_CODE);
