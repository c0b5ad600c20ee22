/** What the executor asks of an inference engine: sessions over ONNX bytes that run on tensors in our own memory. */
import type { DType, TypedArray } from "../../core/dtype.ts";

/** A tensor of the engine: its shape, and its elements in memory that we may own. */
export interface EngineTensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  readonly data: TypedArray;
}

/** How sessions are made. */
export interface SessionOptions {
  /** Threads of a session; 1 makes no pool. */
  readonly threads: number;
  /** Folder that external data is relative to. */
  readonly externalFolder?: string | undefined;
  /** Keep weights as they are mapped instead of packing them for speed: less private memory, slower with many rows. */
  readonly disablePrepacking?: boolean | undefined;
}

/** Outputs of a run by position; a promise of them where the engine has a thread of its own. */
export type RunOutputs = readonly EngineTensor[] | Promise<readonly EngineTensor[]>;

/** What runs of a session read and write: set once, and from then on only where it changes. */
export interface EngineBinding {
  /** The tensor of input `slot`, by its position in the model. */
  feed(slot: number, tensor: EngineTensor): void;
  /** Where output `slot` goes; null, as at first: to a new tensor at each run. */
  fetch(slot: number, tensor: EngineTensor | null): void;
  /** Whether a run makes tensors of its own. */
  readonly isOpen: boolean;
  /** Runs, and gives all outputs. @throws {EngineError} If an input has no tensor, or the engine refuses. */
  run(): RunOutputs;
}

/** A compiled model. */
export interface EngineSession {
  /** A binding without tensors; a session may have several. */
  bind(): EngineBinding;
  /** Element types of the outputs, by position; undefined for what is no tensor. */
  outputTypes(): readonly (DType | undefined)[];
  /**
   * Runs once on `feeds`; outputs go to the tensors of `fetches` where one is given, else to new ones. Gives those that `fetches` names.
   */
  run(
    feeds: Readonly<Record<string, EngineTensor>>,
    fetches: Readonly<Record<string, EngineTensor | null>>,
  ): Readonly<Record<string, EngineTensor>> | Promise<Readonly<Record<string, EngineTensor>>>;
  release(): Promise<void>;
}

/** An engine. */
export interface Engine {
  readonly name: string;
  /** Why this engine and not a better one; undefined for the best. */
  readonly notice?: string;
  createSession(model: Uint8Array, options: SessionOptions): Promise<EngineSession>;
  /** A tensor over `data`, which is not copied where the engine can use it in place. */
  tensor(dtype: DType, data: TypedArray, dims: readonly number[]): EngineTensor;
}
