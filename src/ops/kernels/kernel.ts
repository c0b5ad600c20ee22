/**
 * How an op runs on a GPU, as data: a list of steps over contiguous tensors, made anew when sizes change.
 *
 * Three kinds of step do nearly all the work. A `map` computes every element of a shape from elements of its operands; it is also every
 * copy, slice, gather and scatter, as operands are read and written through strides. `rows` reduces over an inner shape for each index of
 * an outer one, and may then compute the row's elements from the results: sums, softmax, norms. A `gemm` is cuBLAS's. Code is generated
 * from the kind of a step, its expressions, dtypes and numbers of dims; sizes, strides and offsets are arguments, so that a longer
 * sequence needs no new kernel.
 */
import type { DType } from "../../core/dtype.ts";
import type { Attributes, Call } from "../../graph/graph.ts";

/** A tensor in device memory: row-major, all sizes known. */
export interface KernelTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Where there are gaps between rows, as in the memory of a state that grows: elements from index to index of each dim. */
  readonly strides?: readonly number[];
}

/** What a lowering is given: one call with its sizes. */
export interface KernelContext {
  readonly node: Pick<Call, "name" | "op" | "domain">;
  readonly attributes: Attributes;
  /** Version of the node's domain. */
  readonly opset: number;
  /** By position; undefined where left out. */
  readonly inputs: readonly (KernelTensor | undefined)[];
  /** By position; undefined where nobody reads them. */
  readonly outputs: readonly (KernelTensor | undefined)[];
  /** Contents of integer inputs that the host knows, by position. */
  readonly ints: readonly (readonly number[] | undefined)[];
  /**
   * By output: where it grows in the memory of an input (`GROWTH` in table.ts), the length of that memory along the dim that grows. It holds
   * what the input holds, and rows lie that length apart. Absent: outputs have memory of their own, contiguous.
   */
  readonly rooms?: readonly (number | undefined)[];
}

/** Memory that a step reads or writes: an input or output of the call, or a scratch tensor of its lowering. */
export type Operand =
  | { readonly of: "input" | "output"; readonly index: number; readonly dtype: DType }
  | { readonly of: "scratch"; readonly index: number; readonly dtype: DType };

/** Elements of an operand over the dims of a step: that of index `i` lies at `offset + Σ i[d] · strides[d]`. */
export interface Access {
  readonly operand: Operand;
  readonly offset: number;
  /** One a dim of the step (outer dims first, then inner ones, in `rows`); 0 repeats. */
  readonly strides: readonly number[];
}

/** Named numbers in expressions: `{ axis: 7 }` lets them say `axis`. Integers are 64 bits wide; `{ float: 0.5 }` is a float. */
export type Params = Readonly<Record<string, number | { readonly float: number }>>;

/**
 * Computes one element for each index of `shape`.
 *
 * In expressions (CUDA C++), `x0`, `x1`, … are the elements that `reads` give (float for all floats of at most 32 bits, double, long long
 * for integers, bool), `p0` and `o0` their pointers and offsets for reads that an expression makes by itself, and `i0`, `i1`, … the index.
 */
export interface MapStep {
  readonly kind: "map";
  readonly shape: readonly number[];
  readonly reads: readonly Access[];
  readonly write: Access;
  readonly expression: string;
  /** Names for expressions that are computed before, in order. */
  readonly lets?: readonly { readonly name: string; readonly expression: string }[];
  /** Where to write instead of `write`'s offset `o`: an expression of it; for scatters. */
  readonly target?: string;
  /** Whether to write at all; always by default. */
  readonly when?: string;
  readonly params?: Params;
}

/** One reduction of a row: `name` is the result in the expressions after it. */
export interface Reduction {
  readonly name: string;
  readonly init: string;
  /** Of `a` and `b`; associative and commutative. */
  readonly combine: string;
  /** An element's contribution. */
  readonly value: string;
}

/**
 * For each index of `outer`, reduces over `inner`; then writes. Expressions as in a map, with `i0`, … over outer dims, `r0`, … over inner
 * ones, and the results of the reductions before.
 */
export interface RowsStep {
  readonly kind: "rows";
  readonly outer: readonly number[];
  readonly inner: readonly number[];
  readonly reads: readonly Access[];
  readonly reductions: readonly Reduction[];
  /** Names for expressions over the reads, and over results in what is written; in order. */
  readonly lets?: readonly { readonly name: string; readonly expression: string }[];
  /** `each`: for every element of the row, else once a row (the strides of inner dims are then unused). */
  readonly writes: readonly { readonly access: Access; readonly expression: string; readonly each: boolean }[];
  readonly params?: Params;
}

/** One matrix of a product: element (row, column) of batch b lies at `offset + b · batch + row · stride + column` (or transposed). */
export interface Matrix {
  readonly operand: Operand;
  readonly offset: number;
  /** Elements from one row to the next in memory. */
  readonly stride: number;
  /** Elements from one matrix of the batch to the next; 0 repeats. */
  readonly batch: number;
  /** The memory holds the transpose. */
  readonly transposed: boolean;
}

/** What becomes of a product as it is written. */
export interface Epilogue {
  /** `[n]`, added to each row. */
  readonly bias?: Operand | undefined;
  /** `gelu` by tanh. */
  readonly activation?: "relu" | "gelu" | undefined;
}

/** `c[m,n] = alpha · a[m,k] · b[k,n] + beta · c`, `batches` times; one that has an epilogue has one batch, and no `beta`. */
export interface GemmStep {
  readonly kind: "gemm";
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batches: number;
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  readonly alpha: number;
  readonly beta: number;
  readonly epilogue?: Epilogue;
}

/** Sizes of an attention. */
export interface AttentionSizes {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  /** Elements of a query or key, and of a value. */
  readonly size: number;
  readonly valueSize: number;
}

/** Memory that a hand-written kernel reads or writes, from an element on. */
export interface Pointer {
  readonly operand: Operand;
  /** Elements; 0 by default. */
  readonly offset?: number;
}

/**
 * A kernel that is written by hand, for what needs warps or shared memory. Its text has what decides about registers as numbers; what changes
 * from step to step (rows, lengths) is in `params`, and a block whose work is done by others must find out by them.
 */
export interface CodeStep {
  readonly kind: "code";
  /** Statements in CUDA C++, over the names of `reads`, `writes` and `params`; `I` is the type of an index. */
  readonly body: string;
  readonly reads: Readonly<Record<string, Pointer>>;
  readonly writes: Readonly<Record<string, Pointer>>;
  readonly params: Params;
  readonly blocks: number;
  /** A multiple of 32. */
  readonly threads: number;
}

/** The output is the input's memory with another shape. */
export interface AliasStep {
  readonly kind: "alias";
  readonly input: number;
  readonly output: number;
}

/** One step. */
export type KernelStep = MapStep | RowsStep | GemmStep | CodeStep | AliasStep;

/** What becomes of one call: steps in order, and the scratch tensors that they share. */
export interface Lowered {
  readonly steps: readonly KernelStep[];
  readonly scratch?: readonly KernelTensor[];
}

/** How calls of one op run on a GPU. @throws {GraphError} For forms that it does not know. */
export type Lowering = (context: KernelContext) => Lowered;
