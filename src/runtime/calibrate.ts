/**
 * Measuring the constants of the cost model on this host, with as many real ranks as will share a model.
 *
 * All ranks measure at once, as they will work at once: they share caches, memory and cores. Of each time the least of
 * several repetitions counts, as other programs only ever make it longer, and of all ranks the slowest.
 */
import { GraphBuilder, inlineData } from "../graph/builder.ts";
import { symbol } from "../core/dim.ts";
import { exportOnnx } from "../formats/export_onnx.ts";
import { int } from "../graph/attributes.ts";
import type { CostModel } from "../plan/cost.ts";
import { symmetricView } from "./comm/buffers.ts";
import type { Communicator } from "./comm/communicator.ts";
import type { Engine, EngineSession, EngineTensor } from "./cpu/engine.ts";

/** Rows of a product at which its rate is measured. */
const ROWS = [1, 4, 16, 64, 256];
/** Matrices in a row, more than any cache holds, so that each is read from memory as a model's are. */
const MATRICES = 16, MATRIX = [1024, 2048] as const;
const CHAIN = 64;
/** Products of which each is a segment of its own. */
const PIECES = 8;
/** Bytes of small and large collectives. */
const SMALL = 64 << 10, LARGE = 4 << 20;
const REPETITIONS = 9;
/** Rounds of which the median is taken, where a small difference is sought. */
const PAIRS = 41;
/** Of the time of a product, at least this share is arithmetic; what is left after reading is too uncertain to divide by. */
const LEAST_ARITHMETIC = 0.05;

/** How a rank measures. */
export interface CalibrateOptions {
  readonly comm: Communicator;
  readonly engine: Engine;
  /** Threads of each session. */
  readonly threads: number;
}

/** The constants; all ranks call it together and get the same. */
export async function calibrate(options: CalibrateOptions): Promise<Partial<CostModel>> {
  const compute = await measureCompute(options);
  return options.comm.size === 1 ? compute : { ...compute, ...await measureCollectives(options) };
}

async function measureCompute(options: CalibrateOptions): Promise<Partial<CostModel>> {
  const one = await chainSession(options, 1), many = await chainSession(options, CHAIN);
  const input = options.engine.tensor("f32", new Float32Array(64).fill(0.5), [1, 64]);
  const [long, short] = await fastest(options, [
    () => many.run({ x: input }, { y: null }),
    () => one.run({ x: input }, { y: null }),
  ]) as [number, number];
  const callSeconds = Math.max(1e-8, (long - short) / (CHAIN - 1));
  await Promise.all([one.release(), many.release()]);
  const products = await productSession(options, 0, MATRICES), [k, n] = MATRIX;
  const totals = await fastest(
    options,
    ROWS.map((rows) => {
      const x = options.engine.tensor("f32", new Float32Array(rows * k).fill(0.01), [rows, k]);
      return () => products.run({ x }, { y: null });
    }),
  );
  const times = totals.map((total) => Math.max(1e-9, total / MATRICES - 2 * callSeconds));
  await products.release();
  const flops = (rows: number) => 2 * rows * k * n, bytes = (rows: number) => 4 * (k * n + rows * (k + n));
  const best = Math.max(...ROWS.map((rows, i) => flops(rows) / times[i]!));
  // One row is all reading: what the fastest arithmetic leaves of its time.
  const bytesPerSecond = bytes(1) / Math.max(times[0]! / 2, times[0]! - flops(1) / best);
  const gemmRates = ROWS.map((rows, i): readonly [number, number] => {
    const arithmetic = Math.max(LEAST_ARITHMETIC * times[i]!, times[i]! - bytes(rows) / bytesPerSecond);
    return [rows, rounded(flops(rows) / arithmetic)];
  });
  return {
    callSeconds: rounded(callSeconds),
    bytesPerSecond: rounded(bytesPerSecond),
    flopsPerSecond: Math.max(...gemmRates.map(([, rate]) => rate)),
    gemmRates,
  };
}

async function measureCollectives(options: CalibrateOptions): Promise<Partial<CostModel>> {
  const { comm, engine } = options;
  // The same products in one session and in one each, with a barrier behind: a segment more, the barrier, and that ranks come
  // at different times with other things in their caches.
  const [k, n] = MATRIX;
  const joined = await productSession(options, 0, PIECES);
  const pieces = await Promise.all(Array.from({ length: PIECES }, (_, i) => productSession(options, i, i + 1)));
  const inputs = [k, n].map((size) => engine.tensor("f32", new Float32Array(size).fill(0.01), [1, size]));
  // What is sought is a percent of what is measured: each round is compared with itself, as the machine's pace changes between
  // them, and the border of a segment that does nothing is the least that it can be.
  const nothing = await chainSession(options, 1), one = engine.tensor("f32", new Float32Array(64), [1, 64]);
  const rounds = await timed(options, [
    async () => {
      await joined.run({ x: inputs[0]! }, { y: null });
      comm.barrierSync();
    },
    async () => {
      for (const [i, piece] of pieces.entries()) {
        await piece.run({ x: inputs[i % 2]! }, { y: null });
        comm.barrierSync();
      }
    },
    async () => {
      await nothing.run({ x: one }, { y: null });
      comm.barrierSync();
    },
  ], PAIRS);
  await Promise.all([joined, nothing, ...pieces].map((session) => session.release()));
  const differences = rounds.map(([whole, cut]) => (cut! - whole!) / (PIECES - 1)).sort((a, b) => a - b);
  const border = Math.min(...rounds.map(([, , least]) => least!));
  const collectiveSeconds = slowestOf(comm, Math.max(border, differences[rounds.length >> 1]!));
  const reduce = await slope(options, "Sum"), gather = await slope(options, "Concat");
  return {
    collectiveSeconds: rounded(collectiveSeconds),
    // The model counts what a rank reads: all ranks' tensors to reduce, one whole tensor to gather.
    sharedBytesPerSecond: rounded(comm.size / reduce),
    gatherBytesPerSecond: rounded(1 / gather),
  };
}

/** Seconds a byte of the result, when it is combined from what all ranks have just written. */
async function slope({ comm, engine, threads }: CalibrateOptions, op: "Sum" | "Concat"): Promise<number> {
  const session = await engine.createSession(combineModel(comm.size, op), { threads });
  const mark = comm.arena.mark(), times: number[] = [];
  for (const bytes of [SMALL, LARGE]) {
    const count = bytes / 4 / (op === "Sum" ? 1 : comm.size) | 0;
    const buffer = comm.arena.alloc(count * 4), mine = symmetricView(buffer, "f32", count).data as Uint8Array;
    const feeds: Record<string, EngineTensor> = {};
    for (let r = 0; r < comm.size; r++) {
      const { buffer: memory, byteOffset } = buffer.peer(r);
      feeds[`x${r}`] = engine.tensor("f32", new Float32Array(memory, byteOffset, count), [count]);
    }
    let least = Infinity;
    for (let i = 0; i < REPETITIONS; i++) {
      mine.fill(i);
      comm.barrierSync();
      const began = performance.now();
      await session.run(feeds, { y: null });
      least = Math.min(least, (performance.now() - began) / 1000);
      comm.barrierSync();
    }
    times.push(slowestOf(comm, least));
  }
  comm.arena.reset(mark);
  await session.release();
  return Math.max(1e-13, (times[1]! - times[0]!) / (LARGE - SMALL));
}

/** Seconds of one run of each: the least of several rounds, of the slowest rank. */
async function fastest(options: CalibrateOptions, runs: readonly (() => unknown)[]): Promise<number[]> {
  const rounds = await timed(options, runs);
  return runs.map((_, i) => slowestOf(options.comm, Math.min(...rounds.map((times) => times[i]!))));
}

/**
 * Seconds of one run of each on this rank, round by round. Runs take turns, as what slows a machine down for a while should slow
 * down all of them: costs are compared with each other.
 */
async function timed(
  { comm }: CalibrateOptions,
  runs: readonly (() => unknown)[],
  repetitions = REPETITIONS,
): Promise<number[][]> {
  const counts: number[] = [];
  for (const run of runs) {
    await run();
    const began = performance.now();
    await run();
    // Enough runs that the clock's steps do not count, few enough for long ones.
    const inner = Math.max(1, Math.min(200, Math.floor(2 / Math.max(0.001, performance.now() - began))));
    counts.push(comm.size === 1 ? inner : Math.round(slowestOf(comm, inner)));
  }
  const rounds: number[][] = [];
  for (let round = 0; round < repetitions; round++) {
    const times: number[] = [];
    for (const [i, run] of runs.entries()) {
      comm.barrierSync();
      const start = performance.now();
      for (let k = 0; k < counts[i]!; k++) await run();
      times.push((performance.now() - start) / 1000 / counts[i]!);
    }
    rounds.push(times);
  }
  return rounds;
}

function slowestOf(comm: Communicator, value: number): number {
  const all = Float64Array.of(value);
  comm.allReduceSync(all, "max");
  return all[0]!;
}

/** Three digits are more than a measurement is worth. */
function rounded(x: number): number {
  return Number(x.toPrecision(3));
}

async function chainSession({ engine, threads }: CalibrateOptions, length: number): Promise<EngineSession> {
  const builder = new GraphBuilder("global", "chain", new Map([["", 17]]));
  const type = { dtype: "f32", shape: [1, 64] } as const;
  builder.placeholder({ name: "x", type });
  let at = "x";
  for (let i = 0; i < length; i++) {
    at = append(builder, { op: "Sigmoid", inputs: [at], output: i + 1 < length ? `s${i}` : "y", type });
  }
  return await engine.createSession(exportOnnx(builder.finish({ inputs: [at], names: ["y"] })), { threads });
}

/** Products by the matrices from `first` to before `end`, one after the other. */
async function productSession(
  { engine, threads }: CalibrateOptions,
  first: number,
  end: number,
): Promise<EngineSession> {
  const builder = new GraphBuilder("global", "products", new Map([["", 17]]));
  const [k, n] = MATRIX, rows = symbol("rows");
  builder.placeholder({ name: "x", type: { dtype: "f32", shape: [rows, first % 2 === 0 ? k : n] } });
  let at = "x";
  for (let i = first; i < end; i++) {
    const [from, to] = i % 2 === 0 ? [k, n] : [n, k];
    const data = new Float32Array(from * to).fill(1e-3);
    data[0] = i; // ONNX Runtime keeps equal initializers once, and a cache would hold that one.
    builder.getAttr(`w${i}`, inlineData("f32", [from, to], data));
    const output = i + 1 < end ? `p${i}` : "y";
    at = append(builder, { op: "MatMul", inputs: [at, `w${i}`], output, type: { dtype: "f32", shape: [rows, to] } });
  }
  return await engine.createSession(exportOnnx(builder.finish({ inputs: [at], names: ["y"] })), { threads });
}

function combineModel(ranks: number, op: "Sum" | "Concat"): Uint8Array {
  const builder = new GraphBuilder("global", "combine", new Map([["", 17]]));
  const inputs = Array.from({ length: ranks }, (_, r) => `x${r}`),
    type = { dtype: "f32", shape: [symbol("n")] } as const;
  for (const name of inputs) builder.placeholder({ name, type });
  append(builder, { op, inputs, output: "y", type: { dtype: "f32", shape: [symbol("m")] } });
  return exportOnnx(builder.finish({ inputs: ["y"], names: ["y"] }));
}

function append(
  builder: GraphBuilder<"global">,
  call: {
    readonly op: string;
    readonly inputs: readonly string[];
    readonly output: string;
    readonly type: Parameters<GraphBuilder<"global">["placeholder"]>[0]["type"];
  },
): string {
  const { op, inputs, output, type } = call;
  const attributes = op === "Concat" ? { axis: int(0) } : {};
  builder.call({ kind: "call_function", domain: "", op, inputs, outputs: [output], attributes }, [{
    name: output,
    type,
  }]);
  return output;
}
