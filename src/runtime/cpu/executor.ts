/**
 * Running a program on the CPU: one ONNX Runtime session a segment, values in buffers that stay, a barrier between
 * segments.
 *
 * A step costs as little JavaScript as can be: feeds and fetches are objects that live as long as the executor; a tensor
 * is made anew only when a size in its shape has changed. Shared values live in two banks that alternate from barrier to
 * barrier: what was written before barrier t is read before barrier t + 1, and its bank is written again only after that.
 */
import { byteLength, dtypeFromOrt, type TypedArray } from "../../core/dtype.ts";
import { type Bindings, evalDim } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import { exportOnnx } from "../../formats/export_onnx.ts";
import type { TensorType } from "../../graph/types.ts";
import { planBuffers } from "../../program/memory_plan.ts";
import type { Program, Segment, Source, Stored } from "../../program/program.ts";
import { replaceSizes } from "../../program/reshape_targets.ts";
import type { SymmetricArena } from "../comm/arena.ts";
import type { Engine, EngineSession, EngineTensor } from "./engine.ts";
import { type Bank, SegmentShare } from "./segment_share.ts";
import { bindSymbols, evalShape } from "./shapes.ts";
import { count, elementsOf, GrowingBuffer } from "./tensors.ts";
import type { WeightFiles } from "./weight_files.ts";

/** What the executor needs of a communicator. */
export interface StepGroup {
  readonly arena: Pick<SymmetricArena, "alloc">;
  barrierSync(): void;
}

/** What is needed to compile a program. */
export interface CompileOptions {
  readonly engine: Engine;
  readonly group: StepGroup;
  readonly weights: WeightFiles;
  readonly threads: number;
  readonly disablePrepacking?: boolean | undefined;
  /** Called when all weight files are written and before any is read; a barrier of the host's ranks. */
  readonly weightsWritten: () => Promise<void> | void;
}

interface CompiledSegment {
  readonly segment: Segment;
  readonly session: EngineSession;
  /** By bank. Objects that live on; entries are replaced when shapes change. */
  readonly feeds: readonly [Record<string, EngineTensor>, Record<string, EngineTensor>];
  readonly fetches: readonly [Record<string, EngineTensor | null>, Record<string, EngineTensor | null>];
  /** The shared values that this segment writes, if any. */
  readonly share: SegmentShare | undefined;
}

/** Time of one step, in milliseconds. */
export interface StepTiming {
  readonly total: number;
  /** Spent in barriers: the skew between the ranks. */
  readonly waiting: number;
}

/** A compiled program with its memory. */
export class CpuExecutor implements AsyncDisposable {
  readonly program: Program;
  readonly #engine: Engine;
  readonly #group: StepGroup;
  readonly #segments: readonly CompiledSegment[];
  readonly #slots: ReadonlyMap<string, number>;
  readonly #buffers = new Map<number, GrowingBuffer>();
  readonly #private = new Map<string, EngineTensor>();
  /** Carried outputs go where the caller says. */
  readonly #carriedOutputs: ReadonlySet<string>;
  #bindings: Bindings = new Map();
  #tick = 0;
  #timing: StepTiming = { total: 0, waiting: 0 };

  private constructor(program: Program, segments: readonly CompiledSegment[], options: CompileOptions) {
    this.program = program;
    this.#segments = segments;
    this.#engine = options.engine;
    this.#group = options.group;
    this.#slots = planBuffers(program);
    const carried = new Set(program.carried.map((c) => c.output));
    this.#carriedOutputs = new Set(
      program.outputs.flatMap((o) => (carried.has(o.name) && o.value.kind === "value" ? [o.value.name] : [])),
    );
  }

  /** Makes the sessions. All ranks call it together, as weights that they share are written by one of them. */
  static async compile(program: Program, options: CompileOptions): Promise<CpuExecutor> {
    const segments = program.steps.filter((s) => s.kind === "segment");
    const models = segments.map((segment) => {
      const { graph, sizes } = replaceSizes(segment);
      const weights = options.weights.place(graph);
      return { segment: sizes, folder: weights.folder, bytes: exportOnnx(graph, { external: weights.external }) };
    });
    await options.weightsWritten();
    const compiled: CompiledSegment[] = [];
    for (const { segment, folder, bytes } of models) {
      const session = await options.engine.createSession(bytes, {
        threads: options.threads,
        externalFolder: folder,
        disablePrepacking: options.disablePrepacking,
      });
      const shared = segment.outputs.map((name) => program.stored.get(name)!).filter((v) => v.shared);
      const share = shared.length === 0 ? undefined : new SegmentShare(shared, {
        rank: program.rank,
        ranks: program.ranks,
        arena: options.group.arena,
        tensor: (type, dims, bytes) => makeTensor(options.engine, type, { dims, bytes }),
      });
      compiled.push({ segment, session, feeds: [{}, {}], fetches: [{}, {}], share });
    }
    return new CpuExecutor(program, compiled, options);
  }

  /** How the last step spent its time. */
  get timing(): StepTiming {
    return this.#timing;
  }

  /**
   * One step. `inputs` are this rank's local tensors, by name. Results are views of the executor's memory, valid until
   * the next step; `carriedBuffer` gives the memory of a carried output.
   */
  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    carriedBuffer: (output: string, bytes: number) => Uint8Array,
  ): Promise<Map<string, HostTensor>> {
    const started = performance.now();
    let waiting = 0;
    this.#bind(inputs);
    const given = new Map(
      Object.entries(inputs).map(([name, t]) => [name, this.#engine.tensor(t.dtype, t.data, t.shape)] as const),
    );
    this.#placeCarried(carriedBuffer);
    const produced = new Map<string, EngineTensor>();
    let index = 0;
    for (const step of this.program.steps) {
      if (step.kind === "barrier") {
        const before = performance.now();
        this.#group.barrierSync();
        waiting += performance.now() - before;
        this.#tick++;
        continue;
      }
      const bank = (this.#tick & 1) as Bank;
      const before = this.#segments[index - 1]?.share;
      const { segment, session, feeds, fetches, share } = this.#segments[index++]!;
      const feed = feeds[bank], fetch = fetches[bank];
      for (const [name, source] of segment.inputs) {
        if (source.kind === "input") feed[name] = given.get(source.name)!;
        else if (source.kind === "value") feed[name] = produced.get(source.name) ?? feed[name]!;
        else if (source.kind === "peer" && before!.dynamic) {
          feed[name] = before!.peer(source.name, source.rank, other(bank));
        }
      }
      const running = session.run(feed, fetch);
      const results = running instanceof Promise ? await running : running;
      for (const name of segment.outputs) if (fetch[name] === null) produced.set(name, results[name]!);
      if (share?.dynamic) share.publish(results, bank);
    }
    const outputs = new Map(
      this.program.outputs.map(({ name, value }) => [name, this.#read(value, produced)] as const),
    );
    this.#timing = { total: performance.now() - started, waiting };
    return outputs;
  }

  /** Binds symbols and renews the tensors whose sizes changed. */
  #bind(inputs: Readonly<Record<string, HostTensor>>): void {
    const bindings = bindSymbols(this.program.inputs, (name) => {
      const tensor = inputs[name];
      if (!tensor) throw new InputError(`Cannot run without input "${name}"`);
      return tensor.shape;
    });
    const changed = this.#bindings.size !== bindings.size ||
      [...bindings].some(([symbol, size]) => this.#bindings.get(symbol) !== size);
    if (!changed) return;
    this.#bindings = bindings;
    const first = this.#private.size === 0;
    for (const { share } of this.#segments) share?.renew(bindings);
    for (const stored of this.program.stored.values()) if (!stored.shared) this.#renewPrivate(stored);
    this.#segments.forEach((compiled, i) => this.#connect(compiled, { first, before: this.#segments[i - 1]?.share }));
  }

  #renewPrivate(stored: Stored): void {
    if (this.#carriedOutputs.has(stored.name)) return;
    const dims = evalShape(stored.type.shape, this.#bindings);
    if (!dims || !stored.type.dtype) return void this.#private.delete(stored.name);
    const known = this.#private.get(stored.name);
    if (known && sameDims(known.dims, dims)) return;
    const slot = this.#slots.get(stored.name)!;
    const buffer = this.#buffers.get(slot) ?? new GrowingBuffer();
    this.#buffers.set(slot, buffer);
    const bytes = buffer.take(byteLength(stored.type.dtype, count(dims)));
    this.#private.set(stored.name, this.#tensor(stored.type, dims, bytes));
  }

  /** Points feeds and fetches at the present tensors. `before` is what the previous segment shared: its peers' values. */
  #connect(compiled: CompiledSegment, at: { first: boolean; before: SegmentShare | undefined }): void {
    const { segment, share } = compiled;
    for (const bank of [0, 1] as const) {
      const feed = compiled.feeds[bank], fetch = compiled.fetches[bank];
      for (const [name, source] of segment.inputs) {
        if (source.kind === "sizes") feed[name] = this.#sizes(source);
        else if (source.kind === "peer") {
          // Written one barrier before the segment that reads it: in the other bank.
          if (!at.before!.dynamic) feed[name] = at.before!.peer(source.name, source.rank, other(bank));
        } else if (source.kind === "value") {
          const tensor = this.#private.get(source.name);
          if (tensor) feed[name] = tensor;
          else if (at.first) delete feed[name];
        }
      }
      for (const name of segment.outputs) {
        const { shared } = this.program.stored.get(name)!;
        if (!shared) fetch[name] = this.#private.get(name) ?? null;
        else fetch[name] = share!.dynamic ? null : share!.local(name, bank);
      }
    }
  }

  #sizes(source: Extract<Source, { kind: "sizes" }>): EngineTensor {
    const values = source.elements.map((e) => {
      const size = evalDim(e, this.#bindings);
      if (size === undefined) throw new InputError(`Cannot compute size ${e}: a symbol in it is not among the inputs'`);
      return BigInt(size);
    });
    return this.#engine.tensor("i64", BigInt64Array.from(values), source.scalar ? [] : [values.length]);
  }

  /** Carried outputs get their memory from the caller at every step. */
  #placeCarried(carriedBuffer: (output: string, bytes: number) => Uint8Array): void {
    for (const { output } of this.program.carried) {
      const { value } = this.program.outputs.find((o) => o.name === output)!;
      if (value.kind !== "value") continue;
      const stored = this.program.stored.get(value.name)!;
      const dims = evalShape(stored.type.shape, this.#bindings);
      const writer = this.#segments[stored.writtenBy]!;
      const tensor = dims && stored.type.dtype
        ? this.#tensor(stored.type, dims, carriedBuffer(output, byteLength(stored.type.dtype, count(dims))))
        : null;
      for (const bank of [0, 1] as const) writer.fetches[bank][value.name] = tensor;
      if (tensor) this.#private.set(value.name, tensor);
      if (stored.lastRead === Infinity && tensor) this.#feedLater(value.name, tensor);
    }
  }

  /** A carried output may also be read by later segments. */
  #feedLater(name: string, tensor: EngineTensor): void {
    for (const { segment, feeds } of this.#segments) {
      for (const [placeholder, source] of segment.inputs) {
        if (source.kind !== "value" || source.name !== name) continue;
        for (const bank of [0, 1] as const) feeds[bank][placeholder] = tensor;
      }
    }
  }

  #tensor(type: TensorType, dims: readonly number[], bytes: Uint8Array): EngineTensor {
    return makeTensor(this.#engine, type, { dims, bytes });
  }

  #read(source: Source, produced: ReadonlyMap<string, EngineTensor>): HostTensor {
    if (source.kind !== "value") throw new Error(`Unreachable output source ${source.kind}`);
    const tensor = produced.get(source.name) ?? this.#private.get(source.name)!;
    return hostTensorOf(tensor);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { session } of this.#segments) await session.release();
  }
}

function makeTensor(
  engine: Engine,
  type: TensorType,
  content: { dims: readonly number[]; bytes: Uint8Array },
): EngineTensor {
  const { dims, bytes } = content;
  return engine.tensor(type.dtype!, elementsOf(type.dtype!, dims, bytes), dims);
}

function other(bank: Bank): Bank {
  return bank === 0 ? 1 : 0;
}

function sameDims(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((d, i) => d === b[i]);
}

function hostTensorOf(tensor: EngineTensor): HostTensor {
  return { dtype: dtypeFromOrt(tensor.type), shape: tensor.dims, data: tensor.data as TypedArray };
}
