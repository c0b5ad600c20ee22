/** A case for a model that came without any: inputs drawn after their names and types, to compare split and unsplit. */
import { join, resolve } from "node:path";
import { asSymbol, evalDim } from "../src/core/dim.ts";
import { type DType, dtypeInfo } from "../src/core/dtype.ts";
import { FormatError } from "../src/core/errors.ts";
import { fromNumbers, type HostTensor } from "../src/core/host_tensor.ts";
import { importOnnx } from "../src/formats/import_onnx.ts";
import { readOnnx } from "../src/formats/onnx_file.ts";
import { writeTensors } from "../src/formats/tensor_file.ts";
import { modelName } from "../src/generate/model_folder.ts";
import { subgraphsOf } from "../src/graph/attributes.ts";
import { type Graph, isCall, valueOf } from "../src/graph/graph.ts";
import { ParallelExecutionCtx } from "../src/passes/context.ts";
import { cleanPipeline } from "../src/passes/pipelines.ts";
import { specializeBranches } from "../src/passes/specialize_branches.ts";
import { type Nominal, nominalSizes } from "../src/plan/cost.ts";
import type { Tolerance } from "./compare.ts";
import type { VerifyCase } from "./job.ts";

/** Sizes of what the model leaves open. */
const ROWS = 2, LENGTH = 7, PAST = 5;

/** Of which sizes inputs are drawn. */
export interface DrawnSizes {
  /** For messages. */
  readonly path: string;
  /** Symbolic dims by name. */
  readonly sizes: Nominal;
  /** Of the batch; 2 by default. */
  readonly rows?: number | undefined;
  /** Of what else the model leaves open, where it carries no state; 7 by default. */
  readonly length?: number | undefined;
}

/** Cases of their own making, whose inputs lie in a temporary folder. */
export class DrawnCases implements Disposable {
  readonly #folder = Deno.makeTempDirSync({ prefix: "shardwise-drawn-" });
  readonly #names = new Set<string>();

  /**
   * A case that runs the model at `path` on two rows of seven tokens, or of one after a past of five, with sizes as told. Masks
   * hide nothing, positions count on, ids lie in their tables.
   *
   * @throws {FormatError} If the model cannot be read, or leaves the size of an input open.
   */
  async draw(path: string, sizes: Nominal): Promise<VerifyCase> {
    using file = readOnnx(path);
    const graph = openedGraph(importOnnx(file));
    const short = modelName(resolve(path)), name = `${this.#names.has(short) ? path : short} drawn`;
    const inputs = join(this.#folder, `${this.#names.size}.safetensors`);
    this.#names.add(this.#names.has(short) ? path : short);
    await writeTensors(inputs, drawnInputs(graph, { path, sizes }));
    // What is expected is not stored: it is what the model gives unsplit.
    return { kind: "outputs", name, model: path, inputs, expected: "", ...toleranceOf(graph) };
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.#folder, { recursive: true });
  }
}

/** With types inferred, as outputs say what inputs leave open; of a model with branches, as it was declared. */
export function openedGraph(graph: Graph<"global">): Graph<"global"> {
  if (specializeBranches(graph) !== undefined) return graph;
  return cleanPipeline().run(graph, new ParallelExecutionCtx({ ranks: 1, rank: 0, config: { fuse: false } }));
}

/**
 * What each input of `graph` is given.
 *
 * @throws {FormatError} If the model leaves the type or a size of an input open.
 */
export function drawnInputs(graph: Graph<"global">, how: DrawnSizes): Map<string, HostTensor> {
  const { path } = how, sizes = sizesOf(graph, how), limits = tableRows(graph);
  const random = generator();
  const inputs = new Map<string, HostTensor>();
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    const [name] = node.outputs, { dtype, shape } = valueOf(graph, name).type;
    if (dtype === undefined || shape === undefined) throw cannotDraw(path, name, "its type is not declared");
    const dims = shape.map((d) => {
      const size = evalDim(d, sizes);
      if (size === undefined) throw cannotDraw(path, name, `it does not say how large ${d} is`);
      return size;
    });
    const content = contentOf(name, { dtype, dims, limit: limits.get(name), random });
    const count = dims.reduce((a, b) => a * b, 1);
    inputs.set(name, fromNumbers(dtype, dims, Array.from({ length: count }, (_, i) => content(i))));
  }
  return inputs;
}

interface Content {
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** Rows of the smallest table that it is looked up in. */
  readonly limit: number | undefined;
  readonly random: () => number;
}

function contentOf(name: string, { dtype, dims, limit, random }: Content): (i: number) => number {
  const last = dims.at(-1) ?? 1, { float } = dtypeInfo(dtype);
  // Whatever a boolean switches, the steps after the first are meant.
  if (/padding/i.test(name)) return () => 0;
  if (dtype === "bool" || /mask/i.test(name)) return () => 1;
  if (float) return () => 2 * random() - 1;
  if (/position/i.test(name)) return (i) => (last === 1 ? PAST : i % last);
  // A size or a count, such as how many logits to keep.
  if (limit === undefined && dims.reduce((a, b) => a * b, 1) <= 1) return () => 1;
  return () => Math.floor(random() * (limit ?? 2));
}

function sizesOf(
  graph: Graph<"global">,
  { sizes: given, rows = ROWS, length: open = LENGTH }: DrawnSizes,
): Map<string, number> {
  const known: Record<string, number> = {};
  const inputs = graph.nodes.flatMap((n) => (n.kind === "placeholder" ? [valueOf(graph, n.outputs[0])] : []));
  const uses = (symbol: string) => inputs.filter(({ type }) => type.shape?.some((d) => asSymbol(d) === symbol)).length;
  for (const { name, type: { shape = [] } } of inputs) {
    // A vector is as long as a text, not as a batch.
    if (shape.length < 2) continue;
    const batch = asSymbol(shape[0]!), length = asSymbol(shape.at(-1)!);
    if (batch !== undefined) known[batch] = rows;
    // A mask covers the past too, under a name that says nothing of it.
    if (graph.carried.length > 0 && /mask/i.test(name) && length !== undefined && uses(length) === 1) {
      known[length] = PAST + 1;
    }
  }
  const sizes = nominalSizes(graph, { ...known, ...given }, PAST);
  if (graph.carried.length === 0) {
    for (const name of sizes.keys()) if (!(name in known) && !(name in given)) sizes.set(name, open);
  }
  return sizes;
}

/** By input of integers: how many rows the smallest constant has that it is read together with, or what is made of it. */
function tableRows(graph: Graph<"global">): Map<string, number> {
  const rows = new Map<string, number>(), origin = new Map<string, string>(), tables = new Map<string, number>();
  const visit = (part: Graph<"global">) => {
    for (const node of part.nodes) {
      if (node.kind === "placeholder" && part === graph) origin.set(node.outputs[0], node.outputs[0]);
      if (node.kind === "get_attr" && node.data.shape.length > 1) tables.set(node.outputs[0], node.data.shape[0]!);
      if (!isCall(node)) continue;
      const from = node.inputs.flatMap((v) => origin.get(v) ?? []);
      const least = Math.min(...node.inputs.flatMap((v) => tables.get(v) ?? []));
      for (const input of from) if (least < Infinity) rows.set(input, Math.min(rows.get(input) ?? Infinity, least));
      // What reshapes or casts ids hands them on; what looks them up does not.
      if (from.length === 1 && least === Infinity && node.inputs.length <= 2) origin.set(node.outputs[0]!, from[0]!);
      for (const nested of subgraphsOf(node.attributes)) visit(nested);
    }
  };
  visit(graph);
  return rows;
}

/**
 * What rounding may do: in 8 bits or fewer, in 16, and in 32 over some thirty layers, where logits were seen to move by 1e-3.
 * A wrong shard moves them by their own size.
 */
function toleranceOf(graph: Graph<"global">): Tolerance {
  const dtypes = graph.nodes.flatMap((n) => (n.kind === "get_attr" && n.data.shape.length > 1 ? [n.data.dtype] : []));
  if (dtypes.some((d) => !dtypeInfo(d).float && dtypeInfo(d).bits <= 8)) return { atol: 0.1, rtol: 0.01 };
  if (dtypes.some((d) => dtypeInfo(d).float && dtypeInfo(d).bits <= 16)) return { atol: 0.02, rtol: 0.01 };
  return { atol: 5e-3, rtol: 1e-3 };
}

/** Numbers in [0, 1), always the same. */
function generator(): () => number {
  let state = 7;
  return () => (state = (state * 1664525 + 1013904223) % 2 ** 32) / 2 ** 32;
}

function cannotDraw(path: string, input: string, why: string): FormatError {
  return new FormatError(`Cannot draw input "${input}" of ${path}: ${why}`, {
    hint: "write a cases.json beside it with inputs of your own: shardwise verify --help",
  });
}
