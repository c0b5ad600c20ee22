/** What the host gives a step that picks elements of its logits: numbers, and which tokens are penalised. */
import { PICK_NUMBERS, seenWords } from "../../ops/kernels/top.ts";
import type { Picking, StepOptions } from "../executor.ts";
import { pickInputs, type TopOf } from "./lower.ts";
import type { StepProgram } from "./step_program.ts";

/** What of `top` a program is made for. */
export function topOf({ output, count, sums = false, draws, penalty }: NonNullable<StepOptions["top"]>): TopOf {
  return { output, count, sums, draws: draws !== undefined, penalised: penalty !== undefined };
}

/** What is uploaded for it, by name of the program's inputs. */
export function pickTensors(
  { inputs, whole }: StepProgram,
  { output, ...picking }: NonNullable<StepOptions["top"]>,
): Map<string, Uint8Array> {
  const names = pickInputs(output), room = inputs.get(names.numbers), out = new Map<string, Uint8Array>();
  if (!room || !whole) return out;
  out.set(names.numbers, new Uint8Array(numbersOf(picking, room.bytes / 8).buffer));
  const { penalty } = picking, bits = inputs.get(names.seen);
  if (penalty && bits) out.set(names.seen, seenBits(penalty.seen, whole.tensor.shape.at(-1)!, bits.bytes));
  return out;
}

function numbersOf({ penalty, temperature = 1, minP = 0, draws = [] }: Picking, count: number): Float64Array {
  const numbers = new Float64Array(count);
  numbers.set([penalty?.factor ?? 1, temperature, minP]);
  numbers.set(draws.slice(0, count - PICK_NUMBERS), PICK_NUMBERS);
  return numbers;
}

/** A bit for each element of each row. */
function seenBits(seen: readonly Iterable<number>[], columns: number, bytes: number): Uint8Array {
  const words = seenWords(columns), all = new Uint32Array(bytes / 4);
  seen.forEach((ids, row) => {
    for (const id of ids) if (id >= 0 && id < columns) all[row * words + (id >>> 5)]! |= 1 << (id & 31);
  });
  return new Uint8Array(all.buffer);
}
