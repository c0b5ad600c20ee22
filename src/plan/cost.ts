/**
 * The cost model: seconds of one step on the slowest rank, from a handful of named constants.
 *
 * A call costs its arithmetic plus the traffic of everything that it reads and writes; a collective costs a latency plus
 * the bytes that one rank reads of the others. Prices are kept as whole picoseconds, so that sums are exact and ties
 * are broken alike on every rank and machine.
 */
import { asSymbol, type Dim, dimSub, evalDim, symbolsOf } from "../core/dim.ts";
import { dtypeInfo } from "../core/dtype.ts";
import { type CollectiveKind, type Graph, outputOf, valueOf } from "../graph/graph.ts";
import { localSize, maxLocalSize } from "../graph/layout.ts";
import type { Placement, Shard } from "../graph/placement.ts";
import type { TensorType } from "../graph/types.ts";

/** The constants of a host. */
export interface CostModel {
  /** Multiply-adds ×2 a second, of one rank, with many rows. */
  readonly flopsPerSecond: number;
  /**
   * The same by number of rows of the product, ascending; between two they are interpolated, beyond them constant. Absent:
   * `flopsPerSecond` for all.
   */
  readonly gemmRates?: readonly (readonly [rows: number, flopsPerSecond: number])[];
  /** Bytes a second that one rank reads or writes. */
  readonly bytesPerSecond: number;
  /** Seconds that any call costs beside its work. */
  readonly callSeconds: number;
  /** Seconds that any collective costs: a barrier, and the border of a segment. */
  readonly collectiveSeconds: number;
  /** Bytes a second that one rank reads from the others. */
  readonly sharedBytesPerSecond: number;
  /** The same where tensors are put together instead of summed; by default as fast. */
  readonly gatherBytesPerSecond?: number;
  /** Collectives inside a call that brings its own (`internal` factors). */
  readonly internalCollectives: number;
  /**
   * Seconds that a byte of weights on every rank is worth; by default as much as reading it. The mean over the ranks is
   * priced: heads that the ranks cannot share out evenly cost time, but no more memory in all.
   */
  readonly memoryPrice: number;
  /**
   * What the average weight matrix is worth at least, in collectives. Who starts several ranks wants the model split, also
   * one so small that a single rank would be faster. With this and `memoryPrice` 0, only time counts.
   */
  readonly splitCollectives: number;
  /**
   * Seconds that a weight costs whose parts are not contiguous in its file: it has to be written to a file of its own
   * before it can be mapped. Small against a collective, as it only decides between plans that are otherwise alike.
   */
  readonly stridedSeconds: number;
}

/** One core a rank, shared memory between ranks. */
export const DEFAULT_COSTS: CostModel = {
  flopsPerSecond: 60e9,
  bytesPerSecond: 10e9,
  callSeconds: 2e-6,
  collectiveSeconds: 60e-6,
  sharedBytesPerSecond: 10e9,
  internalCollectives: 2,
  memoryPrice: 1e-10,
  splitCollectives: 2,
  stridedSeconds: 1e-6,
};

/** Sizes of symbols at which a plan is made, by symbol. */
export type Nominal = Readonly<Record<string, number>>;

const NOMINAL_PAST = 128, NOMINAL_LENGTH = 128;

/**
 * A size for every symbol of a graph: one step of decoding where it carries a state (`pastTokens`, 1 new), one batch of
 * 128 otherwise. `given` wins.
 */
export function nominalSizes(graph: Graph, given: Nominal = {}, pastTokens = NOMINAL_PAST): Map<string, number> {
  const sizes = new Map<string, number>(Object.entries(given));
  const set = (name: string, size: number) => void (sizes.has(name) || sizes.set(name, size));
  for (const { input, output } of graph.carried) {
    if (output === undefined || !graph.values.has(input)) continue;
    const past = valueOf(graph, input).type.shape ?? [];
    const present = valueOf(graph, outputOf(graph).inputs[output]!).type.shape ?? [];
    past.forEach((p, i) => {
      const now = present[i];
      // What exporters leave open at the input (the size of a head) and the op knows is no length.
      if (typeof now === "number") {
        const open = asSymbol(p);
        if (open !== undefined) set(open, now);
        return;
      }
      const grown = now === undefined ? 0 : dimSub(now, p);
      if (grown === 0 || now === undefined) return;
      for (const s of symbolsOf(p)) set(s, pastTokens);
      const total = asSymbol(now);
      if (total !== undefined) set(total, pastTokens + 1);
      for (const s of symbolsOf(grown)) set(s, 1);
    });
  }
  for (const node of graph.nodes) {
    if (node.kind !== "placeholder") continue;
    for (const s of symbolsOf(valueOf(graph, node.name).type.shape?.[0] ?? 0)) set(s, 1);
  }
  const length = graph.carried.length > 0 ? 1 : NOMINAL_LENGTH;
  const seen = new Set<string>();
  for (const value of graph.values.values()) {
    for (const d of value.type.shape ?? []) {
      if (typeof d === "number" || seen.has(d.toString())) continue;
      seen.add(d.toString());
      for (const s of symbolsOf(d)) set(s, length);
    }
  }
  return sizes;
}

/**
 * `given` completed, and its price of memory raised where the model's matrices, of `matrixBytes` bytes on the mean, would
 * else not be worth splitting.
 */
export function costModel(given: Partial<CostModel>, matrixBytes: number): CostModel {
  const model = { ...DEFAULT_COSTS, ...given };
  if (matrixBytes === 0) return model;
  const least = model.splitCollectives * model.collectiveSeconds / matrixBytes;
  return { ...model, memoryPrice: Math.max(model.memoryPrice, least) };
}

/** Prices things at the nominal sizes of one graph. All results are whole picoseconds but {@linkcode Pricing.bytes}. */
export class Pricing {
  readonly model: CostModel;
  readonly ranks: number;
  readonly #sizes: ReadonlyMap<string, number>;
  readonly #bytes = new Map<TensorType, number>();

  constructor(ranks: number, model: CostModel, sizes: ReadonlyMap<string, number>) {
    this.ranks = ranks;
    this.model = model;
    this.#sizes = sizes;
  }

  /** A size as a number; 1 where nothing is known. */
  size(d: Dim): number {
    return evalDim(d, this.#sizes) ?? 1;
  }

  /** Bytes of a whole tensor; 0 where its type is open. */
  bytes(type: TensorType | undefined): number {
    if (!type?.shape || !type.dtype) return 0;
    let bytes = this.#bytes.get(type);
    if (bytes === undefined) {
      bytes = type.shape.reduce<number>((n, d) => n * this.size(d), dtypeInfo(type.dtype).bits / 8);
      this.#bytes.set(type, bytes);
    }
    return bytes;
  }

  /** Work of a call on one rank. */
  call(work: { readonly flops: number; readonly bytes: number; readonly rows: number }): number {
    const { bytesPerSecond, callSeconds } = this.model;
    return picoseconds(callSeconds + work.flops / rateOf(this.model, work.rows) + work.bytes / bytesPerSecond);
  }

  /** Seconds that a rank saves of reading and writing `bytes` when all ranks share it out. */
  sharingOut(bytes: number): number {
    return bytes * (1 - 1 / this.ranks) / this.model.bytesPerSecond;
  }

  /** What `collectives` spare that share the barriers of others. */
  sharedBarriers(collectives: number): number {
    return collectives * picoseconds(this.model.collectiveSeconds);
  }

  /** The collectives that a call with an `internal` factor brings along, for an output of `bytes`. */
  internal(bytes: number): number {
    const { internalCollectives, collectiveSeconds, sharedBytesPerSecond } = this.model;
    const each = collectiveSeconds + this.ranks * bytes / sharedBytesPerSecond;
    return picoseconds(internalCollectives * each) + internalCollectives;
  }

  /** Holding a weight in a placement, on the mean over the ranks. */
  memory(type: TensorType, p: Placement): number {
    const strided = p.kind === "S" && !isContiguous(type, p) ? this.model.stridedSeconds : 0;
    return picoseconds(this.bytes(type) * meanShareOf(p, this.ranks) * this.model.memoryPrice + strided);
  }

  /**
   * One step of a redistribution of a tensor of `bytes`; `sharded` is the placement that is sharded, if one is. An
   * all-reduce reads all partial results in one go, or, when that is cheaper, its chunk and then the others' chunks.
   * A collective costs a picosecond extra, so that of equal plans the one with fewer wins.
   */
  step(kind: CollectiveKind, bytes: number, sharded: Placement): number {
    const { collectiveSeconds: alpha, sharedBytesPerSecond, bytesPerSecond, callSeconds } = this.model;
    const part = bytes * shareOf(sharded), read = 1 / sharedBytesPerSecond;
    switch (kind) {
      case "slice":
        return picoseconds(callSeconds + 2 * part / bytesPerSecond);
      case "mask":
        return picoseconds(callSeconds + bytes / bytesPerSecond);
      case "all_gather":
        return picoseconds(alpha + bytes / (this.model.gatherBytesPerSecond ?? sharedBytesPerSecond)) + 1;
      case "reduce_scatter":
        return picoseconds(alpha + this.ranks * part * read) + 1;
      case "all_reduce":
        return picoseconds(Math.min(alpha + this.ranks * bytes * read, 2 * (alpha + bytes * read))) + 1;
    }
  }
}

/** Multiply-adds ×2 a second of a product with so many rows. */
export function rateOf(
  { gemmRates = [], flopsPerSecond }: Pick<CostModel, "gemmRates" | "flopsPerSecond">,
  rows: number,
): number {
  const above = gemmRates.findIndex(([r]) => r >= rows);
  if (above < 0) return gemmRates.at(-1)?.[1] ?? flopsPerSecond;
  const [b, high] = gemmRates[above]!;
  if (above === 0) return high;
  const [a, low] = gemmRates[above - 1]!;
  return low + (high - low) * (rows - a) / (b - a);
}

/** The share of a tensor that the rank with the most holds. */
export function shareOf(p: Placement): number {
  return p.kind === "S" ? maxLocalSize(p.layout) / p.layout.size : 1;
}

function meanShareOf(p: Placement, ranks: number): number {
  if (p.kind !== "S") return p.kind === "R" ? 1 : 1 / ranks;
  return p.layout.parts.reduce((sum, _, r) => sum + localSize(p.layout, r), 0) / (ranks * p.layout.size);
}

/** Whether each rank's part is one run of bytes of the whole. */
function isContiguous(type: TensorType, { dim, layout }: Shard): boolean {
  return layout.outer === 1 && layout.parts.every((p) => p.length <= 1) &&
    (type.shape ?? []).slice(0, dim).every((d) => d === 1);
}

/** Whole picoseconds. */
export function picoseconds(seconds: number): number {
  return Math.round(seconds * 1e12);
}

/** Seconds of whole picoseconds. */
export function seconds(picoseconds: number): number {
  return picoseconds / 1e12;
}
