/** The plan of a model as one HTML file. */
import { readOnnx } from "./formats/onnx_file.ts";
import { planView } from "./report/plan_view.ts";
import { reportHtml } from "./report/html.ts";
import { explainFile, type ExplainOptions } from "./session.ts";

/**
 * How the model at `path` would be split, as the text of an HTML file that needs nothing else: modules that unfold, memory by
 * rank, a timeline of one step. Starts nothing and reads no weights.
 *
 * @throws {FormatError} If the model cannot be read. @throws {PlanError} If `config` asks for the impossible.
 */
export async function planPage(path: string, options: Omit<ExplainOptions, "mesh">): Promise<string> {
  using file = readOnnx(path);
  const { graph, plan, report, config } = explainFile(file, options);
  const { nominal, costs } = config;
  const data = planView({ graph, plan, report, ...(nominal ? { nominal } : {}), ...(costs ? { costs } : {}) });
  return await reportHtml({ viewer: "plan", title: `${data.title} on ${plan.ranks} ranks`, data });
}
