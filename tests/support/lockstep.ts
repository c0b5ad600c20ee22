/**
 * Runs the local graphs of all ranks in one process: calls through ONNX Runtime, collectives by a meeting of all ranks.
 *
 * It has no executor, arena or transport in it, so a wrong number here is a wrong rule.
 */
import { type DType, dtypeInfo, type TypedArray } from "../../src/core/dtype.ts";
import type { HostTensor } from "../../src/core/host_tensor.ts";
import { exportOnnx } from "../../src/formats/export_onnx.ts";
import { GraphBuilder, inlineData } from "../../src/graph/builder.ts";
import { type Call, type Collective, type Graph, isCall, outputOf, readsOf, valueOf } from "../../src/graph/graph.ts";
import { combine, fromBytes } from "./parts.ts";
import type { Engine, EngineTensor } from "../../src/runtime/cpu/engine.ts";

/** The results of every rank, by position of the output. */
export async function runLockstep(
  engine: Engine,
  graphs: readonly Graph<"local">[],
  feeds: readonly ReadonlyMap<string, HostTensor>[],
): Promise<HostTensor[][]> {
  const meeting = new Meeting(graphs.length);
  return await Promise.all(graphs.map((graph, rank) => runRank(engine, graph, { rank, feeds: feeds[rank]!, meeting })));
}

interface RankOptions {
  readonly rank: number;
  readonly feeds: ReadonlyMap<string, HostTensor>;
  readonly meeting: Meeting;
}

async function runRank(engine: Engine, graph: Graph<"local">, options: RankOptions): Promise<HostTensor[]> {
  const values = new Map(options.feeds);
  let pending: Call[] = [];
  const flush = async () => {
    if (pending.length > 0) await runCalls(engine, graph, { calls: pending, values });
    pending = [];
  };
  for (const node of graph.nodes) {
    if (node.kind === "get_attr") {
      const { dtype, shape } = node.data;
      values.set(node.outputs[0], fromBytes(dtype, shape, node.data.bytes()));
    } else if (isCall(node)) pending.push(node);
    else if (node.kind === "collective") {
      await flush();
      const result = await options.meeting.meet(options.rank, values.get(node.inputs[0])!, node);
      values.set(node.outputs[0], result);
    }
  }
  await flush();
  return outputOf(graph).inputs.map((name) => values.get(name)!);
}

/** Runs calls as one model whose results are all that they write. */
async function runCalls(
  engine: Engine,
  graph: Graph<"local">,
  { calls, values }: { calls: readonly Call[]; values: Map<string, HostTensor> },
): Promise<void> {
  const written = calls.flatMap((c) => c.outputs.filter((n) => n !== ""));
  const read = [...new Set(calls.flatMap((c) => readsOf(c)))].filter((n) => !written.includes(n));
  const builder = new GraphBuilder("local", graph.name, graph.opsets);
  const constants: string[] = [], inputs: string[] = [];
  for (const name of read) {
    const { dtype, shape, data } = values.get(name)!;
    // Small integers are written as constants: some ops insist on it; and so is what the engine's binding has no type for.
    if ((dtype === "i64" && data.length <= 8) || dtypeInfo(dtype).ort === undefined) {
      builder.getAttr(name, inlineData(dtype, shape, data));
      constants.push(name);
    } else {
      builder.placeholder({ name, type: { dtype, shape } });
      inputs.push(name);
    }
  }
  for (const call of calls) {
    builder.call(call, call.outputs.filter((n) => n !== "").map((n) => valueOf(graph, n)));
  }
  const results = written.filter((name) => dtypeInfo(valueOf(graph, name).type.dtype ?? "f32").ort !== undefined);
  const model = exportOnnx(builder.finish({ inputs: results, names: results }));
  const session = await engine.createSession(model, { threads: 1 });
  const feeds: Record<string, EngineTensor> = {};
  for (const name of inputs) {
    const { dtype, data, shape } = values.get(name)!;
    feeds[name] = engine.tensor(dtype, data, shape);
  }
  const found = await session.run(feeds, Object.fromEntries(results.map((n) => [n, null])));
  for (const name of results) {
    const { dims, data } = found[name]!;
    values.set(name, copied(valueOf(graph, name).type.dtype!, dims, data));
  }
  await session.release();
}

function copied(dtype: DType, dims: readonly number[], data: unknown): HostTensor {
  const ArrayOf = dtypeInfo(dtype).array!;
  const source = data as TypedArray;
  return fromBytes(
    dtype,
    [...dims],
    new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice(),
    ArrayOf,
  );
}

/** Where ranks wait for each other's tensors. */
class Meeting {
  readonly #ranks: number;
  #arrived: (HostTensor | undefined)[] = [];
  #kind: string | undefined;
  #release: ((tensors: HostTensor[]) => void)[] = [];

  constructor(ranks: number) {
    this.#ranks = ranks;
  }

  async meet(rank: number, tensor: HostTensor, node: Collective): Promise<HostTensor> {
    const kind = `${node.collective} ${node.reduction ?? ""}`;
    if (this.#kind !== undefined && this.#kind !== kind) throw new Error(`Ranks meet in ${this.#kind} and in ${kind}`);
    this.#kind = kind;
    this.#arrived[rank] = tensor;
    const all = await new Promise<HostTensor[]>((resolve) => {
      this.#release.push(resolve);
      if (this.#release.length < this.#ranks) return;
      const tensors = this.#arrived as HostTensor[], waiting = this.#release;
      [this.#arrived, this.#release, this.#kind] = [[], [], undefined];
      waiting.forEach((r) => r(tensors));
    });
    if (node.collective === "all_gather") return combine(all, { kind: "S", ...node.shard! });
    if (node.collective !== "all_reduce") throw new Error(`No test needs ${node.collective} yet`);
    return combine(all, { kind: "P", reduction: node.reduction ?? "sum" });
  }
}
