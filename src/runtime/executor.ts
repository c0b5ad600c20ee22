/** What runs a rank's part of a model, whatever it runs on: a CPU's sessions, or a GPU's kernels. */
import type { DType } from "../core/dtype.ts";
import type { HostTensor } from "../core/host_tensor.ts";
import type { Program } from "../program/program.ts";
import type { Recorder } from "../trace/recorder.ts";
import type { ModelState } from "./model_state.ts";

/** Time of one step, in milliseconds. */
export interface StepTiming {
  /** Of the whole step. */
  readonly total: number;
  /** Spent in barriers: the skew between the ranks. On a GPU: until it had done what the host had issued. */
  readonly waiting: number;
  /** On a GPU: launches, products and exchanges that the host issued; 1 for a step that was recorded. */
  readonly issued?: number;
  /** On a GPU: why decoding steps are not recorded, where they are not. */
  readonly notRecorded?: string | undefined;
  /** On a GPU: of `waiting`, spent on the numbers of the next step while the GPU was busy. */
  readonly ahead?: number | undefined;
  /** On several GPUs: by what means they all-reduce messages of which size. */
  readonly reduces?: string | undefined;
}

/** The GPU of a rank, and what the rank has of it. */
export interface GpuUse {
  /** As its driver calls it. */
  readonly name: string;
  /** Compute capability: 90 is sm_90. */
  readonly architecture: number;
  /** Bytes of its memory. */
  readonly totalBytes: number;
  /** Bytes of it that the rank holds, by what they are for. */
  readonly memory: Readonly<Record<string, number>>;
  /** The most that it can do by its own account; absent where it does not tell. */
  readonly peaks: GpuPeaks;
}

/** What a GPU does at most. */
export interface GpuPeaks {
  /** Of its memory. */
  readonly bytesPerSecond?: number | undefined;
  /** Additions and multiplications of matrix products, by dtype. */
  readonly flopsPerSecond: Readonly<Partial<Record<DType, number>>>;
}

/** What is wanted of a step. */
export interface StepOptions {
  /**
   * Of the last rows of `output`, `[rows, …, n]`, only some elements: a GPU then gives `<output>.values` (f32) and `<output>.ids` (i32) of
   * `[rows, count]` in its place, the largest first, of equal ones that with the smaller index, a NaN before all. A CPU, where it saves
   * nothing, gives the output as always.
   */
  readonly top?: (Picking & { readonly output: string }) | undefined;
}

/** Which elements of a row of logits are wanted, where they are. */
export interface Picking {
  /** So many of the largest; 1 where one is drawn. */
  readonly count: number;
  /** Divides logits before they are weighed: weights are `exp((x - largest) / temperature)`. */
  readonly temperature?: number | undefined;
  /** Also `<output>.sums`, f64 `[rows]`: the sum of all weights of a row. */
  readonly sums?: boolean | undefined;
  /** Instead of the largest, the element at which the sum of weights from the first on exceeds this part of their whole sum: by row, in [0, 1). */
  readonly draws?: readonly number[] | undefined;
  /** Of those that may be drawn: the least weight. */
  readonly minP?: number | undefined;
  /** Elements that are penalised as `penalised()` does it, by row, before all this; values are as they were. */
  readonly penalty?: { readonly factor: number; readonly seen: readonly Iterable<number>[] } | undefined;
}

/** A compiled part of a model. All ranks call the same methods in the same order. */
export interface Executor extends AsyncDisposable {
  /** What the rank does in a step. */
  readonly program: Program;
  /** Takes down what steps do, while there is one. */
  recorder: Recorder | undefined;
  /** How the last step spent its time. */
  readonly timing: StepTiming;
  /** The GPU; undefined on CPUs. */
  readonly gpu?: GpuUse;
  /** In which dtype values of a dtype are held; absent: in their own. */
  readonly held?: (dtype: DType) => DType;
  /** One run on this rank's local tensors by input name, states among them; gives all results, valid until the next call. */
  run(inputs: Readonly<Record<string, HostTensor>>): Promise<ReadonlyMap<string, HostTensor>>;
  /**
   * An empty state for `batch` sequences, which will become `capacity` tokens long where that is known: a hint.
   *
   * @throws {InputError} If a carried tensor does not start empty.
   */
  start(batch: number, capacity?: number): ModelState;
  /** The whole of an output of which the last step gave only some elements. Absent where steps give whole outputs. */
  whole?(output: string): HostTensor | undefined;
  /** One step that moves `state` on, which `start` made; gives the other results, valid until the next call. */
  step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: ModelState,
    options?: StepOptions,
  ): Promise<ReadonlyMap<string, HostTensor>>;
}
