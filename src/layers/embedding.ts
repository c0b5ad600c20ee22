/** Tables of rows by id: whole on every rank, and cut by rows. */
import type { DType } from "../core/dtype.ts";
import type { Value } from "../graph/graph.ts";
import { REPLICATE } from "../graph/placement.ts";
import { Module } from "./module.ts";
import type { Parameter } from "./parameter.ts";
import type { Trace } from "./trace.ts";

/** What tables are declared by. */
export interface EmbeddingOptions {
  /** Rows of the table: the vocabulary. */
  readonly numEmbeddings: number;
  /** Size of a row. */
  readonly embeddingDim: number;
  /** An id whose row starts as zeros, as in PyTorch; a negative one counts from the end. */
  readonly paddingIdx?: number;
  /** Of the table; `f32` by default. */
  readonly dtype?: DType;
}

/** The parameter, which both tables share. */
export abstract class EmbeddingModule extends Module {
  /** Rows of the table. */
  readonly numEmbeddings: number;
  /** Size of a row. */
  readonly embeddingDim: number;
  /** Within `[0, numEmbeddings)`. */
  readonly paddingIdx: number | undefined;
  /** `[numEmbeddings, embeddingDim]`. */
  readonly weight: Parameter;

  /** Declares the table. @throws {RangeError} If `paddingIdx` is no row of the table. */
  constructor(options: EmbeddingOptions) {
    super();
    const { numEmbeddings, embeddingDim, paddingIdx, dtype } = options;
    if (paddingIdx !== undefined && !(paddingIdx >= -numEmbeddings && paddingIdx < numEmbeddings)) {
      throw new RangeError(`Cannot pad with id ${paddingIdx}: the table has ${numEmbeddings} rows`);
    }
    this.numEmbeddings = numEmbeddings;
    this.embeddingDim = embeddingDim;
    this.paddingIdx = paddingIdx === undefined ? undefined : (paddingIdx + numEmbeddings) % numEmbeddings;
    const zeroRow = this.paddingIdx === undefined ? {} : { zeroRow: this.paddingIdx };
    this.weight = this.parameter("weight", {
      shape: [numEmbeddings, embeddingDim],
      initializer: { kind: "normal", mean: 0, deviation: 1, ...zeroRow },
      dtype,
    });
  }
}

/** The rows of `weight [numEmbeddings, embeddingDim]` that `ids [*]` select: `[*, embeddingDim]`. */
export class Embedding extends EmbeddingModule {
  /** `ids [*]`, each in `[-numEmbeddings, numEmbeddings)`, to `[*, embeddingDim]`. */
  override forward(trace: Trace, ids: Value): Value {
    return trace.call("Embedding", [trace.parameter(this.weight), ids], { domain: "shardwise" });
  }
}

/**
 * The rows of a table that is cut over the ranks by rows: `W = [W_1; …; W_p]`.
 *
 * Each rank selects the rows that it holds and has zeros for the others; an all-reduce adds the ranks' results up, of which
 * just one is not zero. `ids [*]` are whole on every rank, and so is the result `[*, embeddingDim]`. Rows are balanced,
 * without padding; a rank may hold none.
 *
 * Source: Megatron-LM's `VocabParallelEmbedding`; arXiv 1909.08053, section 3.
 *
 * @example A head tied to the table, whose logits stay cut by vocabulary
 * ```ts
 * import { VocabParallelEmbedding } from "./embedding.ts";
 * import { ColumnParallelLinear } from "./column_parallel_linear.ts";
 * import { Sequential } from "./module.ts";
 *
 * const wte = new VocabParallelEmbedding({ numEmbeddings: 13, embeddingDim: 6 });
 * const head = new ColumnParallelLinear({ inFeatures: 6, outFeatures: 13, bias: false, weight: wte.weight });
 * const model = new Sequential(wte, head);
 * model.initialize({ seed: 1 });
 * if ([...model.parameters().keys()].join() !== "0.weight") throw new Error("the head has a table of its own");
 * ```
 */
export class VocabParallelEmbedding extends EmbeddingModule {
  /** `ids [*]`, each in `[-numEmbeddings, numEmbeddings)`, to `[*, embeddingDim]`. */
  override forward(trace: Trace, ids: Value): Value {
    const table = trace.parameter(this.weight, trace.cut(0, this.numEmbeddings));
    const rows = trace.call("VocabParallelEmbedding", [table, trace.redistribute(ids, REPLICATE)], {
      domain: "shardwise",
    });
    return trace.redistribute(rows, REPLICATE);
  }
}
