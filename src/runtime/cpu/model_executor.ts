/** A rank's part of a model on CPUs: its program with fused ops, states in the host's memory, and the way out where fused ops end. */
import { byteLength } from "../../core/dtype.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { Graph } from "../../graph/graph.ts";
import type { Program } from "../../program/program.ts";
import type { Recorder } from "../../trace/recorder.ts";
import type { Executor, StepTiming } from "../executor.ts";
import { carriedTensors } from "../model_state.ts";
import { SizeLimits } from "../size_limits.ts";
import type { CpuExecutor } from "./executor.ts";
import { type HostCarried, HostState } from "./host_state.ts";
import { count } from "./tensors.ts";

/** Bytes of a state that are worth a call of `settle`. */
const MUCH = 8 << 20;

/** What it is made of. */
export interface CpuModelParts {
  readonly sharded: Graph<"sharded">;
  readonly local: Graph<"local">;
  /** Runs the program of `local`. */
  readonly fused: CpuExecutor;
  /** Compiles the program with plain ops, for sizes that fused ops do not take; all ranks call it together. Absent: there are none. */
  readonly compilePlain?: (() => Promise<CpuExecutor>) | undefined;
  /** Called before a step of one that has begun, when much lies in memory that later steps will read, and did not before. */
  readonly settle?: (() => void) | undefined;
}

/** The part of a model that runs in sessions of a CPU engine. */
export class CpuModelExecutor implements Executor {
  readonly #fused: CpuExecutor;
  readonly #limits: SizeLimits | undefined;
  readonly #compilePlain: (() => Promise<CpuExecutor>) | undefined;
  /** States to begin, and those of them that a step reads. */
  readonly #carried: readonly HostCarried[];
  readonly #inputOf: ReadonlyMap<string, string>;
  readonly #settle: (() => void) | undefined;
  /** Whether the weights have been in memory at a call of it. */
  #settled = false;
  /** Made when it is first needed. */
  #plain: CpuExecutor | undefined;
  #last: CpuExecutor;

  constructor({ sharded, local, fused, compilePlain, settle }: CpuModelParts) {
    this.#settle = settle;
    this.#fused = this.#last = fused;
    this.#limits = compilePlain && SizeLimits.of(sharded);
    this.#compilePlain = compilePlain;
    this.#carried = carriedTensors(local).map((c) => ({ ...c, inPlace: fused.statesInPlace.get(c.input) }));
    this.#inputOf = new Map(
      fused.program.carried.flatMap(({ input, output }) => output === undefined ? [] : [[output, input] as const]),
    );
  }

  get program(): Program {
    return this.#fused.program;
  }

  get recorder(): Recorder | undefined {
    return this.#fused.recorder;
  }

  set recorder(recorder: Recorder | undefined) {
    this.#fused.recorder = recorder;
  }

  get timing(): StepTiming {
    return this.#last.timing;
  }

  async run(inputs: Readonly<Record<string, HostTensor>>): Promise<ReadonlyMap<string, HostTensor>> {
    const executor = await this.#executorFor((name) => inputs[name]!.shape);
    return await executor.step(inputs, ({ dtype, dims }) => ({
      bytes: new Uint8Array(byteLength(dtype, count(dims))),
      dims,
      inPlace: false,
    }));
  }

  start(batch: number): HostState {
    return new HostState(batch, this.#carried);
  }

  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    state: HostState,
  ): Promise<ReadonlyMap<string, HostTensor>> {
    const executor = await this.#executorFor((name) => inputs[name]?.shape ?? state.get(name).shape);
    if (this.#settle && (state.unsettled > MUCH || (!this.#settled && state.unsettled > 0))) {
      this.#settle();
      this.#settled = true;
      state.unsettled = 0;
    }
    // What one program grows in place, another (a plain one, a first step) takes as any tensor.
    const whole = (name: string) => executor !== this.#fused || !executor.statesInPlace.has(name);
    const all: Record<string, HostTensor> = { ...inputs };
    for (const { input } of this.#carried) all[input] = state.get(input, whole(input));
    const results = await executor.step(all, (o) => {
      const name = this.#inputOf.get(o.output)!;
      return state.next(name, o, whole(name));
    });
    const outputs = new Map<string, HostTensor>();
    for (const [name, tensor] of results) {
      const input = this.#inputOf.get(name);
      if (input === undefined) outputs.set(name, tensor);
      else state.advance(input, tensor, whole(input));
    }
    return outputs;
  }

  /** The program for these shapes of the inputs: one with plain ops where they are above what a fused op takes. */
  async #executorFor(shapeOf: (name: string) => readonly number[]): Promise<CpuExecutor> {
    this.#last = this.#fused;
    if (this.#limits?.areExceeded(shapeOf)) this.#last = this.#plain ??= await this.#compilePlain!();
    return this.#last;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#fused[Symbol.asyncDispose]();
    await this.#plain?.[Symbol.asyncDispose]();
  }
}
