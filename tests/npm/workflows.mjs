// What GitHub's own parser says of workflow files: reads {"name", "text"} one a line, writes
// {"name", "errors": [{"line", "message"}]} one a line. Background steps are on, as in GitHub's service.
import { register } from "node:module";
import { createInterface } from "node:readline";

register("./json-modules.mjs", import.meta.url);
const { FeatureFlags } = await import("@actions/expressions/features");
const { NoOperationTraceWriter, convertWorkflowTemplate, parseWorkflow } = await import("@actions/workflow-parser");
const { TemplateContext, TemplateValidationErrors } = await import(
  "@actions/workflow-parser/templates/template-context"
);
const { getWorkflowSchema } = await import("@actions/workflow-parser/workflows/workflow-schema");

const featureFlags = new FeatureFlags({ all: true });

async function judge({ name, text }) {
  const context = new TemplateContext(new TemplateValidationErrors(), getWorkflowSchema(), new NoOperationTraceWriter());
  context.state.featureFlags = featureFlags;
  const result = parseWorkflow({ name: "ci.yml", content: text }, context);
  if (result.value) {
    await convertWorkflowTemplate(result.context, result.value, undefined, { featureFlags });
  }
  const errors = result.context.errors.getErrors();
  return { name, errors: errors.map((e) => ({ line: e.range?.start.line ?? 0, message: e.rawMessage })) };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await judge(JSON.parse(line))));
}
