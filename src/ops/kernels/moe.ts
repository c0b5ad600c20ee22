/**
 * Mixtures of experts on a GPU. Source: com.microsoft MoE and QMoE, ContribOperators.md.
 *
 * Which experts a token goes to is known on the device only, so that the host plans for all that may come. Few tokens: a slot for each
 * expert that a token chooses, which reads that expert's weights and no others. Many tokens: the same slots, sorted by expert, and products
 * that find the rows of each expert on the device. Where most experts are chosen, or weights are blocks of few bits: a slot for each
 * expert, to which all tokens go; what was not chosen counts nothing.
 */
import { floatOf, intOf, stringOf } from "../../graph/attributes.ts";
import type { DType } from "../../core/dtype.ts";
import { count, input, inputOf, output, stridesOf, unknownForm, whole } from "./access.ts";
import { groupedProduct, isTensorForm, sortChoices } from "./grouped_products.ts";
import { Scratch } from "./heads.ts";
import type { Access, KernelContext, KernelStep, Lowered, Lowering, Operand, Params } from "./kernel.ts";
import { type BlockedWeight, isVectorForm, restored, vectorProduct } from "./nbits.ts";

/** One matrix of all experts: `[experts, rows, columns]`, and a bias `[experts, rows]`. */
interface Matrices {
  readonly rows: number;
  readonly columns: number;
  readonly weight: Operand | BlockedWeight;
  readonly bias: Operand | undefined;
}

/** What is computed, whatever the weights are held in. */
interface Experts {
  readonly count: number;
  readonly first: Matrices;
  readonly second: Matrices;
  /** Multiplies what the activation of the first gives. */
  readonly third: Matrices | undefined;
  /** Whether what a token's experts count adds up to 1. */
  readonly isNormalised: boolean;
}

/** Where slots lie: that of token t and slot s is row `t · token + s · slot` of `[rows, width]`. */
interface Slots {
  readonly count: number;
  readonly token: number;
  readonly slot: number;
  /** By `[tokens, slots]`: how much the slot counts, and (few tokens) which expert it is. */
  readonly weights: Operand;
  readonly experts: Operand | undefined;
}

const isBlocked = (w: Operand | BlockedWeight): w is BlockedWeight => "block" in w;

/** Up to so many choices are computed one by one. */
const FEW_CHOICES = 16;
/** So many times as many experts as a token chooses, and their slots are sorted. */
const SORTED_SHARE = 3;

class MixtureLowering {
  readonly steps: KernelStep[] = [];
  readonly scratch = new Scratch();
  readonly #context: KernelContext;
  readonly #experts: Experts;
  readonly #tokens: number;
  readonly #k: number;
  readonly #dtype: DType;

  constructor(context: KernelContext, experts: Experts) {
    const x = inputOf(context, 0);
    this.#context = context;
    this.#experts = experts;
    this.#tokens = count(x.shape) / x.shape.at(-1)!;
    this.#k = intOf(context.attributes, "k") ?? 1;
    this.#dtype = x.dtype;
  }

  lower(): Lowered {
    if (this.#tokens === 0) return { steps: [] };
    if (this.#isSorted()) return this.#sorted();
    const { first, second, third } = this.#experts, slots = this.#route();
    const rows = this.#tokens * slots.count, x = input(this.#context, 0);
    const one = this.#product(first, x, slots, false);
    const three = third && this.#product(third, x, slots, false);
    const activated = this.scratch.take(this.#dtype, [rows, second.columns]);
    this.steps.push(this.#activation(one, three, activated, slots));
    this.#sum(this.#product(second, activated, slots, true), slots);
    return { steps: this.steps, scratch: this.scratch.tensors };
  }

  /** Whether slots are sorted: where that saves two thirds of the products or more, which are then not cuBLAS's. */
  #isSorted(): boolean {
    const { count: experts, ...matrices } = this.#experts, k = this.#k, dtype = this.#dtype;
    const all = [matrices.first, matrices.second, ...(matrices.third ? [matrices.third] : [])];
    const takes = ({ weight, columns, rows }: Matrices) =>
      rows > 0 && !isBlocked(weight) && (dtype === "f32" || isTensorForm(weight, columns));
    return this.#tokens * k > FEW_CHOICES && experts >= SORTED_SHARE * k && all.every(takes);
  }

  /** Slots sorted by expert. */
  #sorted(): Lowered {
    const { first, second, third, count: experts } = this.#experts, tokens = this.#tokens, k = this.#k;
    const { place, weights } = this.#placed(), rows = tokens * k, own = [experts, 1];
    const ints = (...shape: number[]) => this.scratch.take("i32", shape);
    const counts = ints(experts),
      starts = ints(experts + 1),
      tokenOf = ints(rows),
      groupOf = ints(rows),
      slotOf = ints(rows);
    this.steps.push({
      kind: "rows",
      outer: [experts],
      inner: [tokens],
      reads: [{ operand: place, offset: 0, strides: own.toReversed() }],
      reductions: [{ name: "r", init: "0LL", combine: "a + b", value: "(long long)(x0 < k)" }],
      writes: [{ access: { operand: counts, offset: 0, strides: [1, 0] }, expression: "r", each: false }],
      params: { k },
    }, sortChoices({ place, counts, tokens, groups: experts, k, starts, tokenOf, groupOf, slotOf }));
    const product = (matrices: Matrices, x: Operand, rowOf?: Operand): Operand => {
      const y = this.scratch.take(this.#dtype, [rows, matrices.rows]), { columns } = matrices;
      const weight = matrices.weight as Operand, shared = { starts, groups: experts, slots: rows };
      this.steps.push(groupedProduct({ x, rowOf, weight, ...shared, rows: matrices.rows, columns, y }));
      return y;
    };
    const x = input(this.#context, 0), one = product(first, x, tokenOf), three = third && product(third, x, tokenOf);
    const activated = this.scratch.take(this.#dtype, [rows, second.columns]);
    // Each slot is a token of its own, with one expert.
    const slots = { count: 1, token: 1, slot: 1, weights, experts: groupOf };
    this.steps.push(this.#activation(one, three, activated, slots, rows));
    const result = product(second, activated), width = second.rows, shape = [tokens, width];
    const reads: Access[] = [
      { operand: result, offset: 0, strides: [0, 1] },
      { operand: weights, offset: 0, strides: [experts, 0] },
      { operand: slotOf, offset: 0, strides: [k, 0] },
      { operand: groupOf, offset: 0, strides: [0, 0] },
      ...(second.bias ? [{ operand: second.bias, offset: 0, strides: [0, 1] }] : []),
    ];
    const bias = second.bias ? " + ld(p4[o4 + expert * width])" : "";
    this.steps.push({
      kind: "map",
      shape,
      reads,
      write: whole(output(this.#context), shape),
      expression: "[&] { float sum = 0.f; for (long long s = 0; s < k; s++) { const long long slot = ld(p2[o2 + s]), " +
        `expert = ld(p3[o3 + slot]); sum += ld(p1[o1 + expert]) * (ld(p0[o0 + slot * width])${bias}); } return sum; }()`,
      params: { k, width },
    });
    return { steps: this.steps, scratch: this.scratch.tensors };
  }

  /** By `[tokens, experts]`: an expert's place among those of its token, and how much it counts. */
  #placed(): { readonly place: Operand; readonly weights: Operand } {
    const { count: experts, isNormalised } = this.#experts, tokens = this.#tokens, k = this.#k;
    const router = input(this.#context, 1), shape = [tokens, experts];
    const place = this.scratch.take("i32", shape), weights = this.scratch.take("f32", shape);
    const from = (operand: Operand): Access => ({ operand, offset: 0, strides: [experts, 1, 0] });
    // An expert's place among those of its token: how many score higher, or as high and come before.
    this.steps.push({
      kind: "rows",
      outer: shape,
      inner: [experts],
      reads: [from(router), { operand: router, offset: 0, strides: [experts, 0, 1] }],
      reductions: [{
        name: "before",
        init: "0LL",
        combine: "a + b",
        value: "(long long)(x1 > x0 || (x1 == x0 && r0 < i1))",
      }],
      writes: [{ access: from(place), expression: "before", each: false }],
    });
    const own = [experts, 1];
    this.steps.push({
      kind: "rows",
      outer: [tokens],
      inner: [experts],
      reads: [{ operand: router, offset: 0, strides: own }, { operand: place, offset: 0, strides: own }],
      reductions: [
        { name: "most", init: "-INFINITY", combine: "f_max(a, b)", value: "x0" },
        {
          name: "total",
          init: "0.f",
          combine: "a + b",
          value: isNormalised ? "(x1 < k ? f_exp(x0 - most) : 0.f)" : "f_exp(x0 - most)",
        },
      ],
      writes: [{
        access: { operand: weights, offset: 0, strides: own },
        expression: "x1 < k ? f_exp(x0 - most) / total : 0.f",
        each: true,
      }],
      params: { k },
    });
    return { place, weights };
  }

  /** How much each slot counts. */
  #route(): Slots {
    const { count: experts } = this.#experts, tokens = this.#tokens, k = this.#k, shape = [tokens, experts];
    const { place, weights } = this.#placed();
    if (tokens * k > FEW_CHOICES || k >= experts) {
      return { count: experts, token: 1, slot: tokens, weights, experts: undefined };
    }
    const chosen = this.scratch.take("i32", [tokens, k]), counted = this.scratch.take("f32", [tokens, k]);
    const pick = (to: Operand, expression: string, reads: readonly Operand[]): KernelStep => ({
      kind: "map",
      shape,
      reads: reads.map((operand) => whole(operand, shape)),
      write: { operand: to, offset: 0, strides: [k, 0] },
      expression,
      target: "o + x0",
      when: "x0 < k",
      params: { k },
    });
    this.steps.push(pick(chosen, "i1", [place]), pick(counted, "x1", [place, weights]));
    return { count: k, token: k, slot: 1, weights: counted, experts: chosen };
  }

  /** `matrices` times x; of each slot's own row of x where `isOwn`, else of the token's. */
  #product(matrices: Matrices, x: Operand, slots: Slots, isOwn: boolean): Operand {
    const tokens = this.#tokens, { rows, columns, weight } = matrices;
    const result = this.scratch.take(this.#dtype, [tokens * slots.count, rows]);
    if (slots.experts) {
      const chosen = { experts: slots.experts, times: isOwn ? 1 : slots.count };
      if (isBlocked(weight)) {
        if (isVectorForm(weight)) {
          // Rows of one expert; which one is told by the slot.
          this.steps.push(vectorProduct({ ...weight, rows }, { x, rows: tokens * slots.count, y: result, chosen }));
          return result;
        }
        return this.#vectorProduct(matrices, this.#restoredWhole(weight), x, { result, slots, isOwn });
      }
      return this.#vectorProduct(matrices, weight, x, { result, slots, isOwn });
    }
    const experts = this.#experts.count;
    const gemm = (b: Operand, first: number, batches: number): KernelStep => ({
      kind: "gemm",
      m: tokens,
      n: rows,
      k: columns,
      batches,
      a: {
        operand: x,
        offset: isOwn ? first * tokens * columns : 0,
        stride: columns,
        batch: isOwn ? tokens * columns : 0,
        transposed: false,
      },
      b: { operand: b, offset: 0, stride: columns, batch: rows * columns, transposed: true },
      c: { operand: result, offset: first * tokens * rows, stride: rows, batch: tokens * rows, transposed: false },
      alpha: 1,
      beta: 0,
    });
    if (rows === 0) return result;
    if (!isBlocked(weight)) {
      this.steps.push(gemm(weight, 0, experts));
      return result;
    }
    // One expert after another: there may not be memory for all of them.
    const table = this.scratch.take(this.#dtype, [rows, columns]);
    for (let e = 0; e < experts; e++) this.steps.push(restored(weight, e * rows, rows, table), gemm(table, e, 1));
    return result;
  }

  #restoredWhole(weight: BlockedWeight): Operand {
    const table = this.scratch.take(this.#dtype, [weight.rows, weight.columns]);
    this.steps.push(restored(weight, 0, weight.rows, table));
    return table;
  }

  #vectorProduct(
    { rows, columns }: Matrices,
    weight: Operand,
    x: Operand,
    o: { readonly result: Operand; readonly slots: Slots; readonly isOwn: boolean },
  ): Operand {
    const { slots: { experts, count: each }, isOwn, result } = o;
    const outer = [this.#tokens, each, rows];
    const rowOf = isOwn ? [each * columns, columns, 0, 1] : [columns, 0, 0, 1];
    this.steps.push({
      kind: "rows",
      outer,
      inner: [columns],
      reads: [
        { operand: x, offset: 0, strides: rowOf },
        { operand: weight, offset: 0, strides: [0, 0, columns, 1] },
        { operand: experts!, offset: 0, strides: [each, 1, 0, 0] },
      ],
      reductions: [{ name: "r", init: "0.f", combine: "a + b", value: "x0 * ld(p1[o1 + ld(p2[a2]) * size])" }],
      writes: [{
        access: { operand: result, offset: 0, strides: [...stridesOf(outer), 0] },
        expression: "r",
        each: false,
      }],
      params: { size: rows * columns },
    });
    return result;
  }

  /** The hidden layer of every slot. */
  #activation(
    one: Operand,
    three: Operand | undefined,
    to: Operand,
    slots: Slots,
    tokens: number = this.#tokens,
  ): KernelStep {
    const { attributes } = this.#context, { first, second, third } = this.#experts, width = second.columns;
    const kind = stringOf(attributes, "activation_type") ?? "relu";
    const shape = [tokens, slots.count, width];
    const strides = (of: number) => [slots.token * of, slots.slot * of, 1];
    const reads: Access[] = [{ operand: one, offset: 0, strides: [...strides(first.rows).slice(0, 2), 0] }];
    const read = (operand: Operand, over: readonly number[]) => {
      reads.push({ operand, offset: 0, strides: over });
      return reads.length - 1;
    };
    const expert = slots.experts ? `x${read(slots.experts, [slots.count, 1, 0])}` : "i1";
    /** Element `index` of a product, with its bias. */
    const element = (number: number, { bias, rows }: Matrices, biased: number | undefined, index: string) =>
      `ld(p${number}[o${number} + ${index}])` +
      (bias && biased !== undefined
        ? ` + ld(p${biased}[o${biased} + ${expert} * ${rows === first.rows ? "rows" : "width"} + ${index}])`
        : "");
    const biasOf = ({ bias }: Matrices) => (bias ? read(bias, [0, 0, 0]) : undefined);
    const firstBias = biasOf(first), params: Record<string, Params[string]> = { rows: first.rows, width };
    const alpha = { float: floatOf(attributes, "activation_alpha") ?? 1 };
    let expression: string;
    if (kind === "swiglu" && first.rows === 2 * width) {
      const fusion = intOf(attributes, "swiglu_fusion") ?? 0;
      if (fusion !== 1 && fusion !== 2) throw unknownForm(this.#context, `swiglu_fusion ${fusion} of one matrix`);
      const [gate, up] = fusion === 1 ? ["2 * i2", "2 * i2 + 1"] : ["i2", "width + i2"];
      const limit = floatOf(attributes, "swiglu_limit");
      Object.assign(params, { alpha, beta: { float: floatOf(attributes, "activation_beta") ?? 0 } });
      if (limit !== undefined) Object.assign(params, { limit: { float: limit } });
      const bounded = (value: string, low: boolean) =>
        limit === undefined ? value : low ? `f_max(-limit, f_min(limit, ${value}))` : `f_min(limit, ${value})`;
      expression = `[&] { const float g = ${bounded(element(0, first, firstBias, gate), false)}, u = ${
        bounded(element(0, first, firstBias, up), true)
      }; return g * f_sigmoid(alpha * g) * (u + beta); }()`;
    } else {
      const functions: Readonly<Record<string, string>> = {
        relu: "f_max(v, 0.f)",
        gelu: "0.5f * v * (1.f + f_erf(v * 0.7071067811865476f))",
        silu: "v * f_sigmoid(v)",
        swiglu: "v * f_sigmoid(alpha * v)",
        identity: "v",
      };
      const text = functions[kind];
      if (text === undefined) throw unknownForm(this.#context, `activation_type "${kind}"`);
      if (kind === "swiglu") Object.assign(params, { alpha });
      let times = "";
      if (third && three) {
        const at = read(three, [...strides(third.rows).slice(0, 2), 0]), bias = biasOf(third);
        times = ` * (${element(at, third, bias, "i2")})`;
      }
      expression = `[&] { const float v = ${element(0, first, firstBias, "i2")}; return (${text})${times}; }()`;
    }
    return {
      kind: "map",
      shape,
      reads,
      write: { operand: to, offset: 0, strides: strides(width) },
      expression,
      params,
    };
  }

  /** Each token's slots, as much as they count. */
  #sum(product: Operand, slots: Slots): void {
    const { second } = this.#experts, width = second.rows, shape = [this.#tokens, width];
    const reads: Access[] = [
      { operand: product, offset: 0, strides: [slots.token * width, 1] },
      { operand: slots.weights, offset: 0, strides: [slots.count, 0] },
    ];
    if (second.bias) reads.push({ operand: second.bias, offset: 0, strides: [0, 1] });
    if (slots.experts) reads.push({ operand: slots.experts, offset: 0, strides: [slots.count, 0] });
    const expert = slots.experts ? `ld(p${reads.length - 1}[o${reads.length - 1} + s])` : "s";
    const bias = second.bias ? ` + ld(p2[o2 + ${expert} * width])` : "";
    this.steps.push({
      kind: "map",
      shape,
      reads,
      write: whole(output(this.#context), shape),
      expression: "[&] { float sum = 0.f; for (long long s = 0; s < slots; s++) { const float w = ld(p1[o1 + s]); " +
        `if (w != 0.f) sum += w * (ld(p0[o0 + s * stride])${bias}); } return sum; }()`,
      params: { slots: slots.count, stride: slots.slot * width, width },
    });
  }
}

function moe(context: KernelContext): Lowered {
  if (intOf(context.attributes, "use_sparse_mixer") === 1) throw unknownForm(context, "a sparse mixer");
  const matrices = (weight: number, bias: number): Matrices => ({
    rows: inputOf(context, weight).shape[1]!,
    columns: inputOf(context, weight).shape[2]!,
    weight: input(context, weight),
    bias: context.inputs[bias] ? input(context, bias) : undefined,
  });
  return new MixtureLowering(context, {
    count: inputOf(context, 2).shape[0]!,
    first: matrices(2, 3),
    second: matrices(4, 5),
    third: context.inputs[6] ? matrices(6, 7) : undefined,
    isNormalised: intOf(context.attributes, "normalize_routing_weights") === 1,
  }).lower();
}

function quantisedMoe(context: KernelContext): Lowered {
  const { attributes } = context, bits = intOf(attributes, "expert_weight_bits") ?? 4;
  if (intOf(attributes, "use_sparse_mixer") === 1) throw unknownForm(context, "a sparse mixer");
  if (bits !== 4 && bits !== 8) throw unknownForm(context, `${bits} bits`);
  const given = (index: number) => (context.inputs[index] ? input(context, index) : undefined);
  const matrices = (at: { weight: number; scales: number; bias: number; zeros: number }): Matrices => {
    const [experts, rows, bytes] = inputOf(context, at.weight).shape as [number, number, number];
    const columns = (bytes * 8) / bits, block = intOf(attributes, "block_size") || columns;
    return {
      rows,
      columns,
      weight: {
        rows: experts * rows,
        columns,
        bits,
        block,
        data: input(context, at.weight),
        scales: input(context, at.scales),
        zeros: given(at.zeros),
      },
      bias: given(at.bias),
    };
  };
  return new MixtureLowering(context, {
    count: inputOf(context, 2).shape[0]!,
    first: matrices({ weight: 2, scales: 3, bias: 4, zeros: 11 }),
    second: matrices({ weight: 5, scales: 6, bias: 7, zeros: 12 }),
    third: context.inputs[8] ? matrices({ weight: 8, scales: 9, bias: 10, zeros: 13 }) : undefined,
    // ONNX Runtime's CPU kernel normalises whatever the attribute says.
    isNormalised: true,
  }).lower();
}

/** The lowerings, by op. */
export const MOE: Readonly<Record<string, Lowering>> = { "com.microsoft.MoE": moe, "com.microsoft.QMoE": quantisedMoe };
