/** The program of a step: what the GPU does, what is uploaded before, where results lie. One that was made for growing sizes serves many steps. */
import type { Bindings } from "../../core/dim.ts";
import { fromNumbers, hostTensorBytes } from "../../core/host_tensor.ts";
import type { KernelTensor } from "../../ops/kernels/kernel.ts";
import { sizeOf } from "./host_values.ts";
import type { Command, Place } from "./lower.ts";
import type { Prepared, Preparer, Work } from "./prepare.ts";
import type { Unit } from "./units.ts";
import type { UploadLayout } from "./upload_layout.ts";

/** A unit whose sizes change while its commands stay. */
export interface SizedUnit {
  readonly unit: Unit;
  /** At the largest sizes. */
  readonly prepared: Prepared;
  /** Its first command. */
  readonly from: number;
  /** Where the numbers of its kernels lie; units with equal keys share them. */
  readonly numbersAt: readonly (number | undefined)[];
  /** Whether it is the first of those. */
  readonly isFirst: boolean;
}

/** A result of a step. */
export interface StepOutput {
  readonly name: string;
  readonly place: Place;
  readonly tensor: KernelTensor;
}

/** Where a result lies: a value of the graph, or a tensor that is none. */
export type ResultPlace =
  & { readonly name: string; readonly place: Place }
  & ({ readonly value: string } | { readonly tensor: KernelTensor });

/** What a program is made of. */
export interface StepProgramParts {
  readonly preparer: Preparer;
  readonly bindings: Bindings;
  readonly limit: Bindings | undefined;
  readonly growing: ReadonlySet<string>;
  readonly room: number | undefined;
  readonly commands: Command[];
  readonly sized: readonly SizedUnit[];
  readonly outputs: readonly ResultPlace[];
  /** The output of which only some elements are results. */
  readonly whole: StepOutput | undefined;
  readonly upload: UploadLayout;
  readonly reserved: ReadonlyMap<string, number>;
  readonly arenaBytes: number;
}

/** A step of the model. */
export class StepProgram {
  readonly #parts: StepProgramParts;
  /** What is uploaded, without the inputs of the step. */
  readonly image: Uint8Array<ArrayBuffer>;
  /** Commands that are not what they were before the last `resize`: they must be made ready again. */
  readonly changed = new Set<number>();
  #bindings: Bindings;
  #outputs: readonly StepOutput[];
  /** Values of one shape and one piece of memory each: what must fit. */
  readonly #largest: readonly { readonly name: string; readonly bytes: number }[];
  /** Values that the host knows, and that change. */
  readonly #values: readonly { readonly name: string; readonly offset: number; readonly bytes: number }[];
  /** Copies of values that grow. */
  readonly #copies: readonly number[];

  /** Made by `Lowerer.lower`. */
  constructor(parts: StepProgramParts) {
    this.#parts = parts;
    this.image = parts.upload.image();
    this.#largest = [...parts.reserved].flatMap(([name, bytes]) =>
      parts.preparer.dependsOn(name, parts.growing) ? [{ name, bytes }] : []
    );
    this.#values = [...parts.upload.values].flatMap(([name, part]) =>
      parts.preparer.dependsOn(name, parts.growing) ? [{ name, ...part }] : []
    );
    this.#copies = parts.commands.flatMap((c, at) =>
      c.kind === "copy" && parts.preparer.dependsOn(c.of, parts.growing) ? [at] : []
    );
    this.#bindings = parts.limit ?? parts.bindings;
    this.#outputs = this.#resultTensors();
    if (parts.limit && !this.resize(parts.bindings)) {
      throw new Error("Cannot lower a step at the sizes that it was planned for");
    }
    this.changed.clear();
  }

  get commands(): readonly Command[] {
    return this.#parts.commands;
  }

  get arenaBytes(): number {
    return this.#parts.arenaBytes;
  }

  /** Where the inputs of a step lie in the image. */
  get inputs(): UploadLayout["inputs"] {
    return this.#parts.upload.inputs;
  }

  /** Results, but for states. */
  get outputs(): readonly StepOutput[] {
    return this.#outputs;
  }

  /** The output of which only some elements are results, whole; it lies there until the next step. */
  get whole(): StepOutput | undefined {
    return this.#parts.whole;
  }

  /** The sizes that it is set to. */
  get bindings(): Bindings {
    return this.#bindings;
  }

  /** The length of the memory of states that grow in place. */
  get room(): number | undefined {
    return this.#parts.room;
  }

  /** Whether it may serve steps of other sizes. */
  get grows(): boolean {
    return this.#parts.limit !== undefined;
  }

  /** Whether it can be set to `bindings`. */
  covers(bindings: Bindings, room: number | undefined): boolean {
    const { limit, growing } = this.#parts;
    if (!limit || room !== this.#parts.room) return false;
    return [...bindings].every((
      [name, size],
    ) => (growing.has(name) ? size <= limit.get(name)! : size === limit.get(name)));
  }

  /** Why its commands change from step to step; undefined where all of them stay the same, so that they can be recorded once. */
  get unsteady(): string | undefined {
    const { commands, sized } = this.#parts;
    for (const { prepared, from } of sized) {
      const index = prepared.works.findIndex((w) => w.kind !== "kernel");
      if (index < 0) continue;
      const what = prepared.works[index]!.kind === "gemm" ? "matrix product" : "exchange";
      return `the ${what} of "${commands[from + index]!.of}" grows with the text`;
    }
    const copy = this.#copies[0];
    return copy === undefined ? undefined : `"${commands[copy]!.of}" is copied to the next state, and grows`;
  }

  /** Sets it to other sizes. False, and it must not be used, if it does not serve them. */
  resize(bindings: Bindings): boolean {
    const { preparer, sized, commands, room } = this.#parts;
    preparer.bind({ bindings, room });
    this.#bindings = bindings;
    for (const { name, bytes } of this.#largest) if (sizeOf(preparer.tensorOf(name)) > bytes) return false;
    for (const { unit, prepared, from, numbersAt, isFirst } of sized) {
      const fixed = prepared.works.every((w) => w.kind === "kernel");
      if (!isFirst && fixed) continue;
      const now = preparer.prepare(unit);
      if (!now || now.works.length !== prepared.works.length) return false;
      if (now.scratch.some((t, i) => sizeOf(t) > sizeOf(prepared.scratch[i]!))) return false;
      for (const [i, work] of now.works.entries()) {
        if (!this.#setWork(work, { was: prepared.works[i]!, at: from + i, numbersAt: numbersAt[i] })) return false;
      }
    }
    for (const { name, offset, bytes } of this.#values) {
      const { dtype, shape } = preparer.tensorOf(name), ints = preparer.intsOf(name);
      const now = ints && hostTensorBytes(fromNumbers(dtype, shape, [...ints]));
      if (!now || now.length > bytes) return false;
      this.image.set(now, offset);
    }
    for (const at of this.#copies) {
      const command = commands[at]!;
      if (command.kind !== "copy") continue;
      commands[at] = { ...command, bytes: sizeOf(preparer.tensorOf(command.of)) };
      this.changed.add(at);
    }
    this.#outputs = this.#resultTensors();
    return true;
  }

  #setWork(
    work: Work,
    to: { readonly was: Work; readonly at: number; readonly numbersAt: number | undefined },
  ): boolean {
    const { was, at, numbersAt } = to;
    if (work.kind === "kernel") {
      if (was.kind !== "kernel" || work.launch.sized.name !== was.launch.sized.name) return false;
      this.image.set(work.launch.numbers, numbersAt!);
      return true;
    }
    if (work.kind !== was.kind) return false;
    const before = this.#parts.commands[at]!;
    if (before.kind === "copy") return false;
    this.#parts.commands[at] = { ...before, ...work };
    this.changed.add(at);
    return true;
  }

  #resultTensors(): readonly StepOutput[] {
    const { outputs, preparer } = this.#parts;
    return outputs.map((o) => ({
      name: o.name,
      place: o.place,
      tensor: "tensor" in o ? o.tensor : preparer.tensorOf(o.value),
    }));
  }
}
