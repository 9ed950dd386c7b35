const fs = require("fs");
const { STATE_stage: stage, GITHUB_STATE, RUNNER_TEMP, GITHUB_ACTION_REPOSITORY, GITHUB_ACTION_REF } = process.env;
const save = (value) => fs.appendFileSync(GITHUB_STATE, `stage=${value}\n`);
if (!stage) {
  console.log(`pre: node ${process.versions.node.split(".")[0]}`);
  fs.writeFileSync(`${RUNNER_TEMP}/pre-ran`, "");
  save("pre");
} else if (stage === "pre") {
  console.log("main: state from pre");
  save("main");
} else {
  // Last in, first out: the local action's post ran before this one.
  if (!fs.existsSync(`${RUNNER_TEMP}/local-post`)) process.exit(1);
  console.log(`post: state from ${stage}, repository ${GITHUB_ACTION_REPOSITORY} ref ${GITHUB_ACTION_REF}`);
}
