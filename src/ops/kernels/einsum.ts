/**
 * Einsum on a GPU: operands are contracted from left to right, each pair by one batched matrix product.
 *
 * ```text
 * bte,ehd,bth->bd      b t e   ·   e h d   (all letters that are still needed: b t h d)    ->   [b t][h d]   m = bt, k = e, n = hd
 * ```
 * The letters of a pair are the batch (in both, and needed later), rows and columns (in one of them), and what is summed (in both, needed
 * no more). An operand whose memory has them in another order is copied first.
 */
import { stringOf } from "../../graph/attributes.ts";
import { dtypeInfo } from "../../core/dtype.ts";
import { count, input, inputOf, output, outputOf, stridesOf, unknownForm } from "./access.ts";
import { Scratch } from "./heads.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering, Operand } from "./kernel.ts";
import { copy } from "./moves.ts";
import { matmulSteps } from "./products.ts";

/** A tensor whose dims have letters, each once. */
interface Term {
  readonly operand: Operand;
  readonly letters: readonly string[];
  /** One a letter. */
  readonly strides: readonly number[];
}

/** The letters of each operand and of the result; an ellipsis has letters of its own, which broadcast. */
function lettersOf(context: KernelContext): { terms: string[][]; result: string[] } {
  const equation = (stringOf(context.attributes, "equation") ?? "").replaceAll(" ", "");
  const [left, right] = equation.split("->") as [string, string | undefined];
  const texts = left.split(","),
    spread = (text: string, dims: number) => {
      const at = text.indexOf("...");
      if (at < 0) return [...text];
      const hidden = dims - (text.length - 3), before = [...text.slice(0, at)];
      return [...before, ...Array.from({ length: hidden }, (_, i) => `.${hidden - i}`), ...text.slice(at + 3)];
    };
  const terms = texts.map((text, i) => spread(text, inputOf(context, i).shape.length));
  terms.forEach((letters, i) => {
    if (letters.length !== inputOf(context, i).shape.length) throw unknownForm(context, `equation ${equation}`);
  });
  if (right !== undefined) return { terms, result: spread(right, outputOf(context).shape.length) };
  const all = terms.flat(), dots = [...new Set(all)].filter((l) => l.startsWith("."));
  const once = [...new Set(all)].filter((l) => !l.startsWith(".") && all.filter((x) => x === l).length === 1).sort();
  return { terms, result: [...dots.sort((a, b) => Number(b.slice(1)) - Number(a.slice(1))), ...once] };
}

/** Lowers one call. */
class Contraction {
  readonly steps: KernelStep[] = [];
  readonly scratch = new Scratch();
  readonly #context: KernelContext;
  readonly #sizes = new Map<string, number>();

  constructor(context: KernelContext) {
    this.#context = context;
  }

  /** Input `index` as it lies in memory; a repeated letter walks along the diagonal. */
  term(index: number, letters: readonly string[]): Term {
    const { shape } = inputOf(this.#context, index), own = stridesOf(shape), strides = new Map<string, number>();
    letters.forEach((letter, d) => {
      const known = this.#sizes.get(letter) ?? 1;
      if (shape[d] !== 1) this.#sizes.set(letter, Math.max(known, shape[d]!));
      else this.#sizes.set(letter, known);
      strides.set(letter, (strides.get(letter) ?? 0) + (shape[d] === 1 ? 0 : own[d]!));
    });
    return { operand: input(this.#context, index), letters: [...strides.keys()], strides: [...strides.values()] };
  }

  #shape(letters: readonly string[]): number[] {
    return letters.map((l) => this.#sizes.get(l)!);
  }

  #strides(term: Term, letters: readonly string[]): number[] {
    return letters.map((l) => term.strides[term.letters.indexOf(l)] ?? 0);
  }

  /** `term` with its dims in the order of `letters`, the rest summed, in memory of its own or in `to`. */
  arranged(term: Term, letters: readonly string[], to?: Operand): Term {
    const shape = this.#shape(letters), strides = stridesOf(shape);
    const write = to ?? this.scratch.take(term.operand.dtype, shape);
    const summed = term.letters.filter((l) => !letters.includes(l)), inner = this.#shape(summed);
    const read: Access = { operand: term.operand, offset: 0, strides: this.#strides(term, [...letters, ...summed]) };
    if (summed.length === 0) this.steps.push(copy(shape, read, { operand: write, offset: 0, strides }));
    else {
      this.steps.push({
        kind: "rows",
        outer: shape,
        inner,
        reads: [read],
        reductions: [{ name: "r", init: "0", combine: "a + b", value: "x0" }],
        writes: [{
          access: { operand: write, offset: 0, strides: [...strides, ...inner.map(() => 0)] },
          expression: "r",
          each: false,
        }],
      });
    }
    return { operand: write, letters, strides };
  }

  /** `term` as matrices: its memory where it has that order (or that of their transposes), else a copy. */
  #matrices(term: Term, lead: readonly string[], rows: readonly string[], columns: readonly string[]) {
    const isContiguous = (letters: readonly string[]) => {
      const wanted = stridesOf(this.#shape(letters)), own = this.#strides(term, letters), sizes = this.#shape(letters);
      return term.letters.length === letters.length && own.every((s, d) => sizes[d] === 1 || s === wanted[d]);
    };
    const transposed = !isContiguous([...lead, ...rows, ...columns]) && isContiguous([...lead, ...columns, ...rows]);
    const [first, second] = transposed ? [columns, rows] : [rows, columns], letters = [...lead, ...first, ...second];
    const { operand } = isContiguous(letters) ? term : this.arranged(term, letters);
    const of = (l: readonly string[]) => count(this.#shape(l));
    return { batch: { operand, lead: this.#shape(lead), rows: of(first), columns: of(second) }, transposed };
  }

  /** The product of two terms, of which the letters in `needed` are kept; in `to`, where it has the order of the product. */
  pair(x: Term, y: Term, needed: readonly string[], to?: Operand): Term {
    const both = x.letters.filter((l) => y.letters.includes(l)), keeps = (l: string) => needed.includes(l);
    const lead = both.filter(keeps), summed = both.filter((l) => !keeps(l));
    const rows = x.letters.filter((l) => !both.includes(l) && keeps(l));
    const columns = y.letters.filter((l) => !both.includes(l) && keeps(l));
    const a = this.#matrices(x, lead, rows, summed), b = this.#matrices(y, lead, summed, columns);
    const letters = [...lead, ...rows, ...columns], shape = this.#shape(letters);
    const isResult = to && letters.join() === needed.join();
    const operand = isResult ? to : this.scratch.take(x.operand.dtype, shape);
    const c = {
      operand,
      lead: this.#shape(lead),
      rows: count(this.#shape(rows)),
      columns: count(this.#shape(columns)),
    };
    this.steps.push(...matmulSteps([a.batch, b.batch, c], { transposeA: a.transposed, transposeB: b.transposed }));
    return { operand, letters, strides: stridesOf(shape) };
  }
}

function einsum(context: KernelContext): Lowered {
  const { terms, result } = lettersOf(context), work = new Contraction(context), to = output(context);
  if (!dtypeInfo(to.dtype).float && terms.length > 1) throw unknownForm(context, `products of ${to.dtype}`);
  const operands = terms.map((letters, i) => work.term(i, letters));
  let term = operands[0]!;
  for (let i = 1; i < operands.length; i++) {
    const later = operands.slice(i + 1).flatMap((t) => t.letters), isLast = i === operands.length - 1;
    const known = [...term.letters, ...operands[i]!.letters];
    const needed = isLast ? result : [...new Set(known)].filter((l) => result.includes(l) || later.includes(l));
    term = work.pair(term, operands[i]!, needed, isLast ? to : undefined);
  }
  if (term.operand !== to) work.arranged(term, result, to);
  return { steps: work.steps, scratch: work.scratch.tensors };
}

/** The lowering, by op. */
export const EINSUM: Readonly<Record<string, Lowering>> = { Einsum: einsum };
