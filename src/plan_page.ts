/** The plan of a model as one HTML file. */
import { resolve } from "node:path";
import { readOnnx } from "./formats/onnx_file.ts";
import { modelName } from "./generate/model_folder.ts";
import { planView } from "./report/plan_view.ts";
import { reportHtml } from "./report/html.ts";
import { explainFile, type ExplainOptions, filesBeside, laterSteps } from "./explain_model.ts";

/**
 * How the model at `path` would be split, as the text of an HTML file that needs nothing else: modules that unfold, memory by
 * rank, a timeline of one step. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the model cannot be read. @throws {PlanError} If `config` asks for the impossible.
 */
export async function planPage(path: string, options: Omit<ExplainOptions, "mesh">): Promise<string> {
  using file = readOnnx(path);
  const { graph, plan, report, config } = explainFile(file, {
    ...options,
    graph: laterSteps(file, options.firstStep),
    beside: filesBeside(options),
  });
  const { nominal, costs } = config;
  const title = modelName(resolve(path));
  const data = planView({ title, graph, plan, report, ...(nominal ? { nominal } : {}), ...(costs ? { costs } : {}) });
  return await reportHtml({ viewer: "plan", title: `${title} on ${plan.ranks} ranks`, data });
}
