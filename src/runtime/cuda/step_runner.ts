/** A program in memory that stays: its commands made ready once, and, where they stay the same, recorded once and launched as one. */
import { InputError } from "../../core/errors.ts";
import { CudaError } from "../../ffi/cuda_error.ts";
import type { CudaGraph } from "../../ffi/cuda_handles.ts";
import type { Exchange } from "./collectives.ts";
import type { AddressOf, Enqueue, GpuDevice } from "./device.ts";
import type { Command, Place } from "./lower.ts";
import type { StepProgram } from "./step_program.ts";

/** How ranks exchange device memory, in the order of the device's stream. */
export interface RankExchange extends Disposable {
  /** Why exchanges cannot be recorded into a graph; undefined where they can. */
  readonly unrecordable: string | undefined;
  /** By what means they reduce, for people. */
  readonly reduces: string;
  /** An exchange, ready to be put into the stream again and again. */
  prepare(exchange: Exchange, addressOf: AddressOf): Enqueue;
  /** Waits until the stream has no work, watching the other ranks. @throws {CommunicatorError} If one is lost. */
  settled(): Promise<void>;
  /** Whether all ranks say yes; all call it together. */
  allAgree(yes: boolean): boolean;
}

/** Where a program runs. */
export interface RunnerTarget {
  readonly device: GpuDevice;
  readonly collectives: RankExchange | undefined;
  /** The memory of a place, as long as the runner lives. */
  readonly addressOf: (place: Place) => bigint;
  /** Where the image of the program goes. */
  readonly upload: bigint;
}

/** One program, its memory, and its commands. */
export class StepRunner implements Disposable {
  readonly #program: StepProgram;
  readonly #target: RunnerTarget;
  readonly #commands: Enqueue[];
  #graph: CudaGraph | undefined;

  constructor(program: StepProgram, target: RunnerTarget) {
    this.#program = program;
    this.#target = target;
    this.#commands = program.commands.map((c) => this.#ready(c));
  }

  /** Where a value of the program lies. */
  addressOf(place: Place): bigint {
    return this.#target.addressOf(place);
  }

  /** Whether the commands are recorded. */
  get recorded(): boolean {
    return this.#graph !== undefined;
  }

  /** How many things a run puts into the stream. */
  get issued(): number {
    return this.#graph ? 1 : this.#commands.length;
  }

  /** Makes ready what a change of sizes made anew. */
  refresh(): void {
    for (const at of this.#program.changed) this.#commands[at] = this.#ready(this.#program.commands[at]!);
  }

  /** Uploads the program's image and puts all of its commands into the stream. */
  run(): void {
    const { device, upload } = this.#target;
    device.upload(upload, this.#program.image);
    if (this.#graph) this.#graph.launch(device.stream);
    else for (const command of this.#commands) command();
  }

  /** Records the commands, which must have run once. Gives why that failed, if it did: they run one by one then. */
  record(): string | undefined {
    const { device } = this.#target;
    try {
      this.#graph = device.stream.capture(() => {
        for (const command of this.#commands) command();
      });
      return undefined;
    } catch (error) {
      if (!(error instanceof CudaError)) throw error;
      return error.message;
    }
  }

  /** Forgets what was recorded: the commands run one by one again. */
  forget(): void {
    this.#graph?.[Symbol.dispose]();
    this.#graph = undefined;
  }

  #ready(command: Command): Enqueue {
    const { device, collectives, upload } = this.#target, at = this.#target.addressOf;
    if (command.kind === "copy") {
      const to = at(command.to), from = at(command.from), { bytes } = command;
      return () => device.copy(to, from, bytes);
    }
    const addressOf: AddressOf = (operand) => at(command.places(operand));
    if (command.kind === "kernel") {
      const { launch, numbersAt } = command;
      return device.prepareLaunch(launch, addressOf, numbersAt === undefined ? undefined : upload + BigInt(numbersAt));
    }
    if (command.kind === "gemm") return device.prepareGemm(command.step, addressOf);
    if (!collectives) throw new InputError("Cannot run a graph of several ranks on one: it has no collectives");
    return collectives.prepare(command.exchange, addressOf);
  }

  [Symbol.dispose](): void {
    this.forget();
  }
}
