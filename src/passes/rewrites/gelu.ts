/**
 * GELU, written out in any order of its factors, becomes com.microsoft's Gelu, or FastGelu for the form with tanh.
 *
 * ```text
 * x · ½ · (1 + erf(x / √2))                             ->  Gelu(%x)
 * x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³)))       ->  FastGelu(%x)
 * x · ½ · (1 + tanh(√(2/π) · x · (1 + 0.044715 · x²)))   ->  FastGelu(%x)
 * ```
 */
import { type Call, opKey } from "../../graph/graph.ts";
import { Emit } from "./emit.ts";
import { type FusedDType, isFused, type Matcher } from "./matcher.ts";
import type { Answer, Rewrite } from "./rewrite.ts";

export const GELU: Rewrite = {
  name: "gelu",
  summary: "GELU becomes Gelu or FastGelu",
  at: (node, m, names): Answer => {
    if (opKey(node) !== "Mul") return undefined;
    const { type } = m.value(node.outputs[0]!), product = factorsOf(node.outputs[0]!, m);
    const op = geluOf(product, m, isFused(type.dtype) ? TOLERANCES[type.dtype] : TOLERANCES.f16);
    if (!op) return undefined;
    if (!isFused(type.dtype)) return `${type.dtype} is not rewritten, only f32 and f16`;
    const emit = new Emit(names, node);
    emit.call({ op: op.name, domain: "com.microsoft", inputs: [op.x], type, output: node.outputs[0]! });
    return emit.replacement();
  },
};

/** A product: its constant, and its other factors, sorted. */
interface Product {
  readonly scalar: number;
  readonly factors: readonly string[];
}

/** Opens Mul, Div by a constant, and Pow with a small whole exponent. */
function factorsOf(name: string, m: Matcher): Product {
  const factors: string[] = [];
  let scalar = 1;
  const open = (value: string) => {
    const constant = m.scalar(value);
    if (constant !== undefined) return void (scalar *= constant);
    const call = m.call(value, "Mul", "Div", "Pow");
    const second = call && m.scalar(call.inputs[1]!);
    if (call?.op === "Mul") call.inputs.forEach(open);
    else if (call?.op === "Div" && second !== undefined) {
      scalar /= second;
      open(call.inputs[0]!);
    } else if (call?.op === "Pow" && (second === 2 || second === 3)) {
      for (let i = 0; i < second; i++) open(call.inputs[0]!);
    } else factors.push(value);
  };
  open(name);
  return { scalar, factors: factors.toSorted() };
}

function geluOf(
  { scalar, factors }: Product,
  m: Matcher,
  tolerance: number,
): { name: string; x: string } | undefined {
  if (factors.length !== 2 || !isNear(scalar, 0.5, tolerance)) return undefined;
  for (const [x, rest] of [factors, factors.toReversed()] as [string, string][]) {
    const sum = m.withScalar(rest, "Add");
    if (sum?.scalar !== 1) continue;
    const erf = m.call(sum.operand, "Erf"), tanh = m.call(sum.operand, "Tanh");
    if (erf && isProduct(factorsOf(erf.inputs[0]!, m), Math.SQRT1_2, [x], tolerance)) return { name: "Gelu", x };
    if (tanh && isTanhArgument(tanh, { x, m, tolerance })) return { name: "FastGelu", x };
  }
  return undefined;
}

const CUBIC = 0.044715;

function isTanhArgument(
  tanh: Call,
  { x, m, tolerance }: { readonly x: string; readonly m: Matcher; readonly tolerance: number },
): boolean {
  const { scalar, factors } = factorsOf(tanh.inputs[0]!, m);
  if (!isNear(scalar, Math.sqrt(2 / Math.PI), tolerance)) return false;
  const rest = factors.filter((f) => f !== x), sum = rest.length === 1 ? m.call(rest[0]!, "Add") : undefined;
  if (!sum) return false;
  const [a, b] = sum.inputs.map((name) => factorsOf(name!, m));
  const isSum = (first: Product, second: Product) =>
    factors.length === 1
      ? isProduct(first, 1, [x], tolerance) && isProduct(second, CUBIC, [x, x, x], tolerance)
      : factors.length === 2 && isProduct(first, 1, [], tolerance) && isProduct(second, CUBIC, [x, x], tolerance);
  return isSum(a!, b!) || isSum(b!, a!);
}

function isProduct(
  { scalar, factors }: Product,
  number: number,
  names: readonly string[],
  tolerance: number,
): boolean {
  return isNear(scalar, number, tolerance) && factors.length === names.length &&
    factors.every((f, i) => f === names[i]);
}

/** By how much a constant may be off: some exporters write fewer digits than float32 has, and float16 has fewer. */
const TOLERANCES: Readonly<Record<FusedDType, number>> = { f32: 2e-6, f16: 2e-3 };

function isNear(a: number, b: number, tolerance: number): boolean {
  return Math.abs(a - b) <= tolerance * Math.abs(b);
}
