/**
 * Running a program on the CPU: one ONNX Runtime session a segment, values in buffers that stay, a barrier between
 * segments.
 *
 * A step costs as little JavaScript as can be: sessions keep what they were bound to; a tensor is made anew, and bound, only when a
 * size in its shape has changed. Shared values live in two banks that alternate from barrier to
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
import type { Engine, EngineBinding, EngineSession, EngineTensor } from "./engine.ts";
import { type Bank, SegmentShare } from "./segment_share.ts";
import { bindSymbols, evalShape } from "./shapes.ts";
import { count, elementsOf, GrowingBuffer } from "./tensors.ts";
import { segmentKey, type SharedSessions } from "./shared_sessions.ts";
import { withShortNames } from "./short_names.ts";
import type { WeightFiles } from "./weight_files.ts";
import { type Link, type Place, type ProgramWiring, symbolsIn, wire, type Wiring } from "./wiring.ts";

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
  /** By bank. */
  readonly bindings: readonly [EngineBinding, EngineBinding];
  /** The shared values that this segment writes, if any. */
  readonly share: SegmentShare | undefined;
}

/** What depends on some symbols. */
interface Affected {
  /** By index of the segment. */
  readonly shares: readonly (readonly [segment: number, share: SegmentShare])[];
  readonly stored: readonly Stored[];
  readonly sizes: readonly (Link<"sizes"> & Place)[];
}

const BANKS = [0, 1] as const;

/** A compiled program with its memory. */
export class CpuExecutor implements AsyncDisposable {
  readonly program: Program;
  readonly #engine: Engine;
  readonly #group: StepGroup;
  readonly #segments: readonly CompiledSegment[];
  readonly #slots: ReadonlyMap<string, number>;
  readonly #buffers = new Map<number, GrowingBuffer>();
  readonly #private = new Map<string, EngineTensor>();
  readonly #wiring: ProgramWiring;
  /** Carried outputs go where the caller says. */
  readonly #carriedNames: ReadonlySet<string>;
  /** The tensors of inputs and carried outputs, as they are bound. */
  readonly #given = new Map<string, EngineTensor>();
  readonly #continued = new Map<string, EngineTensor | null>();
  /** Tensors of states that grow in place, by output: made anew only when they move. */
  readonly #inPlace = new Map<string, { readonly bytes: Uint8Array; readonly tensor: EngineTensor }>();
  /** Carried inputs that may grow in place, with the dim along which they do. */
  readonly statesInPlace: ReadonlyMap<string, number>;
  /** Symbols of the values that live in private buffers, and of sizes that are fed. */
  readonly #symbols: ReadonlyMap<string, ReadonlySet<string>>;
  /** By the symbols that have changed: few combinations occur. */
  readonly #affected = new Map<string, Affected>();
  /** Takes down what steps do, while there is one. */
  recorder: Recorder | undefined;
  #bindings: Bindings = new Map();
  #tick = 0;
  #timing: StepTiming = { total: 0, waiting: 0 };

  private constructor(
    program: Program,
    segments: readonly CompiledSegment[],
    options: CompileOptions & { readonly wiring: ProgramWiring },
  ) {
    this.program = program;
    this.#segments = segments;
    this.#engine = options.engine;
    this.#group = options.group;
    this.#slots = planBuffers(program);
    this.statesInPlace = statesInPlace(program);
    this.#wiring = options.wiring;
    this.#carriedNames = new Set(options.wiring.carried.map((c) => c.stored.name));
    this.#symbols = new Map([...program.stored].map(([name, v]) => [name, symbolsIn(v.type.shape)]));
  }

  /** Makes the sessions. All ranks call it together, as weights that they share are written by one of them. */
  static async compile(program: Program, options: CompileOptions): Promise<CpuExecutor> {
    const segments = segmentsOf(program);
    const { onProgress } = options, total = segments.length;
    const models = segments.map((segment, i) => {
      onProgress?.("placing weights", i, total);
      const { graph: named, sizes } = replaceSizes(segment), key = options.sessions && segmentKey(named);
      const session = options.sessions?.get(key);
      if (session) return { segment: sizes, key, session };
      const graph = withShortNames(named);
      const weights = options.weights.place(graph), bytes = exportOnnx(graph, { external: weights.external });
      return { segment: sizes, key, folder: weights.folder, bytes };
    });
    await options.weightsWritten();
    const compiled: CompiledSegment[] = [], wiring = wire(program, models.map((m) => m.segment));
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
      onProgress?.("loading segments", compiled.length + 1, total);
      compiled.push({
        session,
        isBorrowed: known !== undefined,
        wiring: wiring.segments[compiled.length]!,
        bindings: [session.bind(), session.bind()],
        share,
      });
    }
    return new CpuExecutor(program, compiled, { ...options, wiring });
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
    const inPlace = this.#placeCarried(memoryOf);
    for (const [name, t] of Object.entries(inputs)) {
      if (!inPlace.has(name)) this.#give(name, this.#engine.tensor(t.dtype, t.data, t.shape));
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
      const { wiring, bindings, share } = this.#segments[index++]!;
      const binding = bindings[bank];
      if (produced.size > 0) {
        for (const { slot, source } of wiring.values) {
          const tensor = produced.get(source.name);
          if (tensor) binding.feed(slot, tensor);
        }
      }
      if (before?.dynamic) {
        for (const { slot, source } of wiring.peers) {
          binding.feed(slot, before.peer(source.name, source.rank, other(bank)));
        }
      }
      const running = binding.run();
      const results = running instanceof Promise ? await running : running;
      if (binding.isOpen) {
        wiring.outputs.forEach(({ name }, i) => {
          if (this.#isMade(name, share)) produced.set(name, results[i]!);
        });
      }
      if (share?.dynamic) share.publish(new Map(wiring.outputs.map(({ name }, i) => [name, results[i]!])), bank);
      recorder?.part(part++, began);
    }
    const outputs = new Map(
      this.program.outputs.map(({ name, value }) => [name, this.#read(value, produced)] as const),
    );
    this.#timing = { total: performance.now() - started, waiting };
    recorder?.step(started);
    return outputs;
  }

  /** Whether a run makes the value's tensor, as only data tells its size. */
  #isMade(name: string, share: SegmentShare | undefined): boolean {
    if (this.#carriedNames.has(name)) return this.#continued.get(name) === null;
    return this.program.stored.get(name)!.shared ? share!.dynamic : !this.#private.has(name);
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
    const { shares, stored, sizes } = this.#affectedBy(first ? undefined : changed);
    for (const [segment, share] of shares) this.#renewShare(segment, share);
    for (const value of stored) this.#renew(value);
    for (const { segment, slot, source } of sizes) {
      const tensor = this.#sizes(source);
      for (const binding of this.#segments[segment]!.bindings) binding.feed(slot, tensor);
    }
  }

  /** What depends on one of `symbols`; everything where there are none to compare with. */
  #affectedBy(symbols: ReadonlySet<string> | undefined): Affected {
    const key = symbols ? [...symbols].join() : "";
    const known = this.#affected.get(key);
    if (known) return known;
    const isAffected = (of: ReadonlySet<string>) => symbols === undefined || !of.isDisjointFrom(symbols);
    const found: Affected = {
      shares: this.#segments.flatMap(({ share }, i) => share && isAffected(share.symbols) ? [[i, share] as const] : []),
      stored: [...this.program.stored.values()].filter((v) =>
        !v.shared && !this.#carriedNames.has(v.name) && isAffected(this.#symbols.get(v.name)!)
      ),
      sizes: this.#segments.flatMap(({ wiring }, segment) =>
        wiring.sizes.filter((l) => isAffected(l.symbols)).map((l) => ({ ...l, segment }))
      ),
    };
    this.#affected.set(key, found);
    return found;
  }

  /** Lays a segment's shared values out anew, and binds them: there, and where the next segment reads them. */
  #renewShare(segment: number, share: SegmentShare): void {
    share.renew(this.#bindings);
    for (const bank of BANKS) {
      const { wiring, bindings } = this.#segments[segment]!;
      wiring.outputs.forEach(({ name, shared }, slot) => {
        if (shared) bindings[bank].fetch(slot, share.dynamic ? null : share.local(name, bank));
      });
      const next = this.#segments[segment + 1];
      if (share.dynamic || !next) continue;
      // Written one barrier before the segment that reads it: in the other bank.
      for (const { slot, source } of next.wiring.peers) {
        next.bindings[bank].feed(slot, share.peer(source.name, source.rank, other(bank)));
      }
    }
  }

  /** Makes a private value's tensor anew; none while only data tells its size. */
  #renew(stored: Stored): void {
    const { name, type } = stored, dims = evalShape(type.shape, this.#bindings);
    if (!dims || !type.dtype) {
      this.#private.delete(name);
      return this.#write(name, null);
    }
    const slot = this.#slots.get(name)!;
    const buffer = this.#buffers.get(slot) ?? new GrowingBuffer();
    this.#buffers.set(slot, buffer);
    const tensor = this.#tensor(type, dims, buffer.take(byteLength(type.dtype, count(dims))));
    this.#private.set(name, tensor);
    this.#write(name, tensor);
  }

  /** Binds where a value that is not shared is written, and where later segments read it. */
  #write(name: string, tensor: EngineTensor | null): void {
    const { segment, slot } = this.#wiring.written.get(name)!;
    for (const binding of this.#segments[segment]!.bindings) binding.fetch(slot, tensor);
    if (tensor) this.#feed(this.#wiring.readers.get(name), tensor);
  }

  /** Binds an input of the program. */
  #give(name: string, tensor: EngineTensor): void {
    if (this.#given.get(name) === tensor) return;
    this.#given.set(name, tensor);
    this.#feed(this.#wiring.inputs.get(name), tensor);
  }

  #feed(places: readonly Place[] | undefined, tensor: EngineTensor): void {
    for (const { segment, slot } of places ?? []) {
      for (const binding of this.#segments[segment]!.bindings) binding.feed(slot, tensor);
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

  /** Carried outputs get their memory from the caller at every step. Gives the inputs that lie in the same memory. */
  #placeCarried(memoryOf: (output: CarriedOutput) => CarriedMemory): ReadonlySet<string> {
    const inPlace = new Set<string>();
    for (const { input, output, stored } of this.#wiring.carried) {
      const { name, type: { dtype, shape } } = stored, dims = evalShape(shape, this.#bindings);
      const memory = dims && dtype ? memoryOf({ output, dtype, dims }) : undefined;
      const tensor = memory ? this.#carriedTensor(stored, memory) : null;
      if (memory?.inPlace) {
        this.#give(input, tensor!);
        inPlace.add(input);
      }
      if (this.#continued.get(name) === tensor) continue;
      this.#continued.set(name, tensor);
      if (tensor) this.#private.set(name, tensor);
      this.#write(name, tensor);
    }
    return inPlace;
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
