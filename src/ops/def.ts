/**
 * The contract of an op definition: everything that a stage may ask of an op, as data.
 *
 * The vocabulary is ONNX's; its operator documents are our documentation. A definition says how types follow from types
 * (`infer`), how dims of inputs and outputs correspond (`factors`, from which all sharding strategies follow), what has
 * to be re-emitted on one rank (`localize`; most ops: nothing), and gives examples on which the conformance sweep
 * proves all of it. A pass, planner or backend that wants to ask for an op by name lacks a field here.
 */
import type { Dim } from "../core/dim.ts";
import type { DType } from "../core/dtype.ts";
import type { Attributes, Call, CollectiveKind } from "../graph/graph.ts";
import type { Layout } from "../graph/layout.ts";
import type { Placement, Reduction } from "../graph/placement.ts";
import type { KnownInts, TensorType } from "../graph/types.ts";
import type { FactorRule } from "./factors.ts";
import type { RowNumbers, RowsContext, RowsOutcome } from "./rows.ts";

/** What type inference is given. */
export interface InferContext {
  /** For messages: which node. */
  readonly node: Pick<Call, "name" | "op" | "domain">;
  readonly attributes: Attributes;
  /** Version of the node's domain that the model follows. */
  readonly opset: number;
  /** By position; undefined where an optional input is left out. */
  readonly inputs: readonly (TensorType | undefined)[];
  /** Contents of inputs that are known, by position. */
  readonly ints: readonly (KnownInts | undefined)[];
  /** How many outputs the node has. */
  readonly outputCount: number;
  /** A new symbol for a size that only data decides (NonZero); its name contains `#`. */
  fresh(label: string): Dim;
}

/** The type of one output, and its content where that is known. */
export interface Inferred extends TensorType {
  readonly ints?: KnownInts;
}

/** What `factors` and `cost` are given: types are inferred, all shapes of data tensors known. */
export interface TypedContext {
  readonly node: Call;
  readonly attributes: Attributes;
  readonly opset: number;
  readonly inputs: readonly (TensorType | undefined)[];
  readonly ints: readonly (KnownInts | undefined)[];
  readonly outputs: readonly (TensorType | undefined)[];
}

/** A tensor of a node on one rank. */
export interface LocalTensor {
  /** Type of the whole tensor. */
  readonly type: TensorType;
  readonly placement: Placement;
  /** Shape of this rank's part. */
  readonly localShape: readonly Dim[] | undefined;
}

/** What `localize` is given: one node on one rank. */
export interface LocalizeContext extends TypedContext {
  readonly rank: number;
  readonly ranks: number;
  /** Version of ai.onnx, whose ops a layer emits; `opset` is that of the node's own domain. */
  readonly onnxOpset: number;
  readonly inputTensors: readonly (LocalTensor | undefined)[];
  readonly outputTensors: readonly (LocalTensor | undefined)[];
  /** By input position: whether it is constant data, which a partial sum gives to rank 0 whole and to others as zeros. */
  readonly constants: readonly boolean[];
  /** Names of the local inputs, by position ("" where left out). */
  readonly names: readonly string[];
  readonly emit: LocalEmitter;
  /**
   * Emit what every engine runs at all sizes, not the fused op that {@linkcode OpDef.limits} is about. The program is then as
   * slow as the model was written, and has the same inputs, outputs and placements.
   */
  readonly plain: boolean;
}

/** An output that may lie in the memory of an input that is longer along `dim` than what it holds. */
export interface InPlace {
  /** Position of the input. */
  readonly input: number;
  /** Position of the output. */
  readonly output: number;
  /** The dim along which the op appends to what is there. */
  readonly dim: number;
}

/** A size, and the most that an op bears of it. */
export interface SizeLimit {
  readonly size: Dim;
  readonly most: number;
}

/** Appends nodes to a rank's local graph; every function returns the name of the (first) new value. */
export interface LocalEmitter {
  /** An op. Types are inferred from the local inputs. */
  op(
    op: string,
    inputs: readonly string[],
    attributes?: Attributes,
    options?: { domain?: string; outputs?: number },
  ): string;
  /** Like `op`, for ops with several outputs: their names. */
  ops(
    op: string,
    inputs: readonly string[],
    attributes: Attributes,
    options: { domain?: string; outputs: number },
  ): string[];
  /** An int64 tensor of sizes: rank 1, or rank 0 where `scalar`. Constant, or computed before each run. */
  sizes(elements: readonly Dim[], scalar?: boolean): string;
  /** A scalar constant of a dtype. */
  scalar(dtype: DType, value: number): string;
  /** A collective on a local value. */
  collective(
    kind: CollectiveKind,
    input: string,
    details?: { shard?: { dim: number; layout: Layout }; from?: Layout; reduction?: Reduction },
  ): string;
}

/** One shape set on which the conformance sweep proves a definition. */
export interface OpExample {
  /** Types of the inputs; undefined where left out. Sizes are numbers. */
  readonly inputs: readonly ({ readonly dtype: DType; readonly shape: readonly number[] } | undefined)[];
  /** Contents of inputs that must be constant (Reshape's target), by position. */
  readonly constants?: Readonly<Record<number, readonly number[]>>;
  /** Ranges of random integer inputs (indices), by position: `[low, high)`. */
  readonly ranges?: Readonly<Record<number, readonly [number, number]>>;
  readonly attributes?: Attributes;
  /** Outputs wanted; 1 by default. */
  readonly outputs?: number;
  /** Opset of the op's domain; `since` of the definition by default. */
  readonly opset?: number;
}

/** A definition. */
export interface OpDef {
  readonly op: string;
  /** "" for ai.onnx, else `com.microsoft` or `shardwise`. */
  readonly domain: string;
  /** First opset whose form we follow; older forms that import brings up to it are not seen here. */
  readonly since: number;
  /** ONNX's formal input names; the last may be `...name` for variadic. */
  readonly inputs: readonly string[];
  /** Printed as `call_module`: a layer. */
  readonly module?: true;
  /** Types (and known contents) of the outputs. @throws {ShapeError} If the inputs do not fit. */
  readonly infer: (context: InferContext) => readonly Inferred[];
  /** How dims correspond. Absent: every input and output is replicated. */
  readonly factors?: (context: TypedContext) => FactorRule;
  /** Multiply-adds ×2 of the whole op; absent: one per output element. */
  readonly flops?: (context: TypedContext) => Dim;
  /** Which part of its constant inputs the op reads, 0 to 1, of those that it reads only partly: the experts that tokens choose. */
  readonly readsOf?: (context: TypedContext, size: (dim: Dim) => number) => number;
  /** Emits the node on one rank where the op itself does not do (sizes in attributes or int inputs, masks). Returns the output names. */
  readonly localize?: (context: LocalizeContext) => readonly string[];
  /**
   * What the op makes of the samples of a batch, where it is more than its factors say: it fills a shape, numbers rows, or
   * selects and puts by such numbers. Undefined for inputs with which the factors tell all.
   */
  readonly rows?: (context: RowsContext) => RowsOutcome;
  /**
   * By output, the integers that it has where inputs have such as tell rows; places follow from the factors. Absent: what the op
   * makes of them cannot be followed.
   */
  readonly numbers?: (context: RowsContext) => readonly (RowNumbers | undefined)[];
  /** Inputs of sizes that decide the shapes of outputs and nothing beyond them. */
  readonly shapedBy?: readonly number[];
  /** Whether `localize` is asked also where nothing of the node is cut: it bears more than engines do. */
  readonly localizesWhole?: (context: TypedContext) => boolean;
  /** Pairs (input, output) that carry a state from step to step, as positions: KV caches. */
  readonly carries?: (context: TypedContext) => readonly (readonly [number, number])[];
  /** Outputs for which the engine needs no memory of their own: a cache that grows in place. */
  readonly inPlace?: (context: TypedContext) => readonly InPlace[];
  /**
   * Sizes at which no engine runs the op as `localize` emits it: where all of them are above their limits. Then a program with
   * `plain` ops takes its place.
   */
  readonly limits?: (context: TypedContext) => readonly SizeLimit[];
  /** Of what kind the attribute `seed` of a call is that draws random numbers; undefined where the call draws none. */
  readonly draws?: (node: Call) => "float" | "int" | undefined;
  readonly examples: readonly OpExample[];
}
