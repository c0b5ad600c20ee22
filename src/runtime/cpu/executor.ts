/**
 * Running a program on the CPU: one ONNX Runtime session a segment, values in buffers that stay, a barrier between
 * segments.
 *
 * A step costs as little JavaScript as can be: feeds and fetches are objects that live as long as the executor; a tensor
 * is made anew only when a size in its shape has changed. Shared values live in two banks that alternate from barrier to
 * barrier: what was written before barrier t is read before barrier t + 1, and its bank is written again only after that.
 */
import { byteLength, type DType } from "../../core/dtype.ts";
import { type Bindings, evalDim } from "../../core/dim.ts";
import { InputError } from "../../core/errors.ts";
import type { HostTensor } from "../../core/host_tensor.ts";
import type { OnProgress } from "../../core/progress.ts";
import { exportOnnx } from "../../formats/export_onnx.ts";
import type { TensorType } from "../../graph/types.ts";
import { statesInPlace } from "../../program/in_place.ts";
import { planBuffers } from "../../program/memory_plan.ts";
import { type Program, segmentsOf, type Source, type Stored } from "../../program/program.ts";
import { replaceSizes } from "../../program/reshape_targets.ts";
import type { Recorder } from "../../trace/recorder.ts";
import type { SymmetricArena } from "../comm/arena.ts";
import type { StepTiming } from "../executor.ts";
import type { Engine, EngineSession, EngineTensor } from "./engine.ts";
import { type Bank, SegmentShare } from "./segment_share.ts";
import { bindSymbols, evalShape } from "./shapes.ts";
import { count, elementsOf, GrowingBuffer } from "./tensors.ts";
import { type CarriedWiring, symbolsIn, wireCarried, wireSegment, type Wiring } from "./wiring.ts";
import { segmentKey, type SharedSessions } from "./shared_sessions.ts";
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
  /** Told how far it is. */
  readonly onProgress?: OnProgress | undefined;
  /** Sessions of another program of the same sharded graph: those of equal segments are used again, others are added. */
  readonly sessions?: SharedSessions | undefined;
}

/** A carried output as a step is about to write it. */
export interface CarriedOutput {
  /** The caller's name. */
  readonly output: string;
  readonly dtype: DType;
  /** Its shape after the step. */
  readonly dims: readonly number[];
}

/** Memory for a carried output. */
export interface CarriedMemory {
  readonly bytes: Uint8Array;
  /** Shape of the tensor in `bytes`: that of the output, or longer where the state is there already, and grows in place. */
  readonly dims: readonly number[];
  /** Whether `bytes` hold the state as it is before the step: the input is then the same tensor. */
  readonly inPlace: boolean;
}

interface CompiledSegment {
  readonly session: EngineSession;
  /** Whether the session is that of another program, which releases it. */
  readonly isBorrowed: boolean;
  readonly wiring: Wiring;
  /** By bank. Objects that live on; entries are replaced when shapes change. */
  readonly feeds: readonly [Record<string, EngineTensor>, Record<string, EngineTensor>];
  readonly fetches: readonly [Record<string, EngineTensor | null>, Record<string, EngineTensor | null>];
  /** The shared values that this segment writes, if any. */
  readonly share: SegmentShare | undefined;
}

/** What a change of sizes has made anew. */
interface Renewal {
  /** What the previous segment shares: where its peers' values lie. */
  readonly before: SegmentShare | undefined;
  readonly moved: ReadonlySet<SegmentShare>;
  readonly renewed: ReadonlySet<string>;
  readonly affects: (symbols: ReadonlySet<string>) => boolean;
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
  readonly #carried: readonly CarriedWiring[];
  readonly #carriedNames: ReadonlySet<string>;
  /** Tensors of states that grow in place, by output: made anew only when they move. */
  readonly #inPlace = new Map<string, { readonly bytes: Uint8Array; readonly tensor: EngineTensor }>();
  /** Carried inputs that may grow in place, with the dim along which they do. */
  readonly statesInPlace: ReadonlyMap<string, number>;
  /** Symbols of the values that live in private buffers, and of sizes that are fed. */
  readonly #symbols: ReadonlyMap<string, ReadonlySet<string>>;
  /** Takes down what steps do, while there is one. */
  recorder: Recorder | undefined;
  #bindings: Bindings = new Map();
  #tick = 0;
  #timing: StepTiming = { total: 0, waiting: 0 };

  private constructor(
    program: Program,
    segments: readonly CompiledSegment[],
    options: CompileOptions & { readonly carried: readonly CarriedWiring[] },
  ) {
    this.program = program;
    this.#segments = segments;
    this.#engine = options.engine;
    this.#group = options.group;
    this.#slots = planBuffers(program);
    this.statesInPlace = statesInPlace(program);
    this.#carried = options.carried;
    this.#carriedNames = new Set(options.carried.map((c) => c.stored.name));
    this.#symbols = new Map([...program.stored].map(([name, v]) => [name, symbolsIn(v.type.shape)]));
  }

  /** Makes the sessions. All ranks call it together, as weights that they share are written by one of them. */
  static async compile(program: Program, options: CompileOptions): Promise<CpuExecutor> {
    const segments = segmentsOf(program);
    const { onProgress } = options, total = segments.length;
    const models = segments.map((segment, i) => {
      onProgress?.("placing weights", i, total);
      const { graph, sizes } = replaceSizes(segment), key = options.sessions && segmentKey(graph);
      const session = options.sessions?.get(key);
      if (session) return { segment: sizes, key, session };
      const weights = options.weights.place(graph), bytes = exportOnnx(graph, { external: weights.external });
      return { segment: sizes, key, folder: weights.folder, bytes };
    });
    await options.weightsWritten();
    const compiled: CompiledSegment[] = [];
    for (const { segment, key, session: known, folder, bytes } of models) {
      const session = known ?? await options.engine.createSession(bytes!, {
        threads: options.threads,
        externalFolder: folder,
        disablePrepacking: options.disablePrepacking,
      });
      if (!known) options.sessions?.set(key, session);
      const shared = segment.outputs.map((name) => program.stored.get(name)!).filter((v) => v.shared);
      const share = shared.length === 0 ? undefined : new SegmentShare(shared, {
        rank: program.rank,
        ranks: program.ranks,
        arena: options.group.arena,
        tensor: (type, dims, bytes) => makeTensor(options.engine, type, { dims, bytes }),
      });
      const wiring = wireSegment(segment, program);
      onProgress?.("loading segments", compiled.length + 1, total);
      compiled.push({ session, isBorrowed: known !== undefined, wiring, feeds: [{}, {}], fetches: [{}, {}], share });
    }
    return new CpuExecutor(program, compiled, {
      ...options,
      carried: wireCarried(program, models.map((m) => m.segment)),
    });
  }

  /** How the last step spent its time. */
  get timing(): StepTiming {
    return this.#timing;
  }

  /**
   * One step. `inputs` are this rank's local tensors, by name. Results are views of the executor's memory, valid until
   * the next step; `memoryOf` gives the memory of a carried output. Of a state in place only the shape of the input is looked at.
   */
  async step(
    inputs: Readonly<Record<string, HostTensor>>,
    memoryOf: (output: CarriedOutput) => CarriedMemory,
  ): Promise<Map<string, HostTensor>> {
    const started = performance.now();
    let waiting = 0;
    this.#bind(inputs);
    const given = new Map<string, EngineTensor>();
    this.#placeCarried(memoryOf, given);
    for (const [name, t] of Object.entries(inputs)) {
      if (!given.has(name)) given.set(name, this.#engine.tensor(t.dtype, t.data, t.shape));
    }
    const produced = new Map<string, EngineTensor>();
    const { recorder } = this;
    let index = 0, part = 0;
    for (const step of this.program.steps) {
      const began = recorder ? recorder.now() : 0;
      if (step.kind === "barrier") {
        const before = performance.now();
        this.#group.barrierSync();
        waiting += performance.now() - before;
        recorder?.part(part++, began);
        this.#tick++;
        continue;
      }
      const bank = (this.#tick & 1) as Bank;
      const before = this.#segments[index - 1]?.share;
      const { wiring, session, feeds, fetches, share } = this.#segments[index++]!;
      const feed = feeds[bank], fetch = fetches[bank];
      for (const { name, source } of wiring.inputs) feed[name] = given.get(source.name)!;
      if (produced.size > 0) {
        for (const { name, source } of wiring.values) feed[name] = produced.get(source.name) ?? feed[name]!;
      }
      if (before?.dynamic) {
        for (const { name, source } of wiring.peers) feed[name] = before.peer(source.name, source.rank, other(bank));
      }
      const running = session.run(feed, fetch);
      const results = running instanceof Promise ? await running : running;
      for (const { name } of wiring.outputs) if (fetch[name] === null) produced.set(name, results[name]!);
      if (share?.dynamic) share.publish(results, bank);
      recorder?.part(part++, began);
    }
    const outputs = new Map(
      this.program.outputs.map(({ name, value }) => [name, this.#read(value, produced)] as const),
    );
    this.#timing = { total: performance.now() - started, waiting };
    recorder?.step(started);
    return outputs;
  }

  /** Binds symbols and renews the tensors whose sizes changed. */
  #bind(inputs: Readonly<Record<string, HostTensor>>): void {
    const bindings = bindSymbols(this.program.inputs, (name) => {
      const tensor = inputs[name];
      if (!tensor) throw new InputError(`Cannot run without input "${name}"`);
      return tensor.shape;
    });
    const first = this.#bindings.size === 0;
    const changed = new Set([...bindings].flatMap(([name, size]) => this.#bindings.get(name) === size ? [] : [name]));
    if (!first && changed.size === 0) return;
    this.#bindings = bindings;
    const affects = (symbols: ReadonlySet<string>) => first || !symbols.isDisjointFrom(changed);
    const moved = new Set<SegmentShare>();
    for (const { share } of this.#segments) {
      if (!share || !affects(share.symbols)) continue;
      share.renew(bindings);
      moved.add(share);
    }
    const renewed = new Set<string>();
    for (const stored of this.program.stored.values()) {
      if (stored.shared || this.#carriedNames.has(stored.name) || !affects(this.#symbols.get(stored.name)!)) continue;
      this.#renew(stored);
      renewed.add(stored.name);
    }
    this.#segments.forEach((compiled, i) => {
      this.#connect(compiled, { before: this.#segments[i - 1]?.share, moved, renewed, affects });
    });
  }

  /** Makes a private value's tensor anew; none while only data tells its size. */
  #renew(stored: Stored): void {
    const dims = evalShape(stored.type.shape, this.#bindings);
    if (!dims || !stored.type.dtype) return void this.#private.delete(stored.name);
    const slot = this.#slots.get(stored.name)!;
    const buffer = this.#buffers.get(slot) ?? new GrowingBuffer();
    this.#buffers.set(slot, buffer);
    const bytes = buffer.take(byteLength(stored.type.dtype, count(dims)));
    this.#private.set(stored.name, this.#tensor(stored.type, dims, bytes));
  }

  /** Points feeds and fetches at the tensors that are new. */
  #connect({ wiring, share, feeds, fetches }: CompiledSegment, to: Renewal): void {
    const sizes = wiring.sizes.filter((l) => to.affects(l.symbols)).map((l) =>
      [l.name, this.#sizes(l.source)] as const
    );
    for (const bank of [0, 1] as const) {
      const feed = feeds[bank], fetch = fetches[bank];
      for (const [name, tensor] of sizes) feed[name] = tensor;
      if (to.before && to.moved.has(to.before) && !to.before.dynamic) {
        // Written one barrier before the segment that reads it: in the other bank.
        for (const { name, source } of wiring.peers) {
          feed[name] = to.before.peer(source.name, source.rank, other(bank));
        }
      }
      for (const { name, source } of wiring.values) {
        const tensor = to.renewed.has(source.name) ? this.#private.get(source.name) : undefined;
        if (tensor) feed[name] = tensor;
      }
      for (const { name, shared } of wiring.outputs) {
        if (shared && to.moved.has(share!)) fetch[name] = share!.dynamic ? null : share!.local(name, bank);
        else if (!shared && to.renewed.has(name)) fetch[name] = this.#private.get(name) ?? null;
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

  /** Carried outputs get their memory from the caller at every step; later segments may read them too. */
  #placeCarried(memoryOf: (output: CarriedOutput) => CarriedMemory, given: Map<string, EngineTensor>): void {
    for (const { input, output, stored, readers } of this.#carried) {
      const { dtype } = stored.type;
      const dims = evalShape(stored.type.shape, this.#bindings);
      const { fetches } = this.#segments[stored.writtenBy]!;
      const memory = dims && dtype ? memoryOf({ output, dtype, dims }) : undefined;
      const tensor = memory ? this.#carriedTensor(stored, memory) : null;
      if (fetches[0][stored.name] !== tensor) fetches[0][stored.name] = fetches[1][stored.name] = tensor;
      if (!tensor) continue;
      if (memory!.inPlace) given.set(input, tensor);
      this.#private.set(stored.name, tensor);
      for (const { segment, placeholder } of readers) {
        const { feeds } = this.#segments[segment]!;
        feeds[0][placeholder] = feeds[1][placeholder] = tensor;
      }
    }
  }

  #carriedTensor({ name, type }: Stored, { bytes, dims, inPlace }: CarriedMemory): EngineTensor {
    if (!inPlace) return this.#tensor(type, dims, bytes);
    const known = this.#inPlace.get(name);
    if (known?.bytes === bytes) return known.tensor;
    const tensor = this.#tensor(type, dims, bytes);
    this.#inPlace.set(name, { bytes, tensor });
    return tensor;
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
    for (const { session, isBorrowed } of this.#segments) if (!isBorrowed) await session.release();
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

function hostTensorOf(tensor: EngineTensor): HostTensor {
  return { dtype: tensor.dtype, shape: tensor.dims, data: tensor.data };
}
