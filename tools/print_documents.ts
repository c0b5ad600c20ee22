/**
 * The printed blocks of the documents, made anew: for ARCHITECTURE.md what the model of tests/data/models/mlp looks like in
 * every room, for docs/adding_an_op.md a definition and what follows from it, for
 * docs/ops.md a table of all definitions.
 *
 * A block lies between `<!-- example: NAME -->` and `<!-- end -->`; only what is between is replaced. A test holds the files
 * against what this makes, so the documents cannot fall behind the code.
 *
 * @example
 * deno run -A tools/print_documents.ts
 */
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  cleanPipeline,
  explainModel,
  fromNumbers,
  importOnnx,
  inlineData,
  loadPipeline,
  ParallelAxisSolverPass,
  ParallelExecutionCtx,
  ParallelLayerAnnotatePass,
  ParallelLayerReplacePass,
  parseGraph,
  PassPipeline,
  planText,
  printGraph,
  printPlacement,
  printProgram,
  readOnnx,
  segment,
  writeTensors,
} from "../mod.ts";
import { opDef } from "../src/ops/table.ts";
import { inferTypes } from "../src/passes/infer_types.ts";
import { candidateLayouts } from "../src/plan/candidates.ts";
import { plannedCalls } from "../src/plan/places.ts";
import { strategiesOf } from "../src/plan/strategies.ts";
import { opsTable } from "./ops_table.ts";
import { LEVELS, ONLY, SEES } from "./layers.ts";

/** The repository's root. */
const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

const MODELS = "tests/data/models";
const RANKS = 2;
const CUM_SUM_GRAPH = `graph example : global {opset=17}
%x = placeholder : f32[2,5]
%axis = get_attr : i64[]
%y = CumSum(%x, %axis) : f32[2,5]
output %y
`;

/** A document with printed blocks. */
export interface PrintedDocument {
  readonly path: string;
  readonly blocks: ReadonlyMap<string, string>;
}

/** All documents, with what their blocks should hold. */
export async function printedDocuments(): Promise<PrintedDocument[]> {
  return [
    { path: join(ROOT, "ARCHITECTURE.md"), blocks: await architectureBlocks() },
    { path: join(ROOT, "docs/adding_an_op.md"), blocks: opBlocks() },
    { path: join(ROOT, "docs/ops.md"), blocks: new Map([["ops", opsTable()]]) },
  ];
}

async function architectureBlocks(): Promise<Map<string, string>> {
  using file = readOnnx(join(ROOT, MODELS, "mlp/model.onnx"));
  const ctx = new ParallelExecutionCtx({ ranks: RANKS, rank: 1 });
  const imported = importOnnx(file);
  const clean = cleanPipeline().run(imported, ctx);
  const annotate = new PassPipeline().append(new ParallelAxisSolverPass()).append(new ParallelLayerAnnotatePass());
  const annotated = annotate.run(clean, ctx);
  const sharded = new PassPipeline<typeof annotated>().append(new ParallelLayerReplacePass()).run(annotated, ctx);
  const local = loadPipeline().run(sharded, ctx);
  const print = (graph: typeof imported | typeof annotated | typeof sharded | typeof local) =>
    code(printGraph(graph, { nodeNames: false }));
  const plan = (model: string, ranks: number) =>
    code(
      planText(explainModel(join(ROOT, MODELS, model, "model.onnx"), { ranks, config: { calibrated: false } }).report),
    );
  return new Map([
    ["imported", print(imported)],
    ["clean", print(clean)],
    ["plan", plan("mlp", RANKS)],
    ["annotated", print(annotated)],
    ["sharded", print(sharded)],
    ["local", print(local)],
    ["program", code(printProgram(segment(local, 1, RANKS)))],
    ["numbers", code(await numbers())],
    ["uneven", firstLayer(plan("llama", 3))],
    ["rooms", rooms()],
  ]);
}

/** The definition of CumSum, and the strategies that follow from it. */
function opBlocks(): Map<string, string> {
  const source = Deno.readTextFileSync(join(ROOT, "src/ops/search.ts"));
  const [definition] = source.match(/export const CUM_SUM[\s\S]*?\n};\n/)!;
  const axis = inlineData("i64", [], BigInt64Array.of(1n));
  const graph = inferTypes(parseGraph<"global">(CUM_SUM_GRAPH, { stage: "global", resolve: () => axis }));
  const calls = plannedCalls(graph, opDef);
  const layouts = candidateLayouts(graph, calls, RANKS);
  const rows = strategiesOf(calls[0]!, layouts).map(({ name, inputs, outputs }) => {
    const print = (list: typeof inputs) => list.map(printPlacement).join(", ");
    return `${name.padEnd(8)}${print(inputs)} -> ${print(outputs)}`;
  });
  return new Map([["definition", `\`\`\`ts ignore\n${definition}\`\`\`\n`], ["strategies", code(rows.join("\n"))]]);
}

/** `text` with its blocks replaced. @throws {Error} If it lacks a block, or has one that nobody makes. */
export function fillBlocks(text: string, blocks: ReadonlyMap<string, string>): string {
  const seen = new Set<string>();
  const filled = text.replace(/(<!-- example: (\S+) -->\n)[\s\S]*?(<!-- end -->)/g, (_, open, name, close) => {
    const block = blocks.get(name);
    if (block === undefined) throw new Error(`Cannot fill block "${name}": nobody makes it`);
    seen.add(name);
    return `${open}\n${block}\n${close}`;
  });
  const missing = [...blocks.keys()].filter((name) => !seen.has(name));
  if (missing.length > 0) throw new Error(`Cannot fill the document: it has no block ${missing.join(", ")}`);
  return filled;
}

/** One run at each of three world sizes, by the example that the text points to. */
async function numbers(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "shardwise-architecture-" });
  try {
    const inputs = join(folder, "inputs.safetensors");
    const ramp = Array.from({ length: 64 }, (_, i) => (i - 32) / 32);
    await writeTensors(inputs, new Map([["x", fromNumbers("f32", [1, 2, 32], ramp)]]));
    const runs: string[] = [];
    for (const ranks of [1, 2, 3]) runs.push(await launch(ranks, [join(MODELS, "mlp/model.onnx"), inputs]));
    return runs.join("");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function launch(ranks: number, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "-q", "launcher/main.ts", "--nproc", `${ranks}`, "--rank0", "examples/run_model.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
  }).output();
  if (code !== 0) throw new Error(`Cannot run the example on ${ranks} ranks: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** The rooms as the layer check knows them, by level. */
function rooms(): string {
  const levels = [...Map.groupBy(Object.entries(LEVELS), ([, level]) => level)].toSorted(([a], [b]) => a - b);
  const lines = levels.map(([level, list]) => `${`level ${level}`.padEnd(10)}${list.map(([room]) => room).join(", ")}`);
  for (const [room, by] of Object.entries(ONLY)) lines.push(`${room} is imported by ${by.join(", ")} only`);
  for (const [room, seen] of Object.entries(SEES)) lines.push(`${room} imports ${seen.join(", ")} only`);
  return code(lines.join("\n"));
}

/** The rows of a plan without those of the second of two equal layers. */
function firstLayer(rows: string): string {
  return rows.split("\n").filter((row) => !row.includes("/layers.1/")).join("\n");
}

function code(text: string): string {
  return `\`\`\`text\n${text.trimEnd()}\n\`\`\`\n`;
}

if (import.meta.main) {
  for (const { path, blocks } of await printedDocuments()) {
    await Deno.writeTextFile(path, fillBlocks(await Deno.readTextFile(path), blocks));
  }
}
