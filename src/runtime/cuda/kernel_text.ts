/**
 * CUDA C for the steps of lowerings: one text for each form of a step (its expressions, dtypes, number of dims), whatever the sizes.
 *
 * A kernel takes one struct of 8-byte fields: addresses, sizes, strides, offsets and numbers. That needs no table of argument types.
 */
import type { MapStep, RowsStep } from "../../ops/kernels/kernel.ts";
import {
  Arguments,
  declareParams,
  indices,
  isWide,
  type Launch,
  MAX_BLOCKS,
  offset,
  THREADS,
} from "./kernel_arguments.ts";
import { KernelTexts } from "./kernel_texts.ts";

/** Dims of a step and the strides of its accesses; dims that all of them walk through as one are one. */
interface Dims {
  readonly sizes: readonly number[];
  readonly strides: readonly (readonly number[])[];
}

function collapse({ sizes, strides }: Dims): Dims {
  const kept = sizes.map((_, d) => d).filter((d) => sizes[d] !== 1);
  const out: { size: number; at: number[] }[] = [];
  for (const d of kept) {
    const last = out.at(-1), at = strides.map((s) => s[d]!);
    if (last && last.at.every((s, i) => s === sizes[d]! * at[i]!)) {
      last.size *= sizes[d]!;
      last.at = at;
    } else out.push({ size: sizes[d]!, at });
  }
  return { sizes: out.map((o) => o.size), strides: strides.map((_, i) => out.map((o) => o.at[i]!)) };
}

/** The kernel of a map; undefined where there is nothing to compute. */
export function mapLaunch(step: MapStep, texts: KernelTexts = new KernelTexts()): Launch | undefined {
  const elements = step.shape.reduce((a, b) => a * b, 1);
  if (elements === 0) return undefined;
  const args = new Arguments();
  const lets = step.lets ?? [];
  const expressions = [step.expression, step.target ?? "", step.when ?? "", ...lets.map((l) => l.expression)];
  const mentioned = (name: string) => texts.mentions(expressions, name);
  const usesIndex = mentioned("i#");
  const all = [...step.reads, step.write];
  const dims = { sizes: step.shape, strides: all.map((a) => a.strides) };
  const { sizes, strides } = usesIndex ? dims : collapse(dims);
  args.address("y", step.write.operand, false);
  const count = args.int("elements", elements);
  const lines = [indices("i", args, sizes, "e")];
  step.reads.forEach((read, r) => {
    const [x, pointer, at] = [`x${r}`, `p${r}`, `o${r}`].map(mentioned);
    if (!x && !pointer && !at) return;
    args.address(`p${r}`, read.operand, true);
    lines.push(`const auto* p${r} = p.p${r};`);
    const base = args.int(`b${r}`, read.offset);
    lines.push(`const long long o${r} = ${base} + ${offset(`${r}`, args, { prefix: "i", strides: strides[r]! })};`);
    if (x) lines.push(`const auto x${r} = ld(p${r}[o${r}]);`);
  });
  const params = declareParams(args, step.params ?? {}, mentioned);
  for (const { name, expression } of lets) lines.push(`const auto ${name} = ${expression};`);
  const base = args.int("b", step.write.offset);
  lines.push(`const long long o = ${base} + ${offset("y", args, { prefix: "i", strides: strides.at(-1)! })};`);
  lines.push(`${step.when ? `if (${step.when}) ` : ""}st(p.y + (${step.target ?? "o"}), ${step.expression});`);
  const body = `  ${params}\n  for (I e = blockIdx.x * (I)blockDim.x + threadIdx.x; e < (I)${count}; ` +
    `e += (I)gridDim.x * blockDim.x) {\n    ${lines.join("\n    ")}\n  }\n`;
  const blocks = Math.min(MAX_BLOCKS, Math.ceil(elements / THREADS));
  return args.launch(body, { blocks, threads: THREADS, wide: isWide(elements), texts });
}

/** The kernel of rows; undefined where there is nothing to compute. */
export function rowsLaunch(step: RowsStep, texts: KernelTexts = new KernelTexts()): Launch | undefined {
  const rows = step.outer.reduce((a, b) => a * b, 1), length = step.inner.reduce((a, b) => a * b, 1);
  if (rows === 0) return undefined;
  const args = new Arguments();
  const values = step.reductions.map((r) => r.value), results = step.writes.map((w) => w.expression);
  const lets = step.lets ?? [], expressions = [...values, ...results, ...lets.map((l) => l.expression)];
  const mentioned = (name: string) => texts.mentions(expressions, name);
  const all = [...step.reads, ...step.writes.map((w) => w.access)];
  const split = step.outer.length;
  const outerDims = { sizes: step.outer, strides: all.map((a) => a.strides.slice(0, split)) };
  const innerDims = { sizes: step.inner, strides: all.map((a) => a.strides.slice(split)) };
  const outer = mentioned("i#") ? outerDims : collapse(outerDims),
    inner = mentioned("r#") ? innerDims : collapse(innerDims);
  const rowCount = args.int("rows", rows), rowLength = args.int("length", length);
  const params = declareParams(args, step.params ?? {}, mentioned);
  const lines = [indices("i", args, outer.sizes, "row")];
  step.reads.forEach((read, r) => {
    args.address(`p${r}`, read.operand, true);
    lines.push(`const auto* p${r} = p.p${r};`);
    const base = args.int(`b${r}`, read.offset);
    const at = offset(`${r}`, args, { prefix: "i", strides: outer.strides[r]! });
    lines.push(`const long long a${r} = ${base} + ${at};`);
  });
  const decode = indices("r", args, inner.sizes, "e");
  const inside = step.reads.map((_, r) => {
    const at = offset(`${r}`, args, { prefix: "r", strides: inner.strides[r]! });
    return { at: `const long long o${r} = a${r} + ${at};`, load: `const auto x${r} = ld(p${r}[o${r}]);` };
  });
  /** Loads what an expression names, at the row's element, or at its first. */
  const loads = (expression: string, each: boolean): string => {
    const named: (typeof lets)[number][] = [], needed = [expression];
    for (const own of lets.toReversed()) {
      if (!texts.mentions(needed, own.name)) continue;
      named.unshift(own);
      needed.push(own.expression);
    }
    const elements = inside.map(({ at, load }, r) => {
      const [x, o] = [`x${r}`, `o${r}`].map((n) => texts.mentions(needed, n));
      if (!x && !o) return "";
      return `${each ? at : `const long long o${r} = a${r};`} ${x ? load : ""}`;
    });
    return [...elements, ...named.map(({ name, expression }) => `const auto ${name} = ${expression};`)].join(" ");
  };
  for (const { name, init, combine, value } of step.reductions) {
    lines.push(
      `auto v_${name} = [&](I e) { ${decode} ${loads(value, true)} return ${value}; };`,
      `typedef decltype(v_${name}(0)) A_${name};`,
      `auto j_${name} = [](A_${name} a, A_${name} b) -> A_${name} { return ${combine}; };`,
      `A_${name} ${name} = (A_${name})(${init});`,
      `for (I e = threadIdx.x; e < (I)${rowLength}; e += blockDim.x) ${name} = j_${name}(${name}, v_${name}(e));`,
      `${name} = f_block(${name}, (A_${name})(${init}), j_${name});`,
    );
  }
  step.writes.forEach(({ access, expression, each }, w) => {
    const at = step.reads.length + w;
    args.address(`y${w}`, access.operand, false);
    const base = args.int(`w${w}`, access.offset);
    const row = offset(`y${w}`, args, { prefix: "i", strides: outer.strides[at]! });
    if (each) {
      const element = offset(`y${w}`, args, { prefix: "r", strides: inner.strides[at]! });
      lines.push(
        `for (I e = threadIdx.x; e < (I)${rowLength}; e += blockDim.x) { ${decode} ${loads(expression, true)} ` +
          `st(p.y${w} + ${base} + ${row} + ${element}, ${expression}); }`,
      );
    } else {
      lines.push(
        `if (threadIdx.x == 0) { ${loads(expression, false)} st(p.y${w} + ${base} + ${row}, ${expression}); }`,
      );
    }
  });
  const body = `  ${params}\n  for (I row = blockIdx.x; row < (I)${rowCount}; row += gridDim.x) {\n    ${
    lines.join("\n    ")
  }\n  }\n`;
  const threads = Math.min(THREADS, Math.max(32, Math.ceil(length / 32) * 32));
  const blocks = Math.min(MAX_BLOCKS, rows);
  return args.launch(body, { blocks, threads, wide: isWide(Math.max(rows, length)), texts });
}
