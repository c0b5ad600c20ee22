/**
 * Which program serves a step. Sizes that come once get a program of their own. When steps follow each other that differ only in sizes that
 * grow, as in decoding, one program is made for all of them, up to the room of their state; once it has run, it is recorded as a CUDA graph.
 */
import type { Bindings } from "../../core/dim.ts";
import type { DeviceMemory } from "../../ffi/cuda_handles.ts";
import type { NamedText } from "./kernel_texts.ts";
import type { DeviceState } from "./device_state.ts";
import type { GpuDevice } from "./device.ts";
import type { Lowerer, Place, TopOf } from "./lower.ts";
import type { StepProgram } from "./step_program.ts";
import { type RankExchange, StepRunner } from "./step_runner.ts";

/** Programs kept for sizes that come again, and memory layouts of a program that are kept: states may lie in either of two places. */
const KEPT = 8, KEPT_LAYOUTS = 4;

/** For whom programs are made. */
export interface ProgramsOptions {
  readonly device: GpuDevice;
  readonly lowerer: Lowerer;
  readonly collectives: RankExchange | undefined;
  readonly weights: ReadonlyMap<string, DeviceMemory>;
}

/** The state of a step, and which of its tensors the program extends in place. */
export interface StepStates {
  readonly state: DeviceState | undefined;
  readonly inPlace: ReadonlySet<string>;
  /** Of an output only the largest elements are wanted. */
  readonly top: TopOf | undefined;
}

interface Entry {
  readonly program: StepProgram;
  /** Which results it gives. */
  readonly wanted: string;
  readonly runners: Map<string, StepRunner>;
  hasRun: boolean;
  /** Whether all ranks record it; undefined until that is asked. */
  records: boolean | undefined;
}

/** The programs of a graph. */
export class StepPrograms implements Disposable {
  readonly #o: ProgramsOptions;
  readonly #exact = new Map<string, Entry>();
  #growing: Entry | undefined;
  /** The sizes of the last step with a state, and of the one before. */
  #last: Bindings | undefined;
  #before: Bindings | undefined;
  #arena: DeviceMemory | undefined;
  #upload: DeviceMemory | undefined;
  /** Why decoding steps are not one launch; undefined where they are, and before that is known. */
  notRecorded: string | undefined;

  constructor(options: ProgramsOptions) {
    this.#o = options;
  }

  /** The program of a step, set to its sizes, and what runs it. The state has room for what the step leaves. */
  at(bindings: Bindings, states: StepStates): { readonly program: StepProgram; readonly runner: StepRunner } {
    const entry = this.#entry(bindings, states), { program } = entry;
    if (states.state) [this.#before, this.#last] = [this.#last, bindings];
    const runner = this.#runner(entry, states);
    if (program.grows && entry.hasRun) {
      if (entry.records === undefined) this.#decide(entry, runner);
      // Where one layout could be recorded, the others can.
      else if (entry.records && !runner.recorded) runner.record();
    }
    entry.hasRun = true;
    return { program, runner };
  }

  /** Sets the program of a text to the sizes that its next step will have, while the GPU is busy with this one. */
  prepareNext(): void {
    const { program } = this.#growing ?? {}, last = this.#last, before = this.#before;
    if (!program || !last || !before || !same(program.bindings, last)) return;
    const next = new Map([...last].map(([name, size]) => [name, 2 * size - (before.get(name) ?? size)]));
    if (program.covers(next, program.room)) this.#resize(next);
  }

  #entry(bindings: Bindings, { state, inPlace, top }: StepStates): Entry {
    const { lowerer } = this.#o, withStates = state !== undefined;
    const room = state && inPlace.size > 0 ? state.room : undefined;
    const wanted = top ? JSON.stringify(top) : "";
    const key = `${withStates} ${room} ${wanted} ${[...bindings].map(([name, size]) => `${name}=${size}`).join()}`;
    const known = this.#exact.get(key);
    if (known) {
      this.#exact.delete(key);
      this.#exact.set(key, known);
      return known;
    }
    if (state && this.#growing?.wanted === wanted && this.#growing.program.covers(bindings, room)) {
      if (same(this.#growing.program.bindings, bindings) || this.#resize(bindings)) return this.#growing;
    }
    const limit = state && this.#limit(bindings, state);
    const entry = this.#made(lowerer.lower({ bindings, room, withStates, limit, top }), wanted);
    if (limit) {
      release(this.#growing);
      return this.#growing = entry;
    }
    if (this.#exact.size >= KEPT) {
      const [oldest] = this.#exact.keys();
      release(this.#exact.get(oldest!));
      this.#exact.delete(oldest!);
    }
    this.#exact.set(key, entry);
    return entry;
  }

  /** The sizes up to which steps like this one may come; undefined unless the step before was one of them. */
  #limit(bindings: Bindings, state: DeviceState): Bindings | undefined {
    // The last step before the cache moves has other kernels where they read its rows without gaps.
    const room = this.#o.lowerer.readsGaps ? state.room - 1 : state.room, last = this.#last, left = room - state.length;
    if (!last || left <= 0) return undefined;
    const grown = [...bindings].filter(([name, size]) => size !== last.get(name));
    if (grown.length === 0 || grown.some(([name, size]) => !(size > (last.get(name) ?? Infinity)))) return undefined;
    return new Map([...bindings].map(([name, size]) => [name, size === last.get(name) ? size : size + left]));
  }

  #made(program: StepProgram, wanted: string): Entry {
    const texts = program.commands.flatMap((c): NamedText[] =>
      c.kind === "kernel" ? [c.numbersAt === undefined ? c.launch.plain : c.launch.sized] : []
    );
    this.#o.device.kernels.load(texts);
    return { program, wanted, runners: new Map(), hasRun: false, records: undefined };
  }

  /** False, and the program is gone, if it does not serve these sizes. */
  #resize(bindings: Bindings): boolean {
    const { program, runners } = this.#growing!;
    if (!program.resize(bindings)) {
      release(this.#growing);
      this.#growing = undefined;
      return false;
    }
    for (const runner of runners.values()) runner.refresh();
    program.changed.clear();
    return true;
  }

  #runner(entry: Entry, { state, inPlace }: StepStates): StepRunner {
    const { program, runners } = entry, { device, collectives, weights } = this.#o;
    const arena = this.#hold("arena", program.arenaBytes), upload = this.#hold("upload", program.image.length);
    const layout = state?.layout ?? "";
    const known = runners.get(layout);
    if (known) return known;
    // The runner is of this layout, also when it is told of new sizes while the state lies elsewhere.
    const states = new Map<string, bigint>();
    const addressOf = (place: Place): bigint => {
      if (place.in === "arena") return arena + BigInt(place.offset);
      if (place.in === "upload") return upload + BigInt(place.offset);
      if (place.in === "weights") return weights.get(place.name)!.value;
      const key = `${place.in} ${place.name}`, { name } = place;
      if (!states.has(key)) {
        states.set(key, place.in === "next" ? state!.nextOf(name) : state!.addressOf(name, inPlace.has(name)));
      }
      return states.get(key)!;
    };
    if (runners.size >= KEPT_LAYOUTS) {
      const [oldest] = runners.keys();
      runners.get(oldest!)![Symbol.dispose]();
      runners.delete(oldest!);
    }
    const runner = new StepRunner(program, { device, collectives, addressOf, upload });
    runners.set(layout, runner);
    return runner;
  }

  /** Records the program if all ranks can: exchanges are then recorded by all of them, or by none. */
  #decide(entry: Entry, runner: StepRunner): void {
    const { collectives } = this.#o;
    if (collectives?.unrecordable !== undefined) {
      entry.records = false;
      this.notRecorded = collectives.unrecordable;
      return;
    }
    const why = switchedOff() ?? entry.program.unsteady ?? runner.record();
    entry.records = collectives ? collectives.allAgree(why === undefined) : why === undefined;
    this.notRecorded = entry.records ? undefined : why ?? "another rank cannot record it";
    if (!entry.records) runner.forget();
  }

  /** The address of memory that holds at least `bytes`. Where it moves, nothing that was made ready is good any more. */
  #hold(what: "arena" | "upload", bytes: number): bigint {
    const memory = what === "arena" ? this.#arena : this.#upload;
    if (memory && memory.byteLength >= bytes) return memory.value;
    for (const entry of [...this.#exact.values(), this.#growing]) release(entry);
    memory?.[Symbol.dispose]();
    if (what === "arena") this.#arena = undefined;
    else this.#upload = undefined;
    const made = this.#o.device.memory.allocate(bytes, "values of a step");
    if (what === "arena") this.#arena = made;
    else this.#upload = made;
    return made.value;
  }

  [Symbol.dispose](): void {
    for (const entry of [...this.#exact.values(), this.#growing]) release(entry);
    this.#arena?.[Symbol.dispose]();
    this.#upload?.[Symbol.dispose]();
  }
}

/** What the user says against recording. Where NCCL fails while it is captured, its communicator is lost, so that this is the way around. */
function switchedOff(): string | undefined {
  return Deno.env.get("SHARDWISE_CUDA_GRAPHS") === "0" ? "SHARDWISE_CUDA_GRAPHS is 0" : undefined;
}

function release(entry: Entry | undefined): void {
  for (const runner of entry?.runners.values() ?? []) runner[Symbol.dispose]();
  entry?.runners.clear();
}

function same(a: Bindings, b: Bindings): boolean {
  return a === b || (a.size === b.size && [...a].every(([name, size]) => b.get(name) === size));
}
