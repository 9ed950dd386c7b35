require("fs").writeFileSync(`${process.env.RUNNER_TEMP}/local-post`, "");
console.log("local post");
